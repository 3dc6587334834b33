"""The small bundle that ships with the package."""

from pathlib import Path

DEMO_CLIP = Path(__file__).with_name("demo") / "clip.mp4"
DEMO_CLIP_SIZE = (300, 300)
"""Pixels, width and height."""
