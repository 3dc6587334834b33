"""The families beside LLaVA-NeXT-Interleave, from checkpoint to answer, against transformers on the same weights.

Random weights of small dimensions, decoder in f16 and tower in fp32, on llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.paths import GOLDEN_FOLDER
from support.tiny import LLAVA_TEMPLATE

import edge_interleave as ei
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.inputs import TextInput, as_inputs
from edge_interleave.decoding.session import Session
from edge_interleave.model import Model, load
from edge_interleave.prompt.messages import Message, as_messages, media_of

GOLDEN = GOLDEN_FOLDER / "lineage.npz"
STEPS = 16
LEAST_COSINE = 0.99999


@dataclass(frozen=True)
class Kind:
    """A family with its decoder and tower."""

    family: str
    decoder: str
    vision: str
    tokenizer: str


KINDS = {
    "onevision": Kind("llava_onevision", "qwen2", "siglip", "qwen2"),
    "next-mistral": Kind("llava_next", "mistral", "clip", "llama3"),
    "next-llama": Kind("llava_next", "llama", "clip", "llama3"),
    "next-qwen": Kind("llava_next", "qwen2", "clip", "qwen2"),
    "joycaption": Kind("llava", "llama", "siglip", "llama3"),
    "llava-1.5": Kind("llava", "llama", "clip", "llama3"),
}


@dataclass(frozen=True)
class Case:
    """A question about pictures of these sizes, or about a video of as many frames."""

    question: str
    images: tuple[tuple[int, int], ...] = ()
    frames: int = 0


CASES = {
    "small image": Case("What is in the picture?", ((20, 24),)),
    # Of a size at which no two logits nearly tie, which f16 weights would decide otherwise.
    "wide image": Case("What is in the picture?", ((130, 50),)),
    "large image": Case("What is in the picture?", ((165, 170),)),
    "three images": Case("What changed?", ((40, 30), (30, 100), (170, 60))),
    "video": Case("What moves?", frames=8),
}


def has_case(kind: str, case: str) -> bool:
    """Whether transformers' class has it: only LLaVA-OneVision's knows videos."""
    return case != "video" or KINDS[kind].family == "llava_onevision"


def write_kind(folder: Path, name: str) -> Path:
    kind = KINDS[name]
    config = model_config("tiny", "qwen2" if kind.decoder == "qwen2" else "llama", kind.vision)
    # Untied, or random weights repeat the last token for ever.
    decoder = replace(config.decoder, tie_word_embeddings=False, context_length=4096)
    vision = config.vision if name != "joycaption" else replace(config.vision, feature_layer=-2)
    options = Options(seed=4, tokenizer=kind.tokenizer, scale=1.5, family=kind.family, decoder=kind.decoder)
    write_random_checkpoint(folder, replace(config, decoder=decoder, vision=vision), options)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": LLAVA_TEMPLATE}))
    return folder


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def pictures(case: Case) -> tuple[list[Image.Image], list[Image.Image]]:
    """The images, and the frames of the video."""
    images = [picture(number, size) for number, size in enumerate(case.images)]
    return images, [picture(10 + number, (64, 48)) for number in range(case.frames)]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("lineage") / "checkpoint", kind)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[Model]:
    bundle = convert(checkpoint, checkpoint.parent / "bundle", quantization="f16", vision_precision="fp32")
    with load(bundle.folder, context=4096, threads=1) as opened:
        yield opened


def message(case: Case, folder: Path) -> list[Message]:
    images, frames = pictures(case)
    if not frames:
        return as_messages(case.question, images=images)
    for number, frame in enumerate(frames):
        frame.save(folder / f"{number}.png")
    return as_messages(case.question, videos=[ei.Video(folder, len(frames))])


def computed(model: Model, case: Case, folder: Path) -> tuple[np.ndarray, list[int], list[int], np.ndarray]:
    """Visual tokens, prompt ids with `<image>` for each visual token, the greedy answer, the first logits."""
    messages = message(case, folder)
    encoded = model.media_encoder.encode(media_of(messages), frames=8, stride=1, tiles=False)
    prompt = as_inputs(model.prompts.build(messages, encoded.counts), encoded.images)
    image = model.tokenizer.token_id("<image>")
    assert image is not None
    ids: list[int] = []
    for part in prompt:
        ids += part.ids if isinstance(part, TextInput) else [image] * part.size
    session = Session(model._open_decoder(4096), model.tokenizer, [10**6])
    prefilled = session.prefill(prompt)
    assert prefilled is not None
    logits = np.array(prefilled.logits)
    stream = session.stream(prompt, GenerationOptions(STEPS))
    list(stream)
    session.close()
    features = np.concatenate([visual.embeddings for visual in encoded.images])
    return features, ids, list(stream.answer.token_ids), logits


def compare(
    ours: tuple[np.ndarray, list[int], list[int], np.ndarray],
    theirs: tuple[np.ndarray, list[int], list[int], np.ndarray],
) -> None:
    assert ours[0].shape == theirs[0].shape
    # Pixels differ by a level in 255 at most, as Pillow and transformers round resized images differently.
    assert min(cosine(a, b) for a, b in zip(ours[0], theirs[0], strict=True)) >= 0.999
    assert ours[1] == list(theirs[1])
    assert cosine(ours[3], theirs[3]) >= LEAST_COSINE
    assert ours[2] == list(theirs[2])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", CASES)
def test_features_prompt_logits_and_answer_are_those_transformers_gave(
    model: Model, kind: str, name: str, tmp_path: Path
) -> None:
    if not has_case(kind, name):
        pytest.skip("transformers' class knows no videos")
    with np.load(GOLDEN) as golden:
        theirs = [golden[f"{kind}/{name}/{what}"] for what in ("features", "prompt", "answer", "logits")]
    compare(computed(model, CASES[name], tmp_path), (theirs[0], theirs[1].tolist(), theirs[2].tolist(), theirs[3]))


@pytest.mark.oracle
def test_features_prompt_logits_and_answer_are_those_of_transformers(
    model: Model, kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from golden.make_lineage import Oracle

    oracle = Oracle(checkpoint)
    for name, case in CASES.items():
        if has_case(kind, name):
            theirs = oracle.answer(case.question, *pictures(case), LLAVA_TEMPLATE, STEPS)
            compare(computed(model, case, tmp_path), theirs)
