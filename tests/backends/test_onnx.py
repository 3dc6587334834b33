"""What the ONNX Runtime backend alone has: its files, which are a stranger's, its cells, and the memory it says."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import TRAINED_CONTEXT, tiny_bundle

from edge_interleave.backends.onnx.cache import KvCache
from edge_interleave.backends.onnx.trial import tried
from edge_interleave.backends.onnx.weights import acquire, release
from edge_interleave.bundle.manifest import ONNX_DATA, ONNX_EMBEDDINGS, ONNX_GRAPH, ONNX_NAME, Bundle, open_bundle
from edge_interleave.decoding.decoder import Decoder, DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import BackendError, BundleError
from edge_interleave.util.providers import CPU, GPUS, Provider, decoder_provider

TEXT = [5, 17, 99, 42, 7]
FREQUENCIES = 10000.0 ** (-np.arange(0, 8, 2) / 8)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("onnx") / "bundle")


@pytest.fixture
def folder(sound: Bundle, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound.folder, tmp_path / "bundle"))


def opened(folder: Path) -> Decoder:
    """With a manifest that says what now lies there."""
    raw = json.loads((folder / "bundle.json").read_text("utf-8"))
    for name, entry in raw["files"].items():
        entry["bytes"] = (folder / name).stat().st_size
    (folder / "bundle.json").write_text(json.dumps(raw), "utf-8")
    return find_backend("onnx").open(open_bundle(folder), DecoderOptions(context=64, threads=1))


def change_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    path = folder / ONNX_NAME / ONNX_GRAPH
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def place(model: onnx.ModelProto, **values: str) -> None:
    for entry in model.graph.initializer[-1].external_data:
        entry.value = values.get(entry.key, entry.value)


def test_a_sound_bundle_opens(folder: Path) -> None:
    decoder = opened(folder)
    assert np.isfinite(decoder.append_tokens(TEXT)).all()
    decoder.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: place(model, location="../../secret"), "does not lie within"),
        (lambda model: place(model, location="/etc/passwd"), "does not lie within"),
        (lambda model: place(model, offset=str(1 << 40)), "does not lie within"),
        (lambda model: place(model, offset="-4096"), "does not lie within"),
        (lambda model: model.functions.add(name="f", domain="d"), "holds functions"),
        (lambda model: model.graph.input[0].type.tensor_type.shape.dim[2].Clear(), "rows"),
        (lambda model: model.graph.output[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 7), "gives"),
        (lambda model: model.metadata_props[0].__setattr__("value", "9"), "another version"),
    ],
    ids=["above", "absolute", "past the end", "negative", "functions", "input", "output", "format"],
)
def test_a_graph_that_is_not_sound_is_refused(
    folder: Path, change: Callable[[onnx.ModelProto], object], says: str
) -> None:
    change_graph(folder, change)
    with pytest.raises(BundleError, match=says) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [ONNX_GRAPH, ONNX_DATA, ONNX_EMBEDDINGS])
@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_a_damaged_file_is_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / ONNX_NAME / name
    data = path.read_bytes()
    path.write_bytes({"half": data[: len(data) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(BundleError, match=str(path.parent)):
        opened(folder)


def test_embeddings_that_are_pickled_are_refused(folder: Path) -> None:
    np.save(folder / ONNX_NAME / ONNX_EMBEDDINGS, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BundleError, match="matrix of embeddings"):
        opened(folder)


def test_embeddings_of_another_vocabulary_are_refused(folder: Path) -> None:
    np.save(folder / ONNX_NAME / ONNX_EMBEDDINGS, np.zeros((7, 64), np.float32))
    with pytest.raises(BundleError, match="not the embeddings of"):
        opened(folder)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.95), ("int4", 0.5), ("f16", 0.9999)])
def test_a_precision_is_near_to_f32(sound: Bundle, tmp_path: Path, precision: str, least: float) -> None:
    """Random weights this small and steep magnify rounding; trained ones are in `tests/embedded`."""
    coarse = tiny_bundle(tmp_path / "bundle", precision=precision)
    logits = []
    for bundle in (sound, coarse):
        decoder = find_backend("onnx").open(bundle, DecoderOptions(context=64, threads=1))
        decoder.append_embeddings(np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32))
        logits.append(decoder.append_tokens(TEXT))
        decoder.close()
    a, b = logits
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert least < cosine < 1


def test_the_context_is_what_the_model_was_trained_on(sound: Bundle) -> None:
    memory = find_backend("onnx").memory
    assert memory(sound, DecoderOptions(context=10**6)).cache == memory(sound, DecoderOptions(TRAINED_CONTEXT)).cache


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "rebase", "gap"]), st.integers(0, 39), st.integers(1, 12))))
@settings(deadline=None, max_examples=60)
def test_cells_hold_the_entries_of_their_positions(steps: list[tuple[str, int, int]]) -> None:
    """Every entry's value is a number of its own, and goes where its position goes, whatever is done."""
    cache = KvCache(layers=1, heads=2, size=8, capacity=40, frequencies=FREQUENCIES)
    wanted: dict[int, int] = {}
    number = 0
    for kind, start, count in steps:
        if kind == "add" and cache.length + count <= 40:
            position = cache.position
            for index in range(count):
                number += 1
                cache.arrays[0, 1, :, cache.length + index] = number
                wanted[position + index] = number
            cache.add(position, count)
        elif kind == "remove":
            cache.remove(start, start + count)
            wanted = {p: n for p, n in wanted.items() if not start <= p < start + count}
        elif kind == "rebase":
            cache.rebase()
            wanted = dict(enumerate(wanted[p] for p in sorted(wanted)))
        elif kind == "gap" and all(p in wanted for p in range(start, start + count)):
            cache.remove(start, start + count)
            first = cache.open_gap([(0, start)], count)
            assert first == sum(p < start for p in wanted)
            for index in range(count):
                number += 1
                cache.arrays[0, 1, :, first + index] = number
                wanted[start + index] = number
            cache.close_gap(first, start, count, count)
        assert cache.length == len(wanted)
        assert cache.position == max(wanted, default=-1) + 1
        held = cache.arrays[0, 1, 0, :, 0]
        assert {int(p): int(held[cell]) for cell, p in enumerate(cache.positions) if p >= 0} == wanted
        assert (cache.positions[: cache.length] >= 0).all()


