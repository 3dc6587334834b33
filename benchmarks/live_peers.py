"""The peers of the live benchmark: on a new frame and a question, each prefills the whole window again.

Each peer takes the frames of the window and returns the seconds to the first token of an answer. None of them pools: a
frame has as many visual tokens as the tower gives. None of them uses edge_interleave.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mtmd import FloatArray, Mtmd, Pixels
from PIL import Image


class Peer(Protocol):
    """A program that answers a question about a window."""

    name: str
    what: str

    def first_token(self, window: Sequence[Image.Image], question: str) -> float:
        """Seconds from a new frame, the window's last, to the first token of an answer."""
        ...


class MtmdPeer:
    """llama.cpp's mtmd unchanged: encodes every picture, then prefills the whole prompt."""

    name = "mtmd"
    what = "mtmd"

    def __init__(self, engine: Mtmd) -> None:
        self._engine = engine

    def first_token(self, window: Sequence[Image.Image], question: str) -> float:
        """See `Peer`."""
        started = time.perf_counter()
        prompt = chat_prompt(self._engine.marker, len(window), question)
        logits = self._engine.first_logits(prompt, [_pixels(image) for image in window])
        int(np.argmax(logits))
        return time.perf_counter() - started


class CachedMtmdPeer:
    """llama.cpp's mtmd with the frames' visual tokens kept: encodes only the new frame."""

    name = "mtmd-cached"
    what = "mtmd, embeddings kept"

    def __init__(self, engine: Mtmd) -> None:
        self._engine = engine
        self._known: deque[tuple[Image.Image, FloatArray]] = deque()

    def first_token(self, window: Sequence[Image.Image], question: str) -> float:
        """See `Peer`. Earlier frames that are not encoded yet are encoded before the clock starts."""
        *earlier, newest = window
        self._known = deque((image, self._rows(image)) for image in earlier)
        started = time.perf_counter()
        self._known.append((newest, self._engine.encode(_pixels(newest))))
        prompt = chat_prompt(self._engine.marker, len(window), question)
        rows = [rows for _, rows in self._known]
        logits = self._engine.first_logits_cached(prompt, [_pixels(image) for image in window], rows)
        int(np.argmax(logits))
        return time.perf_counter() - started

    def _rows(self, image: Image.Image) -> FloatArray:
        for known, rows in self._known:
            if known is image:
                return rows
        return self._engine.encode(_pixels(image))


class TransformersPeer:
    """transformers on PyTorch, in fp32 or bf16, whichever answers a question about one frame sooner."""

    name = "transformers"

    def __init__(self, checkpoint: Path, threads: int) -> None:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self._torch = torch
        self._processor = transformers.AutoProcessor.from_pretrained(checkpoint)
        self._model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
        self._model.eval()
        # A random checkpoint's processor config lacks these.
        self._processor.patch_size = self._model.config.vision_config.patch_size
        self._processor.vision_feature_select_strategy = self._model.config.vision_feature_select_strategy
        trial = [Image.effect_noise((384, 384), 64).convert("RGB")]
        seconds = {}
        for kind in ("bfloat16", "float32"):
            self._model.to(getattr(torch, kind))
            self.first_token(trial, "?")
            seconds[kind] = self.first_token(trial, "?")
        self.dtype = min(seconds, key=lambda kind: seconds[kind])
        self._model.to(getattr(torch, self.dtype))
        self.what = f"transformers, {self.dtype}"

    def first_token(self, window: Sequence[Image.Image], question: str) -> float:
        """See `Peer`."""
        started = time.perf_counter()
        prompt = chat_prompt(self._processor.image_token, len(window), question)
        inputs = self._processor(text=prompt, images=list(window), return_tensors="pt").to(self._model.dtype)
        with self._torch.inference_mode():
            self._model.generate(**inputs, do_sample=False, max_new_tokens=1)
        return time.perf_counter() - started


def chat_prompt(image: str, frames: int, question: str) -> str:
    """ChatML; each frame is announced by its number, as in a live window."""
    shown = "".join(f"Frame {number}:{image}" for number in range(1, frames + 1))
    return f"<|im_start|>user\n{shown}\n{question}<|im_end|>\n<|im_start|>assistant\n"


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))
