"""Towers with massive activations, like trained ones: converted correctly, or refused with an alternative."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_prompts import CHECKPOINT
from mtmd import Mtmd
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.command_line import environment, run
from support.planted_outliers import (
    CHANNELS,
    TOKENS,
    Planted,
    fixed_channels,
    loud_neuron,
    loud_value,
    massive_tokens,
    projector_offset,
    quiet_neurons,
    unequal_weights,
)
from support.safetensors_edit import Tensors, rewrite
from support.tiny_tower import cosines

from edge_interleave.bundle.manifest import Bundle, PartInfo, open_bundle
from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.reader import Checkpoint, open_checkpoint
from edge_interleave.converters.convert import convert
from edge_interleave.converters.gguf.mmproj import write_mmproj
from edge_interleave.converters.onnx.probe import VisionProbe
from edge_interleave.converters.onnx.probe_pictures import probe_pictures
from edge_interleave.converters.onnx.vision import stage_graph, write_vision_onnx
from edge_interleave.errors import CheckpointError
from edge_interleave.vision import tower as tower_module
from edge_interleave.vision.preprocess import preprocess
from edge_interleave.vision.tower import VisionTower

BLOCK = 1
PLANTS: dict[str, Callable[[Checkpoint], Mapping[str, Any]]] = {
    "nothing": lambda checkpoint: {},
    "massive tokens": lambda checkpoint: massive(checkpoint, 1600),
    "massive tokens, a thousand times": lambda checkpoint: massive(checkpoint, 2500),
    "massive tokens, hidden from the projector": lambda checkpoint: massive(checkpoint, 1500, projected=False),
    "fixed channels": lambda checkpoint: fixed(checkpoint, 55, 1.0),
    "fixed channels, a thousand times": lambda checkpoint: fixed(checkpoint, 180, 1.0),
    "fixed channels that norms silence": lambda checkpoint: fixed(checkpoint, 180, 0.0),
    "fixed channels that norms amplify": lambda checkpoint: fixed(checkpoint, 180, 20.0),
    "a neuron": lambda checkpoint: loud_neuron(checkpoint, BLOCK, 500),
    "a value": lambda checkpoint: loud_value(checkpoint, BLOCK, 500),
    "weights against norms": lambda checkpoint: unequal_weights(checkpoint, BLOCK, 300),
    "quiet neurons": lambda checkpoint: quiet_neurons(checkpoint, 1e-3),
    "the projector's input": lambda checkpoint: projector_offset(checkpoint, 5000),
}


def massive(checkpoint: Any, times: float, *, projected: bool = True) -> Mapping[str, Any]:
    """`massive_tokens` of about so many times what the tower's hidden states are behind BLOCK."""
    usual = root_mean_square(checkpoint)
    return massive_tokens(checkpoint, BLOCK, times * usual, usual, projected=projected)


def fixed(checkpoint: Any, times: float, gain: float) -> Mapping[str, Any]:
    """`fixed_channels` of so many times what the tower's hidden states are behind BLOCK."""
    usual = root_mean_square(checkpoint)
    return fixed_channels(checkpoint, BLOCK, times * usual, gain, usual)


@pytest.fixture(scope="module")
def embedded() -> Iterator[Checkpoint]:
    """The embedded model's checkpoint, with trained weights. Read only."""
    with open_checkpoint(CHECKPOINT) as checkpoint:
        yield checkpoint


def towers(checkpoint: Any, folder: Path) -> tuple[VisionTower, VisionTower]:
    """The tower in fp32, and in int8 as `convert` makes it."""
    info = read_vision_info(checkpoint.folder, checkpoint.config, 0)
    found = VisionProbe(checkpoint).accepted("int8")
    write_vision_onnx(checkpoint, folder / "fp32.onnx", "fp32")
    write_vision_onnx(checkpoint, folder / "int8.onnx", "int8", balances=found.balances)
    exact, rounded = (VisionTower(folder / f"{name}.onnx", info, threads=1) for name in ("fp32", "int8"))
    return exact, rounded


