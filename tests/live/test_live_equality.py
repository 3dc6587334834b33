"""After any sequence of operations, a timeline's logits equal those of its attention pattern, computed directly.

The decoder runs the embedded model's checkpoint, converted without loss; the reference is `numpy_decoder` with the
same weights. `pytest tests/live/test_live_equality.py --backend my-engine` tests another backend.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_prompts
import numpy as np
import parity
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle as Kept,
)
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.backends_under_test import MLX_HERE, OURS
from support.numpy_decoder import Array, NumpyDecoder, Qwen

from edge_interleave.bundle.manifest import Bundle, VideoInfo
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.decoder import Decoder, DecoderFacts, DecoderOptions
from edge_interleave.decoding.inputs import TextInput, as_inputs
from edge_interleave.decoding.registry import find_backend
from edge_interleave.decoding.session import Session
from edge_interleave.errors import ContextFullError
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.live.window import FrameWindow
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.messages import as_messages, media_of
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray
from edge_interleave.vision.media_encoder import MediaEncoder

EQUAL = 0.9999
"""Least cosine of logits."""
SAME = 0.99999
"""Least cosine of logits minus their mean, which is all that a softmax sees. A correct backend has 0.999998 at worst;
with one visual token missing it is 0.99997 at best."""
CAPACITY = 300
TRAINED_CONTEXT = 1024
"""Shorter than the embedded model's, so that positions reach it. It changes nothing else."""

Open = Callable[[int], Decoder]


