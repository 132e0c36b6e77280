"""Predictors that are composed of other libraries' models: panoptic models, and detectors paired with segmenters."""
