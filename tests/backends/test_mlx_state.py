"""Forged files of MLX timelines: valid in format and digest, but wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import TRAINED_CONTEXT, tiny_bundle

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import Decoder, DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import InputError

mx = pytest.importorskip("mlx.core")

from edge_interleave.backends.mlx.state import _digest  # noqa: E402

TEXT = [5, 17, 99, 42, 7, 256, 33, 12]
Arrays = dict[str, Any]
Words = dict[str, str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One head of 64 values, which works in every precision."""
    return tiny_bundle(tmp_path_factory.mktemp("state") / "bundle", heads=1)


@pytest.fixture(params=["f16", "q8_0", "q4_0"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def decoder(bundle: Bundle, precision: str) -> Iterator[Decoder]:
    opened = find_backend("mlx").open(bundle, DecoderOptions(context=200, kv_precision=precision))
    yield opened
    opened.close()


@pytest.fixture
def saved(decoder: Decoder, tmp_path: Path) -> Path:
    """Eight entries at positions 0 to 10, with a gap of two. The decoder then has another timeline."""
    path = tmp_path / "state"
    decoder.append_tokens([*TEXT, 1, 2])
    decoder.evict(3, 5)
    decoder.save(path)
    decoder.truncate(0)
    decoder.append_tokens([1, 2, 3])
    return path


def held(path: Path) -> tuple[Arrays, Words]:
    """Arrays and metadata of a file, in memory."""
    arrays, words = mx.load(str(path), format="safetensors", return_metadata=True)
    mx.eval(list(arrays.values()))
    return arrays, words


def write(path: Path, arrays: Arrays, words: Words) -> None:
    """Replace the file; MLX requires the suffix."""
    beside = path.with_suffix(".safetensors")
    mx.save_safetensors(str(beside), arrays, metadata=words)
    beside.replace(path)


def forge(path: Path, change: Callable[[Arrays, Words], object]) -> None:
    """Change arrays and metadata, and the digest with them unless the change sets it."""
    arrays, words = held(path)
    before = words["sha256"]
    change(arrays, words)
    if words["sha256"] == before:
        words["sha256"] = _digest([arrays[name] for name in sorted(arrays)])
    write(path, arrays, words)


def refused(decoder: Decoder, path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The error's one line; the timeline is unchanged."""
    capfd.readouterr()
    expected = decoder.append_tokens([4])
    decoder.truncate(3)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    with pytest.raises(InputError) as caught:
        decoder.load(path)
    assert mx.get_peak_memory() - before < 1 << 20
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert len(said) < 1000
    assert capfd.readouterr() == ("", "")
    assert (decoder.length, decoder.position) == (3, 3)
    assert np.array_equal(decoder.append_tokens([4]), expected)
    return said


def test_a_rewritten_file_without_changes_loads(decoder: Decoder, saved: Path) -> None:
    forge(saved, lambda arrays, words: None)
    decoder.load(saved)
    assert (decoder.length, decoder.position) == (8, 10)


def test_swapped_arrays_are_refused(decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arrays, words = held(saved)
    names = [name for name in sorted(arrays) if arrays[name].shape == arrays["0000"].shape]
    arrays[names[0]], arrays[names[1]] = arrays[names[1]], arrays[names[0]]
    write(saved, arrays, words)
    assert "SHA-256 differs" in refused(decoder, saved, capfd)


def others(dtype: Any) -> Callable[[Arrays, Words], object]:
    """The first array with values of another type."""
    return lambda arrays, words: arrays.update({"0000": mx.zeros(arrays["0000"].shape, dtype)})


def first(change: Callable[[Any], Any]) -> Callable[[Arrays, Words], object]:
    return lambda arrays, words: arrays.update({"0000": change(arrays["0000"])})


ARRAYS: dict[str, Callable[[Arrays, Words], object]] = {
    "of floats": others(mx.float32),
    "of whole halves": others(mx.int16),
    "of bytes": others(mx.uint8),
    "of whole numbers": others(mx.int32),
    "of truths": others(mx.bool_),
    "with an entry less": first(lambda array: array[:, :, 1:]),
    "with an entry more": first(lambda array: mx.concatenate([array, array[:, :, :1]], 2)),
    "with another width": first(lambda array: array[..., 1:]),
    "with other axes": first(lambda array: array.transpose(0, 2, 1, 3)),
    "without its axes": first(lambda array: array.reshape(-1)),
    "missing": lambda arrays, words: arrays.pop("0000"),
    "of another name": lambda arrays, words: arrays.update({"first": arrays.pop("0000")}),
    "and one more": lambda arrays, words: arrays.update({"9999": arrays["0000"]}),
    "none": lambda arrays, words: arrays.clear(),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_not_of_this_cache_are_refused(
    name: str, decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forge(saved, ARRAYS[name])
    assert "its arrays are not those of 8 entries" in refused(decoder, saved, capfd)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_keys_and_values_that_are_not_finite_are_refused(
    value: float, decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def damage(arrays: Arrays, words: Words) -> None:
        name = [name for name in sorted(arrays) if arrays[name].dtype == mx.float16][-1]
        arrays[name][0, 0, 5, 0] = value

    forge(saved, damage)
    assert "finite" in refused(decoder, saved, capfd)


RANGES = {
    "missing": None,
    "no JSON": "[[0, 3",
    "nested without end": "[" * 100_000,
    "a number": "3",
    "an object": '{"05": 1}',
    "a text": '"0358"',
    "of texts": '["03", "58"]',
    "of numbers": "[0, 3, 5, 10]",
    "of one number each": "[[0], [3]]",
    "of three numbers each": "[[0, 3, 5]]",
    "of floats": "[[0.0, 8.0]]",
    "of fractions": "[[0, 8.5]]",
    "of truths": "[[false, 8]]",
    "of infinity": "[[0, Infinity]]",
    "of NaN": "[[NaN, 8]]",
    "of 1e400": "[[0, 1e400]]",
    "of 5,000 digits": "[[0, " + "9" * 5000 + "]]",
    "negative": "[[-8, 0]]",
    "backwards": "[[8, 0]]",
    "empty": "[[4, 4]]",
    "in no order": "[[5, 10], [0, 3]]",
    "one over another": "[[0, 5], [4, 7]]",
    "past the trained context": f"[[0, 3], [{TRAINED_CONTEXT - 4}, {TRAINED_CONTEXT + 1}]]",
    "longer than the arrays": "[[0, 100]]",
    "shorter than the arrays": "[[0, 3]]",
    "none": "[]",
}


@pytest.mark.parametrize("name", RANGES)
def test_invalid_ranges_are_refused(
    name: str, decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = RANGES[name]
    forge(saved, lambda arrays, words: words.pop("ranges") if text is None else words.update(ranges=text))
    assert "damaged" in refused(decoder, saved, capfd)


def test_more_entries_than_the_context_holds_are_refused(
    decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forge(saved, lambda arrays, words: words.update(ranges="[[0, 201]]"))
    assert "201 entries do not fit the context of 200; use a larger context" in refused(decoder, saved, capfd)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"kind": "edge-interleave timeline 99"}, "not a saved timeline"),
        ({"kind": ""}, "not a saved timeline"),
        ({"decoder": ""}, "another model"),
        ({"decoder": "mlx evil\nname"}, "another model"),
        ({"sha256": ""}, "SHA-256"),
        ({"sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_other_metadata_is_refused(
    words: Words, says: str, decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forge(saved, lambda arrays, held: held.update(words))
    assert says in refused(decoder, saved, capfd)


@pytest.mark.parametrize("metadata", [None, [1], {"kind": 1}, "text"], ids=["null", "list", "number", "text"])
def test_missing_metadata_is_refused(
    metadata: Any, decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = saved.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps({**json.loads(raw[8:end]), "__metadata__": metadata}).encode()
    saved.write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])
    refused(decoder, saved, capfd)


@pytest.mark.parametrize("other", ["f16", "q8_0", "q4_0"])
def test_a_timeline_of_another_precision_is_refused(
    other: str, bundle: Bundle, precision: str, decoder: Decoder, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even if its metadata are those of this decoder."""
    if other == precision:
        pytest.skip("the same")
    mine = held(saved)[1]
    second = find_backend("mlx").open(bundle, DecoderOptions(context=200, kv_precision=other))
    second.append_tokens([*TEXT, 1, 2])
    second.evict(3, 5)
    second.save(saved)
    second.close()
    assert "another model" in refused(decoder, saved, capfd)
    forge(saved, lambda arrays, words: words.update(decoder=mine["decoder"]))
    decoder.truncate(3)
    assert "its arrays are not those of 8 entries" in refused(decoder, saved, capfd)
