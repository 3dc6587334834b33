"""Live windows of models that were trained on video: a window is one video, laid out as the model's family does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.lineage import bundle_of, picture, write_kind, write_original

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.cli.info import info
from edge_interleave.live.layout import WindowLayout
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.model import Model, load
from edge_interleave.planning.footprint import Footprint
from edge_interleave.planning.planner import plan

QUESTION, OPTIONS = "What moves?", ("a", "the")
PIXELS = (64, 48)
RULES = {
    # Entries of a frame of 4 x 4 tokens, pooled to 2 x 2, and of the row after the last frame.
    "one_token": (4, 1),
    "grid": (4 + 2, 0),
    "frame": (4 + 1, 0),
    "pooled in the tower": (4, 0),
}


@pytest.fixture(scope="module", params=RULES)
def rule(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(rule: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("video window") / "checkpoint"
    if rule == "pooled in the tower":
        return bundle_of(write_kind(folder, "next-video"))
    return bundle_of(write_original(folder, "onevision", mm_newline_position=rule))


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Iterator[Model]:
    with load(bundle.folder, backend="llama-cpp", context=2048, threads=1) as opened:
        yield opened


def clip(folder: Path, numbers: range) -> ei.Video:
    folder.mkdir()
    for number in numbers:
        picture(number, PIXELS).save(folder / f"{number}.png")
    return ei.Video(folder, len(numbers))


def probabilities(choices: list[ei.Choice]) -> list[float]:
    return [choice.probability * choice.total_probability for choice in choices]


def test_an_exact_window_is_the_prompt_of_a_video_of_its_frames(model: Model, tmp_path: Path) -> None:
    video = clip(tmp_path / "clip", range(2, 5))
    asked = model.ask([video, QUESTION], max_tokens=4).stats
    wanted = probabilities(model.choose([video, QUESTION], OPTIONS))
    with model.live(window=3, mode="exact") as live:
        for number in range(5):
            live.add(picture(number, PIXELS))
        assert probabilities(live.choose(QUESTION, OPTIONS)) == pytest.approx(wanted, rel=1e-6)
        answer = live.ask(QUESTION, max_tokens=4)
    assert answer.stats.prompt_tokens == asked.prompt_tokens
    assert answer.stats.visual_tokens == asked.visual_tokens


def test_a_sliding_window_agrees_with_an_exact_one_until_it_slides(model: Model) -> None:
    with (
        model.live(window=3, keep_answers=True) as sliding,
        model.live(window=3, keep_answers=True, mode="exact") as exact,
    ):
        for number in range(3):
            # A question before the first frame, between two, and after a kept answer without a new frame.
            for _ in range(2):
                found = [probabilities(live.choose(QUESTION, OPTIONS)) for live in (sliding, exact)]
                assert found[0] == pytest.approx(found[1], rel=0.02)
            assert str(sliding.ask(QUESTION, max_tokens=3)) == str(exact.ask(QUESTION, max_tokens=3))
            for live in (sliding, exact):
                live.add(picture(number, PIXELS))


def test_a_sliding_window_of_one_frame_stays_exact(model: Model) -> None:
    with model.live(window=1) as sliding, model.live(window=1, mode="exact") as exact:
        for number in range(4):
            for live in (sliding, exact):
                live.add(picture(number, PIXELS))
            found = [probabilities(live.choose(QUESTION, OPTIONS)) for live in (sliding, exact)]
            assert found[0] == pytest.approx(found[1], rel=0.02)


def test_frames_take_the_entries_of_the_familys_rule(model: Model, rule: str) -> None:
    of_frame, after = RULES[rule]
    with model.live(window=2) as live:
        before = live.stats().entries
        for number in range(4):
            live.add(picture(number, PIXELS))
        assert live.stats().entries == before + 2 * of_frame
        assert [frame.tokens for frame in live.frames] == [of_frame] * 2
        # A sliding window computes the question alone, with the row before it.
        assert live.ask(QUESTION, max_tokens=1).stats.visual_tokens == after


def test_a_plan_counts_them(model: Model, bundle: Bundle, rule: str) -> None:
    of_frame, after = RULES[rule]
    layout = WindowLayout.of(LivePrompt(model.prompts, model.tokenizer))
    assert (layout.around_frame, layout.after_frames) == (0, after)
    made = plan(bundle, frames=3, pool=1, backend="llama-cpp", footprint=Footprint(0, 0, 0, 0, 0, layout))
    assert made.pool == (2,)
    assert made.frame_tokens == (of_frame,)
    assert made.visual_tokens == 3 * of_frame + after


def test_info_names_the_family_and_its_rule(bundle: Bundle, rule: str) -> None:
    told = CliRunner().invoke(info, [str(bundle.folder)], catch_exceptions=False).output
    family = {"pooled in the tower": "LLaVA-NeXT-Video", "one_token": "LLaVA-OneVision"}.get(rule, "LLaVA-Video")
    assert family in told
    assert f"tokens per video frame {RULES[rule][0]}" in " ".join(told.split())
