"""What a model and its live windows cost in bytes: measured parts, and parts that grow with a window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import Backend, DecoderOptions
from edge_interleave.media.capture.memory import capture_process_bytes
from edge_interleave.media.sources.open import may_need_capture_process
from edge_interleave.planning.footprint import Footprint, frame_buffer_bytes
from edge_interleave.planning.plan import Cost
from edge_interleave.vision.pooling import tokens_of_frame

BATCHES = (512, 256, 128, 64, 32)
"""KV entries that a decoder computes at a time, to choose from."""
SLOW_BATCH = 64
"""Smaller batches take noticeably more time."""
_FLOAT32_BYTES = 4
_GRIDS_IN_FLIGHT = 3
"""Full grids of visual tokens beside the window: one in the queue, one from the tower, one being pooled."""
_RESERVE, _RESERVE_BYTES = 0.01, 1_000_000


def model_costs(measured: Footprint) -> tuple[Cost, ...]:
    """What there is once, however many windows are open."""
    return (
        Cost("interpreter and libraries", measured.libraries),
        Cost("tokenizer", measured.tokenizer),
        Cost("decoder weights", measured.decoder),
        Cost("vision tower weights", measured.tower),
        Cost("vision activations", measured.working),
    )


def window_costs(
    bundle: Bundle, backend: Backend, options: DecoderOptions, visual_tokens: int, frame_size: tuple[int, int]
) -> tuple[Cost, ...]:
    """What each window takes. `visual_tokens`: of the full window. `frame_size`: of the source's frames, in pixels."""
    decoder = backend.memory(bundle, options)
    vision, hidden = bundle.manifest.vision, bundle.manifest.decoder.hidden_size
    embeddings = (visual_tokens + _GRIDS_IN_FLIGHT * vision.tokens) * hidden * _FLOAT32_BYTES
    resize = vision.resize if vision.video is None else vision.video.resize
    square = 3 * max(frame_size) ** 2 if resize == "pad" else 0
    return (
        Cost("KV cache", decoder.cache),
        Cost("compute buffers", decoder.compute),
        Cost("frames and their embeddings", frame_buffer_bytes(*frame_size) + square + embeddings),
    )


def source_costs(source: str | Path | None, frame_size: tuple[int, int]) -> tuple[Cost, ...]:
    """The process that reads a camera or a stream; none for other sources, and for None."""
    if source is None or not may_need_capture_process(source):
        return ()
    camera = str(source).startswith("camera:")
    return (Cost("the source's process", capture_process_bytes(*frame_size, camera=camera)),)


def reserve(costs: Sequence[Cost]) -> Cost:
    """What measuring and computing may miss."""
    return Cost("reserve", int(sum(cost.bytes for cost in costs) * _RESERVE) + _RESERVE_BYTES)


def frame_tokens(bundle: Bundle, pool: Sequence[int]) -> tuple[int, ...]:
    """Visual tokens of a frame at each stride of a pattern."""
    vision, mode = bundle.manifest.vision, bundle.manifest.pooling_mode
    return tuple(tokens_of_frame(vision, stride, mode) for stride in pool)
