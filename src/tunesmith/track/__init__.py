"""Where a run's numbers are mirrored: TensorBoard, MLflow, Weights & Biases, all fed by events."""
