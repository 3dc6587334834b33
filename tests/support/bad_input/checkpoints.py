"""Checkpoints that `convert` must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from support.safetensors_edit import Tensors, rewrite

from .damage import HTML, LFS_POINTER, PICKLE, Damage, a_folder, a_link, content, fields, keep, swap, without

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
QUERY = "language_model.model.layers.1.self_attn.q_proj.weight"
BIAS = "language_model.model.layers.0.self_attn.q_proj.bias"
PATCHES = "vision_tower.vision_model.embeddings.patch_embedding.weight"


def header(length: int, text: bytes) -> Damage:
    return content(WEIGHTS, length.to_bytes(8, "little") + text)


def tensors(change: Callable[[Tensors], object]) -> Damage:
    return lambda folder: rewrite(folder / WEIGHTS, change)


def value(name: str, number: float) -> Damage:
    """Set one bf16 value of a tensor."""

    def change(held: Tensors) -> None:
        dtype, shape, data = held[name]
        assert dtype == "BF16"
        wrong = (np.array([number], "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        held[name] = (dtype, shape, data[:-2] + wrong)

    return tensors(change)


def index(names: dict[str, Any]) -> Damage:
    """Split the weights into several files, as an index says."""

    def split(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": names}))

    return split


def only_pickles(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)


def more_tokens(folder: Path) -> None:
    raw = json.loads((folder / TOKENIZER).read_text("utf-8"))
    raw["added_tokens"] += [{**raw["added_tokens"][0], "id": 600 + i, "content": f"<{i}>"} for i in range(700)]
    (folder / TOKENIZER).write_text(json.dumps(raw), "utf-8")


def template(source: str) -> Damage:
    return fields("chat_template.json", chat_template=source)


CHECKPOINTS: dict[str, tuple[Damage, str]] = {
    # the weights
    "weights missing": (without(WEIGHTS), "checkpoint"),
    "weights empty": (content(WEIGHTS, b""), WEIGHTS),
    "weights are a folder": (a_folder(WEIGHTS), "neither model.safetensors nor"),
    "weights are a link to nowhere": (a_link(WEIGHTS, "/nowhere/at/all"), "neither model.safetensors nor"),
    "weights are a link to themselves": (a_link(WEIGHTS, WEIGHTS), "checkpoint"),
    "weights are a page that says 404": (content(WEIGHTS, HTML), WEIGHTS),
    "weights are a Git LFS pointer": (content(WEIGHTS, LFS_POINTER), "Git LFS pointer"),
    "weights are a pickle with another name": (content(WEIGHTS, PICKLE), "a pickle and not safetensors"),
    "weights are pickles only": (only_pickles, "pytorch_model.bin"),
    "weights cut off after 5 bytes": (keep(WEIGHTS, 0.00002), WEIGHTS),
    "weights cut off in the header": (keep(WEIGHTS, 0.01), WEIGHTS),
    "weights cut off in the first tensors": (keep(WEIGHTS, 0.1), "cut off"),
    "weights cut off in the middle": (keep(WEIGHTS, 0.5), "cut off"),
    "weights cut off before the last byte": (keep(WEIGHTS, 0.999999), "cut off"),
    "header of 2^63 bytes": (header(1 << 63, b"{}"), WEIGHTS),
    "header of 90 MB claimed": (header(90_000_000, b"{}"), WEIGHTS),
    "header is no JSON": (header(8, b"{broken}"), "header is not readable"),
    "header is nested without end": (header(100_000, b"[" * 100_000), "header is not readable"),
    "shape claims 2^80 values": (swap(WEIGHTS, b'"shape": [64', b'"shape": [1208925819614629174706176'), WEIGHTS),
    "tensor missing": (tensors(lambda held: held.pop(QUERY)), "decoder.layers.1.self_attn.q_proj.weight"),
    "tensor of another shape": (tensors(lambda held: held.update({BIAS: ("BF16", [63], None)})), BIAS),
    "tensor that no such model has": (tensors(lambda held: held.update({"evil": ("F32", [1], None)})), "'evil'"),
    "tensor name of control characters": (
        tensors(lambda held: held.update({"\x1b[2J\nerror: fine": ("F32", [1], None)})),
        r"\x1b[2J\nerror: fine",
    ),
    "NaN in a decoder matrix": (value(QUERY, float("nan")), QUERY),
    "infinity in a decoder bias": (value(BIAS, float("inf")), BIAS),
    "NaN in the vision tower": (value(PATCHES, float("nan")), PATCHES),
    # the index of several files
    "index leads out of the folder": (index({QUERY: "../outside.safetensors"}), "do not trust"),
    "index names an absolute path": (index({QUERY: "/etc/passwd"}), "do not trust"),
    "index names a pickle": (index({QUERY: "pytorch_model.bin"}), "do not trust"),
    "index names a file of another kind": (index({QUERY: 7}), "do not trust"),
    "index names a missing file": (index({QUERY: "model-00009-of-00009.safetensors"}), "missing"),
    "index is empty": (index({}), INDEX),
    # config.json
    "config missing": (without("config.json"), "config.json"),
    "config is a folder": (a_folder("config.json"), "config.json"),
    "config cut off": (keep("config.json", 0.5), "config.json"),
    "config is nested without end": (content("config.json", b'{"a":' * 100_000), "config.json"),
    "config is another model's": (fields("config.json", model_type="bert"), "'bert'"),
    "config of a width of 2^60": (fields("config.json", "text_config", hidden_size=1 << 60), "hidden_size"),
    "config of no layers": (fields("config.json", "text_config", num_hidden_layers=0), "num_hidden_layers"),
    "config of another width than the weights": (
        fields("config.json", "text_config", intermediate_size=97),
        "has shape",
    ),
    "config of an image of 2^40 pixels": (fields("config.json", "vision_config", image_size=1 << 20), "image_size"),
    "config of patches of no pixels": (fields("config.json", "vision_config", patch_size=0), "patch_size"),
    "preprocessing by zero": (fields("preprocessor_config.json", image_std=[0, 0, 0]), "preprocessor_config.json"),
    "preprocessing of NaN": (fields("preprocessor_config.json", image_mean=[float("nan")] * 3), "preprocessor_config"),
    # the tokenizer
    "tokenizer missing": (without(TOKENIZER), TOKENIZER),
    "tokenizer cut off": (keep(TOKENIZER, 0.7), TOKENIZER),
    "tokenizer is a folder": (a_folder(TOKENIZER), TOKENIZER),
    "tokenizer of another kind": (fields(TOKENIZER, model={"type": "WordLevel", "vocab": {}, "unk_token": "?"}), "BPE"),
    "tokenizer with more tokens than rows": (more_tokens, "the embedding matrix 640 rows"),
    "tokenizer that makes texts longer": (
        fields(TOKENIZER, normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}),
        "a longer text",
    ),
    "tokenizer's config is a list": (content("tokenizer_config.json", b"[]"), "tokenizer_config.json"),
    # the chat template
    "template is no Jinja": (template("{% for %}"), "chat template"),
    "template of a megabyte": (template("{{ 1 }}" * 200_000), "chat template"),
}
