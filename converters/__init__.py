"""Checkpoint to bundle. Imports the runtime's bundle format, and neither PyTorch nor transformers."""
