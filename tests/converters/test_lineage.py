"""The families beside LLaVA-NeXT-Interleave, from checkpoint to answer, against transformers on the same weights.

Random weights of small dimensions, decoder in f16 and tower in fp32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.command_line import environment, run
from support.paths import GOLDEN_FOLDER
from support.tiny import LLAVA_TEMPLATE, change_manifest

import edge_interleave as ei
from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.converters.checkpoint.conversations import CONVERSATIONS
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.checkpoint.tokenizer import read_tokenizer
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.inputs import TextInput, as_inputs
from edge_interleave.decoding.session import Session
from edge_interleave.errors import BundleError, CheckpointError
from edge_interleave.model import Model, load
from edge_interleave.prompt.builder import ImageSegment, TextSegment
from edge_interleave.prompt.messages import Message, as_messages, media_of
from edge_interleave.prompt.template import ChatTemplate
from edge_interleave.vision.media_encoder import PictureGroup

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
    "next-vicuna": Kind("llava_next", "llama", "clip", "llama2"),
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


RUNS = [*((kind, "llama-cpp") for kind in KINDS), ("onevision", "mlx"), ("next-mistral", "mlx")]


@pytest.fixture(scope="module", params=RUNS, ids=" on ".join)
def run_of(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind, backend = request.param
    return str(kind), str(backend)


@pytest.fixture(scope="module")
def kind(run_of: tuple[str, str]) -> str:
    return run_of[0]


@pytest.fixture(scope="module")
def checkpoint(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("lineage") / "checkpoint", kind)


@pytest.fixture(scope="module")
def model(checkpoint: Path, run_of: tuple[str, str]) -> Iterator[Model]:
    exact = {"quantization": "f16"} if run_of[1] == "llama-cpp" else {"mlx_quantization": "f16"}
    bundle = convert(checkpoint, checkpoint.parent / "bundle", vision_precision="fp32", **exact)
    with load(bundle.folder, backend=run_of[1], context=4096, threads=1) as opened:
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


def original(folder: Path, **fields: object) -> Path:
    """The checkpoint `onevision` in the original layout: the same weights, as LLaVA-NeXT's code writes them."""
    config = model_config("tiny")
    decoder = replace(config.decoder, tie_word_embeddings=False, context_length=4096)
    write_random_checkpoint(folder, replace(config, decoder=decoder), Options("original", seed=4, scale=1.5))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **ONEVISION, **fields}))
    return folder


ONEVISION = {
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "one_token",
    "mm_spatial_pool_mode": "bilinear",
}
"""Fields of lmms-lab/llava-onevision-qwen2-0.5b-ov."""


@pytest.fixture(scope="module")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("onevision")
    bundle = convert(write_kind(folder / "c", "onevision"), folder / "b", quantization="f16", vision_precision="fp32")
    with load(bundle.folder, context=4096, threads=1) as opened:
        yield opened


