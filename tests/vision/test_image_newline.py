"""`image_newline`: the trained row behind each image, for checkpoints of the original layout that have it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.tiny import change_manifest

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle, open_bundle, verify
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.inputs import as_inputs
from edge_interleave.errors import BundleError, CheckpointError
from edge_interleave.evaluation.official_prompt import OfficialPrompts
from edge_interleave.live.layout import WindowLayout
from edge_interleave.planning.footprint import Footprint
from edge_interleave.planning.planner import plan
from edge_interleave.prompt.builder import ImageSegment
from edge_interleave.prompt.messages import Image as ImagePart
from edge_interleave.prompt.messages import Message, Video
from edge_interleave.vision.media_encoder import PictureGroup
from edge_interleave.vision.merge import merge, merged_tokens, most_merged_tokens, read_newline
from edge_interleave.vision.pooling import image_tokens
from edge_interleave.vision.tiles import GRIDS

GRID = 4
TOKENS = GRID * GRID
RELEASED = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}
"""Fields of lmms-lab/llava-next-interleave-qwen-0.5b and -7b."""


def original(folder: Path, **fields: Any) -> Path:
    config = model_config()
    config = replace(config, decoder=replace(config.decoder, context_length=2048))
    checkpoint = write_random_checkpoint(folder, config, Options("original", seed=3))
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original(tmp_path_factory.mktemp("newline") / "checkpoint", **RELEASED)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return convert(checkpoint, checkpoint.parent / "bundle", quantization="f16", vision_precision="fp32")


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("flat")
    return convert(original(folder / "checkpoint"), folder / "bundle", quantization="f16", vision_precision="fp32")


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8))


def clip(folder: Path, frames: int) -> Path:
    folder.mkdir()
    for number in range(frames):
        picture(number).save(folder / f"{number}.png")
    return folder


class TestConversion:
    def test_keeps_the_row_exactly(self, checkpoint: Path, bundle: Bundle) -> None:
        with open_checkpoint(checkpoint) as source:
            row = source.tensor("image_newline")
        verify(bundle)
        assert bundle.manifest.vision.image_newline
        np.testing.assert_array_equal(read_newline(bundle.file("image_newline.npy"), 64), row)

    def test_notes_that_other_programs_ignore_the_row(
        self, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        convert(checkpoint, tmp_path / "bundle", backends=["llama-cpp"], mmproj="f16")
        assert "mmproj.gguf: llama-server and Ollama leave out the row" in caplog.text

    def test_ignores_the_row_of_a_flat_checkpoint(self, flat: Bundle) -> None:
        assert not flat.manifest.vision.image_newline
        assert not flat.has("image_newline.npy")

    @pytest.mark.parametrize(("kind", "kept"), [("flat", False), ("spatial_unpad", True)])
    def test_follows_the_checkpoints_merge_type(self, tmp_path: Path, kind: str, kept: bool) -> None:
        with open_checkpoint(original(tmp_path / "c", mm_patch_merge_type=kind)) as source:
            assert source.config.image_newline is kept
            assert ("image_newline" in source.names()) is kept

    def test_refuses_a_checkpoint_without_the_row(self, tmp_path: Path) -> None:
        from support.safetensors_edit import rewrite

        folder = original(tmp_path / "c", **RELEASED)
        rewrite(folder / "model.safetensors", lambda tensors: tensors.pop("model.image_newline"))
        with pytest.raises(CheckpointError, match=r"image_newline \(shape \(64,\)\) is missing"):
            open_checkpoint(folder)

    def test_an_older_manifest_has_no_row(self, flat: Bundle, tmp_path: Path) -> None:
        shutil.copytree(flat.folder, tmp_path / "bundle")
        path = tmp_path / "bundle" / "bundle.json"
        manifest = json.loads(path.read_text())
        del manifest["vision"]["image_newline"]
        path.write_text(json.dumps(manifest))
        assert not open_bundle(tmp_path / "bundle").manifest.vision.image_newline


class TestPrompt:
    def test_an_image_takes_one_entry_more(self, bundle: Bundle, flat: Bundle) -> None:
        for images in (1, 2, 5):
            content = [*map(picture, range(images)), "What changed?"]
            entries = []
            for each in (bundle, flat):
                with ei.load(each.folder, threads=1) as model:
                    entries.append(model.ask(content, max_tokens=1).stats)
            assert entries[0].visual_tokens == images * (TOKENS + 1)
            assert entries[1].visual_tokens == images * TOKENS
            assert entries[0].prompt_tokens == entries[1].prompt_tokens + images

    def test_a_pooled_image_takes_one_more_too(self, bundle: Bundle) -> None:
        with ei.load(bundle.folder, threads=1) as model:
            stats = model.ask([picture(0), "What?"], max_tokens=1, pool=2).stats
        assert stats.visual_tokens == TOKENS // 4 + 1

    def test_a_video_has_the_row_behind_its_last_frame_only(self, bundle: Bundle, tmp_path: Path) -> None:
        frames = clip(tmp_path / "clip", 4)
        with ei.load(bundle.folder, threads=1) as model:
            media = [Video(frames, 3), ImagePart(picture(0))]
            encoded = model.media_encoder.encode(media, frames=1, stride=1, tiles=False)
        assert [part.newline is not None for part in encoded.images] == [False, False, True, True]
        assert [part.size for part in encoded.images] == [TOKENS, TOKENS, TOKENS + 1, TOKENS + 1]

    def test_a_later_question_about_the_same_images_computes_only_itself(self, bundle: Bundle) -> None:
        with ei.load(bundle.folder, threads=1) as model:
            model.ask([picture(0), picture(1), "What changed?"], max_tokens=2)
            again = model.ask([picture(0), picture(1), "Which is brighter?"], max_tokens=2).stats
        assert again.cached_tokens > 2 * (TOKENS + 1)

    def test_the_row_is_the_last_entry_of_an_image(self, bundle: Bundle) -> None:
        row = read_newline(bundle.file("image_newline.npy"), 64)
        with ei.load(bundle.folder, threads=1) as model:
            (encoded,) = model.media_encoder.encode([ImagePart(picture(0))], frames=1, stride=1, tiles=False).images
        np.testing.assert_array_equal(encoded.embeddings[-1], row)
        np.testing.assert_array_equal(encoded.embeddings[:-1], encoded.rows)


class TestWindow:
    def test_counts_it_in_every_frame(self, bundle: Bundle) -> None:
        with ei.load(bundle.folder, threads=1) as model, model.live(window=2, pool=2) as live:
            for number in range(3):
                live.add(picture(number))
            assert [frame.tokens for frame in live.frames] == [TOKENS // 4 + 1] * 2
            with ei.load(bundle.folder, threads=1) as other, other.live(window=2, pool=2) as fresh:
                entries = fresh.stats().entries
                fresh.add(picture(0))
                announced = fresh.stats().entries - entries
            assert live.stats().entries == entries + 2 * announced

    def test_a_plan_counts_it(self, bundle: Bundle, flat: Bundle) -> None:
        footprint = Footprint(0, 0, 0, 0, 0, WindowLayout(sink=20, around_frame=5))
        made, without = (plan(each, None, frames=3, pool=1, footprint=footprint) for each in (bundle, flat))
        assert made.frame_tokens == (TOKENS + 1,)
        assert made.visual_tokens == 3 * (TOKENS + 1)
        assert made.context == without.context + 4  # three frames, and one that is prepared

    def test_presets_and_evaluations_count_it(self, bundle: Bundle, flat: Bundle) -> None:
        assert image_tokens(bundle.manifest.vision, 2, "average") == TOKENS // 4 + 1
        assert image_tokens(flat.manifest.vision, 2, "average") == TOKENS // 4
        footprint = Footprint(0, 0, 0, 0, 0, WindowLayout(sink=20, around_frame=5))
        with_row, without = (plan(each, preset="10-full", footprint=footprint) for each in (bundle, flat))
        assert with_row.visual_tokens == without.visual_tokens + 10


class TestFile:
    """The file of an untrusted bundle."""

    @pytest.mark.parametrize(
        "content",
        [
            np.zeros(63, np.float32),
            np.zeros((1, 64), np.float32),
            np.zeros(64, np.float64),
            np.full(64, np.nan, np.float32),
            np.array([{}] * 64),
            b"",
            b"\x93NUMPY\x01\x00",
            b"PK\x03\x04",
        ],
        ids=["short", "of two axes", "wide", "not a number", "pickled", "empty", "cut off", "a zip"],
    )
    def test_with_other_content_is_refused_in_one_line(self, tmp_path: Path, content: Any) -> None:
        path = tmp_path / "image_newline.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)
        with pytest.raises(BundleError, match=r"image_newline\.npy") as caught:
            read_newline(path, 64)
        assert "\n" not in str(caught.value)

    def test_with_a_huge_claimed_shape_allocates_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "image_newline.npy"
        np.save(path, np.zeros(64, np.float32))
        path.write_bytes(path.read_bytes().replace(b"(64,), }         ", b"(1000000000000,),"))
        with pytest.raises(BundleError):
            read_newline(path, 64)

    def test_missing_is_a_bundle_error(self, flat: Bundle, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(flat.folder, tmp_path / "bundle"))
        change_manifest(folder, "vision", image_newline=True)
        with ei.load(folder, threads=1) as model, pytest.raises(BundleError, match=r"no image_newline\.npy"):
            model.ask([picture(0), "What?"])

    def test_a_manifest_with_a_wrong_type_is_refused(self, flat: Bundle, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(flat.folder, tmp_path / "bundle"))
        change_manifest(folder, "vision", image_newline=1)
        with pytest.raises(BundleError, match="image_newline"):
            open_bundle(folder)


def spatial_unpad(
    parts: list[np.ndarray[Any, Any]], size: tuple[int, int], grid: tuple[int, int], row: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """A second implementation of LLaVA-NeXT's merge of an image in tiles, cell by cell."""
    side = int(len(parts[0]) ** 0.5)
    width, height = grid[0] * side, grid[1] * side
    # The image fills the grid in one direction; in the other, equal margins are cut on both sides.
    scale = min(width / size[0], height / size[1])
    shown_width, shown_height = (
        (width, int(size[1] * (width / size[0]))) if width / size[0] == scale else (int(size[0] * scale), height)
    )
    left, top = (width - shown_width) // 2, (height - shown_height) // 2
    merged = list(parts[0])
    for y in range(top, height - top):
        for x in range(left, width - left):
            tile = parts[1 + y // side * grid[0] + x // side]
            merged.append(tile[y % side * side + x % side])
        merged.append(row)
    return np.stack(merged)


class TestTiles:
    @pytest.mark.parametrize("grid", GRIDS)
    @pytest.mark.parametrize(
        "size", [(400, 300), (300, 400), (384, 384), (1000, 90), (90, 1000), (769, 384), (5000, 1)]
    )
    def test_are_merged_as_in_the_original_code(self, grid: tuple[int, int], size: tuple[int, int]) -> None:
        random = np.random.default_rng(0)
        parts = [random.standard_normal((25, 8)).astype(np.float32) for _ in range(1 + grid[0] * grid[1])]
        row = random.standard_normal(8).astype(np.float32)
        merged = merge(parts, size, grid, row)
        np.testing.assert_array_equal(merged, spatial_unpad(parts, size, grid, row))
        assert len(merged) == merged_tokens(5, size, grid, newline=True) <= most_merged_tokens(5, newline=True)
        assert len(merge(parts, size, grid, None)) == merged_tokens(5, size, grid, newline=False)

    def test_take_as_many_tokens_as_the_encoder_says(self, bundle: Bundle) -> None:
        with ei.load(bundle.folder, threads=1) as model:
            encoder = model.media_encoder
            for size in [(28, 28), (60, 30), (100, 20), (57, 57)]:
                (image,) = encoder.encode([ImagePart(picture(0, size))], frames=1, stride=1, tiles=True).images
                most = encoder.tokens_for(PictureGroup([None]), tiles=True)
                assert image.size == encoder.tokens_for(PictureGroup([picture(0, size)]), tiles=True) <= most
                stats = model.ask([picture(0, size), "What?"], max_tokens=1, tiles=True).stats
                assert stats.visual_tokens == image.size


@pytest.mark.oracle
@pytest.mark.parametrize("fields", [RELEASED, {}], ids=["spatial_unpad", "flat"])
def test_the_official_evaluation_computed_with_transformers_has_the_same_entries_and_logits(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    folder = original(tmp_path / "c", **fields)
    bundle = convert(folder, tmp_path / "b", quantization="f16", vision_precision="fp32")
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    raw = json.loads((folder / "config.json").read_text())
    tower_raw = json.loads((folder / raw["mm_vision_tower"] / "config.json").read_text())
    tower_raw["num_hidden_layers"] -= 1  # the original code deletes the last block
    tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**tower_raw)).eval()
    inside = {name.removeprefix("model.vision_tower.vision_tower."): v for name, v in weights.items()}
    if not any(name.startswith("vision_model.") for name in tower.state_dict()):
        inside = {name.removeprefix("vision_model."): v for name, v in inside.items()}
    tower.load_state_dict({name: inside[name] for name in tower.state_dict()})
    known = {name: value for name, value in raw.items() if not name.startswith(("mm_", "image_", "architectures"))}
    decoder = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**known, "model_type": "qwen2"})).eval()
    decoder.load_state_dict({name: v for name, v in weights.items() if name in decoder.state_dict()}, strict=False)
    decoder.tie_weights()
    functional = torch.nn.functional

    def visual_tokens(image: Image.Image) -> Any:
        pixels = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
        hidden = tower(torch.tensor(pixels).permute(2, 0, 1)[None], output_hidden_states=True).hidden_states[-1]
        for layer in (0, 2):
            name = f"model.mm_projector.{layer}"
            hidden = functional.gelu(hidden) if layer else hidden
            hidden = functional.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])
        return hidden[0]

    images = [picture(1), picture(2)]
    question = Message("user", (*map(ImagePart, images), "<image> <image> What changed?"))
    prompts = OfficialPrompts.for_bundle(bundle)
    assert prompts is not None
    segments = prompts.build([question])
    with torch.no_grad():
        pieces = []
        for segment in segments:
            if isinstance(segment, ImageSegment):
                # prepare_inputs_labels_for_multimodal, "single image operations".
                pieces.append(visual_tokens(images[segment.index]))
                if "unpad" in raw["mm_patch_merge_type"]:
                    pieces.append(weights["model.image_newline"][None])
            else:
                pieces.append(decoder.get_input_embeddings()(torch.tensor(segment.ids)))
        embeddings = torch.cat(pieces)
        logits = decoder(inputs_embeds=embeddings[None]).logits[0, -1].numpy()
    with ei.load(bundle.folder, threads=1) as model:
        encoded = model.media_encoder.encode(question.parts[:2], frames=1, stride=1, tiles=False)
        ours = model._own_session().prefill(as_inputs(segments, encoded.images))
    assert ours is not None
    assert ours.prompt_tokens == len(embeddings)
    ours_logits = np.array(ours.logits)
    cosine = ours_logits @ logits / np.linalg.norm(ours_logits) / np.linalg.norm(logits)
    assert cosine > 0.99999
