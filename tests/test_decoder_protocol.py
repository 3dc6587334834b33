"""What any backend's decoder does, whatever the engine. Add a backend to BACKENDS to run it through the same tests."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import HIDDEN, TRAINED_CONTEXT, change_manifest, tiny_bundle

from edge_interleave.bundle import Bundle, open_bundle
from edge_interleave.decoder import KV_PRECISIONS, Decoder, DecoderOptions, find_backend
from edge_interleave.errors import BackendError, BundleError, ContextFullError, InputError, UsageError

BACKENDS = ("llama-cpp", "mlx")
HEADS = {"f16": 4, "q8_0": 1, "q4_0": 1}
"""KV precision to heads of the decoders tried with it: llama.cpp takes q8_0 for heads of 64 values and more."""
RE_ROTATED = {"f16": 0.9999, "q8_0": 0.9999, "q4_0": 0.99}
"""Least cosine of logits where stored keys were rotated and rounded again."""
TEXT = [5, 17, 99, 42, 7, 256, 33, 12]

Open = Callable[..., Decoder]
Make = Callable[..., Bundle]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KV_PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(precision: str) -> Make:
    return functools.partial(tiny_bundle, heads=HEADS[precision])


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("decoders")
    return {precision: tiny_bundle(folder / precision, heads=heads) for precision, heads in HEADS.items()}


@pytest.fixture
def tiny(bundles: dict[str, Bundle], precision: str) -> Bundle:
    return bundles[precision]


@pytest.fixture
def open_decoder(backend: str, precision: str, tiny: Bundle) -> Iterator[Open]:
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
    """One layer: an entry's key and value depend on that entry alone, so what eviction leaves can be made afresh."""
    return open_decoder(make(tmp_path / "one", layers=1, seed=2))


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
    assert cosine(with_gaps, afresh) < RE_ROTATED[precision], "positions must matter, or this test shows nothing"


def test_rebase_after_evicting_the_front_changes_no_distance(decoder: Decoder, precision: str) -> None:
    decoder.append_tokens([*TEXT, *TEXT])
    decoder.evict(0, 5)
    with_gap = decoder.append_tokens([3])
    decoder.truncate(16)
    decoder.rebase()
    assert cosine(decoder.append_tokens([3]), with_gap) > RE_ROTATED[precision]


def test_what_is_recomputed_knows_nothing_of_what_was_evicted(decoder: Decoder) -> None:
    """Nothing after it, so that the timeline is then what it would be had the evicted entries never come."""
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
    """Those of MLX are in `test_mlx_state`."""
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
    open_decoder: Open, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    first, second = (open_decoder(bundles["q8_0"], kv=precision) for precision in ("f16", "q8_0"))
    first.append_tokens(TEXT)
    first.save(tmp_path / "state")
    with pytest.raises(InputError, match="another model"):
        second.load(tmp_path / "state")


@pytest.mark.parametrize(("small", "bytes_of_64", "least"), [("q8_0", 68, 0.999), ("q4_0", 36, 0.9)])
def test_a_smaller_kv_cache_answers_alike(
    open_decoder: Open, bundles: dict[str, Bundle], small: str, bytes_of_64: int, least: float
) -> None:
    f16, quantized = (open_decoder(bundles["q8_0"], kv=precision) for precision in ("f16", small))
    assert quantized.facts.bytes_per_token == f16.facts.bytes_per_token * bytes_of_64 // 128
    image = rows(100)
    logits = f16.append_embeddings(image)
    assert least < cosine(logits, quantized.append_embeddings(image)) < 1


def test_a_precision_that_the_decoder_cannot_have_is_refused(open_decoder: Open, bundles: dict[str, Bundle]) -> None:
    with pytest.raises(BackendError, match=r"q8_0.*take f16"):
        open_decoder(bundles["f16"], kv="q8_0")
    with pytest.raises(UsageError, match=r"q5_1.*f16, q8_0, q4_0"):
        DecoderOptions(kv_precision="q5_1")


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


def test_decoders_of_one_bundle_do_not_disturb_each_other(open_decoder: Open) -> None:
    first, second = open_decoder(), open_decoder()
    expected = first.append_tokens(TEXT)
    second.append_tokens(TEXT[:3])
    first.close()
    assert np.allclose(second.append_tokens(TEXT[3:]), expected, atol=1e-2)


def test_the_context_is_never_larger_than_what_the_model_was_trained_on(open_decoder: Open) -> None:
    assert open_decoder(context=100_000).facts.capacity == TRAINED_CONTEXT


class TestDamagedGguf:
    """Files from strangers: one line, no crash. The size is made to agree, so that the engine sees the file."""

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        return tiny_bundle(tmp_path / "bundle")

    @staticmethod
    def rewrite(bundle: Bundle, data: bytes) -> Bundle:
        (bundle.folder / "decoder.gguf").write_bytes(data)
        info = bundle.manifest.files["decoder.gguf"]
        change_manifest(bundle.folder, "files", **{"decoder.gguf": {"bytes": len(data), "sha256": info.sha256}})
        return open_bundle(bundle.folder)

    @pytest.mark.parametrize("keep", [0, 3, 10, 500, 5000, -1000])
    def test_cut_off(self, bundle: Bundle, keep: int) -> None:
        data = (bundle.folder / "decoder.gguf").read_bytes()
        cut = self.rewrite(bundle, data[:keep])
        with pytest.raises(BundleError) as caught:
            find_backend("llama-cpp").open(cut, DecoderOptions())
        assert "decoder.gguf" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_not_a_gguf(self, bundle: Bundle) -> None:
        other = self.rewrite(bundle, b"PK\x03\x04" + bytes(1000))
        with pytest.raises(BundleError, match="magic"):
            find_backend("llama-cpp").open(other, DecoderOptions())

    @pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "layers"])
    def test_of_another_model_than_the_manifest_says(self, bundle: Bundle, field: str) -> None:
        change_manifest(bundle.folder, "decoder", **{field: 17})
        with pytest.raises(BundleError, match="17"):
            find_backend("llama-cpp").open(open_bundle(bundle.folder), DecoderOptions())

    def test_nothing_is_printed(self, bundle: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
        find_backend("llama-cpp").open(bundle, DecoderOptions()).close()
        cut = self.rewrite(bundle, (bundle.folder / "decoder.gguf").read_bytes()[:900])
        with pytest.raises(BundleError):
            find_backend("llama-cpp").open(cut, DecoderOptions())
        assert capfd.readouterr() == ("", "")


def test_weights_are_loaded_once_and_freed_with_the_last_decoder(tiny: Bundle) -> None:
    from edge_interleave.backends import llama_cpp_weights as weights
    from edge_interleave.backends.llama_cpp import BACKEND

    before = len(weights._shared)
    first = BACKEND.open(tiny, DecoderOptions(context=64))
    second = BACKEND.open(tiny, DecoderOptions(context=64))
    assert len(weights._shared) == before + 1
    first.close()
    assert len(weights._shared) == before + 1
    second.close()
    assert len(weights._shared) == before
