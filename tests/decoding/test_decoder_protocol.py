"""The conformance suite of the Decoder protocol, for any backend.

It runs our backends, or the ones you name: `pytest tests/decoding/test_decoder_protocol.py --backend my-engine`.
Every backend must have the KV precision f16. Tests of another precision are skipped if a backend of another package
refuses it with BackendError.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from support.backends_under_test import OURS, has_precision
from support.tiny import HIDDEN, TRAINED_CONTEXT, tiny_bundle

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import KV_PRECISIONS, Decoder, DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import BackendError, ContextFullError, InputError, UsageError

HEADS = {"f16": 4, "q8_0": 1, "q4_0": 1}
"""KV precision to number of heads: llama.cpp needs heads of 64 values or more for q8_0 and q4_0."""
WEIGHTS = {"f16": "f32", "q8_0": "int8", "q4_0": "f32"}
"""KV precision to that of the decoder for ONNX Runtime, which has q8_0 with weights in int8 alone."""
RE_ROTATED = {"f16": 0.9999, "q8_0": 0.999, "q4_0": 0.98}
"""Lowest cosine of logits after stored keys were rotated and rounded again."""
TEXT = [5, 17, 99, 42, 7, 256, 33, 12]

Open = Callable[..., Decoder]
Make = Callable[..., Bundle]
Computed = Callable[[], int]
Change = Callable[[Decoder, Path], int]


@pytest.fixture(params=KV_PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(precision: str) -> Make:
    return functools.partial(tiny_bundle, heads=HEADS[precision], precision=WEIGHTS[precision])


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("decoders")
    return {
        precision: tiny_bundle(folder / precision, heads=heads, precision=WEIGHTS[precision])
        for precision, heads in HEADS.items()
    }


@pytest.fixture
def tiny(bundles: dict[str, Bundle], precision: str) -> Bundle:
    return bundles[precision]


@pytest.fixture
def open_decoder(backend: str, precision: str, tiny: Bundle) -> Iterator[Open]:
    skip_without(backend, tiny, precision)
    opened: list[Decoder] = []

    def open_(bundle: Bundle = tiny, context: int = 200, kv: str = precision, batch: int | None = None) -> Decoder:
        options = DecoderOptions(context=context, threads=1, kv_precision=kv, batch=batch)
        opened.append(find_backend(backend).open(bundle, options))
        return opened[-1]

    yield open_
    for decoder in opened:
        decoder.close()


@pytest.fixture
def decoder(open_decoder: Open) -> Decoder:
    return open_decoder()


@pytest.fixture
def one_layer(open_decoder: Open, make: Make, tmp_path: Path) -> Decoder:
    """One layer: an entry's key and value depend on that entry only, so eviction equals never having been there."""
    return open_decoder(make(tmp_path / "one", layers=1, seed=2))


def skip_without(backend: str, bundle: Bundle, precision: str) -> None:
    if not has_precision(backend, bundle, precision):
        pytest.skip(f"{backend} has no {precision}")


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, HIDDEN)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_facts_are_those_of_the_bundle(decoder: Decoder, tiny: Bundle) -> None:
    info = tiny.manifest.decoder
    assert isinstance(decoder, Decoder)
    assert decoder.facts.hidden_size == info.hidden_size
    assert decoder.facts.vocab_size == info.vocab_size
    assert decoder.facts.trained_context == info.context_length
    assert decoder.facts.capacity == 200
    assert decoder.facts.bytes_per_token >= info.layers * info.kv_heads * info.head_dim


def test_logits_are_float32_and_belong_to_the_caller(decoder: Decoder) -> None:
    first = decoder.append_tokens(TEXT)
    kept = first.copy()
    decoder.append_tokens([1])
    assert first.dtype == np.float32
    assert first.shape == (decoder.facts.vocab_size,)
    assert np.array_equal(first, kept)


def test_one_append_equals_many(decoder: Decoder) -> None:
    at_once = decoder.append_tokens(TEXT)
    assert (decoder.length, decoder.position) == (8, 8)
    decoder.truncate(0)
    one_by_one = [decoder.append_tokens([token]) for token in TEXT][-1]
    assert cosine(at_once, one_by_one) > 0.99999


def test_tokens_and_embeddings_interleave(decoder: Decoder) -> None:
    image = rows(40)
    decoder.append_tokens(TEXT[:4])
    decoder.append_embeddings(image)
    with_image = decoder.append_tokens(TEXT[4:])
    assert decoder.length == 48
    decoder.truncate(4)
    decoder.append_embeddings(image[:15])
    decoder.append_embeddings(image[15:])
    assert np.allclose(decoder.append_tokens(TEXT[4:]), with_image, atol=1e-2)
    decoder.truncate(4)
    decoder.append_embeddings(rows(40, seed=1))
    assert not np.allclose(decoder.append_tokens(TEXT[4:]), with_image, atol=0.1)


