"""Checkpoints: all namings, types and layouts give the same tensors; damaged checkpoints give a one-line error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoint import GENERATIONS, Options, file_name, model_config, write_random_checkpoint
from support.hub_server import serve_hub
from support.safetensors_edit import header_of, rewrite

from edge_interleave.converters.checkpoint.config import ModelConfig, RopeScaling
from edge_interleave.converters.checkpoint.config_hf import parse_config
from edge_interleave.converters.checkpoint.reader import Checkpoint, open_checkpoint
from edge_interleave.errors import CheckpointError


def tied(config: ModelConfig, is_tied: bool) -> ModelConfig:
    return replace(config, decoder=replace(config.decoder, tie_word_embeddings=is_tied))


def all_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    return {name: checkpoint.tensor(name) for name in checkpoint.names()}


# --- What is read


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(
    ("decoder", "vision", "tokenizer"), [("qwen2", "siglip", "qwen2"), ("llama", "clip", "llama3")]
)
def test_every_generation_of_names_gives_the_same_tensors_and_config(
    tmp_path: Path, decoder: str, vision: str, tokenizer: str, is_tied: bool
) -> None:
    config = tied(model_config("tiny", decoder, vision), is_tied)
    read = {}
    for generation in GENERATIONS:
        folder = write_random_checkpoint(tmp_path / generation, config, Options(generation, tokenizer=tokenizer))
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.generation == generation
            assert checkpoint.config.decoder == config.decoder
            assert checkpoint.config.vision == config.vision
            assert checkpoint.tied is is_tied
            read[generation] = all_tensors(checkpoint)
    first = read["hf-2024"]
    assert ("decoder.lm_head.weight" in first) is not is_tied
    assert ("vision.pre_layernorm.weight" in first) is (vision == "clip")
    for tensors in read.values():
        assert tensors.keys() == first.keys()
        for name, values in tensors.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, first[name], err_msg=name)


@pytest.mark.parametrize(("dtype", "bits"), [("f16", 10), ("bf16", 7)])
def test_narrow_types_are_widened_exactly(tmp_path: Path, dtype: str, bits: int) -> None:
    wide = write_random_checkpoint(tmp_path / "f32", model_config(), Options(dtype="f32"))
    narrow = write_random_checkpoint(tmp_path / dtype, model_config(), Options(dtype=dtype))
    with open_checkpoint(wide) as a, open_checkpoint(narrow) as b:
        assert (a.dtype("projector.linear_1.weight"), b.dtype("projector.linear_1.weight")) == ("f32", dtype)
        for name in a.names():
            # No more than the format's mantissa may be lost, and what is left fits it.
            np.testing.assert_allclose(b.tensor(name), a.tensor(name), rtol=2.0**-bits, atol=1e-6)
            mantissa, _ = np.frexp(b.tensor(name)[np.abs(b.tensor(name)) > 1e-4])
            assert not np.any(mantissa * 2 ** (bits + 1) % 1)


def test_shards_equal_one_file_and_rows_equal_their_tensor(tmp_path: Path) -> None:
    one = write_random_checkpoint(tmp_path / "one", model_config())
    many = write_random_checkpoint(tmp_path / "many", model_config(), Options(shard_bytes=50_000))
    assert len(list(many.glob("*.safetensors"))) > 2
    with open_checkpoint(one) as a, open_checkpoint(many) as b:
        for name in a.names():
            np.testing.assert_array_equal(a.tensor(name), b.tensor(name))
        whole = a.tensor("decoder.embed_tokens.weight")
        np.testing.assert_array_equal(a.rows("decoder.embed_tokens.weight", 3, 9), whole[3:9])


def test_a_head_stored_beside_its_equal_embedding_is_tied_and_a_different_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_random_checkpoint(tmp_path / "c", tied(model_config(), False))
    edit_config(folder, lambda c: c["text_config"].update(tie_word_embeddings=True))
    head, rows = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    with open_checkpoint(folder) as checkpoint:
        assert not checkpoint.tied
    assert "'tie_word_embeddings' is true" in caplog.text
    rewrite(folder / "model.safetensors", lambda tensors: tensors.update({head: tensors[rows]}))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tied
        assert "decoder.lm_head.weight" not in checkpoint.names()
        embedding = checkpoint.tensor("decoder.embed_tokens.weight")
    rewrite(folder / "model.safetensors", lambda tensors: tensors.pop(rows))
    with open_checkpoint(folder) as checkpoint:
        np.testing.assert_array_equal(checkpoint.tensor("decoder.embed_tokens.weight"), embedding)


def test_tensors_that_such_checkpoints_hold_and_the_model_does_not_use_are_left_out(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "c", model_config(vision="clip"))
    more = {
        "image_newline": ("F32", [64]),
        "vision_tower.vision_model.embeddings.position_ids": ("I64", [1, 17]),
        "vision_tower.vision_model.head.probe": ("F32", [1, 1, 32]),
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [8]),
    }
    rewrite(folder / "model.safetensors", lambda tensors: tensors.update({k: (*v, None) for k, v in more.items()}))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config.vision.layers == 3
        # Features of layer -2: the last block is in the file and not in use.
        assert {n.split(".")[2] for n in checkpoint.names() if n.startswith("vision.layers.")} == {"0", "1"}
        assert not any("post_layernorm" in n or "newline" in n or "head" in n for n in checkpoint.names())


def test_the_configs_of_the_published_models_are_understood() -> None:
    published = {
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 151646,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {
            "bos_token_id": 151643, "eos_token_id": 151645, "hidden_size": 1024, "intermediate_size": 2816,
            "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 16, "num_hidden_layers": 24,
            "num_key_value_heads": 16, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "vocab_size": 152000,
        },
        "vision_config": {
            "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "model_type": "siglip_vision_model",
            "num_attention_heads": 16, "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }  # fmt: skip
    original = {
        "architectures": ["LlavaQwenForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151645,
        "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 2816, "max_position_embeddings": 32768,
        "max_window_layers": 21, "mm_hidden_size": 1152, "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": "google/siglip-so400m-patch14-384", "model_type": "llava_qwen", "num_attention_heads": 16,
        "num_hidden_layers": 24, "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    }  # fmt: skip
    hf = parse_config(Path("config.json"), published, {"eos_token_id": [151645, 151643]})
    next_ = parse_config(Path("config.json"), original)
    assert hf.vision == next_.vision == model_config("0.5b").vision
    assert hf.decoder == model_config("0.5b").decoder
    assert next_.decoder == replace(hf.decoder, vocab_size=151936)
    assert (hf.eos_token_ids, next_.eos_token_ids) == ((151645, 151643), (151645,))
    assert (hf.image_token_id, next_.image_token_id) == (151646, None)
    assert hf.pooling_mode == "average"


def test_a_published_config_of_mantis_has_728_visual_tokens() -> None:
    """TIGER-Lab/Mantis-8B-siglip-llama3."""
    raw = {
        "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 128256, "model_type": "llava",
        "text_config": {
            "bos_token_id": 128000, "eos_token_id": 128001, "intermediate_size": 14336, "model_type": "llama",
            "max_position_embeddings": 8192, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
            "vocab_size": 128258,
        },
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304,
            "layer_norm_eps": 1e-06, "model_type": "siglip_vision_model", "num_attention_heads": 16,
            "num_hidden_layers": 27, "patch_size": 14,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip
    config = parse_config(Path("config.json"), raw)
    assert (config.vision.tokens, config.vision.grid, config.vision.layers_used) == (728, 27, 26)
    assert (config.decoder.type, config.decoder.hidden_size, config.decoder.heads) == ("llama", 4096, 32)
    assert config.decoder.head_dim == 128


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        # Qwen3-4B, Qwen3-32B and Mistral-Nemo; the last is transformers' default for what a Qwen3 leaves out.
        ("qwen3", {"hidden_size": 2560, "num_attention_heads": 32, "num_key_value_heads": 8}, ("qwen3", 32, 8, 128)),
        ("qwen3", {"hidden_size": 5120, "num_attention_heads": 64, "head_dim": 128}, ("qwen3", 64, 32, 128)),
        (
            "mistral",
            {"hidden_size": 5120, "num_attention_heads": 32, "head_dim": 128, "sliding_window": None},
            ("llama", 32, 8, 128),
        ),
        ("llama", {"hidden_size": 2048, "num_attention_heads": 8, "head_dim": 64}, ("llama", 8, 8, 64)),
    ],
)
def test_the_size_of_a_head_is_read_apart_from_the_width(
    kind: str, fields: dict[str, Any], said: tuple[str, int, int, int]
) -> None:
    raw = {
        "model_type": "llava",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "text_config": {"model_type": kind, **fields},
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    decoder = parse_config(Path("config.json"), raw).decoder
    assert (decoder.type, decoder.heads, decoder.kv_heads, decoder.head_dim) == said
    assert decoder.qk_norm is (kind == "qwen3")
    assert not decoder.attention_bias


def test_rope_scaling_is_read_in_the_old_and_in_the_new_spelling(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 128)
    base = model_config("tiny", "llama")
    config = replace(base, decoder=replace(base.decoder, rope_scaling=scaling))
    for generation in GENERATIONS:
        folder = write_random_checkpoint(tmp_path / generation, config, Options(generation, tokenizer="llama3"))
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.config.decoder == config.decoder


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({}, 1e6, None),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 1e6, RopeScaling("linear", 4.0)),
        ({"rope_scaling": {}}, 1e6, None),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 1e6, RopeScaling("linear", 4.0)),
        ({"rope_parameters": {"rope_theta": 5e5}}, 5e5, None),
        (
            {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"type": "linear", "factor": 2.0}},
            1e6,
            RopeScaling("linear", 2.0),
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0}, "rope_scaling": {"rope_type": "default"}},
            1e6,
            None,
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"rope_theta": 7e5}},
            7e5,
            None,
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
            1e6,
            RopeScaling("llama3", 8.0, 1.0, 4.0, 512),
        ),
    ],
    ids=str,
)
def test_of_two_rope_fields_the_one_that_transformers_takes_counts(
    checkpoint_folder: Path, fields: dict[str, Any], theta: float, scaling: RopeScaling | None
) -> None:
    text(**fields)(checkpoint_folder)
    with open_checkpoint(checkpoint_folder) as checkpoint:
        decoder = checkpoint.config.decoder
    assert (decoder.rope_theta, decoder.rope_scaling) == (theta, scaling)


def test_every_end_that_any_config_names_is_known() -> None:
    raw = {"model_type": "llava", "eos_token_id": 3, "text_config": {"model_type": "qwen2", "eos_token_id": [1, 2]}}
    raw["vision_config"] = {"model_type": "siglip_vision_model"}
    for generation, first, more in (
        (None, (1, 2), (3,)),
        ({"eos_token_id": 2}, (2,), (1, 3)),
        ({"eos_token_id": [5, 3]}, (5, 3), (1, 2)),
        ({"eos_token_id": None}, (1, 2), (3,)),
    ):
        config = parse_config(Path("config.json"), {**raw, "vision_feature_layer": -1}, generation)
        assert (config.eos_token_ids, config.more_eos_token_ids) == (first, more)


# --- The Hub


def test_a_repository_id_is_fetched_from_the_hub_with_progress_and_then_found_offline(
    tmp_path: Path, checkpoint_folder: Path
) -> None:
    # In a separate process, since the client reads its environment at import.
    script = (
        "import sys\nfrom edge_interleave.converters.checkpoint.reader import open_checkpoint\n"
        "seen = []\n"
        "with open_checkpoint('someone/tiny', progress=lambda *a: seen.append(a)) as c:\n"
        "    grows = all(x[1] <= y[1] for x, y in zip(seen, seen[1:]))\n"
        "    print(c.source, len(c.names()), seen[-1] if seen else None, grows)\n"
    )
    (checkpoint_folder / "pytorch_model.bin").write_bytes(b"pickle")

    def run(endpoint: str, **more: str) -> str:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), **more}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    with serve_hub() as hub:
        hub.repositories["someone/tiny"] = checkpoint_folder
        said = run(hub.url)
        assert not hub.downloads("pytorch_model.bin")
    wanted = [p for p in checkpoint_folder.rglob("*") if p.suffix in (".json", ".safetensors")]
    size = sum(path.stat().st_size for path in wanted)
    assert said == f"someone/tiny 81 ('download', {size}, {size}) True"
    assert run("http://127.0.0.1:9", HF_HUB_OFFLINE="1").startswith("someone/tiny 81")


def test_a_missing_repository_is_one_line(tmp_path: Path) -> None:
    script = (
        "from edge_interleave.converters.checkpoint.reader import open_checkpoint\n"
        "from edge_interleave.errors import CheckpointError\n"
        "try:\n    open_checkpoint('someone/else')\nexcept CheckpointError as error:\n    print(error)\n"
    )
    with serve_hub() as hub:
        for offline in ("0", "1"):
            environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline}
            done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("someone/else: ")
            assert done.stdout.count("\n") == 1


# --- What is refused

Damage = Callable[[Path], object]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def config(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, lambda c: c.update(fields))


def text(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, lambda c: c["text_config"].update(fields))


def vision(**fields: Any) -> Damage:
    return lambda folder: edit_config(folder, lambda c: c["vision_config"].update(fields))


def weights(change: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder: rewrite(folder / "model.safetensors", change)


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        entries, data = header_of(path)
        change(entries)
        raw = json.dumps(entries).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)

    return damage


def file(content: bytes, name: str = "model.safetensors") -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(weight_map: Any) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


def cut(share: float) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damage


NORM = "language_model.model.norm.weight"
HEAD, ROWS = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
PROJECTOR = "multi_modal_projector.linear_1.weight"
TALL = "language_model.model.layers.1.mlp.down_proj.weight"
SHARD = "model-00001-of-00001.safetensors"

DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: missing"),
    "config is not JSON": (file(b"{", "config.json"), "not readable as JSON"),
    "config is not UTF-8": (file(b"\xff\xfe{}", "config.json"), "not readable as JSON"),
    "config is a list": (file(b"[]", "config.json"), "must be a JSON object"),
    "config is too deep": (file(b"[" * 100_000, "config.json"), "not readable as JSON"),
    "unknown model": (config(model_type="idefics3"), "'idefics3' (field 'model_type') is not supported"),
    "no model type": (config(model_type="", architectures=["Qwen3VL"]), "(field 'architectures') is not supported"),
    "unknown decoder": (text(model_type="mamba"), "decoder 'mamba' (field 'text_config.model_type') is not supported"),
    "unknown tower": (vision(model_type="dinov2"), "vision tower 'dinov2' is not supported"),
    "a number of 400 digits": (text(rms_norm_eps=10**400), "field 'text_config.rms_norm_eps' must be a number"),
    "no text config": (config(text_config=None), "field 'text_config' must be a JSON object"),
    "quantized": (config(quantization_config={"bits": 4}), "is already quantized"),
    "quantized inside": (text(quantization_config={"bits": 4}), "is already quantized"),
    "sliding window": (
        text(use_sliding_window=True, sliding_window=64, max_window_layers=1),
        "field 'text_config.use_sliding_window' must be false (sliding-window",
    ),
    "sliding layers": (
        text(layer_types=["full_attention", "sliding_attention"]),
        "field 'text_config.layer_types' must be 'full_attention' for each layer (sliding-window",
    ),
    "kinds of layers in one word": (text(layer_types="x"), "field 'text_config.layer_types' must be 'full_attention'"),
    "video token is a word": (
        config(model_type="llava_next_video", video_token_index="<video>"),
        "field 'video_token_index' must be a whole number",
    ),
    "dynamic RoPE": (
        text(rope_scaling={"type": "dynamic", "factor": 4.0}),
        "RoPE scaling 'dynamic' (field 'text_config.rope_scaling.type') is not supported",
    ),
    "RoPE of another kind": (text(rope_scaling={"rope_type": "yarn", "factor": 4}), "RoPE scaling 'yarn'"),
    "RoPE of two kinds": (
        text(rope_parameters={"rope_type": "default", "rope_theta": 1e4}, rope_scaling={"type": "mrope"}),
        "RoPE scaling 'mrope' (field 'text_config.rope_scaling.type') is not supported",
    ),
    "RoPE of a made-up kind": (
        text(rope_parameters={"rope_type": "longrope"}),
        "text_config.rope_parameters.rope_type",
    ),
    "RoPE of another kind by layer": (
        text(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e4}}),
        "text_config.rope_parameters.full_attention",
    ),
    "RoPE of a part of each head": (
        text(rope_scaling={"type": "linear", "factor": 2.0}, partial_rotary_factor=0.5),
        "text_config.partial_rotary_factor",
    ),
    "linear RoPE without a factor": (text(rope_scaling={"type": "linear"}), "text_config.rope_scaling.factor"),
    "head missing and not tied": (
        lambda f: (text(tie_word_embeddings=False)(f), config(tie_word_embeddings=False)(f)),
        "field 'tie_word_embeddings' is false, but the weights have no head",
    ),
    "embedding missing and not tied": (
        lambda f: (
            text(tie_word_embeddings=False)(f),
            config(tie_word_embeddings=False)(f),
            weights(lambda t: t.update({HEAD: t.pop(ROWS)}))(f),
        ),
        "field 'tie_word_embeddings' is false, but the weights have no embedding matrix",
    ),
    "tied is a word": (text(tie_word_embeddings="yes"), "text_config.tie_word_embeddings"),
    "negative width": (text(hidden_size=-1), "text_config.hidden_size"),
    "width is text": (text(hidden_size="64"), "text_config.hidden_size"),
    "width is a boolean": (text(hidden_size=True), "text_config.hidden_size"),
    "huge width": (text(hidden_size=1 << 40), "text_config.hidden_size"),
    "heads do not divide": (text(num_attention_heads=5), "multiple of num_attention_heads"),
    "keys do not divide": (text(num_key_value_heads=3), "divisor of num_attention_heads"),
    "no layers": (text(num_hidden_layers=0), "num_hidden_layers"),
    "other activation": (text(hidden_act="relu"), "hidden_act"),
    "not a number": (text(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "several feature layers": (config(vision_feature_layer=[-1, -2]), "vision_feature_layer"),
    "feature layer outside": (config(vision_feature_layer=-9), "feature layer -9 (field 'vision_feature_layer')"),
    "unknown strategy": (config(vision_feature_select_strategy="cls"), "vision_feature_select_strategy"),
    "huge image": (vision(image_size=1 << 20), "image_size"),
    "patch past the image": (vision(patch_size=64), "patch_size"),
    "tower heads do not divide": (vision(num_attention_heads=5), "divisor of hidden_size"),
    "pooling by a convolution": (
        config(model_type="llava_next_video", spatial_pool_mode="conv"),
        "field 'spatial_pool_mode' must be one of average, max",
    ),
    "ViP-LLaVA": (config(model_type="vipllava"), "'vipllava' (field 'model_type') is not supported: ViP-LLaVA joins"),
    "Qwen3 with experts": (
        text(model_type="qwen3_moe", num_experts=8),
        "decoder 'qwen3_moe' (field 'text_config.model_type') is not supported",
    ),
    "Qwen3 with biases": (
        text(model_type="qwen3", attention_bias=True),
        "field 'text_config.attention_bias' must be false",
    ),
    "Qwen3 with a sliding window": (
        text(model_type="qwen3", use_sliding_window=True, sliding_window=64, max_window_layers=0),
        "field 'text_config.use_sliding_window' must be false",
    ),
    "Qwen3's norms missing": (
        text(model_type="qwen3", head_dim=16),
        "decoder.layers.0.self_attn.q_norm.weight (shape (16,)) is missing",
    ),
    "heads of another size in a Qwen2": (
        text(head_dim=32),
        "field 'text_config.head_dim' must be hidden_size / num_attention_heads",
    ),
    "tiles without the first patch": (
        config(model_type="llava_next", vision_feature_select_strategy="default", image_grid_pinpoints=[[28, 56]]),
        "field 'vision_feature_select_strategy' must be 'full' for tiles of a SigLIP tower",
    ),
    "Mistral's window": (
        text(model_type="mistral", sliding_window=128),
        "field 'text_config.sliding_window' must be null",
    ),
    "grid of another tower": (
        config(model_type="llava_next", image_grid_pinpoints=[[28, 56], [30, 60]]),
        "field 'image_grid_pinpoints' must be a list of pairs of pixels, each a multiple of 28 pixels",
    ),
    "too many tiles": (
        config(model_type="llava_next", image_grid_pinpoints=[[28, 2800]]),
        "field 'image_grid_pinpoints' must be 1 to 64 sizes of at most 12 x 12 tiles",
    ),
    "no grids": (config(model_type="llava_next", image_grid_pinpoints=[]), "field 'image_grid_pinpoints'"),
    "other aspect ratio": (
        config(model_type="llava_onevision", vision_aspect_ratio="highres", image_grid_pinpoints=[[28, 28]]),
        "field 'vision_aspect_ratio' must be 'anyres_max_' and a number",
    ),
    "tiles without newline": (
        config(model_type="llava_next", use_image_newline_parameter=False),
        "field 'use_image_newline_parameter' must be true",
    ),
    "pixel shuffle": (config(downsample_ratio=0.5), "field 'downsample_ratio' must be null"),
    "resampler": (config(mm_resampler_type="perceiver"), "field 'mm_resampler_type' must be null"),
    "tokens around images": (config(mm_use_im_start_end=True), "field 'mm_use_im_start_end' must be false"),
    "pooling before the projector": (config(mm_pooling_position="before"), "field 'mm_pooling_position'"),
    "M-RoPE": (
        text(rope_scaling={"type": "default", "mrope_section": [16, 24, 24]}),
        "field 'text_config.rope_scaling.mrope_section'",
    ),
    "unknown pooling": (config(mm_spatial_pool_mode="median"), "mm_spatial_pool_mode"),
    "config of another model": (text(hidden_size=128, num_attention_heads=8), "has shape"),
    "pickles only": (pickles_only, "PyTorch pickles (pytorch_model.bin)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "pickle called safetensors": (file(b"\x80\x02}q\x00." + bytes(100)), "a pickle and not safetensors"),
    "zip called safetensors": (file(b"PK\x03\x04" + bytes(100)), "a PyTorch pickle and not safetensors"),
    "Git LFS pointer": (file(b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "empty file": (file(b""), "cut off (0 bytes)"),
    "few bytes": (file(b"\x08\0\0"), "cut off (3 bytes)"),
    "header longer than the file": (file((1 << 62).to_bytes(8, "little") + b"{}"), "not a safetensors file"),
    "header is not JSON": (file((8).to_bytes(8, "little") + b"{\xff}     "), "header is not readable"),
    "header is a list": (file((8).to_bytes(8, "little") + b"[]      "), "header is not an object"),
    "cut in the header": (cut(0.001), "cut off"),
    "cut in the data": (cut(0.7), "cut off"),
    "bytes at the end": (lambda f: (f / "model.safetensors").open("ab").write(b"1234"), "4 bytes more"),
    "tensor missing": (weights(lambda t: t.pop(NORM)), "decoder.norm.weight (shape (64,)) is missing"),
    "bias missing": (weights(lambda t: t.pop("multi_modal_projector.linear_2.bias")), "projector.linear_2.bias"),
    "unknown tensor": (weights(lambda t: t.update({"lora_A.weight": ("F32", [4], None)})), "'lora_A.weight'"),
    "a layer too many": (
        weights(lambda t: t.update({file_name("vision.layers.3.layer_norm1.weight", "hf-2024"): ("F32", [32], None)})),
        "unknown tensor 'vision_tower",
    ),
    "other shape": (weights(lambda t: t.update({NORM: ("F32", [65], None)})), f"{NORM} has shape (65,)"),
    "transposed": (weights(lambda t: t.update({TALL: ("F32", [96, 64], None)})), f"{TALL} has shape (96, 64)"),
    "eight bits": (weights(lambda t: t.update({PROJECTOR: ("I8", [64, 32], None)})), "is of type I8"),
    "two generations": (
        weights(lambda t: t.update({"model." + PROJECTOR: t[PROJECTOR]})),
        "unknown tensor 'model.multi_modal_projector",
    ),
    "one tensor under two names": (
        weights(lambda t: t.update({"vision_tower.vision_model.layers.0.layer_norm1.weight": ("F32", [32], None)})),
        "are the same one",
    ),
    "name twice in the header": (
        lambda f: _double_first_entry(f / "model.safetensors"),
        "occurs twice",
    ),
    "unknown type": (header(lambda h: h[NORM].update(dtype="F7")), "is damaged"),
    "shape is negative": (header(lambda h: h[NORM].update(shape=[-64])), "is damaged"),
    "shape is huge": (header(lambda h: h[NORM].update(shape=[1 << 40, 1 << 40])), "claims"),
    "range backwards": (header(lambda h: h[NORM].update(data_offsets=[128, 0])), "claims -128 bytes"),
    "range past the end": (header(lambda h: h[NORM].update(data_offsets=[1 << 40, (1 << 40) + 128])), "cut off"),
    "ranges overlap": (header(lambda h: h[NORM].update(data_offsets=[0, 128])), "overlaps another"),
    "entry is a number": (header(lambda h: h.update({NORM: 7})), "is damaged"),
    "index is empty": (index({}), "has no weight_map"),
    "index leads out": (index({NORM: "../other.safetensors"}), "do not trust"),
    "index is absolute": (index({NORM: "/etc/passwd.safetensors"}), "do not trust"),
    "index names a pickle": (index({NORM: "pytorch_model.bin"}), "do not trust"),
    "index names a number": (index({NORM: 3}), "do not trust"),
    "shard missing": (index({NORM: "model-00001-of-00002.safetensors"}), "missing, but"),
    "index without a tensor": (index({NORM: SHARD}), "is not in model.safetensors.index.json"),
    "index with another tensor": (index({NORM: SHARD, "x": SHARD}), "has no tensor 'x'"),
}


def _double_first_entry(path: Path) -> None:
    entries, data = header_of(path)
    raw = json.dumps(entries)
    name = next(iter(n for n in entries if n != "__metadata__"))
    raw = (raw[:-1] + f", {json.dumps(name)}: {json.dumps(entries[name])}}}").encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("sound") / "c", model_config())


@pytest.fixture
def checkpoint_folder(sound: Path, tmp_path: Path) -> Path:
    """A valid checkpoint that the test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line(checkpoint_folder: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    damage(checkpoint_folder)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(checkpoint_folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mm_vision_tower", "someone/vit-huge", "vision tower 'someone/vit-huge' is not known"),
        ("mm_vision_tower", "../../etc", "is not known"),
        ("mm_vision_tower", None, "mm_vision_tower"),
        ("mm_projector_type", "resampler", "mm_projector_type"),
        ("mm_hidden_size", 7, "mm_hidden_size"),
        ("mm_vision_select_feature", "slicefour_patch", "mm_vision_select_feature"),
        ("architectures", ["LlavaGemmaForCausalLM"], "'LlavaGemmaForCausalLM' (field 'architectures')"),
        ("architectures", ["LlavaQwenMoeForCausalLM"], "'LlavaQwenMoeForCausalLM' (field 'architectures')"),
        ("architectures", ["LlavaQwen3ForCausalLM"], "'LlavaQwen3ForCausalLM' (field 'architectures')"),
        ("layer_types", ["full_attention", "sliding_attention"], "field 'layer_types' must be 'full_attention'"),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}, "(field 'rope_scaling.type') is not supported"),
        ("rope_scaling", {"mrope_section": [2, 3, 3]}, "field 'rope_scaling.mrope_section'"),
        ("image_aspect_ratio", "anyres_max_9", "field 'mm_patch_merge_type' must be 'spatial_unpad'"),
        ("image_aspect_ratio", "highres", "field 'image_aspect_ratio'"),
        ("image_aspect_ratio", ["pad"], "field 'image_aspect_ratio'"),
        ("mm_patch_merge_type", "mosaic", "field 'mm_patch_merge_type'"),
        ("mm_patch_merge_type", "spatial", "field 'mm_patch_merge_type'"),
        ("mm_patch_merge_type", "spatial_unpad_nobase", "field 'mm_patch_merge_type'"),
        ("add_time_instruction", True, "field 'add_time_instruction' must be false"),
        ("mm_pooling_position", "before", "field 'mm_pooling_position'"),
        ("mm_resampler_type", "spatial_pool", "field 'mm_resampler_type' must be null"),
        ("mm_resampler_type", "qformer", "field 'mm_resampler_type' must be null"),
        ("mm_use_im_start_end", True, "field 'mm_use_im_start_end' must be false"),
        ("add_faster_video", True, "field 'add_faster_video' must be false"),
        ("s2", True, "field 's2' must be false"),
    ],
)
def test_an_original_checkpoint_of_another_kind_is_refused(
    tmp_path: Path, field: str, value: Any, expected: str
) -> None:
    folder = write_random_checkpoint(tmp_path / "c", model_config(), Options("original"))
    edit_config(folder, lambda c: c.update({field: value}))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert expected in str(caught.value)


