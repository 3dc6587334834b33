"""VisionTower: its results, providers and stopping; wrong or damaged files give a one-line error."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_tower import DECODER_WIDTH, Tower, cosines, pixels, write_checkpoint

from edge_interleave.bundle.manifest import VisionInfo
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.onnx.vision import write_vision_onnx
from edge_interleave.errors import BackendError, BundleError, UsageError
from edge_interleave.util.onnx_runtime import PROBE
from edge_interleave.util.providers import CORE_ML, CPU, Provider, tower_provider
from edge_interleave.vision import tower as tower_module
from edge_interleave.vision.tower import VisionTower

TOWER = Tower()
INFO = TOWER.info
SIDE, TOKENS = TOWER.size, INFO.tokens


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`vision.onnx` of the same weights in each precision."""
    folder = tmp_path_factory.mktemp("towers")
    with open_checkpoint(write_checkpoint(folder / "checkpoint", TOWER)) as checkpoint:
        paths = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
        for precision, path in paths.items():
            write_vision_onnx(checkpoint, path, precision)
    return paths


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tokens_of_an_image_do_not_depend_on_the_batch(files: dict[str, Path], precision: str) -> None:
    tower = VisionTower(files[precision], INFO)
    images = pixels(TOWER, 5)
    together = tower.encode(images)
    assert together.shape == (5, TOKENS, DECODER_WIDTH)
    assert together.dtype == np.float32
    for number in range(5):
        np.testing.assert_array_equal(tower.encode(images[number : number + 1])[0], together[number])


def test_an_empty_batch_gives_no_tokens(files: dict[str, Path]) -> None:
    assert VisionTower(files["int8"], INFO).encode(pixels(TOWER, 0)).shape == (0, TOKENS, DECODER_WIDTH)


def test_pixels_need_not_be_contiguous(files: dict[str, Path]) -> None:
    tower = VisionTower(files["fp32"], INFO)
    images = pixels(TOWER, 2)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(tower.encode(channels_last), tower.encode(images))


def test_hidden_size_and_provider(files: dict[str, Path]) -> None:
    tower = VisionTower(files["int8"], INFO, threads=1)
    assert tower.hidden_size == DECODER_WIDTH
    assert tower.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("saturates", [True, False])
def test_int8_is_accurate_with_and_without_vnni(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, saturates: bool
) -> None:
    """`True` forces the path for x86 CPUs without VNNI; `False` takes the path that this CPU needs."""
    images = pixels(TOWER)
    exact = VisionTower(files["fp32"], INFO).encode(images)
    if saturates:
        monkeypatch.setattr(tower_module, "int8_products_saturate", lambda: True)
    tokens = VisionTower(files["int8"], INFO).encode(images)
    assert cosines(tokens, exact).min() > 0.999


def test_the_probe_is_the_graph_that_its_docstring_describes() -> None:
    model = onnx.load_model_from_string(PROBE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]
    assert [i.type.tensor_type.elem_type for i in model.graph.input] == [TensorProto.UINT8, TensorProto.INT8]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, SIDE, SIDE), np.float64),
        np.zeros((1, 3, SIDE, SIDE), np.uint8),
        np.zeros((3, SIDE, SIDE), np.float32),
        np.zeros((1, SIDE, SIDE, 3), np.float32),
        np.zeros((1, 3, SIDE, SIDE + 1), np.float32),
    ],
)
def test_pixels_of_another_shape_or_type_are_refused(files: dict[str, Path], images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=rf"float32 \(n, 3, {SIDE}, {SIDE}\)"):
        VisionTower(files["fp32"], INFO).encode(images)


def test_a_closed_tower_raises_usage_error(files: dict[str, Path]) -> None:
    tower = VisionTower(files["fp32"], INFO)
    tower.close()
    tower.close()
    with pytest.raises(UsageError, match="closed"):
        tower.encode(pixels(TOWER, 1))