class TestRunning:
    """LLaVA-OneVision through the public interface. A part has 4 x 4 tokens, a newline is one more."""

    def test_an_image_alone_is_seen_in_tiles_and_several_are_seen_whole(self, onevision: Model) -> None:
        large = picture(0, (165, 170))
        alone = onevision.ask([large, "What?"], max_tokens=1).stats.visual_tokens
        assert alone == 16 + 12 * (12 + 1)
        assert onevision.ask([large, large, "What?"], max_tokens=1).stats.visual_tokens == 2 * (16 + 1)
        assert onevision.ask([large, large, "What?"], max_tokens=1, tiles=True).stats.visual_tokens == 2 * alone

    def test_an_image_beside_a_video_is_alone(self, onevision: Model, tmp_path: Path) -> None:
        messages = message(CASES["video"], tmp_path)
        parts = [picture(0, (165, 170)), *messages[0].parts]
        assert onevision.ask(parts, max_tokens=1).stats.visual_tokens == 16 + 12 * (12 + 1) + 8 * 4 + 1

    def test_tokens_are_counted_as_they_are_encoded(self, onevision: Model) -> None:
        encoder = onevision.media_encoder
        image = PictureGroup([picture(0, (165, 170))])
        video = PictureGroup([picture(number, (64, 48)) for number in range(3)], video=True)
        for stride in (1, 2, 3):
            for groups in ([image], [image, image], [video], [image, video], [image, image, video]):
                alone = groups.count(image) == 1
                encoded = encoder.encode_pictures(groups, stride=stride, tiles=False)
                counted = sum(encoder.tokens_for(group, stride, alone=alone) for group in groups)
                assert sum(visual.size for visual in encoded.images) == counted

    def test_a_live_window_pools_frames_at_least_as_the_model_was_trained(self, onevision: Model) -> None:
        entries = {}
        for stride in (1, 2, 4):
            with onevision.live(window=2, pool=stride) as live:
                for number in range(2):
                    live.add(picture(number, (64, 48)))
                entries[stride] = live.ask("What?", max_tokens=1).stats.prompt_tokens
        assert entries[1] == entries[2] == entries[4] + 2 * (4 - 1)

    def test_info_says_what_the_model_was_trained_for(self, onevision: Model, tmp_path: Path) -> None:
        told = run("info", onevision.bundle.folder, "--json", env=environment(tmp_path))
        vision = json.loads(told.stdout)["vision"]
        assert vision["tiles"] == "an image that is alone"
        assert vision["tokens_per_image_in_tiles_at_most"] >= 16 + 12 * (12 + 1)
        assert vision["tokens_per_video_frame"] == 4

    def test_an_older_program_refuses_the_bundle(self, onevision: Model) -> None:
        assert onevision.bundle.manifest.schema_version == 2

    @pytest.mark.parametrize(
        ("part", "value"),
        [
            ("tiling", {"grids": [], "several": True, "small": True}),
            ("tiling", {"grids": [[1, 99]], "several": True, "small": True}),
            ("tiling", {"grids": [[1, 1.5]], "several": True, "small": True}),
            ("tiling", {"grids": "all", "several": True, "small": True}),
            ("tiling", {"grids": [[1, 1]], "several": 1, "small": True}),
            ("tiling", 7),
            ("video", {"stride": 0, "resize": "squash"}),
            ("video", {"stride": 2, "resize": "melt"}),
        ],
    )
    def test_a_manifest_with_other_tiles_is_refused(
        self, onevision: Model, tmp_path: Path, part: str, value: object
    ) -> None:
        folder = Path(shutil.copytree(onevision.bundle.folder, tmp_path / "bundle"))
        change_manifest(folder, "vision", **{part: value})
        with pytest.raises(BundleError, match=part):
            open_bundle(folder)


