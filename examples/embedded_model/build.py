"""The untrained checkpoint: a small LLaVA-Interleave model and its tokenizer, in the layout of Hugging Face.

SigLIP tower, two-layer MLP projector, Qwen2 decoder. Knows nothing about training.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pool
import torch
import torch.nn.functional as F
from packing import SYSTEM
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from edge_interleave.world.cast import SEEN, THINGS, WORDS
from edge_interleave.world.foreign_questions import foreign
from edge_interleave.world.groups import single
from edge_interleave.world.more_questions import (
    MORE_QUESTIONS,
    NO_PICTURE,
    UNKNOWN_PICTURE,
    UNKNOWN_QUESTION,
    absent,
    count_named,
    nearly_there,
    same,
)
from edge_interleave.world.questions import EMPTY, SCENE_QUESTIONS, plural
from edge_interleave.world.samples import FIRST, TASKS, draw_sample
from edge_interleave.world.scene import free_scene
from edge_interleave.world.wordings import reworded

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
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
    """The tokenizer kept beside this file: other sentences must not renumber what has been trained.

    It is `build_tokenizer`'s, grown once more by `everyday_words`.
    """
    return Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))


def build_tokenizer() -> Tokenizer:
    """How that tokenizer was made: a byte-level BPE like Qwen2's, with merges from the world's own sentences.

    The first version's were of shapes alone. `grow` added a token for each word that came with the things, so that
    the first version's tokens kept their numbers.
    """
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
    tokenizer.train_from_iterator(_first_sentences(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return grow(tokenizer, new_words(tokenizer))


def grow(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """The tokenizer with one token for each of the words, which begin with their space where they have one.

    Merges are added after those that are there, so all else is cut as before.
    """
    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    vocab.update({token["content"]: token["id"] for token in state["added_tokens"]})
    for word in words:
        current = Tokenizer.from_str(json.dumps(state))
        pieces = current.encode(word, add_special_tokens=False).tokens
        while len(pieces) > 1:
            merged = pieces[0] + pieces[1]
            merges.append([pieces[0], pieces[1]])
            vocab.setdefault(merged, len(vocab))
            pieces = [merged, *pieces[2:]]
    return Tokenizer.from_str(json.dumps(state))


def everyday_words(tokenizer: Tokenizer, samples: int = 600, often: int = 8) -> list[str]:
    """The words that everyday questions of training and their answers say often, as the tokenizer lacks."""
    rng = random.Random(2)
    counts: Counter[str] = Counter()
    texts = [UNKNOWN_PICTURE, UNKNOWN_QUESTION, NO_PICTURE, EMPTY] * often
    for task in TASKS:
        for _ in range(samples):
            texts.append(reworded(rng, draw_sample(task, rng, SEEN).question))
    for ask in MORE_QUESTIONS.values():
        for _ in range(samples):
            scene = free_scene(rng, SEEN)
            more = {"cast": SEEN} if ask in (absent, count_named, nearly_there) else {}
            qa = ask(rng, scene, rng.choice(("", " in image 2")), **more)
            if qa is not None:
                texts += [qa[0], reworded(rng, qa[0]), qa[1]]
    for _ in range(samples):
        texts += [reworded(rng, q) for q in (same(rng, True)[0], "Compare the two images.")]
        texts.append(foreign(rng))
    for text in texts:
        counts.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    spelt = [tokenizer.decoder.decode([word]) for word, count in counts.items() if count >= often]
    words = {text for text in spelt if text.strip().isalpha()}
    return sorted(word for word in words if len(tokenizer.encode(word, add_special_tokens=False).ids) > 1)


def new_words(tokenizer: Tokenizer) -> list[str]:
    """The things, their plurals, the words on signs, and what else new sentences say often, as the tokenizer lacks."""
    words = {f" {form}" for thing in THINGS for form in (thing, plural(thing))} | {f" {word}" for word in WORDS}
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for task in TASKS:
        for _ in range(300):
            sample = draw_sample(task, rng, SEEN)
            for text in (sample.question, sample.answer):
                counts.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    spelt = {word: tokenizer.decoder.decode([word]) for word, count in counts.items() if count >= 100}
    words |= {text for word, text in spelt.items() if text.strip().isalpha()}
    return sorted(word for word in words if len(tokenizer.encode(word, add_special_tokens=False).ids) > 1)


def build_model(tokenizer: Tokenizer, seed: int = 0) -> LlavaForConditionalGeneration:
    """The model with random weights."""
    torch.manual_seed(seed)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIALS}
    vision = SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
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
    # Plain matrix products: on a CPU the fused attention's backward pass takes longer at these lengths.
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def load_checkpoint(folder: Path, tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """A saved checkpoint, in fp32, to train on; enlarged where `build_model` and the tokenizer have grown since.

    A new token's embedding begins as the mean of those of the tokens that its text was until then. New layers begin as
    if they were not there: what they add is 0. Patches of more pixels begin with the weights of the smaller ones,
    spread over them.
    """
    old = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    known = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = build_model(tokenizer)
    weights = old.state_dict()
    vision, text = old.config.vision_config, old.config.text_config
    towers = _spread(vision.num_hidden_layers, model.config.vision_config.num_hidden_layers)
    decoders = _spread(text.num_hidden_layers, model.config.text_config.num_hidden_layers)
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
        embeddings = model.get_input_embeddings().weight
        before = old.get_input_embeddings().weight
        embeddings[: known.get_vocab_size()] = before[: known.get_vocab_size()]
        for token, number in tokenizer.get_vocab().items():
            if known.token_to_id(token) is None:
                text_of = tokenizer.decode([number], skip_special_tokens=False)
                ids = known.encode(text_of, add_special_tokens=False).ids
                embeddings[number] = before[ids].mean(0)
    return model


def _spread(before: int, now: int) -> list[int]:
    """Where each of the layers of before stands among those of now."""
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


def _first_sentences() -> list[str]:
    rng = random.Random(0)
    lines = [f"system\n{SYSTEM}", "user\nassistant\n", *(f"image {i} Image {i} frame {i}" for i in range(10))] * 20
    for task in FIRST:
        for _ in range(600):
            sample = draw_sample(task, rng)
            lines += [sample.question, sample.answer]
    for kind in SCENE_QUESTIONS.values():
        for _ in range(600):
            group = single(rng)
            qa = kind(rng, group.scenes[0], " in image 2")
            lines += qa or ()
    for shape in ("circle", "square", "rectangle", "line", "dot", "oval", "ring"):
        lines += [f"There is a {shape}, {shape}s and no {shape}."] * 3
    return lines