def test_the_cpu_runs_a_tower_that_the_provider_cannot_and_logs_it(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    images = pixels(TOWER)
    tower = VisionTower(files["fp32"], INFO, threads=1, provider=Provider("TeapotExecutionProvider", fixed_shapes=True))
    assert tower.provider == "CPUExecutionProvider"
    assert np.array_equal(tower.encode(images), VisionTower(files["fp32"], INFO, threads=1).encode(images))
    (line,) = caplog.messages
    assert "TeapotExecutionProvider cannot run it" in line
    assert "the CPU does" in line
    assert "\n" not in line


def test_a_provider_with_fixed_shapes_gives_the_same_tokens(
    files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    images = pixels(TOWER, 3)
    fixed = VisionTower(files["fp32"], INFO, threads=1, provider=Provider("CPUExecutionProvider", fixed_shapes=True))
    assert np.allclose(fixed.encode(images), VisionTower(files["fp32"], INFO, threads=1).encode(images), atol=1e-5)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("machine", "installed", "precision", "wanted"),
    [
        ("arm64", True, "fp16", CORE_ML),
        ("arm64", True, "fp32", CORE_ML),
        ("arm64", True, "int8", CPU),
        ("arm64", True, None, CPU),
        ("arm64", False, "fp16", CPU),
        ("x86_64", True, "fp16", CPU),
    ],
)
def test_core_ml_runs_float_towers_on_apple_silicon(
    monkeypatch: pytest.MonkeyPatch, machine: str, installed: bool, precision: str | None, wanted: Provider
) -> None:
    names = [CPU.name, *([CORE_ML.name] if installed else [])]
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    assert tower_provider(precision) == wanted


@pytest.mark.parametrize("change", [{"image_size": 76}, {"grid": 5}])
def test_a_tower_of_another_image_size_is_refused(files: dict[str, Path], change: dict[str, int]) -> None:
    refused(files["fp32"], "not the vision tower", replace(INFO, **change))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1],
        lambda data: data[:200],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[1:],
        lambda data: np.random.RandomState(0).bytes(5000),
        lambda data: b"\x80\x04\x95" + data,
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        lambda data: b"<html><body>404 Not Found</body></html>",
        lambda data: b"\x08\x08" + b"\x3a\xff\xff\xff\xff\x07" + data,
        lambda data: data.replace(b"LayerNormalization", b"LayerNormalizatioX"),
        lambda data: data.replace(b"patch_embedding", b"patch_embeddinX", 1),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, files: dict[str, Path], damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "vision.onnx"
    path.write_bytes(damage(files["fp16"].read_bytes()))
    refused(path, "not a vision tower|not the vision tower")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "vision.onnx", "missing")
    refused(tmp_path, "missing")


F, D = TensorProto.FLOAT, TensorProto.DOUBLE
Signature = tuple[str, int, list[int | str]]
PIXELS: Signature = ("pixels", F, ["n", 3, SIDE, SIDE])
RESULT: Signature = ("visual_tokens", F, ["n", TOKENS, 8])


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (("image", *PIXELS[1:]), RESULT),
        (("pixels", D, PIXELS[2]), RESULT),
        (("pixels", F, [3, SIDE, SIDE]), RESULT),
        (("pixels", F, [4, 3, SIDE, SIDE]), RESULT),
        (("pixels", F, ["n", 1, SIDE, SIDE]), RESULT),
        (("pixels", F, ["n", 3, "h", "w"]), RESULT),
        (("pixels", F, []), RESULT),
        (PIXELS, ("last_hidden_state", *RESULT[1:])),
        (PIXELS, ("visual_tokens", D, RESULT[2])),
        (PIXELS, ("visual_tokens", F, ["n", TOKENS + 1, 8])),
        (PIXELS, ("visual_tokens", F, ["n", TOKENS, "hidden"])),
    ],
)
def test_a_graph_with_other_inputs_or_outputs_is_refused(tmp_path: Path, given: Signature, taken: Signature) -> None:
    path = foreign(tmp_path, given, taken, [helper.make_node("Cast", ["x"], [taken[0]], to=taken[1])])
    refused(path, "not the vision tower that bundle.json describes")


@pytest.mark.parametrize("shape", [[1, TOKENS * 8], [1, TOKENS, 8, 1], []])
def test_a_graph_whose_output_is_not_tokens_is_refused(tmp_path: Path, shape: list[int | str]) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "to"], ["visual_tokens"]),
    ]
    path = foreign(tmp_path, PIXELS, ("visual_tokens", F, shape), nodes, to=np.array(shape, np.int64))
    refused(path, "not the vision tower that bundle.json describes")


def test_a_graph_with_two_inputs_is_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    model = onnx.load(files["fp32"])
    model.graph.input.append(helper.make_tensor_value_info("more", F, [1]))
    onnx.save(model, tmp_path / "vision.onnx")
    refused(tmp_path / "vision.onnx", "not the vision tower that bundle.json describes")


