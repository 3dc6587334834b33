"""Decoders for MLX: MLX's quantization, folders that mlx-lm loads, bundles with one or both decoders."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.command_line import environment, error_line, run
from support.hub_server import serve_hub
from support.safetensors_edit import rewrite

from edge_interleave.bundle.manifest import Bundle, open_bundle, verify
from edge_interleave.bundle.writer import partial_folder
from edge_interleave.converters.checkpoint.config import ModelConfig, RopeScaling
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.checkpoint.tokenizer import read_tokenizer
from edge_interleave.converters.convert import convert
from edge_interleave.converters.mlx import decoder as mlx_module
from edge_interleave.converters.mlx import recipes as mlx_recipes
from edge_interleave.converters.mlx.decoder import mlx_bytes, mlx_files
from edge_interleave.converters.mlx.recipes import Quantization, choose
from edge_interleave.converters.precisions import MLX_RECIPES
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import BackendError, CheckpointError, InputError, UsageError

mx = pytest.importorskip("mlx.core")

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def decoder(kind: str = "qwen2", **fields: Any) -> ModelConfig:
    """Rows of 64 values: one group of 64, or two of 32. The feed-forward has 128."""
    base = model_config("tiny", kind)
    return replace(base, decoder=replace(base.decoder, **{"intermediate_size": 128, **fields}))


def make(folder: Path, config: ModelConfig | None = None, **options: Any) -> Path:
    return write_random_checkpoint(folder, config or decoder(), Options(**options))


def write(source: Path, out: Path, recipe: str = "4bit") -> Path:
    """The folder without a bundle."""
    out.mkdir()
    with open_checkpoint(source) as checkpoint:
        for name, write_file in mlx_files(checkpoint, read_tokenizer(checkpoint), recipe).items():
            write_file(out / name)
    return out


def stored(folder: Path) -> dict[str, Any]:
    """Name to array of a folder; each name occurs once."""
    arrays: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        loaded = mx.load(str(path))
        assert not arrays.keys() & loaded.keys()
        arrays |= loaded
    return arrays


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and mx.array_equal(one[name], other[name]).item() for name in one
    )


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied, of 643 rows. Read only."""
    config = decoder(vocab_size=643, tie_word_embeddings=False)
    return make(tmp_path_factory.mktemp("mlx") / "checkpoint", config)


