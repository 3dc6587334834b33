"""From checkpoint to answer, against transformers on the same random weights: f16 decoder, fp32 tower."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.paths import GOLDEN_FOLDER
from support.tiny import LLAVA_TEMPLATE

import edge_interleave as ei
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.inputs import Input, TextInput, as_inputs
from edge_interleave.decoding.session import Session
from edge_interleave.model import load
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.messages import as_messages, media_of
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.vision.media_encoder import MediaEncoder

GOLDEN = GOLDEN_FOLDER / "parity.npz"
STEPS = 16
BACKENDS = ("llama-cpp", "mlx", "onnx")
LEAST_COSINE = 0.99999


@dataclass(frozen=True)
class Kind:
    """An architecture and its checkpoint's layout."""

    decoder: str
    vision: str
    generation: str
    tokenizer: str
    patch_size: int = 7


KINDS = {
    "qwen2 and siglip": Kind("qwen2", "siglip", "hf-2024", "qwen2"),
    "llama and clip": Kind("llama", "clip", "hf-5", "llama3"),
    "qwen3 and siglip": Kind("qwen3", "siglip", "hf-5", "qwen2"),
}
# Numbers stand for pictures, in place; `messages` with roles where there are several.
CASES: list[list[tuple[str, list[str | int]]]] = [
    [("user", ["What is the capital of nowhere?"])],
    [("user", [0, "What is in the picture?"])],
    [("user", [0, 1, "What changed between the two?"])],
    [("user", ["The first: ", 2, "\nthe second: ", 3, "\nWhich is brighter?"])],
    [("user", [0, 1, 2, 3, 4, 5, "In which frame does it appear?"])],
    [
        ("user", [4, "What is this?"]),
        ("assistant", ["A picture."]),
        ("user", [5, 4, "And are these the same?"]),
    ],
]


def write_kind(folder: Path, name: str) -> Path:
    kind = KINDS[name]
    config = model_config("tiny", decoder=kind.decoder, vision=kind.vision)
    # Untied, or random weights repeat the last token for ever.
    config = replace(config, decoder=replace(config.decoder, tie_word_embeddings=False))
    options = Options(generation=kind.generation, seed=4, tokenizer=kind.tokenizer, scale=1.5)
    write_random_checkpoint(folder, config, options)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": LLAVA_TEMPLATE}))
    return folder


def picture(number: int) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((120, 100), Image.Resampling.BICUBIC)


def pictures(case: list[tuple[str, list[str | int]]]) -> list[Image.Image]:
    return [picture(part) for _, parts in case for part in parts if isinstance(part, int)]


