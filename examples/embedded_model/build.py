"""The untrained checkpoint: a small LLaVA-Interleave model and its tokenizer, in the layout of Hugging Face.

SigLIP tower, two-layer MLP projector, Qwen2 decoder. Knows nothing about training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pool
import tasks
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
SYSTEM = "You are a helpful assistant."
# The pre-tokenizer of Qwen2 (its tokenizer.json), so that llama.cpp's "qwen2" splits text the same way.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_tokenizer() -> Tokenizer:
    """The tokenizer kept beside this file: other sentences must not renumber what has been trained."""
    return Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))


def build_tokenizer() -> Tokenizer:
    """How that tokenizer was made: a byte-level BPE like Qwen2's, with merges from the world's own sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=760,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


def build_model(tokenizer: Tokenizer, seed: int = 0) -> LlavaForConditionalGeneration:
    """The model with random weights."""
    torch.manual_seed(seed)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIALS}
    vision = SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=pool.IMAGE_SIDE,
        patch_size=pool.PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    config.mm_spatial_pool_mode = "average"
    # Plain matrix products: on a CPU the fused attention's backward pass takes longer at these lengths.
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def load_checkpoint(folder: Path) -> LlavaForConditionalGeneration:
    """A saved checkpoint, in fp32, to train on."""
    return LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def save_checkpoint(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the checkpoint as fp16 safetensors with tokenizer and processor files, loadable by transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = next(model.parameters()).dtype
    model.to(torch.float16).save_pretrained(folder)
    model.to(dtype)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": list(SPECIALS[1:]),
            "model_max_length": 4096,
            "clean_up_tokenization_spaces": False,
        },
        "preprocessor_config.json": {
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "size": {"height": pool.IMAGE_SIDE, "width": pool.IMAGE_SIDE},
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": pool.PATCH,
            "num_additional_image_tokens": 0,
            "vision_feature_select_strategy": "full",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _sentences() -> list[str]:
    rng = random.Random(0)
    lines = [f"system\n{SYSTEM}", "user\nassistant\n", *(f"image {i} Image {i} frame {i}" for i in range(10))] * 20
    for task in tasks.TASKS:
        for _ in range(600):
            sample = tasks.draw_sample(task, rng)
            lines += [sample.question, sample.answer]
    for kind in tasks.SCENE_QUESTIONS.values():
        for _ in range(600):
            group = pool.single(rng)
            qa = kind(rng, group.scenes[0], " in image 2")
            lines += qa or ()
    for shape in ("circle", "square", "rectangle", "line", "dot", "oval", "ring"):
        lines += [f"There is a {shape}, {shape}s and no {shape}."] * 3
    return lines
