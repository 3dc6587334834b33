"""Bundles with tiny random decoders and a tokenizer, made in milliseconds and run by the real engines."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edge_interleave.bundle.manifest import (
    GGUF_NAME,
    MLX_NAME,
    ONNX_NAME,
    TOKENIZER_NAME,
    Bundle,
    DecoderInfo,
    Manifest,
    PromptInfo,
    VisionInfo,
    describe_files,
    open_bundle,
    write_manifest,
)
from edge_interleave.converters.checkpoint.config import DecoderConfig
from edge_interleave.converters.onnx.decoder import decoder_files
from edge_interleave.converters.onnx.smoothing import find_smoothings
from support.tiny_tower import write_safetensors

HIDDEN, HEADS, FEED_FORWARD = 64, 4, 96
TRAINED_CONTEXT = 512
ROPE_THETA, RMS_NORM_EPS = 10000.0, 1e-6
MLX_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
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
"""GGUF names to MLX names."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
# Renders as the template that the llava-hf/llava-interleave checkpoints publish (chat_template.json).
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}"
    "{% endif %}{{'<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE like Qwen2's: the 256 bytes, a few merges and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n"), ("r", "e"), ("Ċ", "Ċ"), ("e", "r")]
    tokens = alphabet + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    others = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words + others), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIALS])
    return tokenizer


def tiny_weights(vocab_size: int, *, seed: int = 0, layers: int = 2, heads: int = HEADS) -> dict[str, np.ndarray]:
    """Random float32 weights of a Qwen2 decoder, by their GGUF names. Two heads share one KV head."""
    random = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}

    def draw(name: str, *shape: int, scale: float = 0.3) -> None:
        made[name] = (random.standard_normal(shape) * scale).astype(np.float32)

    kv = HIDDEN // heads * _kv_heads(heads)
    draw("token_embd.weight", vocab_size, HIDDEN, scale=1.0)
    made["output_norm.weight"] = np.ones(HIDDEN, np.float32)
    draw("output.weight", vocab_size, HIDDEN)
    for layer in range(layers):
        block = f"blk.{layer}."
        made[block + "attn_norm.weight"] = made[block + "ffn_norm.weight"] = np.ones(HIDDEN, np.float32)
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv)):
            draw(f"{block}attn_{name}.weight", rows, HIDDEN)
            draw(f"{block}attn_{name}.bias", rows)
        draw(block + "attn_output.weight", HIDDEN, HIDDEN)
        draw(block + "ffn_gate.weight", FEED_FORWARD, HIDDEN)
        draw(block + "ffn_up.weight", FEED_FORWARD, HIDDEN)
        draw(block + "ffn_down.weight", HIDDEN, FEED_FORWARD)
    return made