def hf_messages(case: list[tuple[str, list[str | int]]]) -> list[dict[str, Any]]:
    """Messages as transformers needs them: with markers in the text unless all images come first."""
    messages = []
    for role, parts in case:
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == 1:
            content = [{"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in parts]
        else:
            joined = "".join("<image>" if isinstance(part, int) else part for part in parts)
            content = [{"type": "text", "text": joined}]
        messages.append({"role": role, "content": content})
    return messages


def our_messages(case: list[tuple[str, list[str | int]]]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": [picture(part) if isinstance(part, int) else part for part in _marked(parts)]}
        for role, parts in case
    ]


def _marked(parts: list[str | int]) -> list[str | int]:
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == 1:
        return parts
    joined = "".join("<image>" if isinstance(part, int) else part for part in parts)
    return [*(part for part in parts if isinstance(part, int)), joined]


class Ours:
    """A converted checkpoint whose prompt and logits can be inspected."""

    def __init__(self, checkpoint: Path, bundle: Path, backend: str) -> None:
        exact = {"quantization": "f16", "mlx_quantization": "f16", "onnx_precision": "f32"}
        self.bundle = convert(checkpoint, bundle, backends=list(BACKENDS), vision_precision="fp32", **exact)
        self.model = load(bundle, backend=backend, context=512, threads=1)
        self.tokenizer = TextTokenizer.open(self.bundle)
        self.prompts = PromptBuilder(self.bundle, self.tokenizer)
        self.media_encoder = MediaEncoder(self.bundle, 1)

    def prompt(self, case: list[tuple[str, list[str | int]]]) -> list[Input]:
        messages = as_messages(our_messages(case))
        encoded = self.media_encoder.encode(media_of(messages), frames=1, stride=1, tiles=False)
        return as_inputs(self.prompts.build(messages, encoded.counts), encoded.images)

    def ids(self, prompt: list[Input]) -> list[int]:
        image = self.tokenizer.token_id("<image>")
        assert image is not None
        ids: list[int] = []
        for part in prompt:
            ids += part.ids if isinstance(part, TextInput) else [image] * len(part.rows)
        return ids

    def answer(self, prompt: list[Input]) -> tuple[np.ndarray, list[int]]:
        """The first logits, and the greedy answer without stopping at end tokens."""
        session = Session(self.model._open_decoder(1024), self.tokenizer, [10**6])
        prefilled = session.prefill(prompt)
        assert prefilled is not None
        stream = session.stream(prompt, GenerationOptions(STEPS))
        list(stream)
        session.close()
        return prefilled.logits, list(stream.answer.token_ids)

    def behind(self, prompt: list[Input], begun: list[int], token: int) -> float:
        """How far a token's logit is below the largest after the prompt and the tokens of an answer begun."""
        session = Session(self.model._open_decoder(1024), self.tokenizer, [10**6])
        prefilled = session.prefill([*prompt, TextInput(tuple(begun))])
        assert prefilled is not None
        session.close()
        return float(prefilled.logits.max() - prefilled.logits[token])

    def check_answer(self, prompt: list[Input], ours: list[int], theirs: list[int]) -> None:
        """The same tokens. ONNX Runtime may differ at a tie: its keys and values in f16 move logits by up to 0.005."""
        if self.model.backend_name != "onnx":
            assert ours == theirs
            return
        same = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        if same is not None:
            assert self.behind(prompt, theirs[:same], theirs[same]) < 0.005


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("parity") / "checkpoint", kind)


@pytest.fixture(scope="module", params=BACKENDS)
def ours(checkpoint: Path, request: pytest.FixtureRequest) -> Iterator[Ours]:
    ours = Ours(checkpoint, checkpoint.parent / request.param, request.param)
    yield ours
    ours.model.close()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("index", range(len(CASES)))
def test_prompt_logits_and_answer_are_those_transformers_gave(ours: Ours, kind: str, index: int) -> None:
    with np.load(GOLDEN) as golden:
        ids, answer, logits = (golden[f"{list(KINDS).index(kind)}-{index}-{k}"] for k in ("prompt", "answer", "logits"))
    prompt = ours.prompt(CASES[index])
    assert ours.ids(prompt) == ids.tolist()
    our_logits, our_answer = ours.answer(prompt)
    assert cosine(our_logits, logits) >= LEAST_COSINE
    ours.check_answer(prompt, our_answer, answer.tolist())


@pytest.mark.oracle
def test_prompt_logits_and_answer_are_those_of_transformers(ours: Ours, kind: str, checkpoint: Path) -> None:
    pytest.importorskip("transformers")
    from golden.make_parity import Oracle

    oracle = Oracle(checkpoint, patch_size=KINDS[kind].patch_size, clip="clip" in kind)
    for case in CASES:
        ids, answer, logits = oracle.answer(oracle.render(hf_messages(case)), pictures(case), STEPS)
        prompt = ours.prompt(case)
        assert ours.ids(prompt) == ids
        our_logits, our_answer = ours.answer(prompt)
        assert cosine(our_logits, logits[0]) >= LEAST_COSINE
        ours.check_answer(prompt, our_answer, answer.tolist())


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LINEAR = {"rope_type": "linear", "factor": 4.0}
ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "both, linear wins": ("qwen2", {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": _LINEAR}),
    "both, default wins": ("qwen2", {"rope_parameters": _LINEAR, "rope_scaling": {"rope_type": "default"}}),
    "both, the base is lost": ("llama", {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": _LINEAR}),
    "llama3 beside a default": ("llama", {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": _LLAMA3}),
    "llama3 of a Qwen2": ("qwen2", {"rope_scaling": _LLAMA3}),
    "linear of a Qwen3": ("qwen3", {"rope_scaling": _LINEAR}),
    "llama3 of a Qwen3": ("qwen3", {"rope_scaling": _LLAMA3}),
}


@pytest.mark.oracle
@pytest.mark.parametrize("engine", BACKENDS)
@pytest.mark.parametrize("name", ROPES)
def test_rotary_fields_are_read_as_in_transformers(tmp_path: Path, name: str, engine: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, fields = ROPES[name]
    folder = write_random_checkpoint(
        tmp_path / "c",
        model_config("tiny", decoder=kind),
        Options(tokenizer="llama3" if kind == "llama" else "qwen2", dtype="f32"),
    )
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"].update(fields)
    (folder / "config.json").write_text(json.dumps(raw))
    if name.startswith("llama3 of") and engine == "llama-cpp":
        refusal = rf"'llama3' of a {kind} decoder is not supported by llama\.cpp"
        with pytest.raises(ei.CheckpointError, match=refusal):
            convert(folder, tmp_path / "b", backends=[engine])
        return
    option, precision = {
        "llama-cpp": ("quantization", "f16"),
        "mlx": ("mlx_quantization", "f16"),
        "onnx": ("onnx_precision", "f32"),
    }[engine]
    bundle = convert(folder, tmp_path / "b", backends=[engine], **{option: precision})
    ids = np.random.default_rng(1).integers(0, 500, 200).tolist()
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
    with load(bundle.folder, backend=engine, threads=1) as ours:
        prefilled = ours._own_session().prefill([TextInput(tuple(ids))])
    assert prefilled is not None
    assert cosine(np.array(prefilled.logits), theirs) >= LEAST_COSINE


def test_a_follow_up_about_the_same_images_computes_only_itself(ours: Ours) -> None:
    chat = ours.model.chat()
    first = chat.ask([picture(0), picture(1), "What changed?"], max_tokens=5)
    second = chat.ask("Are you sure?", max_tokens=5)
    assert first.stats.visual_tokens == second.stats.visual_tokens > 0
    assert second.stats.encode_s == 0
    assert second.stats.prompt_tokens - second.stats.cached_tokens < 40
    third = chat.ask([picture(0), "And now?"], max_tokens=5)
    per_image = first.stats.visual_tokens // 2
    assert third.stats.visual_tokens == 3 * per_image
    assert third.stats.prompt_tokens - third.stats.cached_tokens < per_image + 40
    chat.close()


def test_a_new_question_about_the_same_images_computes_only_the_question(ours: Ours) -> None:
    ours.model.ask([picture(0), picture(1), "What changed?"], max_tokens=3)
    again = ours.model.ask([picture(0), picture(1), "Which is brighter?"], max_tokens=3)
    assert again.stats.prompt_tokens - again.stats.cached_tokens < 40
    assert again.stats.cached_tokens > again.stats.visual_tokens
    pooled = ours.model.ask([picture(0), picture(1), "Which is brighter?"], max_tokens=3, pool=2)
    assert pooled.stats.visual_tokens == again.stats.visual_tokens // 4


def test_an_image_is_the_same_however_it_comes(ours: Ours, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    picture(0).save(path)
    ways = [picture(0), np.asarray(picture(0)), path, path.read_bytes(), ei.Image(str(path))]
    answers = [ours.model.ask([way, "What is it?"], max_tokens=8) for way in ways]
    assert len({answer.token_ids for answer in answers}) == 1
    assert all(answer.stats.cached_tokens == answer.stats.prompt_tokens - 1 for answer in answers[1:])


def test_a_folder_of_frames_is_a_video(ours: Ours, tmp_path: Path) -> None:
    for number in range(6):
        picture(number).save(tmp_path / f"{number}.png")
    answer = ours.model.ask([ei.Video(tmp_path, frames=3), "What moves?"], max_tokens=3)
    one = ours.model.ask([picture(0), "What moves?"], max_tokens=3)
    assert answer.stats.visual_tokens == 3 * one.stats.visual_tokens
    assert ours.model.ask([ei.Video(tmp_path), "What moves?"], max_tokens=3, frames=2).stats.visual_tokens == (
        2 * one.stats.visual_tokens
    )


def test_choose_works_with_images(ours: Ours) -> None:
    choices = ours.model.choose([picture(0), picture(1), "Are they the same?"], ["yes", "no"])
    swapped = ours.model.choose([picture(1), picture(0), "Are they the same?"], ["yes", "no"])
    assert sum(choice.probability for choice in choices) == pytest.approx(1)
    assert choices[0].log_probability != pytest.approx(swapped[0].log_probability, abs=1e-3)


def test_a_picture_that_cannot_be_read_leaves_the_model_usable(ours: Ours, tmp_path: Path) -> None:
    expected = ours.model.ask([picture(0), "What is it?"], max_tokens=4).token_ids
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ei.MediaError, match=r"bad\.png"):
        ours.model.ask([bad, "What is it?"])
    assert ours.model.ask([picture(0), "What is it?"], max_tokens=4).token_ids == expected