@pytest.mark.parametrize("place", ["grid", "frame", "no_token"])
def test_newline_positions_that_are_not_supported_are_refused(tmp_path: Path, place: str) -> None:
    folder = write_random_checkpoint(tmp_path / "c", model_config(), Options("original"))
    edit_config(folder, lambda c: c.update(mm_newline_position=place))
    open_checkpoint(folder).close()  # its images are merged flat
    edit_config(folder, lambda c: c.update(mm_patch_merge_type="spatial_unpad"))
    with pytest.raises(CheckpointError, match="field 'mm_newline_position' must be 'one_token'"):
        open_checkpoint(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_when_read(tmp_path: Path, value: float) -> None:
    folder = write_random_checkpoint(tmp_path / "c", model_config(), Options(dtype="f32"))
    raw = np.full((64, 32), value, "<f4").tobytes()
    rewrite(folder / "model.safetensors", lambda tensors: tensors.update({PROJECTOR: ("F32", [64, 32], raw)}))
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError, match="not finite"):
        checkpoint.tensor("projector.linear_1.weight")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "c", model_config(), Options(shard_bytes=100_000))
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    name = next(n for n in header_of(first)[0] if n != "__metadata__")
    rewrite(second, lambda tensors: tensors.update({name: ("F32", [4], None)}))
    with pytest.raises(CheckpointError, match="is in model-0000"):
        open_checkpoint(folder)


