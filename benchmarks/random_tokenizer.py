"""Tokenizers for checkpoints with random weights: byte-level BPE like Qwen2's and Llama 3's, BPE like Llama 2's.

They are trained on a few lines of text in several scripts, in milliseconds; for a vocabulary of real size, the merges
are enumerated instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PROCESSOR_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXT = (
    "The quick brown fox jumps over the lazy dog; it's what they've said, and we'll see what's in the images.",
    "What is the difference between the first image and the second image? Describe the objects and their colours.",
    "图片中有什么？请描述第一张图片和第二张图片之间的区别。今天天气很好。",
    "ما الفرق بين الصورة الأولى والصورة الثانية؟ هذا وصف قصير.",
    "ภาพนี้มีอะไรบ้าง ช่วยอธิบายความแตกต่างระหว่างภาพแรกกับภาพที่สอง",
    "Größe, naïve café, señor, Привет мир, что на картинке? 日本語のテキストと한국어 문장.",
    "def main(args):\n    for i in range(10):\n        print(f'{i}: {args[i]}')\n    return 0\n",
    "1234567890 3.14159 2024-01-31 0x1F   \t  \n\n  👩‍👩‍👧‍👦 🙂 🇫🇷",
)


def write_tokenizer(
    folder: Path, kind: str, rows: int = 0, slow_files: bool = False, video: bool = False
) -> dict[str, int]:
    """Write a tokenizer's files (`qwen2`, `llama3` or `llama2`); returns the ids of its special tokens.

    `rows`: 0 for a small trained vocabulary, else the number of rows of a full one. `slow_files`: `vocab.json` and
    `merges.txt` instead of `tokenizer.json`, without `<image>`, as in the original checkpoints. `video`: with
    `<video>`.
    """
    tokenizer, specials = {"qwen2": _qwen2, "llama3": _llama3, "llama2": _llama2}[kind](rows)
    if not slow_files:
        specials = (*specials, *(("<video>",) if video else ()), "<image>")
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    ids = {special: tokenizer.token_to_id(special) for special in specials}
    eos = {"qwen2": "<|im_end|>", "llama3": "<|im_end|>", "llama2": "</s>"}[kind]
    bos = {"qwen2": None, "llama3": "<|endoftext|>", "llama2": "<s>"}[kind]
    added = {
        str(i): {
            "content": s,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for s, i in ids.items()
    }
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": "<|endoftext|>" if kind != "llama2" else "</s>",
        "chat_template": VICUNA if kind == "llama2" else CHATML,
        "model_max_length": 32768,
        "tokenizer_class": "LlamaTokenizer" if kind == "llama2" else "Qwen2Tokenizer",
    }
    _write(folder / "tokenizer_config.json", config)
    if slow_files and kind == "qwen2":
        tokenizer.model.save(str(folder))
        _write(folder / "added_tokens.json", ids)
    else:
        tokenizer.save(str(folder / "tokenizer.json"))
    if not slow_files:
        _write(folder / "processor_config.json", {"image_token": "<image>", "processor_class": "LlavaProcessor"})
        if kind == "qwen2":
            _write(folder / "chat_template.json", {"chat_template": PROCESSOR_TEMPLATE})
    return ids


def _qwen2(rows: int) -> tuple[Tokenizer, tuple[str, ...]]:
    tokenizer = Tokenizer(_counted(rows)) if rows else Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    _byte_level(tokenizer, QWEN2_PATTERN)
    if not rows:
        _train(tokenizer, 512)
    return tokenizer, SPECIALS


def _llama3(rows: int) -> tuple[Tokenizer, tuple[str, ...]]:
    tokenizer = Tokenizer(_counted(rows)) if rows else Tokenizer(models.BPE(ignore_merges=True))
    _byte_level(tokenizer, LLAMA3_PATTERN)
    if not rows:
        _train(tokenizer, 512)
    # Llama 3 starts every text with a special token.
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    first = SPECIALS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, tokenizer.token_to_id(first))]
    )
    return tokenizer, SPECIALS


def _byte_level(tokenizer: Tokenizer, pattern: str) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()


def _train(tokenizer: Tokenizer, size: int) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)


def _counted(rows: int) -> models.BPE:
    """A vocabulary of Qwen's size: bytes, then all pairs of bytes, then longer sequences."""
    count = rows - 357  # 152000 rows hold 151643 tokens, the special ones, and padding
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = list(alphabet)
    merges = []
    for k in range(count - len(alphabet)):
        merges.append((tokens[k // 256], alphabet[k % 256]))
        tokens.append("".join(merges[-1]))
    return models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def _llama2(rows: int) -> tuple[Tokenizer, tuple[str, ...]]:
    """SentencePiece's BPE as transformers stores it: U+2581 for spaces, bytes for unknown characters."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learner.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learnt = learner.get_vocab()
    pieces = sorted(learnt, key=lambda token: learnt[token])
    specials = ("<unk>", "<s>", "</s>")
    vocab = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    # As in SentencePiece, any two pieces that form a piece merge, the earliest learned first.
    splits = ((piece[:i], piece[i:]) for piece in pieces for i in range(1, len(piece)))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(vocab)},
            merges=[pair for pair in splits if pair[0] in learnt and pair[1] in learnt],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer, specials


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
