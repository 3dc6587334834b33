"""The ONNX vision tower and projector give the same visual tokens as transformers."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support.paths import GOLDEN_FOLDER
from support.tiny_tower import TOWERS, Tower, cosines, of_transformers, pixels, random_weights, write_checkpoint

from edge_interleave.converters.checkpoint.reader import Checkpoint, open_checkpoint
from edge_interleave.converters.onnx.graph import GraphBuilder, Spec
from edge_interleave.converters.onnx.vision import stage_graph, write_vision_onnx
from edge_interleave.converters.precisions import VISION_PRECISIONS
from edge_interleave.errors import CheckpointError, UsageError
from edge_interleave.vision import tower as tower_module
from edge_interleave.vision.tower import VisionTower

LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.999}
GOLDEN = GOLDEN_FOLDER / "vision_tower.npz"


def export(folder: Path, tower: Tower, precision: str, weights: dict[str, np.ndarray] | None = None) -> Path:
    with open_checkpoint(write_checkpoint(folder, tower, weights)) as checkpoint:
        write_vision_onnx(checkpoint, folder / "vision.onnx", precision)
    return folder / "vision.onnx"


@pytest.mark.parametrize("precision", VISION_PRECISIONS)
@pytest.mark.parametrize("name", TOWERS)
def test_visual_tokens_are_those_of_transformers(tmp_path: Path, name: str, precision: str) -> None:
    tower = TOWERS[name]
    path = export(tmp_path, tower, precision)

    tokens = VisionTower(path, tower.info, threads=1).encode(pixels(tower))

    with np.load(GOLDEN, allow_pickle=False) as golden:
        assert cosines(tokens, golden[name]).min() >= LEAST_COSINE[precision]
        assert np.abs(tokens - golden[name]).max() < {"fp32": 1e-4, "fp16": 0.02, "int8": 0.5}[precision]


@pytest.mark.oracle
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", TOWERS)
def test_visual_tokens_are_those_of_transformers_live(tmp_path: Path, name: str, count: int) -> None:
    pytest.importorskip("transformers")
    tower = TOWERS[name]
    images = pixels(tower, count)
    expected = of_transformers(write_checkpoint(tmp_path, tower), images)
    for precision in VISION_PRECISIONS:
        tokens = VisionTower(export(tmp_path, tower, precision), tower.info, threads=1).encode(images)
        assert cosines(tokens, expected).min() >= LEAST_COSINE[precision], precision


@pytest.mark.oracle
def test_int8_is_as_good_as_onnxruntimes_own_dynamic_quantization(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    tower = TOWERS["siglip, the embedded model's size"]
    images = pixels(tower)
    exact = VisionTower(export(tmp_path, tower, "fp32"), tower.info, threads=1).encode(images)
    quantization.quantize_dynamic(
        tmp_path / "vision.onnx",
        tmp_path / "theirs.onnx",
        ["MatMul"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )
    theirs = VisionTower(tmp_path / "theirs.onnx", tower.info, threads=1).encode(images)
    ours = VisionTower(export(tmp_path, tower, "int8"), tower.info, threads=1).encode(images)
    assert (1 - cosines(ours, exact)).mean() <= 1.05 * (1 - cosines(theirs, exact)).mean()


@pytest.mark.parametrize("precision", VISION_PRECISIONS)
@pytest.mark.parametrize("name", ["siglip, last layer", "clip, last but one"])
def test_graph_is_valid_onnx_of_standard_operators(tmp_path: Path, name: str, precision: str) -> None:
    path = export(tmp_path / "someones-model", TOWERS[name], precision)

    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["source"], facts["precision"]) == ("someones-model", precision)
    assert "someones-model" in model.doc_string


def test_weights_in_the_file_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    tower = TOWERS["siglip, last layer"]
    held = weights_of(export(tmp_path, tower, "fp32"))
    given = random_weights(tower)
    name = "vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight"
    np.testing.assert_array_equal(held["vision.layers.2.mlp.fc1.weight"], given[name].T)
    np.testing.assert_array_equal(held["projector.linear_2.bias"], given["multi_modal_projector.linear_2.bias"])


@pytest.mark.parametrize(
    ("name", "layers"), [("siglip, last layer", 4), ("siglip, last but one", 3), ("clip, embeddings", 0)]
)
def test_layers_after_the_feature_layer_are_left_out(tmp_path: Path, name: str, layers: int) -> None:
    held = weights_of(export(tmp_path, TOWERS[name], "fp32"))
    assert {key.split(".")[2] for key in held if key.startswith("vision.layers.")} == {str(n) for n in range(layers)}
    assert not any("post_layernorm" in key for key in held)


def test_precision_sets_the_size(tmp_path: Path) -> None:
    tower = TOWERS["siglip, the embedded model's size"]
    fp32, fp16, int8 = (export(tmp_path, tower, precision).stat().st_size for precision in ("fp32", "fp16", "int8"))
    assert fp16 < 0.52 * fp32
    assert int8 < 0.28 * fp32


@pytest.mark.parametrize("name", ["siglip, last layer", "clip, last but one"])
def test_int8_stores_the_patch_embedding_in_8_bits(tmp_path: Path, name: str) -> None:
    tower = TOWERS[name]
    weights = random_weights(tower)
    given = weights["vision_tower.vision_model.embeddings.patch_embedding.weight"]
    given[7] = 0
    held = weights_of(export(tmp_path, tower, "int8", weights))
    steps = held["vision.embeddings.patch_embedding.weight"]
    scale = held["vision.embeddings.patch_embedding.weight_scale"]
    assert (steps.dtype, steps.shape, scale.size) == (np.int8, given.shape, len(given))
    assert (np.abs(steps * scale - given) <= 0.501 * scale).all()
    assert not steps[7].any()


@pytest.mark.parametrize("name", ["siglip, last layer", "clip, last but one"])
def test_int8_hidden_states_behind_the_patch_embedding_are_nearly_those_of_fp32(tmp_path: Path, name: str) -> None:
    tower = TOWERS[name]
    with open_checkpoint(write_checkpoint(tmp_path, tower)) as checkpoint:
        exact, rounded = (embedded_patches(checkpoint, precision, pixels(tower)) for precision in ("fp32", "int8"))
    error = np.linalg.norm(rounded - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert 0 < error.max() < 0.015


def test_the_patch_embedding_of_int8_is_widened_once_and_not_in_every_run(tmp_path: Path) -> None:
    options = tower_module._tower_options(1)
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    path = export(tmp_path, TOWERS["siglip, last layer"], "int8")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    assert not [node.name for node in nodes if "patch_embedding.weight" in node.name]


def test_an_output_whose_weights_are_all_zero_is_its_bias(tmp_path: Path) -> None:
    tower = TOWERS["siglip, last layer"]
    weights = random_weights(tower)
    weights["multi_modal_projector.linear_2.weight"][5] = 0
    tokens = VisionTower(export(tmp_path, tower, "int8", weights), tower.info).encode(pixels(tower, 1))
    np.testing.assert_allclose(tokens[..., 5], weights["multi_modal_projector.linear_2.bias"][5])
    assert np.isfinite(tokens).all()


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    with open_checkpoint(write_checkpoint(tmp_path, Tower())) as checkpoint:
        write_vision_onnx(checkpoint, tmp_path / "v.onnx", "int8", lambda *said: heard.append(said))
    size = (tmp_path / "v.onnx").stat().st_size
    done = [entry[1] for entry in heard]
    assert {(stage, total) for stage, _, total in heard} == {("vision", size)}
    assert done == sorted(done)
    assert done[-1] == size


@pytest.mark.parametrize(
    ("tower", "says"),
    [
        (Tower("clip", -1, "full", "quick_gelu"), "keeps the class token"),
        (Tower(act="swish"), "activation 'swish'"),
    ],
)
def test_unsupported_towers_are_refused(tmp_path: Path, tower: Tower, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        export(tmp_path, tower, "fp32")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("vision.onnx*"))


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8, fp16, fp32"):
        export(tmp_path, Tower(), "int3")


@pytest.mark.parametrize("precision", VISION_PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_and_the_old_file_stays(
    tmp_path: Path, precision: str, value: float
) -> None:
    (tmp_path / "vision.onnx").write_bytes(b"the old file")
    weights = random_weights(Tower())
    weights["vision_tower.vision_model.encoder.layers.1.mlp.fc2.weight"][3, 3] = value
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.fc2\.weight has values that are not finite"):
        export(tmp_path, Tower(), precision, weights)
    assert [path.name for path in tmp_path.glob("vision.onnx*")] == ["vision.onnx"]
    assert (tmp_path / "vision.onnx").read_bytes() == b"the old file"


def test_a_graph_past_two_gibibytes_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    graph = many_weights(count=33, rows=16384, columns=1024)
    with pytest.raises(CheckpointError, match=r"2\.06 GiB .* smaller vision precision"):
        graph.write(tmp_path / "large.onnx")
    assert not list(tmp_path.iterdir())


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path) -> None:
    graph = many_weights(count=24, rows=1024, columns=1024)
    tracemalloc.start()
    graph.write(tmp_path / "large.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "large.onnx").stat().st_size > 24 * 4 * 2**20
    assert peak < 3 * 4 * 2**20


def embedded_patches(checkpoint: Checkpoint, precision: str, images: np.ndarray) -> np.ndarray:
    """The hidden states before the first block, float32 (n, tokens, width)."""
    session = tower_module.open_graph(stage_graph(checkpoint, 0, precision)[0])
    return session.run(None, {"pixels": images})[0]


def many_weights(count: int, rows: int, columns: int) -> GraphBuilder:
    graph = GraphBuilder("sum", "adds", {})
    x = graph.input("x", np.float32, [rows, columns])
    for number in range(count):
        spec = Spec(f"w{number}", (rows, columns), np.dtype(np.float32))
        (weight,) = graph.weights([spec], lambda number=number: [np.full((rows, columns), number, np.float32)])
        x = graph.op("Add", x, weight, name="y" if number == count - 1 else f"x{number}")
    graph.output("y", np.float32, [rows, columns])
    return graph


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