def test_a_graph_that_returns_another_shape_than_declared_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path, PIXELS, RESULT, [helper.make_node("Identity", ["x"], ["visual_tokens"])])
    tower = VisionTower(path, INFO)
    with pytest.raises(BundleError, match=r"shape \(1, 3, \d+\) instead of") as caught:
        tower.encode(pixels(TOWER, 1))
    assert str(path) in str(caught.value)


def test_a_graph_that_fails_at_run_time_gives_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["x", "far"], ["visual_tokens"], axis=2)]
    path = foreign(tmp_path, PIXELS, RESULT, nodes, far=np.full((8,), 10**6, np.int64))
    with pytest.raises(BackendError, match="failed") as caught:
        VisionTower(path, INFO).encode(pixels(TOWER, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["../secret.bin", "inner/../../secret.bin", "ABSOLUTE", "link.bin"])
def test_weights_outside_the_bundle_are_not_read(tmp_path: Path, location: str) -> None:
    """ONNX can keep weights in other files; a path out of the bundle is an attack."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(8, np.float32).tobytes())
    folder = tmp_path / "bundle"
    (folder / "inner").mkdir(parents=True)
    (folder / "link.bin").symlink_to(secret)
    nodes = [helper.make_node("Add", ["x", "far"], ["visual_tokens"])]
    path = foreign(folder, PIXELS, RESULT, nodes, far=np.ones(8, np.float32))
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "far":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=str(secret) if location == "ABSOLUTE" else location)
    path.write_bytes(model.SerializeToString())
    refused(path, "not a vision tower")


def foreign(
    folder: Path, given: Signature, taken: Signature, nodes: list[onnx.NodeProto], **constants: np.ndarray
) -> Path:
    """A graph of `nodes` that starts at `x`: float32 (1, 3, many), a shape known only at run time."""
    start = [
        helper.make_node("Cast", [given[0]], ["floats"], to=F),
        helper.make_node("ReduceMin", ["floats"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "nothing"], ["still_nothing"]),
        helper.make_node("Cast", ["still_nothing"], ["zero"], to=TensorProto.INT64),
        helper.make_node("Add", ["zero", "rows"], ["shape"]),
        helper.make_node("Reshape", ["floats", "shape"], ["x"]),
    ]
    values = {"rows": np.array([1, 3, -1], np.int64), "nothing": np.zeros((), np.float32), **constants}
    graph = helper.make_graph(
        [*start, *nodes],
        "foreign",
        [helper.make_tensor_value_info(*given)],
        [helper.make_tensor_value_info(*taken)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "vision.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, says: str, info: VisionInfo = INFO) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        VisionTower(path, info)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_stop_ends_one_handle_only(files: dict[str, Path]) -> None:
    tower = VisionTower(files["int8"], INFO, threads=1)
    other = tower.another()
    images = pixels(TOWER)
    ended = threading.Event()

    def encode() -> None:
        with contextlib.suppress(UsageError):
            while True:
                other.encode(images)
        ended.set()

    threading.Thread(target=encode, daemon=True).start()
    other.stop()
    assert ended.wait(20)
    with pytest.raises(UsageError):
        other.encode(images)
    assert tower.encode(images).shape[1:] == (TOKENS, DECODER_WIDTH)
    other.close()
    tower.encode(images)


def test_a_cancelled_encoding_ends_in_the_middle_and_the_tower_goes_on(files: dict[str, Path]) -> None:
    tower = VisionTower(files["int8"], INFO, threads=1)
    images = pixels(TOWER)
    expected = tower.encode(images)
    cancel = threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    with pytest.raises(UsageError):
        tower.encode(np.concatenate([images] * 500), cancel)
    timer.join()
    assert np.array_equal(tower.encode(images), expected)
    tower.stop()
    with pytest.raises(UsageError, match="closed"):
        tower.encode(images)


def test_stop_ends_encoding_in_the_middle_of_an_image(files: dict[str, Path]) -> None:
    """A long run: the tower gets a very large batch in one call of the engine."""
    tower = VisionTower(files["fp32"], INFO, threads=1)
    images = np.concatenate([pixels(TOWER)] * 50)
    started = time.monotonic()
    tower._run(images, (len(images), TOKENS, DECODER_WIDTH))
    whole = time.monotonic() - started
    timer = threading.Timer(whole / 20, tower.stop)
    timer.start()
    with pytest.raises(UsageError, match="stopped"):
        tower._run(np.concatenate([images] * 4), (len(images) * 4, TOKENS, DECODER_WIDTH))
    timer.join()
