"""Tiny random decoders and tokenizers, for tests of the runtime: made in milliseconds, run by the real engines."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edge_interleave.bundle import (
    GGUF_NAME,
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

HIDDEN, HEADS, FEED_FORWARD = 64, 4, 96
TRAINED_CONTEXT = 512
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
# The wording of the template that the llava-hf/llava-interleave checkpoints publish.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}"
    "{% endif %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE as Qwen2's, of the 256 bytes, a few merges and the special tokens."""
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


def write_tiny_gguf(
    path: Path, vocab_size: int, *, seed: int = 0, layers: int = 2, context_length: int, heads: int = HEADS
) -> None:
    """A Qwen2 decoder with random float32 weights; its GGUF holds no tokenizer."""
    random = np.random.default_rng(seed)

    def weights(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(context_length)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(heads)
    writer.add_head_count_kv(_kv_heads(heads))
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(vocab_size)
    writer.add_tokenizer_model("none")
    kv = HIDDEN // heads * _kv_heads(heads)
    writer.add_tensor("token_embd.weight", weights(vocab_size, HIDDEN, scale=1.0))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output.weight", weights(vocab_size, HIDDEN))
    for layer in range(layers):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(HIDDEN, np.float32))
        writer.add_tensor(block + "ffn_norm.weight", np.ones(HIDDEN, np.float32))
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv)):
            writer.add_tensor(f"{block}attn_{name}.weight", weights(rows, HIDDEN))
            writer.add_tensor(f"{block}attn_{name}.bias", weights(rows))
        writer.add_tensor(block + "attn_output.weight", weights(HIDDEN, HIDDEN))
        writer.add_tensor(block + "ffn_gate.weight", weights(FEED_FORWARD, HIDDEN))
        writer.add_tensor(block + "ffn_up.weight", weights(FEED_FORWARD, HIDDEN))
        writer.add_tensor(block + "ffn_down.weight", weights(HIDDEN, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_bundle(
    folder: Path, *, seed: int = 0, layers: int = 2, context_length: int = TRAINED_CONTEXT, heads: int = HEADS
) -> Bundle:
    """A bundle of a tiny decoder and its tokenizer, without a vision tower. Two heads share one of keys."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / TOKENIZER_NAME))
    vocab_size = tokenizer.get_vocab_size()
    path = folder / GGUF_NAME
    write_tiny_gguf(path, vocab_size, seed=seed, layers=layers, context_length=context_length, heads=heads)
    write_manifest(folder, _manifest(folder, vocab_size, layers, context_length, heads))
    return open_bundle(folder)


def change_manifest(folder: Path, section: str, **fields: object) -> None:
    """Overwrite fields of one section of a bundle's `bundle.json`."""
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest[section] = {**manifest[section], **fields}
    path.write_text(json.dumps(manifest), "utf-8")


def _kv_heads(heads: int) -> int:
    return max(1, heads // 2)


def _manifest(folder: Path, vocab_size: int, layers: int, context_length: int, heads: int) -> Manifest:
    head_dim = HIDDEN // heads
    return Manifest(
        name="tiny",
        source="random weights",
        decoder=DecoderInfo("qwen2", HIDDEN, layers, heads, _kv_heads(heads), head_dim, vocab_size, context_length, 0),
        vision=VisionInfo("siglip", 28, 14, 2, "squash", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0),
        prompt=PromptInfo(LLAVA_TEMPLATE, "<image>", None, "<|im_end|>", (vocab_size - 2, vocab_size - 4)),
        pooling_mode="average",
        precisions={GGUF_NAME: "f32"},
        files=describe_files(folder),
    )