def test_an_append_longer_than_an_engine_batch_equals_short_ones(
    open_decoder: Open, make: Make, tmp_path: Path
) -> None:
    decoder = open_decoder(make(tmp_path / "long", context_length=2048), context=1300)
    image = rows(1200)
    at_once = decoder.append_embeddings(image)
    decoder.truncate(0)
    for start in range(0, 1200, 100):
        in_parts = decoder.append_embeddings(image[start : start + 100])
    assert cosine(at_once, in_parts) > 0.99999


def test_truncate_forgets_and_the_timeline_goes_on_as_if_nothing_had_been(decoder: Decoder) -> None:
    decoder.append_tokens(TEXT[:4])
    expected = decoder.append_tokens(TEXT[4:])
    decoder.truncate(4)
    decoder.append_tokens([1, 2, 3])
    decoder.truncate(4)
    assert (decoder.length, decoder.position) == (4, 4)
    assert np.allclose(decoder.append_tokens(TEXT[4:]), expected, atol=1e-2)
    decoder.truncate(1000)
    assert decoder.length == 8


def test_evict_leaves_a_gap_and_later_entries_their_positions(decoder: Decoder) -> None:
    decoder.append_tokens(TEXT)
    decoder.evict(2, 5)
    assert (decoder.length, decoder.position) == (5, 8)
    decoder.append_embeddings(rows(3))
    assert (decoder.length, decoder.position) == (8, 11)
    decoder.evict(0, 9)
    assert (decoder.length, decoder.position) == (2, 11)


def test_what_was_evicted_is_not_attended_to(one_layer: Decoder) -> None:
    one_layer.append_tokens([*TEXT, *TEXT])
    one_layer.evict(0, 8)
    evicted = one_layer.append_tokens([3])
    one_layer.truncate(0)
    one_layer.append_tokens(TEXT)
    afresh = one_layer.append_tokens([3])
    assert cosine(evicted, afresh) > 0.9999


def test_rebase_closes_gaps_as_if_the_kept_entries_were_all_there_ever_was(one_layer: Decoder, precision: str) -> None:
    if precision == "q4_0":
        pytest.skip("keys rounded to 4 bits differ by more than what this looks for")
    one_layer.append_tokens(TEXT)
    one_layer.append_embeddings(rows(20))
    one_layer.append_tokens(TEXT)
    one_layer.evict(3, 6)
    one_layer.evict(10, 15)
    with_gaps = one_layer.append_tokens([3])
    one_layer.truncate(36)
    one_layer.rebase()
    assert (one_layer.length, one_layer.position) == (28, 28)
    rebased = one_layer.append_tokens([3])

    one_layer.truncate(0)
    one_layer.append_tokens(TEXT[:3] + TEXT[6:])
    one_layer.append_embeddings(np.delete(rows(20), range(2, 7), axis=0))
    one_layer.append_tokens(TEXT)
    afresh = one_layer.append_tokens([3])
    assert cosine(rebased, afresh) > RE_ROTATED[precision]
    nearer = 1 - cosine(rebased, afresh) < (1 - cosine(with_gaps, afresh)) / 2
    assert nearer, "positions must matter, or this test shows nothing"


def test_rebase_after_evicting_the_front_changes_no_distance(decoder: Decoder, precision: str) -> None:
    decoder.append_tokens([*TEXT, *TEXT])
    decoder.evict(0, 5)
    with_gap = decoder.append_tokens([3])
    decoder.truncate(16)
    decoder.rebase()
    assert cosine(decoder.append_tokens([3]), with_gap) > RE_ROTATED[precision]


def test_what_is_recomputed_knows_nothing_of_what_was_evicted(decoder: Decoder) -> None:
    """With no later entries, the timeline equals one that never had the evicted entries."""
    decoder.append_tokens(TEXT)
    decoder.append_embeddings(rows(20))
    decoder.append_tokens(TEXT[:5])
    decoder.append_embeddings(rows(30, seed=1))
    decoder.evict(8, 28)
    decoder.rebase()
    stale = decoder.append_tokens([3])
    decoder.truncate(43)
    decoder.recompute(8, 43, [TEXT[:5], rows(30, seed=1)])
    assert (decoder.length, decoder.position) == (43, 43)
    anew = decoder.append_tokens([3])

    decoder.truncate(0)
    decoder.append_tokens([*TEXT, *TEXT[:5]])
    decoder.append_embeddings(rows(30, seed=1))
    afresh = decoder.append_tokens([3])
    assert cosine(anew, afresh) > 0.9999
    assert cosine(stale, afresh) < 0.9999, "what was evicted must matter, or this test shows nothing"


