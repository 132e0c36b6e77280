"""Training, evaluation, prediction and studies."""