def strange_pictures(side: int) -> np.ndarray:
    """Pixels of pictures that are not in the probe, (n, 3, side, side)."""
    noise = np.random.default_rng(3).uniform(-1, 1, (4, 3, side, side))
    return (noise * np.array([1, 0.5, 0.2, 0])[:, None, None, None]).astype(np.float32)


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("plant", PLANTS)
def test_every_token_of_an_int8_tower_is_nearly_that_of_fp32(
    plant: str, saturates: bool, embedded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if saturates:  # the way of x86 CPUs without VNNI
        monkeypatch.setattr(tower_module, "int8_products_saturate", lambda: True)
    exact, rounded = towers(Planted(embedded, PLANTS[plant](embedded)), tmp_path)
    side = exact._info.image_size
    pictures = np.stack([preprocess(picture, exact._info) for picture in probe_pictures(side)])
    # Channels that stand out in every token leave fewer steps for the others in every later block. On noise, the tower
    # itself has tokens that small steps change.
    least = 0.9 if plant.startswith("fixed channels") else 0.985
    for pixels, least_of_all in ((pictures, least), (strange_pictures(side), 0.97)):
        found = cosines(rounded.encode(pixels), exact.encode(pixels))
        assert found.min() >= least_of_all
        assert found.mean() >= (0.993 if plant.startswith("fixed channels") else 0.998)


def test_the_planted_outliers_match_published_ones(embedded: Checkpoint) -> None:
    """The test above needs values of 100 to 1,000 times the median behind the block, and none before it."""
    for times in (1600, 2500):
        states = hidden_states(Planted(embedded, massive(embedded, times)))
        before, after = (np.abs(state) for state in states[BLOCK : BLOCK + 2])
        assert before.max() < 50 * np.median(before)
        far = np.argwhere(after > 100 * np.median(after))
        assert {(int(token), int(channel)) for token, channel in far} == set(product(TOKENS, CHANNELS))
        assert after.max() <= 1000 * np.median(after)


@cache
def root_mean_square(checkpoint: Any) -> float:
    """Of the hidden states of a probe's picture behind BLOCK."""
    return float(np.sqrt((hidden_states(checkpoint)[BLOCK + 1] ** 2).mean()))


def hidden_states(checkpoint: Any) -> list[np.ndarray]:
    """The hidden states of a probe's picture, (tokens, width), after the embeddings and each block."""
    info = read_vision_info(checkpoint.folder, checkpoint.config, 0)
    states = [preprocess(probe_pictures(info.image_size)[0], info)[np.newaxis]]
    for stage in range(checkpoint.config.vision.layers + 1):
        session = tower_module.open_graph(stage_graph(checkpoint, stage, "fp32")[0])
        states.append(session.run(None, {session.get_inputs()[0].name: states[-1]})[0])
    return [state[0] for state in states[1:]]


def test_the_probe_sees_the_file_that_is_written(embedded: Checkpoint, tmp_path: Path) -> None:
    """The stages and the whole file give the same tokens, so the manifest's cosine is that of the file."""
    exact, rounded = towers(embedded, tmp_path)
    pictures = np.stack([preprocess(picture, exact._info) for picture in probe_pictures(exact._info.image_size)])
    least = cosines(rounded.encode(pictures), exact.encode(pictures)).min()
    assert VisionProbe(embedded).found("int8").cosine == pytest.approx(least, abs=2e-4)


def test_probe_pictures_are_a_dozen_different_ones_of_any_size() -> None:
    for side in (28, 96, 384):
        pictures = probe_pictures(side)
        assert {picture.size for picture in pictures} == {(side, side)}
        assert {picture.mode for picture in pictures} == {"RGB"}
        assert len({picture.tobytes() for picture in pictures}) == 12


def far_channel(folder: Path, scale: float) -> Path:
    """A copy of the embedded checkpoint whose channel 5 behind block 1 is multiplied, as in a public bug report.

    Later norms and the projector leave that channel out.
    """
    shutil.copytree(CHECKPOINT, folder)
    layers = "vision_tower.encoder.layers."

    def change(tensors: Tensors) -> None:
        values = {
            name: np.frombuffer(data, np.float16).reshape(shape).astype(np.float32)
            for name, (_, shape, data) in tensors.items()
        }
        for kind in ("weight", "bias"):
            values[f"{layers}1.mlp.fc2.{kind}"][5] *= scale
            for layer in (2, 3):
                for norm in (1, 2):
                    values[f"{layers}{layer}.layer_norm{norm}.{kind}"][5] = 0
        values[next(name for name in values if "projector.linear_1.weight" in name)][:, 5] = 0
        tensors.update({name: ("F32", list(array.shape), array.tobytes()) for name, array in values.items()})

    rewrite(folder / "model.safetensors", change)
    return folder


@pytest.mark.parametrize("scale", [3e3, 5e4])
def test_a_tower_beyond_int8_is_refused_naming_a_better_precision(scale: float, tmp_path: Path) -> None:
    source = far_channel(tmp_path / "checkpoint", scale)
    with pytest.raises(CheckpointError, match=r"int8 is too coarse .* cosine .* --vision-precision fp32") as refused:
        convert(source, tmp_path / "bundle", quantization="q4_k_m")
    assert "\n" not in str(refused.value)
    assert (" or fp16" in str(refused.value)) is (scale == 3e3)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    made = convert(source, tmp_path / "bundle", quantization="q4_k_m", vision_precision="fp32")
    assert made.manifest.parts["vision.onnx"].cosine is None


def test_fp16_is_refused_if_values_exceed_its_range(tmp_path: Path) -> None:
    source = far_channel(tmp_path / "checkpoint", 1e7)
    with pytest.raises(CheckpointError, match=r"reaches \d\.\d+e\+0[67], beyond fp16's 65504; use .* fp32"):
        convert(source, tmp_path / "bundle", quantization="q4_k_m", vision_precision="fp16")
    convert(far_channel(tmp_path / "smaller", 3e3), tmp_path / "bundle", vision_precision="fp16")


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
@pytest.mark.parametrize("scale", [1.0, 3e3, 5e4, 3e5])
def test_mmproj_stays_finite(scale: float, precision: str, tmp_path: Path) -> None:
    source = far_channel(tmp_path / "checkpoint", scale)
    made = convert(source, tmp_path / "bundle", quantization="f16", vision_precision="fp32", mmproj=precision)
    picture = np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    info = made.manifest.vision
    ours = VisionTower(made.file("vision.onnx"), info, threads=1).encode(
        preprocess(Image.fromarray(picture), info)[None]
    )
    with Mtmd(made.file("decoder.gguf"), made.file("mmproj.gguf"), context=0) as theirs:
        tokens = theirs.encode(picture)
    assert np.isfinite(tokens).all()
    # What passes f16 is chaotic as well: tokens near zero in the far channel are other ones behind the next norm.
    assert np.median(cosines(tokens, ours[0])) >= (0.999 if precision == "f16" else 0.998)
    apart = {kind: stored.names for kind, stored in made.manifest.parts["mmproj.gguf"].matrices.items()}
    assert ("mm.0" in apart.get("f32", ())) is (scale >= 5e4)


def test_mmproj_is_refused_if_mtmd_would_overflow(embedded: Checkpoint, tmp_path: Path) -> None:
    planted: Any = Planted(embedded, loud_value(embedded, BLOCK, 1e5))
    with pytest.raises(CheckpointError, match=r"v_proj\.out .* mtmd rounds to f16.* without --mmproj"):
        write_mmproj(planted, tmp_path / "mmproj.gguf")
    assert not list(tmp_path.iterdir())


def test_the_manifest_and_info_show_the_probes_results(random_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = run("convert", random_checkpoint, out, "--mmproj=q8_0", env=environment(tmp_path))
    assert result.returncode == 0, result.stderr
    parts = open_bundle(out).manifest.parts
    vision, decoder, mmproj = (parts[name] for name in ("vision.onnx", "decoder.gguf", "mmproj.gguf"))
    assert vision.cosine is not None
    assert 0.99 < vision.cosine < 1
    assert 8 < vision.bits_per_weight < 9
    assert vision.matrices.keys() == {"int8"}
    # Rows of 64 and 96 fit no K-quant's blocks, and rows of 40 not those of q8_0.
    assert decoder.bits_per_weight > 6
    assert {kind for kind, stored in decoder.matrices.items() if not stored.as_named} == {"q5_0", "q8_0"}
    assert mmproj.matrices["f16"].names == ("ffn_down", "v.patch_embd")
    said = " ".join(result.stderr.split())
    assert f"decoder.gguf: {decoder.bits_per_weight:.2f} bits per weight" in said
    assert "12 of 15 matrices are q5_0, since q4_k_m does not fit them: attn_k" in said
    assert "since q8_0 does not fit them: ffn_down" in said
    assert f"lowest cosine to fp32 {vision.cosine:.4f}" in said
    shown = " ".join(run("info", out, env=environment(tmp_path)).stdout.split())
    assert "12 of 15 matrices, since q4_k_m does not fit them:" in shown
    assert f"{vision.cosine:.4f}" in shown
    facts = json.loads(run("info", out, "--json", env=environment(tmp_path)).stdout)
    assert facts["parts"]["decoder.gguf"]["matrices"]["q5_0"]["count"] == 12


def test_mlx_matrices_that_are_not_quantized_are_named(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    config = model_config()
    odd = replace(config, decoder=replace(config.decoder, hidden_size=96, head_dim=24, intermediate_size=128))
    made = convert(write_random_checkpoint(tmp_path / "odd", odd, Options()), tmp_path / "bundle", backends=["mlx"])
    matrices = made.manifest.parts["decoder-mlx"].matrices
    assert matrices["4bit"].names == ("mlp.down_proj",)
    assert not matrices["bf16"].as_named
    assert matrices["bf16"].count == 13


def test_an_interrupted_conversion_keeps_the_probes_results(random_checkpoint: Path, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "decoder":
            raise KeyboardInterrupt

    def forbidden(stage: str, done: int, total: int) -> None:
        assert stage != "probe"

    with pytest.raises(KeyboardInterrupt):
        convert(random_checkpoint, tmp_path / "bundle", quantization="q4_k_m", progress=interrupt)
    made = convert(random_checkpoint, tmp_path / "bundle", quantization="q4_k_m", progress=forbidden)
    assert made.manifest.parts.keys() == {"vision.onnx", "decoder.gguf"}
    assert made.manifest.parts["vision.onnx"].cosine is not None


def test_an_old_bundle_without_parts_opens(converted: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted.folder, tmp_path / "old"))
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    del manifest["parts"]
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    assert open_bundle(folder).manifest.parts == {}
    assert run("info", folder, env=environment(tmp_path)).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["nothing", "massive tokens", "fixed channels"])
def test_at_the_released_towers_dimensions(plant: str, tmp_path: Path) -> None:
    """26 blocks of 1152 x 4304, 729 tokens; from the middle block on, 100 to 1,000 times the median."""
    config = replace(model_config(), vision=model_config("0.5b").vision)
    plants: dict[str, Callable[[Checkpoint], Mapping[str, Any]]] = {
        "nothing": lambda checkpoint: {},
        "massive tokens": lambda checkpoint: massive_tokens(checkpoint, 13, 500, projected=False),
        "fixed channels": lambda checkpoint: fixed_channels(checkpoint, 13, 1000, 1.0),
    }
    with open_checkpoint(write_random_checkpoint(tmp_path / "real", config)) as checkpoint:
        planted: Any = Planted(checkpoint, plants[plant](checkpoint))
        found = VisionProbe(planted).accepted("int8")
        if plant != "nothing":
            state = np.abs(hidden_states(planted)[14])
            assert 100 <= state.max() / np.median(state) <= 1000
    assert found.cosine >= 0.99
    shutil.rmtree(tmp_path / "real")


def test_a_part_counts_its_matrices(random_checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(random_checkpoint) as checkpoint:
        info = write_vision_onnx(checkpoint, tmp_path / "v.onnx", "fp16")
    assert isinstance(info, PartInfo)
    assert (info.bits_per_weight, info.total) == (16.0, 3 * 6 + 2 + 1)
