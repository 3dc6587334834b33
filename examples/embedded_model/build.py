"""Builds, loads and saves the checkpoint: a small LLaVA-Interleave model and its tokenizer, in Hugging Face's layout.

SigLIP tower, two-layer MLP projector, Qwen2 decoder.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pool
import torch
import torch.nn.functional as F
from packing import SYSTEM
from precision import DEVICE
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
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
    """The tokenizer beside this file: a byte-level BPE like Qwen2's, with merges from the world's sentences.

    It is kept as a file because building it from today's sentences would renumber the trained tokens.
    """
    return Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))


def build_model(tokenizer: Tokenizer, seed: int = 0) -> LlavaForConditionalGeneration:
    """The model with random weights."""
    torch.manual_seed(seed)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIALS}
    vision = SiglipVisionConfig(
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=8,
        image_size=pool.IMAGE_SIDE,
        patch_size=pool.PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
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
    # On a CPU the fused attention's backward pass is slower at these lengths.
    attention = "eager" if DEVICE.type == "cpu" else "sdpa"
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def load_checkpoint(folder: Path, tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """A saved checkpoint in fp32, enlarged to the size of `build_model` and the tokenizer.

    A new token starts with the mean embedding of the tokens its text had before. A new layer starts as the identity: it
    adds 0. Larger patches start with the smaller patches' weights, interpolated. A wider tower starts with the narrower
    one's channels and heads, which do not read the new ones; a narrower MLP keeps the units of the largest weights.
    """
    old = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    known = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = build_model(tokenizer)
    weights = old.state_dict()
    vision, text = old.config.vision_config, old.config.text_config
    towers = _spread(vision.num_hidden_layers, model.config.vision_config.num_hidden_layers)
    decoders = _spread(text.num_hidden_layers, model.config.text_config.num_hidden_layers)
    if vision.hidden_size != model.config.vision_config.hidden_size:
        _fit_units(weights, model.config.vision_config.intermediate_size)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            layers = towers if ".encoder.layers." in name else decoders
            found = re.search(r"\.layers\.(\d+)\.", name)
            if found and int(found[1]) not in layers:
                if re.search(r"\.(out_proj|fc2|o_proj|down_proj)\.", name):
                    weight.zero_()
                continue
            source = name.replace(found[0], f".layers.{layers.index(int(found[1]))}.") if found else name
            before = weights[source]
            if "patch_embedding.weight" in name and before.shape != weight.shape:
                scale = (before.shape[-1] / weight.shape[-1]) ** 2
                size = tuple(weight.shape[-2:])
                before = scale * F.interpolate(before, size, mode="bilinear", align_corners=False)
            if before.shape == weight.shape:
                weight.copy_(before)
            elif "vision_tower." in name or "projector.linear_1" in name:
                _widen(name, before, weight)
        embeddings = model.get_input_embeddings().weight
        before = old.get_input_embeddings().weight
        embeddings[: known.get_vocab_size()] = before[: known.get_vocab_size()]
        for token, number in tokenizer.get_vocab().items():
            if known.token_to_id(token) is None:
                text_of = tokenizer.decode([number], skip_special_tokens=False)
                ids = known.encode(text_of, add_special_tokens=False).ids
                embeddings[number] = before[ids].mean(0)
    return model


def _widen(name: str, before: Tensor, weight: Tensor) -> None:
    """Put a tower's weight into a wider tower's, so that the old channels go on as before."""
    if name.endswith("linear_1.weight") or re.search(r"(q_proj|k_proj|v_proj|out_proj|fc1)\.weight$", name):
        weight[:, before.shape[1] :] = 0
    if re.search(r"layer_?norm\d?\.weight$", name):
        # The norm divides by a mean over more channels; the new ones begin near 0.
        before = before * (len(before) / len(weight)) ** 0.5
    elif "embedding" in name:
        weight.mul_(0.1)
    elif re.search(r"(out_proj|fc2)\.", name):
        weight[before.shape[0] :] *= 0.1
    weight[tuple(slice(size) for size in before.shape)] = before


def _fit_units(weights: dict[str, Tensor], count: int) -> None:
    """Keep the `count` units of each MLP of a tower that have the largest weights."""
    for name in [name for name in weights if "vision_tower." in name and name.endswith("fc1.weight")]:
        prefix = name.removesuffix("fc1.weight")
        size = weights[name].norm(dim=1) * weights[f"{prefix}fc2.weight"].norm(dim=0)
        kept = size.topk(min(count, len(size))).indices.sort().values
        for part in ("fc1.weight", "fc1.bias"):
            weights[prefix + part] = weights[prefix + part][kept]
        weights[f"{prefix}fc2.weight"] = weights[f"{prefix}fc2.weight"][:, kept]


def _spread(before: int, now: int) -> list[int]:
    """The new index of each of the `before` layers among the `now` layers."""
    return [(number + 1) * now // before - 1 for number in range(before)]


def save_checkpoint(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the checkpoint as fp16 safetensors with tokenizer and processor files, loadable by transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to("cpu", torch.float16).save_pretrained(folder)
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
