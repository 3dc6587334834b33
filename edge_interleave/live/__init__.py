"""The live window: the latest frames in the KV cache, and answers about them."""