@pytest.mark.parametrize("source", ["no/such/folder", "nothing-here", "../x", ""])
def test_a_source_that_is_neither_folder_nor_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such folder|missing|config.json"):
        open_checkpoint(source)


# --- Against transformers


@pytest.mark.oracle
@pytest.mark.parametrize("generation", ["hf-2024", "hf-4.52", "hf-5"])
@pytest.mark.parametrize(("decoder", "vision_type", "is_tied"), [("qwen2", "siglip", True), ("llama", "clip", False)])
def test_transformers_loads_the_same_tensors(
    tmp_path: Path, generation: str, decoder: str, vision_type: str, is_tied: bool
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors import safe_open

    torch.set_num_threads(1)
    source = tied(model_config("tiny", decoder, vision_type), is_tied)
    folder = write_random_checkpoint(
        tmp_path / "c", source, Options(generation, "f32", tokenizer="qwen2" if decoder == "qwen2" else "llama3")
    )
    model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], (kind, report[kind])
    # A model that was loaded is saved under the names it came with, one that was made under today's.
    today = type(model)(model.config)
    today.load_state_dict(model.state_dict())
    today.save_pretrained(tmp_path / "again")
    with open_checkpoint(folder) as ours, open_checkpoint(tmp_path / "again") as theirs:
        assert theirs.generation == "hf-5"
        assert theirs.config.decoder == ours.config.decoder == source.decoder
        assert theirs.config.vision == ours.config.vision == source.vision
        assert theirs.tied is ours.tied is is_tied
        for name in ours.names():
            np.testing.assert_array_equal(ours.tensor(name), theirs.tensor(name), err_msg=name)
    with open_checkpoint(folder) as ours, safe_open(folder / "model.safetensors", "np") as official:
        for name in ours.names():
            np.testing.assert_array_equal(ours.tensor(name), official.get_tensor(file_name(name, generation)))
