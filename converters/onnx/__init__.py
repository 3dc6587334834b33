"""Checkpoint to ONNX: vision tower and projector."""
