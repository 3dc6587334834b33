"""The families beside LLaVA-NeXT-Interleave, from checkpoint to answer, against transformers on the same weights.

Random weights of small dimensions, decoder in f16 and tower in fp32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import model_config, write_random_checkpoint
from support.command_line import environment, run
from support.lineage import (
    CASES,
    GOLDEN,
    KINDS,
    STEPS,
    Case,
    answered,
    bundle_of,
    cosine,
    has_case,
    message,
    picture,
    pictures,
    write_kind,
)
from support.tiny import change_manifest

from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.converters.checkpoint.family import family_name
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.inputs import TextInput, as_inputs
from edge_interleave.embedded import DEMO_CLIP
from edge_interleave.errors import BundleError, ContextFullError, UsageError
from edge_interleave.evaluation.answering import Answerer, Settings
from edge_interleave.evaluation.sample_size import LocalSize
from edge_interleave.evaluation.samples import Labels, Sample, Turn
from edge_interleave.model import Model, load
from edge_interleave.planning.planner import plan
from edge_interleave.prompt.builder import TextSegment
from edge_interleave.prompt.messages import Image as ImagePart
from edge_interleave.prompt.messages import media_of
from edge_interleave.vision.media_encoder import PictureGroup

LEAST_COSINE = 0.99999
RUNS = [
    *((kind, "llama-cpp") for kind in KINDS),
    ("onevision", "mlx"),
    ("next-mistral", "mlx"),
    ("next-nemo", "mlx"),
    ("next-nemo", "onnx"),
]
EXACT = {
    "llama-cpp": ("quantization", "f16"),
    "mlx": ("mlx_quantization", "f16"),
    "onnx": ("onnx_precision", "f32"),
}
"""The option and the precision in which each engine rounds least."""


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
    option, precision = EXACT[run_of[1]]
    bundle = convert(checkpoint, checkpoint.parent / "bundle", vision_precision="fp32", **{option: precision})
    with load(bundle.folder, backend=run_of[1], context=4096, threads=1) as opened:
        yield opened


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
    features = np.concatenate([visual.embeddings for visual in encoded.images])
    return features, ids, *answered(model, prompt)


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


@pytest.mark.parametrize(
    ("run_of", "name"),
    [
        pytest.param(run, name, id=" on ".join(run) + f": {name}")
        for run in RUNS
        for name in CASES
        if has_case(run[0], name)
    ],
    indirect=["run_of"],
    scope="module",
)
def test_features_prompt_logits_and_answer_are_those_transformers_gave(
    model: Model, kind: str, name: str, tmp_path: Path
) -> None:
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
            theirs = oracle.answer(case.question, *pictures(case), KINDS[kind].template, STEPS)
            compare(computed(model, case, tmp_path), theirs)


@pytest.fixture(scope="module")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    bundle = bundle_of(write_kind(tmp_path_factory.mktemp("onevision") / "checkpoint", "onevision"))
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
        assert json.loads(told.stdout)["family"] == "LLaVA-OneVision"

    def test_an_evaluation_counts_tiles_before_the_tower_runs(self, onevision: Model, tmp_path: Path) -> None:
        picture(0, (165, 170)).save(tmp_path / "large.png")
        turns = (Turn("<image>What?", "?"), Turn("<image>And?", "?"))
        asked = Sample(Labels(0, "0", "tiles", "open-ended"), turns, ("large.png", "large.png"))
        answerer = Answerer(onevision, tmp_path, Settings(max_tokens=2))
        found = answerer.answer(asked)
        assert found is not None
        assert [reply.visual_tokens for reply in found.replies] == [16 + 12 * (12 + 1), 2 * (16 + 12 * (12 + 1))]
        answerer.close()
        size = LocalSize(onevision, 1, 8)
        image = ImagePart(tmp_path / "large.png")
        assert size.tokens(size.opened([image])) == 16 + 12 * (12 + 1)
        assert size.tokens(size.opened([image, image])) == 2 * (16 + 1)
        with pytest.raises(ContextFullError, match="30 images are 5160 visual tokens"):
            size.check_tokens(30 * size.tokens([image]), 30)

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
            ("video", {"stride": 2, "resize": "squash", "newline": "here"}),
            ("video", {"stride": 2, "resize": "squash", "times": "yes"}),
        ],
    )
    def test_a_manifest_with_other_tiles_is_refused(
        self, onevision: Model, tmp_path: Path, part: str, value: object
    ) -> None:
        folder = Path(shutil.copytree(onevision.bundle.folder, tmp_path / "bundle"))
        change_manifest(folder, "vision", **{part: value})
        with pytest.raises(BundleError, match=part):
            open_bundle(folder)


@pytest.fixture(scope="module")
def pooling_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("pooled") / "checkpoint", "next-video")


@pytest.fixture(scope="module")
def pooling(pooling_checkpoint: Path) -> Iterator[Model]:
    with load(bundle_of(pooling_checkpoint).folder, backend="llama-cpp", context=4096, threads=1) as opened:
        yield opened


class TestPooledFrames:
    """LLaVA-NeXT-Video, whose frames the tower's graph pools before the projector."""

    def test_tokens_are_counted_as_they_are_encoded(self, pooling: Model) -> None:
        encoder = pooling.media_encoder
        image = PictureGroup([picture(0, (165, 170))])
        video = PictureGroup([picture(number, (64, 48)) for number in range(3)], video=True)
        for stride, frame in ((1, 4), (2, 4), (3, 4), (4, 1)):
            for groups in ([video], [image, video]):
                encoded = encoder.encode_pictures(groups, stride=stride, tiles=False)
                assert sum(visual.size for visual in encoded.images) == sum(
                    encoder.tokens_for(group, stride) for group in groups
                )
                assert encoded.images[-1].size == frame

    def test_published_configs_name_another_model_type_and_the_context_before_scaling(
        self, pooling_checkpoint: Path, tmp_path: Path
    ) -> None:
        """As in llava-hf/LLaVA-NeXT-Video-7B-DPO-hf."""
        folder = Path(shutil.copytree(pooling_checkpoint, tmp_path / "checkpoint"))
        raw = json.loads((folder / "config.json").read_text())
        raw["model_type"] = "llava_next"
        raw["text_config"]["rope_scaling"] = {"factor": 2.5, "type": "linear"}
        (folder / "config.json").write_text(json.dumps(raw))
        with open_checkpoint(folder) as checkpoint:
            assert family_name(checkpoint.config) == "LLaVA-NeXT-Video"
            assert checkpoint.config.decoder.context_length == 2.5 * 4096

    def test_a_picture_is_not_taken_for_a_frame_that_was_encoded_before(self, pooling: Model) -> None:
        """The overview of a picture of the tower's size has the same pixels as the frame."""
        same = picture(3, (28, 28))
        frame = PictureGroup([same], video=True)
        encoded = pooling.media_encoder.encode_pictures([frame, PictureGroup([same])], stride=1, tiles=False)
        assert [visual.size for visual in encoded.images] == [4, 16 + 4 * (4 + 1)]
        again = pooling.media_encoder.encode_pictures([frame], stride=4, tiles=False)
        np.testing.assert_allclose(again.images[0].rows[0], encoded.images[0].rows.mean(axis=0), atol=1e-5)

    @pytest.mark.parametrize(("precision", "least"), [("int8", 0.99), ("fp16", 0.999)])
    def test_other_precisions_are_close(
        self, pooling_checkpoint: Path, tmp_path: Path, precision: str, least: float
    ) -> None:
        bundle = convert(pooling_checkpoint, tmp_path / "bundle", quantization="f16", vision_precision=precision)
        with np.load(GOLDEN) as golden, load(bundle.folder, backend="llama-cpp", threads=1) as opened:
            for name in ("video", "image and video"):
                media = media_of(message(CASES[name], tmp_path))
                encoded = opened.media_encoder.encode(media, frames=8, stride=1, tiles=False)
                ours = np.concatenate([visual.embeddings for visual in encoded.images])
                assert min(map(cosine, ours, golden[f"next-video/{name}/features"])) >= least

    def test_a_manifest_that_promises_them_of_another_tower_is_refused(self, onevision: Model, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(onevision.bundle.folder, tmp_path / "bundle"))
        change_manifest(folder, "vision", video={"stride": 2, "resize": "crop", "before_projector": True})
        with pytest.raises(BundleError, match="pooling_mode"):
            open_bundle(folder)
        raw = json.loads((folder / "bundle.json").read_text())
        (folder / "bundle.json").write_text(json.dumps({**raw, "pooling_mode": "average"}))
        with load(folder, threads=1) as opened, pytest.raises(BundleError, match=r"instead of .*frame_tokens \(n, 4"):
            opened.ask([picture(0, (30, 30)), "What?"], max_tokens=1)


