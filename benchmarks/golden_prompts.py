"""The golden prompts of the embedded model: held-out questions with pictures, and transformers' answers.

Reads and writes their folder, which `examples/embedded_model/make_golden.py` fills.

    prompts.json    the questions and the greedy answers
    pictures.zip    the pictures, lossless WebP: pixels are stored, so nobody needs to draw them again
    values.npz      visual tokens of some pictures, logits of some prompts
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "golden" / "embedded"
CHECKPOINT = ROOT / "examples" / "embedded_model" / "checkpoint"
MAX_TOKENS = 100
"""No answer of the embedded model is longer."""
_MIDNIGHT = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Prompt:
    """Pictures and a question, with transformers' greedy answer in fp32."""

    task: str
    pictures: tuple[str, ...]
    """Names of the pictures, in order."""
    question: str
    stride: int
    """Pooling stride."""
    answer: str
    prompt_tokens: int
    """Text and visual tokens before the answer."""


@dataclass(frozen=True)
class Golden:
    """The content of the folder."""

    checkpoint: str
    """SHA-256 of the checkpoint's weights."""
    prompts: tuple[Prompt, ...]
    pictures: Mapping[str, bytes] = field(repr=False)
    """Name to the content of an image file."""
    features: Mapping[str, npt.NDArray[np.float16]] = field(repr=False)
    """Picture to its visual tokens before pooling, (tokens, hidden)."""
    logits: Mapping[int, npt.NDArray[np.float32]] = field(repr=False)
    """Index of a prompt to the logits after its last token, (vocabulary,)."""

    def shown(self, prompt: Prompt) -> list[bytes]:
        """A prompt's pictures as image files, in order."""
        return [self.pictures[name] for name in prompt.pictures]


def fingerprint(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def save(golden: Golden, folder: Path) -> None:
    """Write the folder. The same content gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(golden.pictures):
            archive.writestr(zipfile.ZipInfo(name, _MIDNIGHT), golden.pictures[name])
    values = {f"features/{name}": rows for name, rows in golden.features.items()}
    np.savez_compressed(
        folder / "values.npz", **values, **{f"logits/{number}": row for number, row in golden.logits.items()}
    )
    lines = ",\n".join(json.dumps(asdict(prompt)) for prompt in golden.prompts)
    text = f'{{"checkpoint": "{golden.checkpoint}",\n"prompts": [\n{lines}\n]}}\n'
    (folder / "prompts.json").write_text(text, "utf-8")


def load(folder: Path = FOLDER) -> Golden:
    """Read the folder."""
    raw = json.loads((folder / "prompts.json").read_text("utf-8"))
    prompts = tuple(Prompt(**{**prompt, "pictures": tuple(prompt["pictures"])}) for prompt in raw["prompts"])
    with zipfile.ZipFile(io.BytesIO((folder / "pictures.zip").read_bytes())) as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    with np.load(folder / "values.npz") as values:
        features = {key.split("/")[1]: values[key] for key in values.files if key.startswith("features/")}
        logits = {int(key.split("/")[1]): values[key] for key in values.files if key.startswith("logits/")}
    return Golden(raw["checkpoint"], prompts, pictures, features, logits)
