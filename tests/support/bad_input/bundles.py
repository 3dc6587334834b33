"""Bundles that must be refused: sizes that differ from the manifest, or consistent but hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .damage import HTML, LFS_POINTER, PICKLE, Damage, a_folder, a_link, content, fields, keep, swap, without
from .gguf_parts import Parts, edited

MANIFEST = "bundle.json"
DECODER = "decoder.gguf"
VISION = "vision.onnx"
TOKENIZER = "tokenizer.json"
SHA256 = "0" * 64


def listed(name: str, **about: Any) -> Damage:
    """Add a file to the manifest."""

    def added(folder: Path) -> None:
        raw = json.loads((folder / MANIFEST).read_text("utf-8"))
        raw["files"][name] = {"bytes": 1, "sha256": SHA256, **about}
        (folder / MANIFEST).write_text(json.dumps(raw), "utf-8")

    return added


def unlisted(name: str) -> Damage:
    return fields(MANIFEST, "files", **{name: ...})


def settled(damage: Damage) -> Damage:
    """Apply the damage, then set the manifest's sizes to those of the damaged files, as an attacker would."""

    def done(folder: Path) -> None:
        damage(folder)
        raw = json.loads((folder / MANIFEST).read_text("utf-8"))
        for name, about in raw["files"].items():
            about["bytes"] = (folder / name).stat().st_size
        (folder / MANIFEST).write_text(json.dumps(raw), "utf-8")

    return done


def decoder(change: Callable[[Parts], object], **manifest: int) -> Damage:
    """Write a well-formed GGUF file; `manifest`: the decoder's fields in bundle.json."""

    def done(folder: Path) -> None:
        edited(folder / DECODER, change)
        fields(MANIFEST, "decoder", **manifest)(folder)

    return settled(done)


def setting(name: str, value: Any, kind: int) -> Damage:
    return decoder(lambda parts: parts.settings.update({name: (kind, value)}))


def tensor(name: str, **changes: Any) -> Damage:
    return decoder(lambda parts: parts.tensors[name].update(changes))


def template(source: str) -> Damage:
    return fields(MANIFEST, "prompt", chat_template=source)


def tokenizer(*path: str, **values: Any) -> Damage:
    return settled(fields(TOKENIZER, *path, **values))


def graph(change: Callable[[onnx.ModelProto], object]) -> Damage:
    def done(folder: Path) -> None:
        model = onnx.load(folder / VISION)
        change(model)
        (folder / VISION).write_bytes(model.SerializeToString())

    return settled(done)


def endless_loop(model: onnx.ModelProto) -> None:
    """Pass the graph's result through an endless loop."""
    (out,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == out.name else name for name in node.output]
    going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Identity", ["rows"], ["rows_on"])],
        "body",
        [helper.make_tensor_value_info("round", TensorProto.INT64, []), going, rows],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("rows_on", 1, None),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("Loop", ["", "always", "before"], [out.name], body=inner))


def weights_elsewhere(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../etc/passwd")


def nan_weights(model: onnx.ModelProto) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims):
            weight.CopyFrom(numpy_helper.from_array(np.full(list(weight.dims), np.nan, np.float32), weight.name))


