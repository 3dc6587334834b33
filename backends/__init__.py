"""Decoders for the runtime, one module an engine. Found by entry point, never imported by the runtime."""