def test_what_is_recomputed_lies_where_it_lay_and_later_entries_stay(decoder: Decoder) -> None:
    decoder.append_tokens(TEXT)
    decoder.append_embeddings(rows(20))
    decoder.append_embeddings(rows(30, seed=1))
    decoder.append_embeddings(rows(10, seed=2))
    decoder.evict(8, 28)
    decoder.recompute(28, 58, [rows(30, seed=1)])
    assert (decoder.length, decoder.position) == (48, 68)
    with_gap = decoder.append_tokens([3])
    decoder.truncate(68)
    decoder.recompute(28, 58, [rows(30, seed=1)])
    assert cosine(decoder.append_tokens([3]), with_gap) > 0.9999, "a second time changes nothing"
    decoder.truncate(68)
    decoder.evict(58, 68)
    without_the_last = decoder.append_tokens([3])
    assert cosine(without_the_last, with_gap) < 0.9999, "the last entries must matter, or this test shows nothing"


def test_a_full_cache_has_room_to_recompute(open_decoder: Open) -> None:
    decoder = open_decoder(context=60)
    decoder.append_embeddings(rows(60))
    decoder.evict(5, 30)
    decoder.append_embeddings(rows(25, seed=1))
    decoder.recompute(30, 60, [rows(30, seed=2)])
    assert (decoder.length, decoder.position) == (60, 85)


@pytest.mark.parametrize(
    ("start", "end", "parts"),
    [(4, 4, []), (4, 6, [TEXT[:3]]), (4, 6, [[5000, 1]]), (1, 5, [TEXT[:4]]), (8, 12, [TEXT[:4]]), (-1, 2, [TEXT[:3]])],
    ids=["none", "another length", "no such token", "over a gap", "past the end", "before the beginning"],
)
def test_a_wrong_range_to_recompute_is_a_value_error(
    decoder: Decoder, start: int, end: int, parts: list[list[int]]
) -> None:
    decoder.append_tokens([*TEXT, 1, 2])
    decoder.evict(2, 4)
    with pytest.raises(ValueError, match=r"range|vocabulary|fill"):
        decoder.recompute(start, end, parts)
    assert (decoder.length, decoder.position) == (8, 10)


