"""Bundles with an invalid `decoder-mlx/`, although `bundle.json` matches its file sizes.

`PLAIN` is done to a decoder of floats, `QUANTIZED` to one of 4 bits in groups of 32. To each belongs what the error
must name, beside what it says: the file, or the folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.safetensors_edit import Tensors, rewrite

from .bundles import MANIFEST, listed, settled
from .damage import HTML, LFS_POINTER, PICKLE, Damage, a_link, content, fields, keep, swap, without

FOLDER = "decoder-mlx"
CONFIG = f"{FOLDER}/config.json"
WEIGHTS = f"{FOLDER}/model.safetensors"
OTHER = f"{FOLDER}/other.safetensors"
NORM = "model.norm.weight"
QUERIES = "model.layers.0.self_attn.q_proj"

Table = dict[str, tuple[Damage, str, str]]
"""Name to the damage, the file that the error names, and a text of the error."""


def config(**values: Any) -> Damage:
    return settled(fields(CONFIG, **values))


def quantization(**values: Any) -> Damage:
    return settled(fields(CONFIG, "quantization", **values))


def manifest(**values: Any) -> Damage:
    return fields(MANIFEST, "decoder", **values)


def both(of_manifest: dict[str, Any], **of_config: Any) -> Damage:
    """Make manifest and config agree."""

    def done(folder: Path) -> None:
        manifest(**of_manifest)(folder)
        config(**of_config)(folder)

    return done


def tensors(change: Callable[[Tensors], object]) -> Damage:
    """Write a valid file of weights."""
    return settled(lambda folder: rewrite(folder / WEIGHTS, change))


def tensor(name: str, dtype: str, shape: list[int]) -> Damage:
    """Replace a tensor by zeros, or add one."""
    return tensors(lambda held: held.update({name: (dtype, shape, None)}))


def filled(name: str, value: bytes) -> Damage:
    """A tensor with one value everywhere."""

    def change(held: Tensors) -> None:
        dtype, shape, data = held[name]
        held[name] = (dtype, shape, value * (len(data) // len(value)))

    return tensors(change)


def in_another_file(*names: str) -> Damage:
    """Copy these tensors into a second file."""

    def done(folder: Path) -> None:
        (folder / OTHER).write_bytes((folder / WEIGHTS).read_bytes())
        rewrite(folder / OTHER, lambda held: [held.pop(name) for name in held.keys() - set(names)])
        listed(OTHER)(folder)

    return settled(done)


def narrow(held: Tensors) -> None:
    """A feed-forward of 80, which is no multiple of a group of 32; the config says so too."""
    for name, (dtype, shape, _) in list(held.items()):
        if ".mlp." in name and not name.endswith("down_proj.weight"):
            held[name] = (dtype, [80, *shape[1:]], None)
        elif name.endswith("down_proj.weight"):
            held[name] = (dtype, [shape[0], 10], None)


def of_width_80(folder: Path) -> None:
    rewrite(folder / WEIGHTS, narrow)
    fields(CONFIG, intermediate_size=80)(folder)


def odd(name: str, values: dict[str, Any], says: str) -> Table:
    """One field of the config with several wrong values; `...` deletes it."""
    return {f"{name} is {how}": (config(**{name: value}), CONFIG, says or name) for how, value in values.items()}


NOTHING: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "a text": "64",
    "a boolean": True,
    "negative": -1,
    "NaN": math.nan,
    "infinite": math.inf,
    "huge": 10**400,
    "a list": [64],
}
"""Values that no number of a config may have."""
WHOLE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size",
)  # fmt: skip

PLAIN: Table = {
    name: row for field in (*WHOLE, "rms_norm_eps", "rope_theta") for name, row in odd(field, NOTHING, "").items()
}
PLAIN |= {name: row for field in WHOLE for name, row in odd(field, {"a fraction": 64.5, "a float": 64.0}, "").items()}
PLAIN |= odd("model_type", {"missing": ..., "another": "mamba", "a path": "../../evil", "a list": ["qwen2"]}, "")
PLAIN |= odd(
    "rope_scaling",
    {
        "a text": "linear",
        "a list": [{"type": "linear", "factor": 2.0}],
        "empty": {},
        "of an unknown type": {"type": "warp", "factor": 2.0},
        "of a type that is a list": {"type": ["linear"], "factor": 2.0},
        "of a type that is an object": {"rope_type": {}, "factor": 2.0},
    },
    "rope_scaling",
)
PLAIN |= odd(
    "rope_scaling",
    {
        "without a factor": {"type": "linear"},
        "by nothing": {"type": "linear", "factor": 0},
        "by NaN": {"type": "linear", "factor": math.nan},
        "by a boolean": {"type": "linear", "factor": True},
        "by 10^400": {"type": "linear", "factor": 10**400},
        "of Llama 3 without the rest": {"rope_type": "llama3", "factor": 8.0},
    },
    "factor",
)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
PLAIN |= odd(
    "rope_scaling",
    {"of one frequency": LLAMA3 | {"low_freq_factor": 1.0, "high_freq_factor": 1.0}},
    "greater than low_freq_factor",
)
PLAIN |= odd("quantization", {"a text": "4bit", "a list": [4, 32], "a number": 4, "empty": {}}, "quantization")
PLAIN |= {
    # config.json as a file
    "config is empty": (settled(content(CONFIG, b"")), CONFIG, "not readable as JSON"),
    "config is a page that says 404": (settled(content(CONFIG, HTML)), CONFIG, "not readable as JSON"),
    "config is no UTF-8": (settled(content(CONFIG, b"\xff\xfe{}")), CONFIG, "not readable as JSON"),
    "config is a list": (settled(content(CONFIG, b"[]")), CONFIG, "must be a JSON object"),
    "config cut off": (settled(keep(CONFIG, 0.5)), CONFIG, "not readable as JSON"),
    "config is nested without end": (settled(content(CONFIG, b'{"a":' * 100_000)), CONFIG, "not readable as JSON"),
    "config with a number of 10,000 digits": (
        settled(content(CONFIG, b'{"vocab_size": ' + b"9" * 10_000 + b"}")),
        CONFIG,
        "not readable as JSON",
    ),
    "config of 10 MB": (settled(content(CONFIG, b" " * 10_000_000)), CONFIG, "too large"),
    "config missing": (without(CONFIG), CONFIG, "missing"),
    "config is a link out of the folder": (a_link(CONFIG, "{outside}"), CONFIG, "leads out"),
    "config is not in the manifest": (fields(MANIFEST, "files", **{CONFIG: ...}), "", f"no {CONFIG}"),
    # the manifest says otherwise
    "manifest of more layers": (manifest(layers=3), CONFIG, "num_hidden_layers 2 where bundle.json says 3"),
    "manifest of another width": (manifest(hidden_size=128), CONFIG, "hidden_size 64"),
    "manifest of more words": (manifest(vocab_size=1000), CONFIG, "where bundle.json says 1000"),
    "manifest of more heads": (manifest(heads=8), CONFIG, "num_attention_heads 4"),
    "manifest of more heads of keys": (manifest(kv_heads=4), CONFIG, "num_key_value_heads 2"),
    "manifest of wider heads": (manifest(head_dim=32), CONFIG, "4 heads of 32"),
    "manifest of another kind": (manifest(type="llama"), CONFIG, "model_type 'qwen2'"),
    "three heads of keys for four": (both({"kv_heads": 3}, num_key_value_heads=3), CONFIG, "and 3 of keys"),
    "heads of one value": (both({"heads": 64, "head_dim": 1}, num_attention_heads=64), CONFIG, "64 heads of 1"),
    "1000 layers": (both({"layers": 1000}, num_hidden_layers=1000), FOLDER, "1000 layers"),
    "a width of 2^17": (
        both({"hidden_size": 1 << 17, "head_dim": 1 << 12, "heads": 32}, hidden_size=1 << 17, num_attention_heads=32),
        WEIGHTS,
        "where the model has",
    ),
    "a vocabulary of 2^22": (both({"vocab_size": 1 << 22}, vocab_size=1 << 22), WEIGHTS, "4194304"),
    "a feed-forward of 2^20": (config(intermediate_size=1 << 20), WEIGHTS, "1048576"),
    "tied, and with a head": (config(tie_word_embeddings=True), WEIGHTS, "'lm_head.weight' is not one"),
    # the weights as a file
    "weights are empty": (settled(content(WEIGHTS, b"")), WEIGHTS, "cut off"),
    "weights are a page that says 404": (settled(content(WEIGHTS, HTML)), WEIGHTS, "not a safetensors file"),
    "weights are a pickle": (settled(content(WEIGHTS, PICKLE)), WEIGHTS, "pickle"),
    "weights are a Git LFS pointer": (settled(content(WEIGHTS, LFS_POINTER)), WEIGHTS, "Git LFS"),
    "weights cut off in their header": (settled(keep(WEIGHTS, 0.001)), WEIGHTS, "cut off"),
    "weights cut off in the middle": (settled(keep(WEIGHTS, 0.5)), WEIGHTS, "cut off"),
    "weights cut off before the last byte": (settled(keep(WEIGHTS, 0.999999)), WEIGHTS, "cut off"),
    "weights missing": (without(WEIGHTS), WEIGHTS, "missing"),
    "weights are a link out of the folder": (a_link(WEIGHTS, "{outside}"), WEIGHTS, "leads out"),
    "weights are a link to a device": (a_link(WEIGHTS, "/dev/zero"), WEIGHTS, "leads out"),
    "weights are not in the manifest": (fields(MANIFEST, "files", **{WEIGHTS: ...}), FOLDER, "0 tensors"),
    "weights with a tensor twice": (
        settled(swap(WEIGHTS, b'"lm_head.weight"', b'"model.norm.weight"')),
        WEIGHTS,
        "header is not readable",
    ),
    "weights with metadata that is no text": (
        settled(lambda folder: with_metadata(folder / WEIGHTS, {"format": 1})),
        WEIGHTS,
        "MLX cannot load it",
    ),
    "weights with metadata that is a list": (
        settled(lambda folder: with_metadata(folder / WEIGHTS, [1])),
        WEIGHTS,
        "MLX cannot load it",
    ),
    # the tensors
    "tensor missing": (tensors(lambda held: held.pop(NORM)), FOLDER, f"'{NORM}' is missing"),
    "tensor that no such model has": (tensor("evil\nname", "F32", [1]), WEIGHTS, r"'evil\nname' is not one"),
    "tensor of a third layer": (tensor("model.layers.2.mlp.up_proj.weight", "F32", [1]), WEIGHTS, "is not one"),
    "tensor with another axis": (tensor(NORM, "F32", [64, 1]), WEIGHTS, "(64, 1)"),
    "tensor with axes changed": (tensor("model.layers.1.mlp.up_proj.weight", "F32", [64, 96]), WEIGHTS, "(64, 96)"),
    "tensor of no values": (tensor(NORM, "F32", [0, 1 << 40]), WEIGHTS, NORM),
    "tensor of whole numbers": (tensor(NORM, "I8", [64]), WEIGHTS, "of type I8"),
    "tensor of whole numbers that others have": (tensor(NORM, "U32", [64]), WEIGHTS, "F16 or BF16 or F32"),
    "tensor of doubles": (tensor(NORM, "F64", [64]), WEIGHTS, "of type F64"),
    "tensor in two files": (in_another_file(NORM), OTHER, f"'{NORM}' is in another file"),
    "scales of a matrix that has none": (tensor(f"{QUERIES}.scales", "F16", [64, 2]), WEIGHTS, "is not one"),
    "weights of NaN": (filled(NORM, b"\0\0\xc0\x7f"), FOLDER, "not finite"),
    "weights of infinity": (filled(NORM, b"\0\0\x80\x7f"), FOLDER, "not finite"),
    "words of NaN": (filled("model.embed_tokens.weight", b"\0\0\xc0\x7f"), FOLDER, "not finite"),
}

QUANTIZED: Table = {
    f"quantization: {name}": (quantization(**values), CONFIG, "field 'quantization.")
    for name, values in {
        "no bits": {"bits": ...},
        "no group": {"group_size": ...},
        "7 bits": {"bits": 7},
        "0 bits": {"bits": 0},
        "-4 bits": {"bits": -4},
        "4.0 bits": {"bits": 4.0},
        "true bits": {"bits": True},
        "NaN bits": {"bits": math.nan},
        "10^400 bits": {"bits": 10**400},
        "bits in a list": {"bits": [4]},
        "a group of 48": {"group_size": 48},
        "a group of 0": {"group_size": 0},
        "a group of 32.0": {"group_size": 32.0},
        "a group of 2^60": {"group_size": 1 << 60},
        "an unknown mode": {"mode": "evil"},
        "a mode in a list": {"mode": ["affine"]},
        "mxfp4 of 8 bits": {"mode": "mxfp4", "bits": 8},
        "one matrix of 7 bits": {QUERIES: {"bits": 7, "group_size": 32}},
        "one matrix of nothing": {QUERIES: {}},
    }.items()
}
QUANTIZED |= {
    "quantization missing": (config(quantization=...), WEIGHTS, "is not one of this model"),
    "quantization: 8 bits of what are 4": (quantization(bits=8), WEIGHTS, "where the model has U32"),
    "quantization: groups of 64 of what are 32": (quantization(group_size=64), FOLDER, ""),
    "quantization: mxfp4 of what are scales and biases": (quantization(mode="mxfp4"), WEIGHTS, ".biases"),
    "quantization: one matrix is none": (quantization(**{QUERIES: False}), WEIGHTS, QUERIES),
    "quantization: a width that no group divides": (settled(of_width_80), FOLDER, ""),
    "quantized: scales missing": (
        tensors(lambda held: held.pop(f"{QUERIES}.scales")), WEIGHTS, f"{QUERIES}.biases"
    ),
    "quantized: biases missing": (tensors(lambda held: held.pop(f"{QUERIES}.biases")), FOLDER, f"{QUERIES}.biases"),
    "quantized: numbers are floats": (tensor(f"{QUERIES}.weight", "F32", [64, 8]), WEIGHTS, "U32"),
    "quantized: scales are whole numbers": (tensor(f"{QUERIES}.scales", "U32", [64, 2]), WEIGHTS, "F16 or BF16 or F32"),
    "quantized: scales of another shape": (tensor(f"{QUERIES}.scales", "F32", [64, 4]), WEIGHTS, "(64, 4)"),
    "quantized: scales of NaN": (filled(f"{QUERIES}.scales", b"\0\0\xc0\x7f"), FOLDER, "not finite"),
}  # fmt: skip


def with_metadata(path: Path, metadata: Any) -> None:
    """Put `__metadata__` into a file's header."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(raw[8:end])}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])
