"""Checkpoint to GGUF: decoder and mmproj."""