class TestPreparing:
    """A sink, an image that will leave, words, an image that will then be the oldest, and another image."""

    LEAVING = (8, 28)
    PARTS: ClassVar = [TEXT[:5], rows(30, seed=1)]
    START, END = 28, 63
    SIZE = 35

    @pytest.fixture(autouse=True)
    def ours(self, backend: str) -> None:
        """Counts computed rows of our engines. `test_live_equality` checks the results of every backend."""
        if backend not in OURS:
            pytest.skip(f"rows that {backend} computes cannot be counted")

    @classmethod
    def fill(cls, decoder: Decoder) -> None:
        decoder.append_tokens(TEXT)
        decoder.append_embeddings(rows(20))
        decoder.append_tokens(cls.PARTS[0])
        decoder.append_embeddings(cls.PARTS[1])
        decoder.append_embeddings(rows(10, seed=2))

    @classmethod
    def step(cls, decoder: Decoder, count: int = SIZE) -> bool:
        return decoder.prefetch(cls.START, cls.END, cls.PARTS, cls.LEAVING, count)

    @classmethod
    def slide(cls, decoder: Decoder) -> None:
        decoder.evict(*cls.LEAVING)
        decoder.recompute(cls.START, cls.END, cls.PARTS)

    @staticmethod
    def asked(decoder: Decoder) -> np.ndarray:
        end = decoder.position
        logits = decoder.append_tokens([3, 4])
        decoder.truncate(end)
        return logits

    @pytest.fixture
    def without(self, open_decoder: Open) -> Decoder:
        decoder = open_decoder()
        self.fill(decoder)
        return decoder

    def test_goes_on_step_by_step_until_all_is_there(self, decoder: Decoder, computed: Computed) -> None:
        self.fill(decoder)
        computed()
        assert [(self.step(decoder, 16), computed()) for _ in range(4)] == [
            (True, 16),
            (True, 16),
            (False, 3),
            (False, 0),
        ]

    def test_changes_nothing_that_can_be_seen(self, decoder: Decoder, without: Decoder, tmp_path: Path) -> None:
        self.fill(decoder)
        wanted = self.asked(without)
        while self.step(decoder, 10):
            assert (decoder.length, decoder.position) == (73, 73)
            assert np.allclose(self.asked(decoder), wanted, atol=1e-3)
        assert np.allclose(self.asked(decoder), wanted, atol=1e-3)
        for name, one in (("with", decoder), ("without", without)):
            one.save(tmp_path / name)
        assert (tmp_path / "with").stat().st_size == (tmp_path / "without").stat().st_size
        without.load(tmp_path / "with")
        assert np.allclose(self.asked(without), wanted, atol=1e-3)

    @pytest.mark.parametrize("prefetched", [1, 5, 17, 35])
    def test_prefetched_entries_need_not_be_computed(
        self, decoder: Decoder, without: Decoder, computed: Computed, prefetched: int
    ) -> None:
        self.fill(decoder)
        self.step(decoder, prefetched)
        self.slide(without)
        wanted = self.asked(without)
        computed()
        self.slide(decoder)
        assert computed() == self.SIZE - prefetched
        assert (decoder.length, decoder.position) == (53, 73)
        assert cosine(self.asked(decoder), wanted) > 0.9999

    def test_what_else_lies_before_it_is_seen(self, decoder: Decoder, open_decoder: Open, computed: Computed) -> None:
        """For example words that were kept between the image that leaves and the next one."""
        other = open_decoder()
        logits = []
        for one in (decoder, other):
            self.fill(one)
            if one is decoder:
                one.prefetch(33, 63, self.PARTS[1:], self.LEAVING, 100)
            computed()
            one.evict(*self.LEAVING)
            one.recompute(33, 63, self.PARTS[1:])
            assert computed() == (0 if one is decoder else 30)
            logits.append(self.asked(one))
        assert cosine(*logits) > 0.9999

    @staticmethod
    def question(decoder: Decoder, _: Path) -> int:
        TestPreparing.asked(decoder)
        decoder.evict(8, 28)
        return 28

    @staticmethod
    def rebase_of_others(decoder: Decoder, _: Path) -> int:
        decoder.evict(8, 28)
        decoder.rebase()
        return 8

    @staticmethod
    def last_one_gone(decoder: Decoder, _: Path) -> int:
        decoder.truncate(63)
        decoder.evict(8, 28)
        decoder.append_embeddings(rows(9, seed=3))
        return 28

    @staticmethod
    def seen_entry_gone(decoder: Decoder, _: Path) -> int:
        decoder.evict(2, 3)
        decoder.evict(8, 28)
        return 28

    @staticmethod
    def seen_entries_replaced(decoder: Decoder, _: Path) -> int:
        decoder.truncate(4)
        decoder.append_tokens([11, 12, 13, 14])
        decoder.append_tokens(TestPreparing.PARTS[0])
        decoder.append_embeddings(TestPreparing.PARTS[1])
        return 8

    @staticmethod
    def seen_entries_recomputed(decoder: Decoder, _: Path) -> int:
        decoder.evict(0, 2)
        decoder.recompute(2, 8, [TEXT[2:]])
        decoder.evict(8, 28)
        return 28

    @staticmethod
    def less_gone_than_was_said(decoder: Decoder, _: Path) -> int:
        decoder.evict(8, 27)
        return 28

    @staticmethod
    def another_prefetched(decoder: Decoder, _: Path) -> int:
        decoder.prefetch(63, 73, [rows(10, seed=2)], (8, 63), 5)
        decoder.evict(8, 28)
        return 28

    @staticmethod
    def another_recomputed(decoder: Decoder, _: Path) -> int:
        decoder.recompute(63, 73, [rows(10, seed=2)])
        decoder.evict(8, 28)
        return 28

    @staticmethod
    def loaded(decoder: Decoder, folder: Path) -> int:
        decoder.save(folder / "state")
        decoder.load(folder / "state")
        decoder.evict(8, 28)
        return 28

    @pytest.mark.parametrize("change", [question, rebase_of_others, last_one_gone], ids=lambda change: change.__name__)
    def test_is_kept_where_what_it_sees_stays(
        self, decoder: Decoder, without: Decoder, computed: Computed, tmp_path: Path, change: Change, precision: str
    ) -> None:
        count, alike = self.recomputed_after(change, decoder, without, computed, tmp_path)
        assert count == 0
        assert alike > RE_ROTATED[precision]

    @pytest.mark.parametrize(
        "change",
        [
            seen_entry_gone,
            seen_entries_replaced,
            seen_entries_recomputed,
            less_gone_than_was_said,
            another_prefetched,
            another_recomputed,
            loaded,
        ],
        ids=lambda change: change.__name__,
    )
    def test_is_dropped_where_something_else_would_be_computed(
        self, decoder: Decoder, without: Decoder, computed: Computed, tmp_path: Path, change: Change, precision: str
    ) -> None:
        count, alike = self.recomputed_after(change, decoder, without, computed, tmp_path)
        assert count == self.SIZE
        assert alike > RE_ROTATED[precision]

    def recomputed_after(
        self, change: Change, decoder: Decoder, without: Decoder, computed: Computed, folder: Path
    ) -> tuple[int, float]:
        """Rows that `recompute` computes although all were prefetched, and its cosine with another decoder's result."""
        self.fill(decoder)
        while self.step(decoder, 16):
            pass
        logits = []
        for one in (without, decoder):
            start = change(one, folder)
            computed()
            one.recompute(start, start + self.SIZE, self.PARTS)
            count = computed()
            logits.append(self.asked(one))
        assert (decoder.length, decoder.position) == (without.length, without.position)
        return count, cosine(*logits)

    def test_is_dropped_by_a_rebase_that_moves_what_it_sees(self, open_decoder: Open, computed: Computed) -> None:
        logits = []
        for ahead in (True, False):
            decoder = open_decoder()
            self.fill(decoder)
            decoder.evict(0, 2)
            if ahead:
                self.step(decoder)
            decoder.rebase()
            decoder.evict(6, 26)
            computed()
            decoder.recompute(26, 61, self.PARTS)
            assert computed() == self.SIZE
            logits.append(self.asked(decoder))
        assert cosine(*logits) > 0.9999

    @pytest.mark.parametrize("part", [0, 1], ids=["words", "image"])
    def test_is_not_taken_for_what_it_is_not(self, decoder: Decoder, computed: Computed, part: int) -> None:
        """Even if it is the same object with other content."""
        parts = [list(self.PARTS[0]), self.PARTS[1].copy()]
        self.fill(decoder)
        decoder.prefetch(self.START, self.END, parts, self.LEAVING, 100)
        parts[part][0] = 1
        decoder.evict(*self.LEAVING)
        computed()
        decoder.recompute(self.START, self.END, parts)
        assert computed() == self.SIZE

    def test_takes_what_room_there_is_and_gives_it_back(
        self, open_decoder: Open, without: Decoder, computed: Computed
    ) -> None:
        decoder = open_decoder(context=80)
        self.fill(decoder)
        computed()
        assert not self.step(decoder)
        assert computed() == 7
        assert not self.step(decoder)
        assert computed() == 0
        decoder.append_embeddings(rows(7, seed=5))
        assert decoder.length == 80
        with pytest.raises(ContextFullError):
            decoder.append_tokens([1])
        assert not self.step(decoder)
        decoder.truncate(73)
        computed()
        self.slide(decoder)
        assert computed() == self.SIZE
        self.slide(without)
        assert cosine(self.asked(decoder), self.asked(without)) > 0.9999

    def test_a_full_cache_takes_over_prefetched_entries(
        self, open_decoder: Open, without: Decoder, computed: Computed
    ) -> None:
        decoder = open_decoder(context=80)
        self.fill(decoder)
        self.step(decoder)
        self.slide(decoder)
        self.slide(without)
        more = rows(27, seed=6)
        assert cosine(decoder.append_embeddings(more), without.append_embeddings(more)) > 0.9999
        assert decoder.length == 80

    @pytest.mark.parametrize(
        ("start", "end", "leaving", "count"),
        [(28, 60, (8, 28), 5), (70, 105, (8, 28), 5), (28, 63, (8, 29), 5), (28, 63, (9, 8), 5), (28, 63, (8, 28), 0)],
        ids=["another length", "not stored", "leaving is not before", "leaving is no range", "no rows"],
    )
    def test_what_makes_no_sense_is_a_value_error(
        self, decoder: Decoder, start: int, end: int, leaving: tuple[int, int], count: int
    ) -> None:
        self.fill(decoder)
        with pytest.raises(ValueError, match=r"fill|range|leave|rows"):
            decoder.prefetch(start, end, self.PARTS, leaving, count)
        assert decoder.length == 73

    def test_can_be_broken_off(self, decoder: Decoder) -> None:
        self.fill(decoder)
        self.step(decoder, 10)
        decoder.interrupt()
        with pytest.raises(BackendError, match="interrupted"):
            self.step(decoder, 10)
        assert (decoder.length, decoder.position) == (73, 73)