FAMILIES = {
    "onevision": "LLaVA-OneVision",
    "next-mistral": "LLaVA-NeXT",
    "next-qwen": "LLaVA-NeXT",
    "joycaption": "LLaVA with SigLIP",
    "llava-1.5": "LLaVA-1.5",
    "next-video": "LLaVA-NeXT-Video",
    "mantis": "Mantis",
    "onevision-qwen3": "LLaVA-OneVision",
}


def test_each_kind_is_named_by_its_family(tmp_path: Path) -> None:
    for name, family in FAMILIES.items():
        with open_checkpoint(write_kind(tmp_path / name, name)) as checkpoint:
            assert family_name(checkpoint.config) == family
    with open_checkpoint(write_random_checkpoint(tmp_path / "interleave", model_config())) as checkpoint:
        assert family_name(checkpoint.config) == "LLaVA-NeXT-Interleave"


@pytest.fixture(scope="module")
def mantis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("mantis")
    bundle = convert(write_kind(folder / "c", "mantis"), folder / "b", quantization="f16", vision_precision="int8")
    with load(bundle.folder, context=4096, threads=1) as opened:
        yield opened


NUMBERED = (
    "A chat.</s>{% set seen = namespace(images=0) %}{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{% set seen.images = seen.images + 1 %}"
    "(image {{ seen.images }}: <Image><image></Image>){% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Writes images as Mantis' own program does (mantis/models/mllava/processing_llava.py)."""


class TestWithoutTheFirstPatch:
    """Mantis: 4 x 4 patches, of which the first is left out."""

    def test_tokens_are_counted_as_they_are_encoded(self, mantis: Model) -> None:
        group = PictureGroup([picture(0, (165, 170))])
        for tiles, tokens in ((False, 15), (True, 15 * (1 + 2 * 2))):
            encoded = mantis.media_encoder.encode_pictures([group], stride=1, tiles=tiles)
            assert sum(visual.size for visual in encoded.images) == tokens
            assert mantis.media_encoder.tokens_for(group, tiles=tiles) == tokens
        assert mantis.ask([picture(0, (40, 30)), "What?"], max_tokens=1).stats.visual_tokens == 15

    def test_pooling_is_refused_with_the_reason(self, mantis: Model) -> None:
        reason = "pooling stride 2: this model leaves out the first patch"
        with pytest.raises(UsageError, match=reason):
            mantis.ask([picture(0, (40, 30)), "What?"], pool=2)
        with pytest.raises(UsageError, match=reason):
            mantis.live(window=2, pool=2)

    def test_windows_and_plans_count_what_is_left(self, mantis: Model) -> None:
        made = plan(mantis.bundle, frames=3, threads=1)
        assert (made.pool, made.frame_tokens) == ((1,), (15,))
        with mantis.live(window=3) as live:
            for number in range(4):
                live.add(picture(number, (64, 48)))
            assert live.ask("What?", max_tokens=1).stats.prompt_tokens > 3 * 15

    def test_a_template_like_its_own_programs_is_followed_but_not_in_live_windows(self, tmp_path: Path) -> None:
        folder = write_kind(tmp_path / "checkpoint", "mantis")
        (folder / "chat_template.jinja").write_text(NUMBERED)
        with load(bundle_of(folder).folder, context=4096, threads=1) as opened:
            segments = opened.prompts.build(message(CASES["three images"], tmp_path))
            ids = [part.ids if isinstance(part, TextSegment) else () for part in segments]
            assert "".join(opened.tokenizer.decode(part) if part else "<image>" for part in ids) == (
                "A chat.</s>USER: (image 1: <Image><image></Image>)(image 2: <Image><image></Image>)"
                "(image 3: <Image><image></Image>)What changed?</s>ASSISTANT:"
            )
            with pytest.raises(BundleError, match="cannot run live"):
                opened.live(window=2)

    def test_watch_pools_by_default_only_what_can_be_pooled(self, mantis: Model, tmp_path: Path) -> None:
        told = run(
            "watch", DEMO_CLIP, "--model", mantis.bundle.folder, "--ask", "What?", "--max-tokens", "1", "--fps", "1",
            "--context", "1024", "--json", env=environment(tmp_path),
        )  # fmt: skip
        assert told.returncode == 0, told.stderr

    def test_an_older_program_refuses_the_bundle(self, mantis: Model) -> None:
        assert mantis.bundle.manifest.schema_version == 2

    @pytest.mark.parametrize("fields", [{"grid": 1}, {"image_newline": True}, {"first_patch_dropped": 1}], ids=str)
    def test_a_manifest_that_cannot_be_is_refused(
        self, mantis: Model, tmp_path: Path, fields: dict[str, object]
    ) -> None:
        folder = Path(shutil.copytree(mantis.bundle.folder, tmp_path / "bundle"))
        change_manifest(folder, "vision", **fields)
        with pytest.raises(BundleError, match="first_patch_dropped"):
            open_bundle(folder)
