"""Checkpoint to an mlx-lm model."""