@pytest.fixture(scope="module")
def both(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with both decoders. Read only."""
    return convert(checkpoint, tmp_path_factory.mktemp("both") / "bundle", backends=["llama-cpp", "mlx"])


# --- What is stored


@pytest.mark.parametrize("recipe", MLX_RECIPES)
def test_matrices_converted_in_chunks_equal_those_converted_whole(
    recipe: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_module, "CHUNK_BYTES", 5 * 4 * 64)  # 5 rows, or 2 of the wider ones; 643 = 128 x 5 + 3
    arrays = stored(write(checkpoint, tmp_path / "mlx", recipe))
    with open_checkpoint(checkpoint) as source:
        for name in (name for name in source.names() if name.startswith("decoder.")):
            spelt = name.removeprefix("decoder.")
            module, part = (spelt if spelt.startswith("lm_head") else f"model.{spelt}").rsplit(".", 1)
            values = mx.array(source.tensor(name)).astype(mx.bfloat16)
            how = choose(recipe, module, values.shape[-1], 2) if values.ndim == 2 else None
            if how is None:
                assert mx.array_equal(arrays.pop(f"{module}.{part}"), values).item(), name
                continue
            whole = mx.quantize(values, group_size=how.group_size, bits=how.bits, mode=how.mode)
            for kind, array in zip(("weight", "scales", "biases"), whole, strict=False):
                got = arrays.pop(f"{module}.{kind}")
                assert got.dtype == array.dtype, name
                assert mx.array_equal(got, array).item(), name
    assert not arrays


# The error of normal values: a group's range of some 4.7 deviations, over 2^bits - 1 steps, over sqrt(12); and bf16's.
@pytest.mark.parametrize(
    ("recipe", "least", "most"),
    [
        ("f16", 0.0, 0.0),
        ("8bit", 0.004, 0.012),
        ("6bit", 0.015, 0.03),
        ("4bit", 0.06, 0.11),
        ("mxfp4", 0.08, 0.16),
        ("3bit", 0.14, 0.24),
        ("mixed_2_6", 0.3, 0.55),
    ],
)
def test_stored_weights_are_as_close_to_the_checkpoint_as_their_bits_allow(
    recipe: str, least: float, most: float, checkpoint: Path, tmp_path: Path
) -> None:
    arrays = stored(write(checkpoint, tmp_path / "mlx", recipe))
    module = "model.layers.1.mlp.up_proj"
    how = choose(recipe, module, 64, 2)
    packed = [arrays[f"{module}.{part}"] for part in ("weight", "scales", "biases") if f"{module}.{part}" in arrays]
    values = packed[0]
    if how is not None:
        values = mx.dequantize(*packed, group_size=how.group_size, bits=how.bits, mode=how.mode)
    with open_checkpoint(checkpoint) as source:
        wanted = source.tensor("decoder.layers.1.mlp.up_proj.weight")
    error = np.sqrt(np.square(np.array(values.astype(mx.float32)) - wanted).mean()) / wanted.std()
    assert least <= error <= most


def test_all_that_is_not_quantized_has_one_type_of_16_bits(tmp_path: Path) -> None:
    for dtype, kind in (("f16", mx.float16), ("bf16", mx.bfloat16), ("f32", mx.float16)):
        source = make(tmp_path / dtype, dtype=dtype)
        norm = "language_model.model.norm.weight"
        rewrite(source / "model.safetensors", lambda tensors: tensors.update({norm: ("F32", [64], None)}))  # noqa: B023
        arrays = stored(write(source, tmp_path / f"{dtype} mlx"))
        assert {array.dtype for array in arrays.values()} == {mx.uint32, kind}


def test_rows_that_do_not_fit_the_groups_are_not_quantized(tmp_path: Path) -> None:
    source = make(tmp_path / "c", decoder(intermediate_size=96))
    folder = write(source, tmp_path / "mlx")
    plain = {name for name, array in stored(folder).items() if name.endswith(".weight") and array.dtype != mx.uint32}
    assert {name for name in plain if "norm" not in name} == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    assert stored(write(source, tmp_path / "mxfp4", "mxfp4"))["model.layers.0.mlp.down_proj.weight"].dtype == mx.uint32


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_not_stored_twice(tied: bool, tmp_path: Path) -> None:
    folder = write(make(tmp_path / "c", decoder(tie_word_embeddings=tied)), tmp_path / "mlx")
    assert ("lm_head.weight" in stored(folder)) is not tied
    assert config_of(folder)["tie_word_embeddings"] is tied


def test_large_models_are_split_into_several_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(checkpoint, tmp_path / "whole")
    assert [path.name for path in whole.glob("model*.safetensors")] == ["model.safetensors"]
    monkeypatch.setattr(mlx_module, "SHARD_BYTES", 24_000)
    cut = write(checkpoint, tmp_path / "cut")
    names = sorted(path.name for path in cut.glob("model*.safetensors"))
    assert len(names) > 3
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert same(stored(cut), stored(whole))
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {array: name for name in names for array in mx.load(str(cut / name))}
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in stored(cut).values())
    with open_checkpoint(checkpoint) as source:
        assert mlx_bytes(source) == index["metadata"]["total_size"]
    for name in names:
        held = mx.load(str(cut / name))
        of_one = len({array.rsplit(".", 1)[0] for array in held}) == 1
        assert of_one or sum(array.nbytes for array in held.values()) <= 24_000


def test_memory_stays_at_some_rows_and_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = decoder(hidden_size=512, intermediate_size=2048, layers=6, head_dim=128)
    source = make(tmp_path / "c", wide)
    monkeypatch.setattr(mlx_module, "SHARD_BYTES", 2 << 20)
    monkeypatch.setattr(mlx_module, "CHUNK_BYTES", 1 << 19)
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    folder = write(source, tmp_path / "mlx", "8bit")
    ours = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    made = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    # A file, a matrix of 1 MiB that is put together of its chunks, and a chunk in several types.
    assert mx.get_peak_memory() - held < 6 << 20 < made / 3
    assert ours < 6 << 20
    assert mx.get_active_memory() == held


# --- What is said about it


def test_the_config_records_each_recipes_quantization(checkpoint: Path, tmp_path: Path) -> None:
    configs = {recipe: config_of(write(checkpoint, tmp_path / recipe, recipe)) for recipe in MLX_RECIPES}
    said = {recipe: config.get("quantization") for recipe, config in configs.items()}
    for recipe, bits in (("4bit", 4), ("8bit", 8), ("6bit", 6), ("3bit", 3)):
        assert said[recipe] == {"group_size": 64, "bits": bits, "mode": "affine"}
    assert said["mxfp4"] == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert said["f16"] is None
    more = {"group_size": 64, "bits": 6, "mode": "affine"}
    high = ("model.layers.1.self_attn.v_proj", "model.layers.1.mlp.down_proj", "lm_head")
    assert said["mixed_4_6"] == {"group_size": 64, "bits": 4, "mode": "affine", **dict.fromkeys(high, more)}


def test_the_config_has_the_fields_that_mlx_lm_reads(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
    config = decoder("llama", rope_scaling=scaling, head_dim=32, attention_bias=True, mlp_bias=True)
    said = config_of(write(make(tmp_path / "c", config, tokenizer="llama3"), tmp_path / "mlx"))
    assert said["model_type"] == "llama"
    assert (said["hidden_size"], said["intermediate_size"], said["num_hidden_layers"]) == (64, 128, 2)
    assert (said["num_attention_heads"], said["num_key_value_heads"], said["head_dim"]) == (4, 2, 32)
    assert (said["rope_theta"], said["rms_norm_eps"], said["max_position_embeddings"]) == (10000.0, 1e-5, 512)
    assert (said["attention_bias"], said["mlp_bias"], said["vocab_size"]) == (True, True, 640)
    assert said["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip


def test_the_tokenizer_has_its_chat_template_and_the_ends_of_an_answer(checkpoint: Path, tmp_path: Path) -> None:
    folder = write(checkpoint, tmp_path / "mlx")
    said = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert "<|im_start|>" in said["chat_template"]
    with open_checkpoint(checkpoint) as source:
        files = read_tokenizer(source)
    assert said["eos_token"] == files.eos_token
    assert config_of(folder)["eos_token_id"] == list(files.eos_token_ids)
    assert (folder / "tokenizer.json").read_text("utf-8") == files.tokenizer.to_str()


# --- In a bundle


def test_one_call_makes_both_decoders(both: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    verify(both)
    assert both.manifest.precisions == {"decoder.gguf": "q4_k_m", "decoder-mlx": "4bit", "vision.onnx": "int8"}
    assert both.has("decoder-mlx")
    assert sorted(both.files_in("decoder-mlx")) == [
        "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    assert both.manifest.precision("decoder-mlx/model.safetensors") == "4bit"
    assert same(stored(both.folder / "decoder-mlx"), stored(write(checkpoint, tmp_path / "mlx")))


def test_the_command_line_makes_both_and_lists_the_bundles_files(checkpoint: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    backends = ("--backend", "llama-cpp", "--backend", "mlx")
    result = run("convert", checkpoint, tmp_path / "b", *backends, "--mlx-quantization", "mixed_4_6", env=env)
    assert result.returncode == 0, result.stderr
    said = json.loads(run("info", tmp_path / "b", "--verify", "--json", env=env).stdout)
    assert said["decoder"]["precisions"] == {"decoder.gguf": "q4_k_m", "decoder-mlx": "mixed_4_6"}
    assert said["files"]["decoder-mlx/model.safetensors"]["precision"] == "mixed_4_6"
    assert said["files"]["tokenizer.json"]["precision"] is None
    assert said["files"]["decoder-mlx/config.json"]["precision"] is None
    shown = run("info", tmp_path / "b", env=env).stdout
    assert "mixed_4_6" in shown
    assert "q4_k_m" in shown
    refused = error_line(run("convert", checkpoint, tmp_path / "c", "--mlx-quantization", "5bit", env=env), 2)
    assert "mixed_4_6" in refused


def test_a_bundle_with_both_decoders_is_pulled_listed_and_removed(both: Bundle, tmp_path: Path) -> None:
    with serve_hub() as hub:
        hub.repositories["someone/both"] = both.folder
        env = environment(tmp_path, HF_ENDPOINT=hub.url)
        pulled = run("pull", "someone/both", "--backend", "mlx", env=env)
        assert pulled.returncode == 0, pulled.stderr
    stored_bundle = open_bundle(Path(env["EDGE_INTERLEAVE_HOME"]) / "both")
    verify(stored_bundle)
    assert stored_bundle.manifest == both.manifest
    (model,) = (m for m in json.loads(run("models", "--json", env=env).stdout)["models"] if m["name"] == "both")
    assert model["precisions"]["decoder-mlx"] == "4bit"
    assert model["problem"] is None
    assert run("models", "remove", "both", "--yes", env=env).returncode == 0
    assert not stored_bundle.folder.exists()


@pytest.mark.parametrize(("first", "then"), [("llama-cpp", "mlx"), ("mlx", "llama-cpp")])
def test_an_existing_bundle_gets_the_decoder_it_lacks(
    first: str, then: str, both: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = convert(checkpoint, tmp_path / "bundle", backends=[first])
    inode = bundle.file("vision.onnx").stat().st_ino
    after = convert(checkpoint, tmp_path / "bundle", backends=[then])
    verify(after)
    assert after.manifest == both.manifest
    assert after.file("vision.onnx").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    with pytest.raises(InputError, match=r"already has .*decoder-mlx.*--force"):
        convert(checkpoint, tmp_path / "bundle", backends=["mlx"])
    with pytest.raises(InputError, match=r"already has .*decoder\.gguf.*--force"):
        convert(checkpoint, tmp_path / "bundle", backends=["mlx", "llama-cpp"])


def test_nothing_is_added_to_other_precisions_or_over_other_files(
    both: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = convert(checkpoint, tmp_path / "bundle", backends=["llama-cpp"])
    with pytest.raises(InputError, match="its precision is int8, not fp16"):
        convert(checkpoint, bundle.folder, backends=["mlx"], vision_precision="fp16")
    own = bundle.folder / "decoder-mlx" / "README.md"
    own.parent.mkdir()
    own.write_text("my own")
    with pytest.raises(InputError, match=r"README\.md, which is not part of the bundle"):
        convert(checkpoint, bundle.folder, backends=["mlx"])
    assert own.read_text() == "my own"
    own.unlink()
    (own.parent / "config.json").write_text("of a run that was cut off before its last step")
    assert convert(checkpoint, bundle.folder, backends=["mlx"]).manifest == both.manifest


def test_backends_follow_from_named_quantizations_then_from_the_machine(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(out: str, **options: Any) -> set[str]:
        return set(convert(checkpoint, tmp_path / out, **options).manifest.precisions) - {"vision.onnx"}

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("edge_interleave.decoding.registry.has_int8_dot_products", lambda: False)
    assert made("a") == {"decoder.gguf"}
    monkeypatch.setattr("edge_interleave.decoding.registry.has_int8_dot_products", lambda: True)
    assert made("f") == {"decoder-onnx"}
    assert made("b", mlx_quantization="8bit") == {"decoder-mlx"}
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert made("c") == {"decoder-mlx"}
    assert made("d", quantization="q8_0") == {"decoder.gguf"}
    assert made("e", mmproj="f16") == {"decoder.gguf", "mmproj.gguf"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlx_quantization": "5bit"}, "mixed_4_6"),
        ({"backends": ["vllm"]}, "choose one of llama-cpp, mlx"),
        ({"backends": ["mlx"], "quantization": "q8_0"}, "--backend llama-cpp"),
        ({"backends": ["mlx"], "mmproj": "f16"}, "--backend llama-cpp"),
        ({"backends": ["llama-cpp"], "mlx_quantization": "8bit"}, "--backend mlx"),
    ],
    ids=str,
)
def test_contradicting_options_are_refused(
    options: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        convert(checkpoint, tmp_path / "bundle", **options)
    assert not list(tmp_path.iterdir())


def test_a_backend_without_its_decoder_names_the_command_that_adds_it(checkpoint: Path, tmp_path: Path) -> None:
    bundle = convert(checkpoint, tmp_path / "bundle", backends=["mlx"])
    with pytest.raises(BackendError, match=r"convert checkpoint .*bundle --backend llama-cpp"):
        backend_for(bundle, "llama-cpp")


def test_without_mlx_the_error_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(BackendError, match=r"pip install 'edge-interleave\[mlx\]'"):
        convert(checkpoint, tmp_path / "bundle", backends=["llama-cpp", "mlx"])
    assert not list(tmp_path.iterdir())
    convert(checkpoint, tmp_path / "bundle", backends=["llama-cpp"])


def test_without_llama_cpp_the_error_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BackendError, match=r"pip install 'edge-interleave\[llama-cpp\]'"):
        convert(checkpoint, tmp_path / "bundle", backends=["mlx", "llama-cpp"])
    assert not list(tmp_path.iterdir())
    convert(checkpoint, tmp_path / "bundle", backends=["mlx"])


# --- Broken off, or failed


def test_an_interrupted_conversion_keeps_finished_files_and_is_taken_up(
    both: Bundle, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_module, "SHARD_BYTES", 24_000)
    heard: list[int] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "mlx" and done > total // 2:
            raise KeyboardInterrupt

    def listen(stage: str, done: int, total: int) -> None:
        if stage == "mlx":
            heard.append(done * 100 // total)

    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, backends=["mlx"], progress=interrupt)
    assert not out.exists()
    unfinished = partial_folder(out) / "decoder-mlx"
    assert not [path.name for path in unfinished.iterdir() if path.name.startswith(".")]
    finished = sum(array.nbytes for array in stored(unfinished).values())
    bundle = convert(checkpoint, out, backends=["mlx"], progress=listen)
    verify(bundle)
    total = sum(array.nbytes for array in stored(out / "decoder-mlx").values())
    assert heard[0] > 100 * finished // total > 20
    assert heard[-1] == 100
    assert heard == sorted(heard)
    assert same(stored(out / "decoder-mlx"), stored(both.folder / "decoder-mlx"))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_interrupted_addition_leaves_the_bundle_and_is_taken_up(
    both: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    before = convert(checkpoint, tmp_path / "bundle", backends=["llama-cpp"])

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, before.folder, backends=["mlx"], progress=interrupt)
    assert open_bundle(before.folder) == before
    assert not (before.folder / "decoder-mlx").exists()
    assert convert(checkpoint, before.folder, backends=["mlx"]).manifest == both.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_values_that_are_not_finite_leave_no_files(checkpoint: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    raw = np.full(64, np.nan, np.float32).tobytes()
    norm = "language_model.model.norm.weight"
    rewrite(source / "model.safetensors", lambda tensors: tensors.update({norm: ("F32", [64], raw)}))
    with pytest.raises(CheckpointError, match="not finite"):
        convert(source, tmp_path / "bundle", backends=["mlx"])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_raises_oserror_and_leaves_no_files(checkpoint: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_checkpoint(checkpoint) as source:
        write_weights = mlx_files(source, read_tokenizer(source))["model.safetensors"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(OSError, match=r"File too large: .*weights"):
                write_weights(tmp_path / "weights")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


# --- Against mlx-lm and transformers


@pytest.mark.oracle
@pytest.mark.parametrize("layers", [2, 7, 24, 28, 32])
@pytest.mark.parametrize("recipe", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_mixed_recipes_match_those_of_mlx_lm(recipe: str, layers: int) -> None:
    mlx_lm_convert = pytest.importorskip("mlx_lm.convert")
    modules = ["lm_head", "model.embed_tokens"]
    for layer in range(layers):
        modules += [f"model.layers.{layer}.{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}" for name in MATRICES]
    model = SimpleNamespace(layers=range(layers), named_modules=lambda: [(name, None) for name in modules])
    theirs = mlx_lm_convert.mixed_quant_predicate_builder(recipe, model)
    for module in modules:
        how = choose(recipe, module, 64, layers)
        assert how is not None
        assert how.described() == theirs(module, None), module


_ORACLES = {
    "qwen2 tied": (decoder(), "qwen2"),
    "qwen2 untied": (decoder(tie_word_embeddings=False), "qwen2"),
    "qwen2 linear scaling": (decoder(rope_scaling=RopeScaling("linear", 4)), "qwen2"),
    "llama": (decoder("llama", head_dim=32), "llama2"),
    "llama with biases": (decoder("llama", attention_bias=True, mlp_bias=True), "llama3"),
    "llama 3 scaling": (decoder("llama", rope_scaling=RopeScaling("llama3", 8, 1, 4, 32)), "llama3"),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", _ORACLES)
def test_mlx_lm_loads_it_and_computes_as_transformers(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    mlx_lm = pytest.importorskip("mlx_lm")
    torch.set_num_threads(1)
    config, tokenizer = _ORACLES[name]
    source = make(tmp_path / "c", config, tokenizer=tokenizer, dtype="f16")
    model, text = mlx_lm.load(str(write(source, tmp_path / "mlx", "f16")))
    reference = transformers.LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    ids = np.random.default_rng(1).integers(0, 500, 200).tolist()
    with torch.no_grad():
        wanted = reference(input_ids=torch.tensor([ids])).logits[0].numpy()
    got = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    cosine = (wanted * got).sum(-1) / np.linalg.norm(wanted, axis=-1) / np.linalg.norm(got, axis=-1)
    assert cosine.min() > 0.9999
    with open_checkpoint(source) as checkpoint:
        own = read_tokenizer(checkpoint).tokenizer
    for sample in ("Hello world, what's up?", "图片中有什么？", "<|im_start|>user\n<image>\nx\r\n\r\n  y"):
        assert text.encode(sample) == own.encode(sample).ids


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", [recipe for recipe in MLX_RECIPES if recipe != "f16"])
def test_mlx_lm_generates_with_every_recipe(recipe: str, checkpoint: Path, tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    nn = pytest.importorskip("mlx.nn")
    folder = write(checkpoint, tmp_path / "mlx", recipe)
    model, tokenizer = mlx_lm.load(str(folder))
    how: Quantization | None = mlx_recipes.usual(recipe)
    assert how is not None
    matrices = [module for module in model.modules() if isinstance(module, nn.QuantizedLinear)]
    assert len(matrices) == 2 * len(MATRICES) + 1
    assert how.described() in [{"group_size": m.group_size, "bits": m.bits, "mode": m.mode} for m in matrices]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "What changed?"}], add_generation_prompt=True)
    answers = list(mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=4))
    assert answers[-1].finish_reason in ("stop", "length")
    assert tokenizer.eos_token_ids >= set(config_of(folder)["eos_token_id"])