class Mirrored:
    """A decoder that runs every operation on the reference too, and compares the logits. It is a `Decoder` itself."""

    def __init__(self, decoder: Decoder, reference: NumpyDecoder) -> None:
        self._decoder = decoder
        self._reference = reference
        self.compared = self.rebased = self.recomputed = self.prepared = 0

    @property
    def facts(self) -> DecoderFacts:
        return self._decoder.facts

    @property
    def length(self) -> int:
        assert self._decoder.length == self._reference.length
        return self._decoder.length

    @property
    def position(self) -> int:
        assert self._decoder.position == self._reference.position
        return self._decoder.position

    def append_tokens(self, ids: Sequence[int]) -> FloatArray:
        return self._compared(self._decoder.append_tokens(ids), self._reference.append_tokens(ids))

    def append_embeddings(self, rows: FloatArray) -> FloatArray:
        return self._compared(self._decoder.append_embeddings(rows), self._reference.append_embeddings(rows))

    def truncate(self, position: int) -> None:
        self._decoder.truncate(position)
        self._reference.truncate(position)

    def evict(self, start: int, end: int) -> None:
        self._decoder.evict(start, end)
        self._reference.evict(start, end)

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        self._decoder.recompute(start, end, parts)
        self._reference.recompute(start, end, parts)
        self.recomputed += 1

    def prefetch(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Only on the decoder: later logits must not change."""
        self.prepared += 1
        return self._decoder.prefetch(start, end, parts, leaving, rows)

    def rebase(self) -> None:
        self._decoder.rebase()
        self._reference.rebase()
        self.rebased += 1

    @property
    def stored(self) -> list[int]:
        """The positions of the KV entries."""
        return self._reference.entries.positions.tolist()

    def save(self, path: Path) -> Any:
        self._decoder.save(path)
        return self._reference.entries

    def load(self, path: Path, entries: Any = None) -> None:
        self._decoder.load(path)
        self._reference.entries = entries

    def close(self) -> None:
        self._decoder.close()

    def _compared(self, logits: FloatArray, wanted: Array) -> FloatArray:
        assert parity.cosine(logits, wanted) >= EQUAL
        assert likeness(logits, wanted) >= SAME
        self.compared += 1
        return logits


@pytest.fixture(scope="session")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model's checkpoint in f16, as it is stored, with a shorter context. Read only."""
    folder = tmp_path_factory.mktemp("lossless")
    checkpoint = shutil.copytree(golden_prompts.CHECKPOINT, folder / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    config["text_config"]["max_position_embeddings"] = TRAINED_CONTEXT
    (checkpoint / "config.json").write_text(json.dumps(config), "utf-8")
    return convert(
        checkpoint,
        folder / "bundle",
        backends=[name for name in OURS if MLX_HERE or name != "mlx"],
        quantization="f16",
        mlx_quantization="f16",
        onnx_precision="f32",
        vision_precision="fp32",
    )


@pytest.fixture(scope="module")
def reference() -> Qwen:
    return Qwen(golden_prompts.CHECKPOINT)


@pytest.fixture(scope="module")
def images() -> list[FloatArray]:
    """Visual tokens of real pictures, and random rows, each float32 (36, hidden)."""
    stored = [np.asarray(rows, np.float32) for rows in golden_prompts.load().features.values()]
    strange = np.random.default_rng(1).standard_normal((2, *stored[0].shape)).astype(np.float32)
    return [*stored, strange[0] * 0.05, strange[1] * 5]


@pytest.fixture
def mirrored(backend: str, lossless: Bundle, reference: Qwen) -> Iterator[Callable[[int], Mirrored]]:
    opened: list[Decoder] = []

    def open_(context: int = CAPACITY) -> Mirrored:
        opened.append(find_backend(backend).open(lossless, DecoderOptions(context=context, threads=1)))
        return Mirrored(opened[-1], NumpyDecoder(reference))

    yield open_
    for decoder in opened:
        decoder.close()


def likeness(a: FloatArray | Array, b: FloatArray | Array) -> float:
    return parity.cosine(a - a.mean(), b - b.mean())


def test_the_reference_equals_transformers(lossless: Bundle, reference: Qwen) -> None:
    golden = golden_prompts.load()
    assert golden.checkpoint == golden_prompts.fingerprint(golden_prompts.CHECKPOINT), "make the golden files anew"
    tokenizer, media_encoder = TextTokenizer.open(lossless), MediaEncoder(lossless, 1)
    prompts = PromptBuilder(lossless, tokenizer)
    for number, wanted in golden.logits.items():
        prompt = golden.prompts[number]
        messages = as_messages([*golden.shown(prompt), prompt.question])
        encoded = media_encoder.encode(media_of(messages), frames=1, stride=prompt.stride, tiles=False)
        inputs = as_inputs(prompts.build(messages, encoded.counts), encoded.images)
        rows = [reference.embed(i.ids) if isinstance(i, TextInput) else i.rows for i in inputs]
        logits = NumpyDecoder(reference).append_embeddings(np.concatenate(rows))
        assert parity.cosine(logits, wanted) > 0.9999999


def test_the_references_timeline_equals_one_pass_with_a_mask(reference: Qwen, images: list[FloatArray]) -> None:
    """Rows appended before an eviction attend to the evicted rows, later rows do not: one mask expresses both."""
    decoder = NumpyDecoder(reference)
    head, tail = [3, 200, 41, 7], [9, 300, 11]
    decoder.append_tokens(head)
    decoder.append_embeddings(images[0])
    decoder.append_embeddings(images[1])
    decoder.evict(4, 40)
    logits = decoder.append_tokens(tail)
    rows = np.concatenate((reference.embed(head), images[0], images[1], reference.embed(tail)))
    visible = np.tri(len(rows), dtype=bool)
    visible[76:, 4:40] = False
    at_once, _ = reference.forward(rows, np.arange(len(rows)), reference.nothing(), visible)
    np.testing.assert_allclose(logits, at_once[-1], atol=1e-9)
    visible[76:, 4:40] = True
    seeing_all, _ = reference.forward(rows, np.arange(len(rows)), reference.nothing(), visible)
    assert likeness(seeing_all[-1], logits) < SAME


def test_a_wrong_position_or_entry_changes_the_logits_noticeably(reference: Qwen, images: list[FloatArray]) -> None:
    decoder = NumpyDecoder(reference)
    decoder.append_tokens([3, 200, 41, 7])
    for image in images[:4]:
        decoder.append_embeddings(image)
    decoder.evict(4, 40)
    before = decoder.entries

    def next_logits(do: Callable[[], object]) -> Array:
        decoder.entries = before
        do()
        return decoder.append_tokens([9])

    right = next_logits(lambda: None)
    for wrong in (decoder.rebase, lambda: decoder.evict(60, 70), lambda: decoder.truncate(decoder.position - 1)):
        assert likeness(next_logits(wrong), right) < SAME


fractions = st.floats(0, 1)


class Timelines(RuleBasedStateMachine):
    """Appends, evictions, truncations, recomputations, prefetches, rebases, saves and loads, in any order."""

    open: Callable[[], Mirrored]
    images: Sequence[FloatArray]
    vocabulary: int
    folder: Path

    saved = Kept("saved")

    def __init__(self) -> None:
        super().__init__()
        self.timeline = self.open()
        self.saves = 0

    @rule(ids=st.lists(st.integers(0, 549), min_size=1, max_size=12))
    def append_text(self, ids: list[int]) -> None:
        self._append(len(ids), lambda: self.timeline.append_tokens(ids))

    @rule(image=st.integers(0, 9), rows=st.sampled_from((36, 36, 9, 1)))
    def append_image(self, image: int, rows: int) -> None:
        self._append(rows, lambda: self.timeline.append_embeddings(self.images[image][:rows]))

    @rule(images=st.lists(st.integers(0, 9), min_size=2, max_size=5))
    def append_images_at_once(self, images: list[int]) -> None:
        rows = np.concatenate([self.images[image] for image in images])
        self._append(len(rows), lambda: self.timeline.append_embeddings(rows))

    @precondition(lambda self: self.timeline.length)
    @rule(ends=st.tuples(fractions, fractions))
    def evict(self, ends: tuple[float, float]) -> None:
        start, end = sorted(round(share * self.timeline.position) for share in ends)
        self.timeline.evict(start, end)

    @precondition(lambda self: self.timeline.length > 40)
    @rule(sink=st.integers(0, 8), rows=st.integers(1, 36))
    def evict_the_oldest(self, sink: int, rows: int) -> None:
        self.timeline.evict(sink, sink + rows)

    @precondition(lambda self: self.timeline.length)
    @rule(share=fractions)
    def truncate(self, share: float) -> None:
        self.timeline.truncate(round((1 - share**3) * self.timeline.position))

    @precondition(lambda self: self.timeline.length)
    @rule(share=fractions, ids=st.lists(st.integers(0, 549), max_size=6), image=st.integers(0, 9), rows=st.booleans())
    def recompute(self, share: float, ids: list[int], image: int, rows: bool) -> None:
        """From some entry up to a gap or the end: text, then part of an image, then text."""
        self.timeline.recompute(*self._somewhere(share, ids, image, rows))

    @precondition(lambda self: self.timeline.length)
    @rule(
        share=fractions,
        image=st.integers(0, 9),
        leaving=st.tuples(fractions, fractions),
        steps=st.lists(st.integers(1, 40), min_size=1, max_size=3),
        between=st.sampled_from((None, "a question", "other entries in their place", "a rebase", "a load")),
        then=st.booleans(),
    )
    def prefetch(
        self,
        share: float,
        image: int,
        leaving: tuple[float, float],
        steps: list[int],
        between: str | None,
        then: bool,
    ) -> None:
        """Prefetch; if `then`, recompute afterwards, with another operation `between`."""
        start, end, parts = self._somewhere(share, [1, 2, 3], image, True)
        first, last = sorted(round(share * start) for share in leaving)
        for count in steps:
            if not self.timeline.prefetch(start, end, parts, (first, last), count):
                break
        if not then:
            return
        if between == "a question":
            position = self.timeline.position
            self._append(3, lambda: self.timeline.append_tokens([8, 9, 10]))
            self.timeline.truncate(position)
        elif between == "other entries in their place":
            self.timeline.truncate(first // 2)
            count = end - self.timeline.position
            self._append(count, lambda: self.timeline.append_tokens([40 + count] * count))
        elif between == "a rebase":
            self.timeline.rebase()
        elif between == "a load":
            self.timeline.load(*self._saved(False))
        self.timeline.evict(first, last)
        if set(range(start, end)) <= set(self.timeline.stored):
            self.timeline.recompute(start, end, parts)
        self._append(1, lambda: self.timeline.append_tokens([7]))

    def _somewhere(self, share: float, ids: list[int], image: int, rows: bool) -> tuple[int, int, list[Any]]:
        """A range of positions, and the text and rows to compute there."""
        stored = self.timeline.stored
        first = round(share * (len(stored) - 1))
        start = stored[first]
        run = sum(position == start + index for index, position in enumerate(stored[first:]))
        ids = ids[: run - 1] or [7]
        seen = self.images[image][: min(36, run - len(ids))] if rows else self.images[image][:0]
        rest = [41] * min(3, run - len(ids) - len(seen))
        parts = [part for part in (ids, seen, rest) if len(part)]
        return start, start + sum(map(len, parts)), parts

    @rule()
    def rebase(self) -> None:
        self.timeline.rebase()

    @rule(target=saved, rebase=st.booleans())
    def save(self, rebase: bool) -> tuple[Path, Any]:
        return self._saved(rebase)

    @rule(state=saved)
    def load(self, state: tuple[Path, Any]) -> None:
        self.timeline.load(*state)

    @precondition(lambda self: self.timeline.length)
    @rule(rebase=st.booleans())
    def go_on_in_another_decoder(self, rebase: bool) -> None:
        state = self._saved(rebase)
        self.timeline.close()
        self.timeline = self.open()
        self.timeline.load(*state)

    @invariant()
    def both_count_alike(self) -> None:
        assert 0 <= self.timeline.length <= self.timeline.position

    def teardown(self) -> None:
        self.timeline.close()
        for file in self.folder.iterdir():
            os.unlink(file)

    def _saved(self, rebase: bool) -> tuple[Path, Any]:
        if rebase:  # an engine may put it off until the next append: what is saved must hold it
            self.timeline.rebase()
        self.saves += 1
        path = self.folder / f"{self.saves}.state"
        return path, self.timeline.save(path)

    def _append(self, count: int, append: Callable[[], object]) -> None:
        length, position = self.timeline.length, self.timeline.position
        if length + count <= CAPACITY and position + count <= TRAINED_CONTEXT:
            append()
            return
        with pytest.raises(ContextFullError):
            append()
        assert (self.timeline.length, self.timeline.position) == (length, position)


def run_timelines(mirrored: Callable[[], Mirrored], images: list[FloatArray], how: settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kind = type(
            "Timelines", (Timelines,), {"open": staticmethod(mirrored), "images": images, "folder": Path(folder)}
        )
        run_state_machine_as_test(kind, settings=how)


def test_any_sequence_of_operations(backend: str, mirrored: Callable[[], Mirrored], images: list[FloatArray]) -> None:
    how = settings(
        max_examples=3 if backend == "mlx" else 15,  # many times slower on a Linux CPU
        stateful_step_count=20 if backend == "mlx" else 25,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_timelines(mirrored, images, how)


@pytest.mark.slow
def test_many_sequences_of_operations(mirrored: Callable[[], Mirrored], images: list[FloatArray]) -> None:
    how = settings(
        max_examples=1000,
        stateful_step_count=60,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_timelines(mirrored, images, how)


@pytest.mark.parametrize("seen_as", ["images", "a video"])
def test_a_long_sliding_window_with_questions_and_kept_answers(
    backend: str, mirrored: Callable[[int], Mirrored], lossless: Bundle, images: list[FloatArray], seen_as: str
) -> None:
    frames = 16 if backend == "mlx" else 32
    newline = None
    if seen_as == "a video":
        # In a row, with one row after the last frame before each question.
        frames = 8
        vision = replace(lossless.manifest.vision, image_newline=True, video=VideoInfo(1, "squash"))
        lossless = replace(lossless, manifest=replace(lossless.manifest, vision=vision))
        newline = images[0].mean(axis=0)
    tokenizer = TextTokenizer.open(lossless)
    prompt = LivePrompt(PromptBuilder(lossless, tokenizer), tokenizer)
    assert bool(prompt.announce(1)) == (newline is None)
    timeline = mirrored(600)
    window = FrameWindow(Session(timeline, tokenizer, ()), prompt, 4, keep_answers=True, newline=newline)
    question = prompt.question("What changed?")
    with_gaps = 0
    for number in range(1, frames + 1):
        for _ in range(number % 4):
            window.prefetch()
        window.add(images[number % 8])
        if number % 6 == 0:
            window.prefill([TextInput(question)])
            for token in (20, 30, 40):
                window.append_token(token)
                window.prefetch()
            window.finish(question, (20, 30, 40))
        with_gaps += timeline.position > timeline.length
    assert timeline.rebased >= frames // 16
    assert timeline.recomputed == frames - 4
    assert timeline.prepared > frames - 4
    assert timeline.compared > frames
    assert with_gaps >= frames // 2
