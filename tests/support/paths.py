"""Paths in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN_FOLDER = ROOT / "tests" / "golden"
EXAMPLES = ROOT / "examples"
CHECKPOINT = EXAMPLES / "embedded_model" / "checkpoint"
