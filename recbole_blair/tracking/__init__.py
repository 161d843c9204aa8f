"""Runs at experiment trackers (TensorBoard, Weights & Biases, MLflow), and callbacks of a training."""
