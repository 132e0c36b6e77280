"""Ids that last over the frames of a video, for per-frame results of any program. numpy only."""