def write_tiny_gguf(path: Path, weights: dict[str, np.ndarray], *, context_length: int, heads: int = HEADS) -> None:
    """Write the decoder for llama.cpp, without a tokenizer."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(context_length)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(_layers(weights))
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(heads)
    writer.add_head_count_kv(_kv_heads(heads))
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(RMS_NORM_EPS)
    writer.add_vocab_size(len(weights["token_embd.weight"]))
    writer.add_tokenizer_model("none")
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tiny_mlx(folder: Path, weights: dict[str, np.ndarray], *, context_length: int, heads: int = HEADS) -> None:
    """Write the decoder for MLX, in mlx-lm's folder layout."""
    folder.mkdir()
    config = {
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": _layers(weights),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(heads),
        "vocab_size": len(weights["token_embd.weight"]),
        "max_position_embeddings": context_length,
        "rms_norm_eps": RMS_NORM_EPS,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    named = {}
    for name, values in weights.items():
        *block, part, kind = name.split(".")
        prefix = f"model.layers.{block[1]}." if block else ""
        named[f"{prefix}{MLX_NAMES[part]}.{kind}"] = values
    write_safetensors(folder / "model.safetensors", named)


class TinyCheckpoint:
    """The same as the converters' `Checkpoint` gives it, for the graph of ONNX Runtime."""

    source, tied = "random weights", False

    def __init__(self, weights: dict[str, np.ndarray], *, context_length: int, heads: int = HEADS) -> None:
        names = {**MLX_NAMES, "token_embd": "embed_tokens", "output_norm": "norm"}
        self._weights = {}
        for name, values in weights.items():
            *block, part, kind = name.split(".")
            self._weights[f"decoder.{f'layers.{block[1]}.' if block else ''}{names[part]}.{kind}"] = values
        decoder = DecoderConfig(
            type="qwen2",
            hidden_size=HIDDEN,
            intermediate_size=FEED_FORWARD,
            layers=_layers(weights),
            heads=heads,
            kv_heads=_kv_heads(heads),
            head_dim=HIDDEN // heads,
            vocab_size=len(weights["token_embd.weight"]),
            context_length=context_length,
            rope_theta=ROPE_THETA,
            rms_norm_eps=RMS_NORM_EPS,
            tie_word_embeddings=False,
            attention_bias=True,
        )
        self.config = SimpleNamespace(decoder=decoder)

    def names(self) -> tuple[str, ...]:
        return tuple(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights[name].shape

    def tensor(self, name: str) -> np.ndarray:
        return self._weights[name].copy()

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._weights[name][start:stop].copy()


def write_tiny_onnx(
    folder: Path, weights: dict[str, np.ndarray], *, context_length: int, heads: int = HEADS, precision: str = "f32"
) -> None:
    """The same for ONNX Runtime."""
    folder.mkdir()
    checkpoint: Any = TinyCheckpoint(weights, context_length=context_length, heads=heads)
    visual = np.random.default_rng(0).standard_normal((32, HIDDEN)).astype(np.float32)
    files = decoder_files(checkpoint, precision, lambda: find_smoothings(checkpoint, range(32), visual))
    for name, write in files.items():
        write(folder / name)


def tiny_bundle(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    context_length: int = TRAINED_CONTEXT,
    heads: int = HEADS,
    precision: str = "f32",
) -> Bundle:
    """A bundle of a tiny decoder, for each backend, and its tokenizer, without a vision tower.

    `precision`: of the decoder for ONNX Runtime.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / TOKENIZER_NAME))
    vocab_size = tokenizer.get_vocab_size()
    weights = tiny_weights(vocab_size, seed=seed, layers=layers, heads=heads)
    write_tiny_gguf(folder / GGUF_NAME, weights, context_length=context_length, heads=heads)
    write_tiny_mlx(folder / MLX_NAME, weights, context_length=context_length, heads=heads)
    write_tiny_onnx(folder / ONNX_NAME, weights, context_length=context_length, heads=heads, precision=precision)
    write_manifest(folder, _manifest(folder, vocab_size, layers, context_length, heads, precision))
    return open_bundle(folder)


def change_manifest(folder: Path, section: str, **fields: object) -> None:
    """Overwrite fields of one section of a bundle's `bundle.json`."""
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest[section] = {**manifest[section], **fields}
    path.write_text(json.dumps(manifest), "utf-8")


def _layers(weights: dict[str, np.ndarray]) -> int:
    return sum(name.endswith(".ffn_down.weight") for name in weights)


def _kv_heads(heads: int) -> int:
    return max(1, heads // 2)


def _manifest(folder: Path, vocab_size: int, layers: int, context_length: int, heads: int, precision: str) -> Manifest:
    head_dim = HIDDEN // heads
    return Manifest(
        name="tiny",
        source="random weights",
        decoder=DecoderInfo("qwen2", HIDDEN, layers, heads, _kv_heads(heads), head_dim, vocab_size, context_length, 0),
        vision=VisionInfo("siglip", 28, 14, 2, "squash", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0),
        prompt=PromptInfo(LLAVA_TEMPLATE, "<image>", None, "<|im_end|>", (vocab_size - 2, vocab_size - 4)),
        pooling_mode="average",
        precisions={GGUF_NAME: "f32", MLX_NAME: "f32", ONNX_NAME: precision},
        files=describe_files(folder),
    )
