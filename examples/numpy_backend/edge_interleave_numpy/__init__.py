"""A backend for edge-interleave, to learn from. `backend.py` is the protocol, `qwen2.py` stands for your engine."""