def test_gaps_do_not_use_up_the_cache(open_decoder: Open) -> None:
    decoder = open_decoder(context=64)
    for round_ in range(20):
        decoder.append_embeddings(rows(20, seed=round_))
        if decoder.length > 40:
            decoder.evict(decoder.position - 60, decoder.position - 40)
    assert decoder.length == 40
    assert decoder.position == 400


def test_a_full_cache_refuses_and_stays_as_it_was(open_decoder: Open) -> None:
    decoder = open_decoder(context=50)
    decoder.append_embeddings(rows(49))
    with pytest.raises(ContextFullError, match="50"):
        decoder.append_tokens([1, 2])
    assert decoder.length == 49
    decoder.append_tokens([1])
    with pytest.raises(ContextFullError):
        decoder.append_tokens([1])
    decoder.evict(0, 10)
    decoder.rebase()
    decoder.append_tokens([1])
    assert (decoder.length, decoder.position) == (41, 41)


def test_positions_past_the_trained_context_are_refused_until_a_rebase(open_decoder: Open) -> None:
    decoder = open_decoder(context=300)
    for start in range(0, 500, 100):
        decoder.append_embeddings(rows(100))
        if start >= 100:
            decoder.evict(start - 100, start)
    assert decoder.position == 500
    with pytest.raises(ContextFullError, match=str(TRAINED_CONTEXT)):
        decoder.append_embeddings(rows(13))
    assert (decoder.length, decoder.position) == (100, 500)
    decoder.rebase()
    decoder.append_embeddings(rows(13))
    assert (decoder.length, decoder.position) == (113, 113)