class TestOriginalLayout:
    def test_onevision_has_the_visual_tokens_of_the_hugging_face_layout(self, tmp_path: Path) -> None:
        bundle = convert(original(tmp_path / "c"), tmp_path / "b", quantization="f16", vision_precision="fp32")
        with np.load(GOLDEN) as golden, load(bundle.folder, context=4096, threads=1) as opened:
            for name, case in CASES.items():
                media = media_of(message(case, tmp_path))
                encoded = opened.media_encoder.encode(media, frames=8, stride=1, tiles=False)
                features = np.concatenate([visual.embeddings for visual in encoded.images])
                theirs = golden[f"onevision/{name}/features"]
                assert features.shape == theirs.shape
                assert min(map(cosine, features, theirs)) >= 0.999

    def test_next_has_the_visual_tokens_of_the_hugging_face_layout(self, tmp_path: Path) -> None:
        config = model_config("tiny", "llama", "clip")
        decoder = replace(config.decoder, tie_word_embeddings=False, context_length=4096)
        options = Options("original", seed=4, scale=1.5, tokenizer="llama3")
        folder = write_random_checkpoint(tmp_path / "c", replace(config, decoder=decoder), options)
        raw = json.loads((folder / "config.json").read_text())
        grids = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
        raw |= {"mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": grids}
        (folder / "config.json").write_text(json.dumps(raw))
        bundle = convert(folder, tmp_path / "b", quantization="f16", vision_precision="fp32")
        with np.load(GOLDEN) as golden, load(bundle.folder, context=4096, threads=1) as opened:
            # For small images two grids are equally good, and the two layouts choose differently.
            for name in ("wide image", "large image", "three images"):
                media = media_of(message(CASES[name], tmp_path))
                encoded = opened.media_encoder.encode(media, frames=8, stride=1, tiles=False)
                features = np.concatenate([visual.embeddings for visual in encoded.images])
                theirs = golden[f"next-llama/{name}/features"]
                assert features.shape == theirs.shape
                assert min(map(cosine, features, theirs)) >= 0.999

    def test_a_video_is_one_marker_with_one_newline_in_the_prompt(self, tmp_path: Path) -> None:
        bundle = convert(original(tmp_path / "c"), tmp_path / "b", quantization="f16", vision_precision="fp32")
        with load(bundle.folder, threads=1) as opened:
            messages = as_messages("What moves?", videos=[ei.Video("clip", 3)])
            before, *frames, after = opened.prompts.build(messages, [3])
            assert [frame for frame in frames if isinstance(frame, ImageSegment)] == frames
            assert len(frames) == 3
            assert isinstance(after, TextSegment)
            assert isinstance(before, TextSegment)
            expected = "\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"
            assert list(after.ids) == opened.tokenizer.encode(expected)

    def test_pairs_of_pixels_are_width_and_height_unlike_in_the_hugging_face_layout(self, tmp_path: Path) -> None:
        folder = original(tmp_path / "c", image_grid_pinpoints=[[28, 56], [56, 28]])
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.config.tiling is not None
            assert checkpoint.config.tiling.grids == ((1, 2), (2, 1))

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"image_grid_pinpoints": None}, "image_grid_pinpoints"),
            ({"image_grid_pinpoints": "many"}, "image_grid_pinpoints"),
            ({"image_grid_pinpoints": "(1x1),...,(99x99)"}, "image_grid_pinpoints"),
            ({"image_grid_pinpoints": "(1x1),...,(0x0)"}, "image_grid_pinpoints"),
            ({"mm_newline_position": "grid"}, "mm_newline_position"),
            ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type"),
        ],
    )
    def test_other_tiles_are_refused(self, tmp_path: Path, fields: dict[str, object], named: str) -> None:
        with pytest.raises(CheckpointError, match=f"field '{named}'"):
            open_checkpoint(original(tmp_path / "c", **fields))


TURNS = [
    {"role": "user", "content": "<image>\nFirst?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Second?"},
]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: <image>\nFirst? ASSISTANT: Yes.</s>USER: Second? ASSISTANT:"
)
LLAMA_3 = (
    "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. You are able to "
    "understand the visual content that the user provides, and assist the user with a variety of tasks using natural "
    "language.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<image>\nFirst?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nSecond?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vicuna_v1", VICUNA),
        ("mistral_instruct", "[INST] <image>\nFirst? [/INST] Yes. </s>[INST] Second? [/INST]"),
        ("llava_llama_3", LLAMA_3),
    ],
)
def test_conversations_are_those_of_the_original_code(name: str, expected: str) -> None:
    """The expected texts follow `Conversation.get_prompt` of llava/conversation.py."""
    template = ChatTemplate(CONVERSATIONS[name])
    assert template.render(TURNS) == expected
    own = template.render([{"role": "system", "content": "Be brief."}, *TURNS])
    assert "Be brief." in own
    assert "helpful" not in own


def test_an_original_mistral_and_a_vicuna_get_their_conversations(tmp_path: Path) -> None:
    for name, start in (("LlavaMistralForCausalLM", "[INST]"), ("LlavaLlamaForCausalLM", "A chat between")):
        config = model_config("tiny", "llama", "clip")
        folder = write_random_checkpoint(tmp_path / name, config, Options("original", tokenizer="llama2"))
        for path, change in (
            ("config.json", {"architectures": [name], "sliding_window": None}),
            ("tokenizer_config.json", {"chat_template": None}),
        ):
            raw = json.loads((folder / path).read_text())
            (folder / path).write_text(json.dumps({**raw, **change}))
        with open_checkpoint(folder) as checkpoint:
            template = read_tokenizer(checkpoint).prompt_template
        assert template is not None
        assert ChatTemplate(template).render(TURNS).startswith(start)
