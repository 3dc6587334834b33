"""Checkpoints in LLaVA-NeXT's own layout: their visual tokens, answers, rules for video, and prompts.

The weights are those of `support.lineage` under the names that LLaVA-NeXT's code gives them. So what transformers said
about the Hugging Face layout (`golden/lineage.npz`) holds for them too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.lineage import CASES, GOLDEN, ORIGINALS, VIDEO, answered, bundle_of, cosine, message, write_original
from support.safetensors_edit import Tensors, rewrite

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle, VideoInfo, write_manifest
from edge_interleave.converters.checkpoint.conversations import CONVERSATIONS
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.checkpoint.tokenizer import read_tokenizer
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.errors import CheckpointError
from edge_interleave.model import Model, load
from edge_interleave.prompt.builder import ImageSegment, TextSegment
from edge_interleave.prompt.messages import as_messages, media_of
from edge_interleave.prompt.template import ChatTemplate

CLIP_CASES = ("wide image", "large image", "three images")
"""For small images two grids are equally good, and the two layouts choose differently."""
CASES_OF = {"onevision": ("small image", *CLIP_CASES, "video"), "llava-1.5": ("square image",)}
"""LLaVA-1.5 pads images in one layout and crops them in the other, so that they agree about squares only."""


def encoded_of(model: Model, name: str, folder: Path) -> tuple[VisualInput, ...]:
    media = media_of(message(CASES[name], folder))
    return model.media_encoder.encode(media, frames=8, stride=1, tiles=False).images


def with_images(ids: Sequence[int], image: int, visuals: Sequence[VisualInput]) -> list[Input]:
    """A prompt of token ids, each run of `image` replaced by the visual tokens of as many images."""
    inputs: list[Input] = []
    left, waiting = list(visuals), 0
    for token in ids:
        if token != image:
            inputs.append(TextInput((token,)))
        elif not waiting:
            inputs.append(left.pop(0))
            waiting = inputs[-1].size - 1
        else:
            waiting -= 1
    assert not left
    assert not waiting
    return inputs


@pytest.mark.parametrize("kind", ORIGINALS)
def test_visual_tokens_logits_and_answers_are_those_of_the_hugging_face_layout(kind: str, tmp_path: Path) -> None:
    bundle = bundle_of(write_original(tmp_path / "checkpoint", kind))
    with np.load(GOLDEN) as golden, load(bundle.folder, context=4096, threads=1) as opened:
        image = opened.tokenizer.token_id("<image>")
        assert image is not None
        for name in CASES_OF.get(kind, CLIP_CASES):
            features, prompt, answer, logits = (
                golden[f"{kind}/{name}/{what}"] for what in ("features", "prompt", "answer", "logits")
            )
            visuals = encoded_of(opened, name, tmp_path)
            ours = np.concatenate([visual.embeddings for visual in visuals])
            assert ours.shape == features.shape
            assert min(map(cosine, ours, features)) >= 0.999
            ids, first = answered(opened, with_images(prompt.tolist(), image, visuals))
            assert cosine(first, logits) >= 0.99999
            assert ids == answer.tolist()


def test_a_checkpoint_without_its_tower_is_refused_by_that(tmp_path: Path) -> None:
    folder = write_original(tmp_path / "checkpoint", "llava-1.5")

    def without_tower(tensors: Tensors) -> None:
        for name in [name for name in tensors if "vision_tower" in name]:
            del tensors[name]

    rewrite(folder / "model.safetensors", without_tower)
    with pytest.raises(CheckpointError, match="no weights of the vision tower"):
        open_checkpoint(folder)


def test_a_video_is_one_marker_with_one_newline_in_the_prompt(tmp_path: Path) -> None:
    bundle = bundle_of(write_original(tmp_path / "checkpoint", "onevision"))
    with load(bundle.folder, threads=1) as opened:
        messages = as_messages("What moves?", videos=[ei.Video("clip", 3)])
        before, *frames, after = opened.prompts.build(messages, [3])
        assert [frame for frame in frames if isinstance(frame, ImageSegment)] == frames
        assert len(frames) == 3
        assert isinstance(after, TextSegment)
        assert isinstance(before, TextSegment)
        expected = "\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"
        assert list(after.ids) == opened.tokenizer.encode(expected)


@pytest.fixture(scope="module")
def llava_video(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(write_original(tmp_path_factory.mktemp("video") / "checkpoint", "onevision", **VIDEO))


class TestLlavaVideo:
    """LLaVA-Video: LLaVA-OneVision with another place for `image_newline`, and the time instruction."""

    def test_converts_with_its_rules(self, llava_video: Bundle) -> None:
        assert llava_video.manifest.vision.video == VideoInfo(2, "squash", "grid", times=True)
        assert llava_video.manifest.family == "LLaVA-Video"

    @pytest.mark.parametrize("place", ["grid", "frame", "one_token", "no_token"])
    def test_image_newline_stands_where_the_original_code_puts_it(
        self, llava_video: Bundle, tmp_path: Path, place: str
    ) -> None:
        """Rebuilt from LLaVA-OneVision's frames by transformers: 8 frames of 2 x 2 tokens, then the row."""
        with np.load(GOLDEN) as golden:
            *frames, row = golden["onevision/video/features"].astype(np.float32)
        grid = np.stack(frames).reshape(8, 2, 2, -1)
        expected = [row] * (place == "one_token")
        for cells in grid[::-1]:
            ends = {"grid": [row], "frame": []}.get(place, [])
            after = [row] * (place == "frame")
            expected = [*cells[0], *ends, *cells[1], *ends, *after, *expected]
        folder = tmp_path / "bundle"
        folder.mkdir()
        for file in llava_video.folder.rglob("*"):
            (folder / file.relative_to(llava_video.folder)).hardlink_to(file)
        vision = llava_video.manifest.vision
        assert vision.video is not None
        changed = replace(vision, video=replace(vision.video, newline=place))
        write_manifest(folder, replace(llava_video.manifest, vision=changed))
        with load(folder, context=4096, threads=1) as opened:
            ours = np.concatenate([visual.embeddings for visual in encoded_of(opened, "video", tmp_path)])
        assert ours.shape == np.stack(expected).shape
        assert min(map(cosine, ours, expected)) >= 0.999

    def test_a_video_is_followed_by_the_time_instruction(self, llava_video: Bundle, tmp_path: Path) -> None:
        """The expected text follows `video_demo.py`. The folder's eight pictures count as a second each."""
        expected = (
            "\nThe video lasts for 8.00 seconds, and 3 frames are uniformly sampled from it. These frames are located "
            "at 0.00s,3.00s,7.00s.Please answer the following questions related to this video.\nWhat moves?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        (clip,) = media_of(message(CASES["video"], tmp_path))
        assert isinstance(clip, ei.Video)
        with load(llava_video.folder, context=4096, threads=1) as opened:
            for content in (
                [ei.Video(clip.path, 3), "What moves?"],
                ["What moves?", ei.Video(clip.path, 3)],
                [ei.Video(clip.path, 3), "<image>\nWhat moves?"],
            ):
                _, inputs, _ = opened._prompt(content, {})
                last = inputs[-1]
                assert isinstance(last, TextInput)
                assert list(last.ids) == opened.tokenizer.encode(expected)
                with opened.chat() as chat:
                    said = chat.ask(content, max_tokens=1).stats
                assert said.prompt_tokens == sum(
                    part.size if isinstance(part, VisualInput) else len(part.ids) for part in inputs
                )

    def test_an_image_and_a_single_frame_have_no_time_instruction(self, llava_video: Bundle, tmp_path: Path) -> None:
        (clip,) = media_of(message(CASES["video"], tmp_path))
        assert isinstance(clip, ei.Video)
        expected = "\nWhat?<|im_end|>\n<|im_start|>assistant\n"
        with load(llava_video.folder, context=4096, threads=1) as opened:
            for media in (clip.path / "0.png", ei.Video(clip.path, 1)):
                _, inputs, _ = opened._prompt([media, "What?"], {})
                assert isinstance(inputs[-1], TextInput)
                assert list(inputs[-1].ids) == opened.tokenizer.encode(expected)


def test_pairs_of_pixels_are_width_and_height_unlike_in_the_hugging_face_layout(tmp_path: Path) -> None:
    folder = write_original(tmp_path / "c", "onevision", image_grid_pinpoints=[[28, 56], [56, 28]])
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
        ({"mm_newline_position": "here"}, "mm_newline_position"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type"),
        ({"add_faster_video": True}, "add_faster_video"),
        ({"add_time_instruction": "yes"}, "add_time_instruction"),
    ],
)
def test_other_tiles_are_refused(tmp_path: Path, fields: dict[str, object], named: str) -> None:
    with pytest.raises(CheckpointError, match=f"field '{named}'"):
        open_checkpoint(write_original(tmp_path / "c", "onevision", **fields))


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
CHATML_DIRECT = (
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nFirst?<|im_end|>"
    "<|im_start|>assistant\nYes.<|im_end|><|im_start|>user\nSecond?<|im_end|><|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vicuna_v1", VICUNA),
        ("mistral_instruct", "[INST] <image>\nFirst? [/INST] Yes. </s>[INST] Second? [/INST]"),
        ("llava_llama_3", LLAMA_3),
        ("chatml_direct", CHATML_DIRECT),
    ],
)
def test_conversations_are_those_of_the_original_code(name: str, expected: str) -> None:
    """The expected texts follow `Conversation.get_prompt` of llava/conversation.py."""
    template = ChatTemplate(CONVERSATIONS[name])
    assert template.render(TURNS) == expected
    own = template.render([{"role": "system", "content": "Be brief."}, *TURNS])
    assert "Be brief." in own
    assert "helpful" not in own


def test_an_original_checkpoint_gets_the_conversation_of_its_decoder(tmp_path: Path) -> None:
    for name, tokenizer, start in (
        ("LlavaMistralForCausalLM", "llama2", "[INST]"),
        ("LlavaLlamaForCausalLM", "llama2", "A chat between"),
        # Yi-34B: a Llama decoder with ChatML.
        ("LlavaLlamaForCausalLM", "llama3", "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n"),
    ):
        config = model_config("tiny", "llama", "clip")
        options = Options("original", tokenizer=tokenizer)
        folder = write_random_checkpoint(tmp_path / f"{name} {tokenizer}", config, options)
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