@pytest.mark.parametrize("rebase", [False, True])
def test_a_saved_timeline_goes_on_in_another_decoder(open_decoder: Open, tmp_path: Path, rebase: bool) -> None:
    first, second = open_decoder(), open_decoder()
    first.append_tokens(TEXT)
    first.append_embeddings(rows(30))
    first.evict(3, 6)
    if rebase:
        first.rebase()
    first.save(tmp_path / "state")
    second.append_tokens([9, 9, 9])
    second.load(tmp_path / "state")
    assert (second.length, second.position) == (first.length, first.position)
    assert np.allclose(second.append_tokens([4]), first.append_tokens([4]), atol=1e-3)
    assert os.listdir(tmp_path) == ["state"]


def test_a_full_rebased_timeline_can_be_saved(open_decoder: Open, tmp_path: Path) -> None:
    decoder = open_decoder(context=255)
    decoder.append_embeddings(rows(255))
    decoder.evict(0, 5)
    decoder.append_embeddings(rows(5))
    decoder.rebase()
    assert decoder.length == 255
    decoder.save(tmp_path / "state")
    decoder.load(tmp_path / "state")
    assert decoder.length == 255


def test_an_empty_timeline_can_be_saved(decoder: Decoder, tmp_path: Path) -> None:
    decoder.save(tmp_path / "state")
    decoder.append_tokens(TEXT)
    decoder.load(tmp_path / "state")
    assert (decoder.length, decoder.position) == (0, 0)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header", "missing", "text"])
