"""llama.cpp's own multimodal pipeline (mtmd): encodes pictures with an mmproj file and prefills the whole window.

It uses none of edge_interleave's code, so results and times are llama.cpp's. For tests and benchmarks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp.llama_cpp as low
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

BATCH = 512


@low.llama_log_callback
def _QUIET(level: int, text: bytes, data: Any) -> None:
    """Drop mtmd's log of every step; failures are raised."""


class Mtmd:
    """An open decoder with its mmproj; a context manager. Pictures are uint8 (height, width, 3)."""

    def __init__(self, decoder: Path, mmproj: Path, *, context: int = 512, threads: int = 1) -> None:
        """`context`: capacity of the KV cache; 0 for encoding only. Raises RuntimeError if a file does not load."""
        low.llama_backend_init()
        mtmd.mtmd_log_set(_QUIET, None)
        mtmd.mtmd_helper_log_set(_QUIET, None)
        self._model: Any = None
        self._vision: Any = None
        self._context: Any = None
        params = low.llama_model_default_params()
        # llama.cpp's kernels for Intel's AMX end the process (https://github.com/ggml-org/llama.cpp/issues/20824).
        params.use_extra_bufts = b"AMX_INT8 = 1" not in low.llama_print_system_info()
        self._model = low.llama_model_load_from_file(str(decoder).encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {decoder}")
        self.hidden = low.llama_model_n_embd(self._model)
        try:
            options = mtmd.mtmd_context_params_default()
            options.use_gpu = False
            options.print_timings = False
            options.warmup = False
            options.n_threads = threads
            self._vision = mtmd.mtmd_init_from_file(str(mmproj).encode(), self._model, options)
            if not self._vision:
                raise RuntimeError(f"mtmd does not load {mmproj}")
            if context:
                self._context = self._new_context(context, threads)
        except BaseException:
            self.close()
            raise

    def encode(self, picture: Pixels) -> FloatArray:
        """Visual tokens of a picture, float32 (tokens, hidden): mtmd's preprocessing, tower and projector."""
        with _Chunks(self._vision, mtmd.mtmd_default_marker(), [picture]) as chunks:
            (image,) = [chunk for chunk in chunks if _is_image(chunk)]
            return self._encoded(image)

    def first_logits(self, prompt: str, pictures: Sequence[Pixels]) -> FloatArray:
        """Prefill a prompt into an empty cache; returns the last logits.

        `marker` stands for each picture. As in mtmd's helper, the pictures go through the tower one by one.
        """
        self._clear_cache()
        with _Chunks(self._vision, prompt.encode(), pictures) as chunks:
            end = low.llama_pos()
            done = mtmd.mtmd_helper_eval_chunks(
                self._vision, self._context, chunks.pointer, 0, 0, BATCH, True, ctypes.byref(end)
            )
        if done != 0:
            raise RuntimeError(f"mtmd failed (status {done})")
        return self._logits()

    def first_logits_cached(self, prompt: str, pictures: Sequence[Pixels], rows: Sequence[FloatArray]) -> FloatArray:
        """As `first_logits`, with given visual tokens for each picture, so the tower does not run."""
        self._clear_cache()
        given = iter(rows)
        position = low.llama_pos(0)
        with _Chunks(self._vision, prompt.encode(), pictures) as chunks:
            last = len(chunks) - 1
            for number, chunk in enumerate(chunks):
                if _is_image(chunk):
                    values = np.ascontiguousarray(next(given), np.float32)
                    done = mtmd.mtmd_helper_decode_image_chunk(
                        self._vision,
                        self._context,
                        chunk,
                        values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                        position,
                        0,
                        BATCH,
                        ctypes.byref(position),
                        mtmd.mtmd_helper_post_decode_callback(),
                        None,
                    )
                else:
                    done = mtmd.mtmd_helper_eval_chunk_single(
                        self._vision, self._context, chunk, position, 0, BATCH, number == last, ctypes.byref(position)
                    )
                if done != 0:
                    raise RuntimeError(f"mtmd failed (status {done})")
        return self._logits()

    @property
    def marker(self) -> str:
        """The text that stands for a picture in a prompt."""
        return mtmd.mtmd_default_marker().decode()

    def close(self) -> None:
        """Free everything. A second call does nothing."""
        if self._context:
            low.llama_free(self._context)
        if self._vision:
            mtmd.mtmd_free(self._vision)
        if self._model:
            low.llama_model_free(self._model)
        self._context = self._vision = self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _encoded(self, chunk: Any) -> FloatArray:
        if mtmd.mtmd_encode_chunk(self._vision, chunk) != 0:
            raise RuntimeError("mtmd failed to encode a picture")
        shape = (mtmd.mtmd_input_chunk_get_n_tokens(chunk), self.hidden)
        return np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self._vision), shape).copy()

    def _clear_cache(self) -> None:
        low.llama_memory_clear(low.llama_get_memory(self._context), False)

    def _logits(self) -> FloatArray:
        size = low.llama_vocab_n_tokens(low.llama_model_get_vocab(self._model))
        return np.ctypeslib.as_array(low.llama_get_logits_ith(self._context, -1), (size,)).copy()

    def _new_context(self, entries: int, threads: int) -> Any:
        params = low.llama_context_default_params()
        params.n_ctx = entries
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        context = low.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp opens no context of {entries} entries")
        return context


class _Chunks:
    """A prompt split by mtmd into chunks of text and pictures; a context manager and a sequence."""

    def __init__(self, vision: Any, prompt: bytes, pictures: Sequence[Pixels]) -> None:
        self.pointer = mtmd.mtmd_input_chunks_init()
        self._bitmaps = [_bitmap(picture) for picture in pictures]
        text = mtmd.mtmd_input_text(prompt, len(prompt), True, True)
        array = (mtmd.mtmd_bitmap_p_ctypes * len(pictures))(*self._bitmaps)
        status = mtmd.mtmd_tokenize(vision, self.pointer, ctypes.byref(text), array, len(pictures))
        if status != 0:
            self.__exit__(None, None, None)
            raise RuntimeError(f"mtmd does not take the prompt (status {status})")

    def __len__(self) -> int:
        return mtmd.mtmd_input_chunks_size(self.pointer)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return mtmd.mtmd_input_chunks_get(self.pointer, index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mtmd.mtmd_input_chunks_free(self.pointer)
        for bitmap in self._bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)


def _bitmap(picture: Pixels) -> Any:
    height, width, _ = picture.shape
    data = np.ascontiguousarray(picture)
    return mtmd.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))


def _is_image(chunk: Any) -> bool:
    return mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
