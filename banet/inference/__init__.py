"""From images to panoptic results with a network: preprocess, predict, postprocess."""