def test_a_damaged_timeline_file_is_refused_and_nothing_changes(decoder: Decoder, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state"
    decoder.append_tokens(TEXT)
    decoder.save(path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-10:]
    elif damage == "flip":
        data[-100] ^= 1
    elif damage == "empty":
        data.clear()
    elif damage == "header":
        data[25:28] = b"\xff\xff\xff"
    elif damage == "text":
        data[:] = b"hello"
    path.write_bytes(data)
    if damage == "missing":
        path.unlink()
    decoder.append_tokens([1])
    with pytest.raises(InputError) as caught:
        decoder.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert decoder.length == 9


@pytest.mark.parametrize("edges", ["0, Infinity", "0, 8.5", "false, 8", '"0", "8"', "-1, 7", "8, 0", "0"])
def test_positions_that_make_no_sense_in_a_timeline_file_of_llama_cpp(tiny: Bundle, tmp_path: Path, edges: str) -> None:
    """MLX's are in `test_mlx_state`."""
    decoder = find_backend("llama-cpp").open(tiny, DecoderOptions(context=64))
    decoder.append_tokens(TEXT)
    decoder.save(tmp_path / "state")
    magic, rest = (tmp_path / "state").read_bytes().split(b"\n", 1)
    size = int.from_bytes(rest[:8], "little")
    header = rest[8 : 8 + size].replace(b"[[0, 8]]", f"[[{edges}]]".encode())
    (tmp_path / "state").write_bytes(magic + b"\n" + len(header).to_bytes(8, "little") + header + rest[8 + size :])
    with pytest.raises(InputError, match="damaged header"):
        decoder.load(tmp_path / "state")
    assert decoder.length == 8
    decoder.close()


def test_a_timeline_of_another_model_is_refused(
    open_decoder: Open, make: Make, decoder: Decoder, tmp_path: Path
) -> None:
    other = open_decoder(make(tmp_path / "other", seed=1))
    other.append_tokens(TEXT)
    other.save(tmp_path / "state")
    with pytest.raises(InputError, match="another model"):
        decoder.load(tmp_path / "state")


def test_saving_where_nothing_can_be_written_is_an_input_error(decoder: Decoder, tmp_path: Path) -> None:
    decoder.append_tokens(TEXT)
    with pytest.raises(InputError, match="cannot be written"):
        decoder.save(tmp_path / "no" / "such" / "folder")


def test_small_batches_change_nothing(open_decoder: Open) -> None:
    image = rows(100)
    at_once, in_parts = open_decoder(), open_decoder(batch=7)
    assert cosine(at_once.append_embeddings(image), in_parts.append_embeddings(image)) > 0.99999
    assert in_parts.length == 100


def test_a_state_is_refused_in_another_precision(
    backend: str, open_decoder: Open, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    skip_without(backend, bundles["q8_0"], "q8_0")
    first, second = (open_decoder(bundles["q8_0"], kv=precision) for precision in ("f16", "q8_0"))
    first.append_tokens(TEXT)
    first.save(tmp_path / "state")
    with pytest.raises(InputError, match="another model"):
        second.load(tmp_path / "state")


@pytest.mark.parametrize(("small", "share", "least"), [("q8_0", 68 / 128, 0.999), ("q4_0", 36 / 128, 0.9)])
def test_a_smaller_kv_cache_answers_alike(
    backend: str, open_decoder: Open, bundles: dict[str, Bundle], small: str, share: float, least: float
) -> None:
    skip_without(backend, bundles["q8_0"], small)
    f16, quantized = (open_decoder(bundles["q8_0"], kv=precision) for precision in ("f16", small))
    if backend == "onnx":
        share, least = 1 / 2, 0.99  # its steps are of channels: no part of the cache, and coarser
    tolerance = 0 if backend in OURS else 0.05
    assert quantized.facts.bytes_per_token / f16.facts.bytes_per_token == pytest.approx(share, abs=tolerance)
    image = rows(100)
    logits = f16.append_embeddings(image)
    assert least < cosine(logits, quantized.append_embeddings(image)) < 1


def test_a_precision_that_the_decoder_cannot_have_is_refused(
    backend: str, open_decoder: Open, bundles: dict[str, Bundle]
) -> None:
    if backend not in OURS and has_precision(backend, bundles["f16"], "q8_0"):
        pytest.skip(f"{backend} has q8_0 for heads of any size")
    with pytest.raises(BackendError, match="q8_0"):
        open_decoder(bundles["f16"], kv="q8_0")
    with pytest.raises(BackendError, match="q8_0"):
        find_backend(backend).memory(bundles["f16"], DecoderOptions(kv_precision="q8_0"))
    with pytest.raises(UsageError, match=r"q5_1.*f16, q8_0, q4_0"):
        DecoderOptions(kv_precision="q5_1")


def test_what_it_says_it_would_take_has_room_for_every_entry(
    backend: str, decoder: Decoder, precision: str, tiny: Bundle
) -> None:
    memory = find_backend(backend).memory(tiny, DecoderOptions(context=200, threads=1, kv_precision=precision))
    assert memory.cache >= decoder.facts.capacity * decoder.facts.bytes_per_token
    assert memory.weights > 0
    assert memory.compute > 0


@pytest.mark.parametrize("ids", [[], [-1], [10**6], [[1, 2]], [1.5], [True, None]])
def test_wrong_token_ids_are_a_value_error(decoder: Decoder, ids: list) -> None:
    with pytest.raises(ValueError, match="token id"):
        decoder.append_tokens(ids)
    assert decoder.length == 0


@pytest.mark.parametrize(
    "wrong",
    [
        rows(3).astype(np.float64),
        rows(3)[:, :-1],
        rows(0),
        rows(1)[0],
        np.full((2, HIDDEN), np.nan, np.float32),
        np.full((2, HIDDEN), np.inf, np.float32),
    ],
    ids=["float64", "narrow", "none", "flat", "nan", "inf"],
)
def test_wrong_embeddings_are_a_value_error(decoder: Decoder, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        decoder.append_embeddings(wrong)
    assert decoder.length == 0


def test_embeddings_need_not_be_contiguous(decoder: Decoder) -> None:
    image = rows(10)
    expected = decoder.append_embeddings(image)
    decoder.truncate(0)
    assert np.allclose(decoder.append_embeddings(np.repeat(image, 2, axis=0)[::2]), expected, atol=1e-4)


@pytest.mark.parametrize("span", [(-1, 2), (5, 2)])
def test_a_range_that_is_none_is_a_value_error(decoder: Decoder, span: tuple[int, int]) -> None:
    decoder.append_tokens(TEXT)
    with pytest.raises(ValueError, match="range"):
        decoder.evict(*span)


def test_closing_twice_is_fine_and_using_a_closed_decoder_is_not(decoder: Decoder, tmp_path: Path) -> None:
    decoder.append_tokens(TEXT)
    decoder.close()
    decoder.close()
    for use in (
        lambda: decoder.append_tokens([1]),
        lambda: decoder.append_embeddings(rows(1)),
        lambda: decoder.truncate(0),
        lambda: decoder.evict(0, 1),
        lambda: decoder.recompute(0, 1, [TEXT[:1]]),
        lambda: decoder.prefetch(1, 2, [TEXT[1:2]], (0, 1), 1),
        decoder.rebase,
        lambda: decoder.save(tmp_path / "state"),
    ):
        with pytest.raises(BackendError, match="closed"):
            use()


def test_what_is_being_computed_is_broken_off(open_decoder: Open) -> None:
    decoder, other = open_decoder(), open_decoder()
    reasons: list[str] = []

    def compute() -> None:
        try:
            while True:
                decoder.truncate(0)
                decoder.append_embeddings(rows(200))
        except BackendError as error:
            reasons.append(str(error))

    thread = threading.Thread(target=compute)
    thread.start()
    decoder.interrupt()
    thread.join(20)
    assert not thread.is_alive()
    assert "interrupted" in reasons[0]
    with pytest.raises(BackendError, match="interrupted"):
        decoder.append_tokens(TEXT)
    other.append_tokens(TEXT)
    decoder.close()


def append_again_and_again(decoder: Decoder) -> None:
    length = decoder.position
    while True:
        decoder.append_embeddings(rows(50, seed=2))
        decoder.truncate(length)


def test_an_interrupted_decoder_resumes_where_it_was(open_decoder: Open) -> None:
    """Interrupted at any moment: while it appends, while it re-rotates the keys after a gap, while it recomputes."""
    decoder, undisturbed = open_decoder(), open_decoder()
    for number, delay in enumerate((0.0, 0.0, 0.0005, 0.001, 0.002, 0.004)):
        for one in (decoder, undisturbed):
            one.append_embeddings(rows(30, seed=number))
            one.append_embeddings(rows(20, seed=number + 10))
            one.evict(10, 40)
            one.rebase()
        length = decoder.length
        timer = threading.Timer(delay, decoder.interrupt)
        timer.start()
        with pytest.raises(BackendError, match="interrupted"):
            append_again_and_again(decoder)
        timer.join()
        decoder.resume()
        assert (decoder.length, decoder.position) == (length, length)
        undisturbed.append_tokens(TEXT[:1])
        undisturbed.truncate(length)
    assert cosine(decoder.append_tokens(TEXT), undisturbed.append_tokens(TEXT)) > 0.9999
    decoder.interrupt()
    with pytest.raises(BackendError, match="interrupted"):
        decoder.recompute(0, 10, [rows(10)])
    assert decoder.length == undisturbed.length - 10
    decoder.truncate(decoder.position - len(TEXT))
    undisturbed.truncate(undisturbed.position - len(TEXT))
    decoder.resume()
    undisturbed.evict(0, 10)
    assert cosine(decoder.append_tokens(TEXT), undisturbed.append_tokens(TEXT)) > 0.9999


def test_decoders_of_one_bundle_do_not_disturb_each_other(open_decoder: Open) -> None:
    first, second = open_decoder(), open_decoder()
    expected = first.append_tokens(TEXT)
    second.append_tokens(TEXT[:3])
    first.close()
    assert np.allclose(second.append_tokens(TEXT[3:]), expected, atol=1e-2)


def test_the_context_is_never_larger_than_what_the_model_was_trained_on(open_decoder: Open) -> None:
    assert open_decoder(context=100_000).facts.capacity == TRAINED_CONTEXT