@pytest.mark.parametrize(
    ("precision", "wanted"), [("f16", GPUS[0]), ("f32", GPUS[0]), ("int4", GPUS[0]), ("int8", CPU), (None, CPU)]
)
def test_a_gpu_runs_a_decoder_whose_products_it_has(
    monkeypatch: pytest.MonkeyPatch, precision: str | None, wanted: Provider
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU.name, *(gpu.name for gpu in GPUS)])
    assert decoder_provider(precision) == wanted
    monkeypatch.undo()
    assert decoder_provider(precision) == CPU


def test_the_cpu_runs_a_decoder_that_the_provider_cannot_and_says_so(
    sound: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    weights = acquire(sound, 1, provider=Provider("TeapotExecutionProvider"))
    assert weights.session.get_providers() == [CPU.name]
    release(weights)
    (line,) = caplog.messages
    assert "TeapotExecutionProvider cannot run it (" in line
    assert line.endswith("the CPU does")
    assert "\n" not in line


def test_a_provider_is_left_if_it_gives_other_logits(
    sound: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_bundle(tmp_path / "bundle", seed=5)
    here, there = acquire(sound, 1), acquire(other, 1)
    info, rows = sound.manifest.decoder, here.rows(np.arange(8, dtype=np.int32))
    again = acquire(sound, 2)
    assert tried(sound.folder, here.session, rows, info, CPU, lambda _: again.session) is again.session
    assert not caplog.messages
    assert tried(sound.folder, here.session, rows, info, CPU, lambda _: there.session) is here.session
    (line,) = caplog.messages
    assert "its logits differ from the CPU's: cosine" in line
    for weights in (here, there, again):
        release(weights)


def test_q8_0_needs_weights_in_int8(sound: Bundle) -> None:
    with pytest.raises(BackendError, match=r"needs a decoder in int8 or int4 here, not f32; .*--onnx-precision int8"):
        find_backend("onnx").open(sound, DecoderOptions(kv_precision="q8_0"))


def test_q8_0_needs_the_steps_that_the_converter_finds(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle", precision="int8").folder

    def forget(model: onnx.ModelProto) -> None:
        (place,) = [n for n, weight in enumerate(model.graph.initializer) if weight.name == "keys.1.steps"]
        del model.graph.initializer[place]

    change_graph(folder, forget)
    opened(folder).close()
    with pytest.raises(BundleError, match="has no steps for a KV cache in q8_0; convert the model again"):
        find_backend("onnx").open(open_bundle(folder), DecoderOptions(kv_precision="q8_0"))


def test_steps_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle", precision="int8").folder

    def flatten(model: onnx.ModelProto) -> None:
        (steps,) = [weight for weight in model.graph.initializer if weight.name == "values.1.steps"]
        shape = [1, 1, 1, int(np.prod(steps.dims))]
        del steps.dims[:]
        steps.dims.extend(shape)

    change_graph(folder, flatten)
    with pytest.raises(BundleError, match=r"values\.1\.steps is not float32 of shape \(1, 2, 1, 16\)"):
        find_backend("onnx").open(open_bundle(folder), DecoderOptions(kv_precision="q8_0"))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_values_beyond_the_calibration_are_cut_off(tmp_path: Path, precision: str) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", precision=precision)
    decoder = find_backend("onnx").open(bundle, DecoderOptions(context=64, threads=1, kv_precision="q8_0"))
    assert np.isfinite(decoder.append_embeddings(np.full((20, 64), 1e4, np.float32))).all()
    assert np.isfinite(decoder.append_tokens(TEXT)).all()
    decoder.close()


def test_opening_takes_no_more_than_what_it_keeps(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", context_length=65536)
    tracemalloc.start()
    try:
        decoder = find_backend("onnx").open(bundle, DecoderOptions(context=64, threads=1))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoder.close()
    assert most - kept < 1 << 20, "tables of RoPE for all positions are made in parts"
