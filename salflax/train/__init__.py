"""Training: stages, steps, checkpoints, stored features."""
