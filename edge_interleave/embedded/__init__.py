"""The embedded model and the pictures of its demo, as files inside the package."""

from pathlib import Path

BUNDLE = Path(__file__).with_name("bundle")
DEMO = Path(__file__).with_name("demo")
DEMO_CLIP = DEMO / "clip.mp4"
DEMO_CLIP_SIZE = (300, 300)
"""Pixels, width and height."""