def nan_head(parts: Parts) -> None:
    norm = parts.tensors["output_norm.weight"]
    norm["data"] = np.full(len(norm["data"]) // 4, np.nan, "<f4").tobytes()


def doubling(then: str) -> str:
    """A template that nests a list in itself twice, sixty times."""
    return (
        "{% set n = namespace(x=[0]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ " + then + " }}"
    )


def a_part(stored: dict[str, Any] | None = None, **changes: Any) -> Damage:
    """A manifest with another value in `parts`."""
    matrices = {"q4_k": {"count": 1, "names": ["attn_q"], "as_named": True, **(stored or {})}}
    part = {"bits_per_weight": 4.5, "matrices": matrices, "cosine": None, **changes}
    return fields(MANIFEST, parts={DECODER: part})


# What the manifest gives away: these need not be run to be refused.
MANIFESTS: dict[str, tuple[Damage, str]] = {
    "no manifest": (without(MANIFEST), "not a bundle"),
    "manifest is empty": (content(MANIFEST, b""), "not readable as JSON"),
    "manifest is a folder": (a_folder(MANIFEST), MANIFEST),
    "manifest is a link to nowhere": (a_link(MANIFEST, "/nowhere/at/all"), "not a bundle"),
    "manifest is a link to itself": (a_link(MANIFEST, MANIFEST), "bundle"),
    "manifest cut off": (keep(MANIFEST, 0.5), "not readable as JSON"),
    "manifest is no UTF-8": (content(MANIFEST, b"\xff\xfe{}"), "not readable as JSON"),
    "manifest is a list": (content(MANIFEST, b"[]"), "JSON object"),
    "manifest is nested without end": (content(MANIFEST, b"[" * 100_000), "not readable as JSON"),
    "manifest of 5 MB": (content(MANIFEST, b" " * (5 << 20)), "too large"),
    "manifest of the future": (fields(MANIFEST, schema_version=99), "newer"),
    "manifest without a decoder": (fields(MANIFEST, decoder=...), "decoder'"),
    "decoder of an unknown kind": (fields(MANIFEST, "decoder", type="mamba"), "type'"),
    "decoder of a width of 2^60": (fields(MANIFEST, "decoder", hidden_size=1 << 60), "hidden_size'"),
    "decoder of no heads": (fields(MANIFEST, "decoder", heads=0), "heads'"),
    "decoder of half a layer": (fields(MANIFEST, "decoder", layers=0.5), "layers'"),
    "images of a million pixels a side": (fields(MANIFEST, "vision", image_size=10**6), "image_size'"),
    "pixels divided by zero": (fields(MANIFEST, "vision", std=[0.0, 0.5, 0.5]), "std'"),
    "pixels of NaN": (fields(MANIFEST, "vision", mean=[float("nan")] * 3), "mean'"),
    "no token ends an answer": (fields(MANIFEST, "prompt", eos_token_ids=[]), "eos_token_ids'"),
    "marker of images is empty": (fields(MANIFEST, "prompt", image_token=""), "image_token'"),
    "marker of videos is empty": (fields(MANIFEST, "prompt", video_token=""), "video_token'"),
    "parts are a list": (fields(MANIFEST, parts=[]), "parts'"),
    "part of a thousand bits a weight": (a_part(bits_per_weight=1000), "bits_per_weight'"),
    "part of NaN bits a weight": (a_part(bits_per_weight=float("nan")), "bits_per_weight'"),
    "part whose cosine is 2": (a_part(cosine=2), "cosine'"),
    "part whose cosine is a text": (a_part(cosine="1"), "cosine'"),
    "part of minus one matrices": (a_part(stored={"count": -1}), "count'"),
    "part without matrices": (a_part(matrices=None), "matrices'"),
    "matrices whose names are numbers": (a_part(stored={"names": [1]}), "names'"),
    "matrices as named as one": (a_part(stored={"as_named": 1}), "as_named'"),
    "file name leads out": (listed("../../etc/passwd"), "leads out"),
    "file name leads out in the middle": (listed("a/../../b"), "leads out"),
    "file name is absolute": (listed("/etc/passwd"), "leads out"),
    "file name of Windows": (listed("C:\\Windows\\win.ini"), "leads out"),
    "file name with a zero byte": (listed("a\0b"), "leads out"),
    "file name with a newline": (listed("a\nerror"), "not one a bundle can have"),
    "file name is the manifest's": (listed(MANIFEST), "not one a bundle can have"),
    "file that is not there": (listed("decoder-mlx/weights.bin"), "missing"),
    "file of negative size": (listed("x", bytes=-1), "bytes'"),
    "file of 2^60 bytes": (listed("x", bytes=1 << 60), "bytes'"),
    "file with half a digest": (listed("x", sha256="00"), "sha256'"),
    "decoder missing": (without(DECODER), "missing"),
    "decoder is a folder": (a_folder(DECODER), "missing"),
    "decoder is a link out of the folder": (a_link(DECODER, "{outside}"), "leads out"),
    "decoder is a link to a device": (a_link(DECODER, "/dev/zero"), "leads out"),
    "decoder cut off": (keep(DECODER, 0.5), "cut off or was changed"),
    "tower cut off": (keep(VISION, 0.5), "cut off or was changed"),
    "tokenizer longer than it was": (content(TOKENIZER, b" " * 10**6), "cut off or was changed"),
}

# What shows when the model is opened and asked. The manifest agrees with the files.
CONTENTS: dict[str, tuple[Damage, str]] = {
    # decoder.gguf
    "decoder is empty": (settled(content(DECODER, b"")), "magic"),
    "decoder is a page that says 404": (settled(content(DECODER, HTML)), "magic"),
    "decoder is a pickle": (settled(content(DECODER, PICKLE)), "magic"),
    "decoder is a Git LFS pointer": (settled(content(DECODER, LFS_POINTER)), "magic"),
    "decoder cut off in its header": (settled(keep(DECODER, 0.01)), "cut off"),
    "decoder cut off in its tensors' list": (settled(keep(DECODER, 0.19)), "cut off"),
    "decoder cut off in its weights": (settled(keep(DECODER, 0.8)), "cut off"),
    "decoder cut off before the last byte": (settled(keep(DECODER, 0.99999)), "cut off"),
    "decoder of version 77": (settled(swap(DECODER, b"GGUF\x03", b"GGUF\x4d")), "version 77"),
    "decoder of 2^63 tensors": (
        settled(swap(DECODER, b"GGUF\3\0\0\0", b"GGUF\3\0\0\0" + bytes(7) + b"\x80")),
        "claims",
    ),
    "decoder with a text of 2^60 bytes": (
        settled(swap(DECODER, b"\x05\0\0\0\0\0\0\0qwen2", b"\0\0\0\0\0\0\0\x10qwen2")),
        "cut off",
    ),
    "decoder of another architecture": (setting("general.architecture", "mamba", 8), "'mamba'"),
    "decoder in several files": (setting("split.count", 2, 2), "split.count"),
    "decoder of an odd alignment": (setting("general.alignment", 3, 4), "general.alignment"),
    "decoder of other layers than the manifest's": (setting("qwen2.block_count", 3, 4), "block_count"),
    "decoder of 100,000 layers": (decoder(lambda p: p.set("qwen2.block_count", 1000), layers=1000), "1000 layers"),
    "decoder of 63 heads": (decoder(lambda p: p.set("qwen2.attention.head_count", 63), heads=63), "heads"),
    "decoder of heads of another width": (setting("qwen2.attention.key_length", 32, 4), "key_length"),
    "decoder that turns more than a head": (setting("qwen2.rope.dimension_count", 128, 4), "rope.dimension_count"),
    "decoder that turns by NaN": (setting("qwen2.rope.freq_base", float("nan"), 6), "rope.freq_base"),
    "decoder with a negative epsilon": (setting("qwen2.attention.layer_norm_rms_epsilon", -1.0, 6), "epsilon"),
    "decoder with experts it has not": (setting("qwen2.expert_used_count", 31, 4), "expert_used_count"),
    "decoder of no context": (setting("qwen2.context_length", 0, 4), "context_length"),
    "decoder's tensor of an unknown type": (tensor("blk.1.ffn_up.weight", type=36), "blk.1.ffn_up.weight"),
    "decoder's tensor of integers": (tensor("blk.1.attn_q.bias", type=26), "blk.1.attn_q.bias"),
    "decoder's tensor of another shape": (tensor("token_embd.weight", shape=(64, 641)), "token_embd.weight"),
    "decoder's tensor of 2^62 rows": (tensor("token_embd.weight", shape=(64, 1 << 62)), "token_embd.weight"),
    "decoder's tensor of nine axes": (tensor("token_embd.weight", shape=(1,) * 9), "9 axes"),
    "decoder's tensor past the end": (tensor("output_norm.weight", offset=1 << 40), "does not lie inside"),
    "decoder's tensor off the grid": (tensor("output_norm.weight", offset=1), "does not lie inside"),
    "decoder's tensor missing": (decoder(lambda p: p.tensors.pop("blk.0.ffn_down.weight")), "ffn_down"),
    "decoder's tensor that no such model has": (
        decoder(lambda p: p.tensors.update({"evil\nname": dict(p.tensors["output_norm.weight"])})),
        r"evil\nname",
    ),
    "decoder's weights are NaN": (decoder(nan_head), DECODER),
    "decoder not in the manifest": (unlisted(DECODER), "bundle"),
    # vision.onnx
    "tower is empty": (settled(content(VISION, b"")), VISION),
    "tower is a page that says 404": (settled(content(VISION, HTML)), VISION),
    "tower is a pickle": (settled(content(VISION, PICKLE)), VISION),
    "tower cut off, the manifest with it": (settled(keep(VISION, 0.7)), "cut off"),
    "tower for other images": (fields(MANIFEST, "vision", image_size=56), "not the vision tower"),
    "tower for another decoder": (graph(lambda m: m.graph.output[0].CopyFrom(m.graph.input[0])), VISION),
    "tower with an operator of its own": (graph(lambda m: setattr(m.graph.node[3], "op_type", "Evil")), "Evil"),
    "tower with an endless loop": (graph(endless_loop), "loops"),
    "tower with weights in another file": (graph(weights_elsewhere), VISION),
    "tower of NaN weights": (graph(nan_weights), "not finite"),
    "tower with a weight of 2^40 values": (graph(lambda m: m.graph.initializer[0].dims.append(1 << 40)), VISION),
    "tower not in the manifest": (unlisted(VISION), f"no {VISION}"),
    # tokenizer.json
    "tokenizer is empty": (settled(content(TOKENIZER, b"")), TOKENIZER),
    "tokenizer cut off, the manifest with it": (settled(keep(TOKENIZER, 0.5)), TOKENIZER),
    "tokenizer is nested without end": (settled(content(TOKENIZER, b'{"model":' * 100_000)), "too deep"),
    "tokenizer of another model": (fields(MANIFEST, "decoder", vocab_size=100), "the decoder has 100"),
    "tokenizer of another kind": (tokenizer(model={"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]]}), "BPE"),
    "tokenizer with a prefix it cannot cut": (tokenizer("model", continuing_subword_prefix="##" * 99), "prefix"),
    "tokenizer with an unknown unknown": (tokenizer("model", unk_token="nobody"), "'nobody'"),
    "tokenizer with merges of no tokens": (tokenizer("model", merges=["qqqq zzzz"]), TOKENIZER),
    "tokenizer with a broken pattern": (
        tokenizer(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False}
        ),
        TOKENIZER,
    ),
    "tokenizer with a pattern that takes for ever": (
        tokenizer(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
        ),
        "repeats a group",
    ),
    "tokenizer that cuts into nothing": (tokenizer(pre_tokenizer={"type": "FixedLength", "length": 0}), "FixedLength"),
    "tokenizer that replaces the empty text": (
        tokenizer(normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "a"}),
        "no pattern",
    ),
    "tokenizer that fills the memory": (
        tokenizer(normalizer={"type": "Prepend", "prepend": "a" * 10**6}),
        "long text",
    ),
    "tokenizer with a table that is none": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////////////////////w=="}),
        "Precompiled",
    ),
    "tokenizer not in the manifest": (unlisted(TOKENIZER), f"no {TOKENIZER}"),
    # the chat template
    "template is no Jinja": (template("{% for %}"), "chat template"),
    "template says nothing": (template(""), "gives no text"),
    "template drops the image": (template("{% for m in messages %}hello{% endfor %}"), "0 of 1 images"),
    "template runs for ever": (
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "steps",
    ),
    "template calls itself": (template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "chat template"),
    "template writes gigabytes": (template("{{ 'x' * 10 ** 10 }}"), "too long"),
    "template formats gigabytes": (template("{{ '{:9999999999}'.format(1) }}"), "'format'"),
    "template translates to gigabytes": (template("{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}"), "'translate'"),
    "template fills up a list": (template("{{ [1] | slice(10 ** 9, 0) | list }}"), "'slice'"),
    "template prints a list that grows by powers": (template(doubling("n.x")), "steps"),
    "template turns such a list into text": (template(doubling("n.x | string | length")), "steps"),
    "template turns such a list into JSON": (template(doubling("n.x | tojson | length")), "steps"),
    "template compares such lists": (template(doubling("n.x == [n.x, n.x]")), "steps"),
    "template looks for Python's classes": (template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), "unsafe"),
    "template reads a file": (template("{% include '/etc/passwd' %}"), "chat template"),
}
