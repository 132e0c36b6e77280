"""Images of results, and of the pixels in which two results differ."""
