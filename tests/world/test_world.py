"""The drawn world: seeds determine samples, answers match the drawing, and training never draws what is held out."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_interleave.world.benchmark import NAME, benchmark_samples, chance_of, write_benchmark
from edge_interleave.world.drawing import draw, item_map
from edge_interleave.world.group_questions import TIMES, puzzle_choices
from edge_interleave.world.groups import LONG_CLIP, MAKERS, puzzle, views
from edge_interleave.world.long_clips import KINDS as KINDS_OF_VIDEOS
from edge_interleave.world.long_clips import draw_video, sampled
from edge_interleave.world.samples import TASKS, Sample, blinking, draw_sample, lasting
from edge_interleave.world.scene import PLACES, TONES, Item, Look, Scene
from edge_interleave.world.vocabulary import (
    COLOURS,
    HELD_OUT_NUMBERS,
    HELD_OUT_PAIRS,
    HELD_OUT_STYLE,
    KINDS,
    NATURAL,
    SHAPES,
    SPLITS,
    TINTED,
    TRAIN,
)

SCENARIOS = {"single-image", "multi-image", "multi-frame", "multi-view", "multi-patch"}


def drawn(task: str, count: int = 20, held_out: str = "") -> list[Sample]:
    return [draw_sample(task, random.Random(f"test/{task}/{index}"), SPLITS[held_out]) for index in range(count)]


def items_of(sample: Sample) -> list[Item]:
    return [item for scene in sample.scenes for item in scene.items]


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_follows_from_its_seed_and_can_be_drawn(task: str) -> None:
    first, second = drawn(task, 2), drawn(task, 2)
    assert first == second
    assert first[0] != first[1]
    for sample in first:
        assert sample.question.endswith("?") or sample.question.endswith(".") or sample.choices
        assert 1 <= len(sample.scenes) <= 8
        for scene in sample.scenes:
            picture = draw(scene)
            assert picture.mode == "RGB"
            if scene.crop == (0.0, 0.0, 1.0, 1.0):
                assert min(picture.size) == scene.look.side


def test_training_never_draws_what_is_held_out() -> None:
    for kind, make in MAKERS.items():
        for index in range(40):
            group = make(random.Random(f"test/{kind}/{index}"), split=TRAIN)
            for scene in group.scenes:
                for item in scene.items:
                    assert (item.colour, item.shape) not in HELD_OUT_PAIRS
                    assert item.style != HELD_OUT_STYLE
                for sign in scene.signs:
                    assert sign.lettering != "heavy"
                    assert not sign.text.isdigit() or int(sign.text) not in HELD_OUT_NUMBERS


def test_the_split_of_unseen_pairs_draws_no_pair_of_training() -> None:
    items = [item for sample in drawn("describe", 60, "combination") for item in items_of(sample)]
    tinted = [(item.colour, item.shape) for item in items if item.shape in TINTED]
    assert tinted
    assert set(tinted) <= HELD_OUT_PAIRS


def test_the_split_of_an_unseen_style_draws_things_in_that_style_only() -> None:
    items = [item for sample in drawn("describe", 40, "style") for item in items_of(sample)]
    assert {item.style for item in items if item.shape not in SHAPES} == {HELD_OUT_STYLE}


def test_every_colour_and_every_tinted_thing_is_in_training_with_others() -> None:
    for thing in TINTED:
        assert len({colour for colour, held in HELD_OUT_PAIRS if held == thing}) == 2
    for colour in COLOURS:
        assert len({thing for held, thing in HELD_OUT_PAIRS if held == colour}) == 2
    digits = {digit for number in range(10, 100) if number not in HELD_OUT_NUMBERS for digit in str(number)}
    assert len(digits) == 10


def test_a_question_names_exactly_one_thing() -> None:
    for sample in drawn("colour", 60) + drawn("place", 60):
        asked = f" {sample.question.rstrip('?')} "
        whole = [item for item in items_of(sample) if f" {item.name} " in asked]
        part = [item for item in items_of(sample) if f" {item.shape} " in asked]
        assert len(whole or part) == 1, sample.question
    for sample in drawn("colour", 60):
        assert not any(item.shape in NATURAL and item.shape in sample.question.split() for item in items_of(sample))


def test_the_map_of_a_scene_shows_each_thing_at_its_place() -> None:
    for sample in drawn("describe", 20):
        scene = sample.scenes[0]
        covered = item_map(scene, 90)
        for number, item in enumerate(scene.items):
            rows, columns = (covered == number + 1).nonzero()
            middle = PLACES[int(rows.mean()) // 30 * 3 + int(columns.mean()) // 30]
            assert middle == item.place or item.size > 0.36


@pytest.mark.parametrize("aspect", [16 / 9, 3 / 4])
def test_in_wide_pictures_circles_stay_round_and_match_the_map(aspect: float) -> None:
    look = Look(120, "plain", (255, 255, 255), (255, 255, 255), 0.0, 0, aspect)
    red = TONES["red"][0]
    circles = tuple(Item("circle", "red", x, y, 0.25, red) for x, y in ((0.2, 0.2), (0.8, 0.5), (0.5, 0.8)))
    picture = np.asarray(draw(Scene(circles, look)), int)
    height, width = picture.shape[:2]
    assert min(height, width) == 120
    assert width / height == pytest.approx(aspect, rel=0.01)
    covered = item_map(Scene(circles, look), 96)
    assert covered.shape == (96, 96)
    for number, circle in enumerate(circles):
        rows, columns = (covered == number + 1).nonzero()
        assert rows.mean() / 96 == pytest.approx(circle.y, abs=0.02)
        assert columns.mean() / 96 == pytest.approx(circle.x, abs=0.02)
        alone = np.asarray(draw(Scene((circle,), look)), int)
        down, across = (alone[..., 1] < 128).nonzero()
        assert np.ptp(down) == pytest.approx(np.ptp(across), abs=1)
        assert np.ptp(down) == pytest.approx(0.25 * 120, abs=2)


def test_pictures_are_square_wide_and_tall_and_those_of_one_place_alike() -> None:
    samples = [sample for task in TASKS for sample in drawn(task, 12)]
    aspects = [sample.scenes[0].look.aspect for sample in samples]
    assert 0.3 < sum(aspect == 1 for aspect in aspects) / len(aspects) < 0.5
    assert sum(aspect > 1.2 for aspect in aspects) / len(aspects) > 0.15
    assert sum(aspect < 1 / 1.2 for aspect in aspects) / len(aspects) > 0.15
    assert 0.5 <= min(aspects) < 0.6
    assert 1.8 < max(aspects) <= 2.0
    for task in ("what changed", "direction", "story", "quality", "hidden", "fine print"):
        for sample in drawn(task, 6):
            assert len({scene.look.aspect for scene in sample.scenes}) == 1


def test_the_map_matches_a_signs_letters() -> None:
    for sample in drawn("reading", 12):
        scene = sample.scenes[0]
        code = len(scene.items) + 1
        side = scene.look.side
        covered = item_map(scene, side) >= code
        inside = np.asarray(draw(scene).convert("L").resize((side, side)), int)[covered]
        assert inside.max() - inside.min() > 60


def test_one_of_two_views_hides_the_thing_and_the_other_shows_it() -> None:
    for index in range(25):
        group = views(random.Random(index), TRAIN)
        shares = []
        for scene in group.scenes:
            number = [item.shape for item in scene.items].index(group.before.shape if group.before else "")
            alone = scene.items[number]
            share = (item_map(scene, 96) == number + 1).mean()
            shares.append(share * scene.look.aspect / alone.size**2)
        hidden, seen = shares[group.hidden_in], shares[1 - group.hidden_in]
        assert hidden < 0.06, index
        assert seen > 0.12, index


def test_a_puzzle_has_one_answer_among_four() -> None:
    for index in range(40):
        group = puzzle(random.Random(index), TRAIN)
        question, letter, choices = puzzle_choices(random.Random(index), group)
        assert group.after is not None
        assert choices["ABCD".index(letter)] == group.after.name
        assert len(set(choices)) == 4
        assert len(group.scenes[0].items) == 8
        assert f"{letter}: {group.after.name}" in question


def test_an_item_appears_as_often_as_asked_for() -> None:
    for times in (1, 2, 3):
        for seed in range(20):
            states = blinking(random.Random(seed), times, 8)
            assert "".join(map(str, states)).count("01") == times
            assert states[0] == 0


def test_every_state_lasts_at_least_a_frame() -> None:
    for seed in range(20):
        states = lasting(random.Random(seed), 4, 7)
        assert states == sorted(states)
        assert set(states) == {0, 1, 2, 3}


def test_the_benchmark_is_a_file_of_samples_and_their_pictures(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    # One task of each scenario, and those with choices, without pictures and with unknown pictures.
    tasks = ["colour", "what changed", "events", "hidden", "fine print", "worded", "puzzle", "no picture"]
    tasks.append("unknown noise")
    file = write_benchmark(tmp_path / "bench", per_task=2, tasks=tasks, progress=lambda *now: told.append(now))
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert file.name == NAME
    assert len(rows) == 2 * len(tasks) == len(told)
    assert {row["metadata"]["scenario"] for row in rows} == {*SCENARIOS, "everyday"}
    for row in rows:
        human, model = row["conversations"]
        assert human["value"].count("<image>") == len(row["image"])
        assert model["value"]
        assert row["metadata"]["question_type"] == ("multi-choice" if "choice_list" in row else "open-ended")
        # Where nothing is known there is one right answer.
        assert 0 < row["metadata"]["chance"] < 0.85 or row["metadata"].get("judge")
        for name in row["image"]:
            with Image.open(file.parent / name) as picture:
                picture.verify()


def test_the_same_benchmark_is_not_drawn_again_and_another_is_not_overwritten(tmp_path: Path) -> None:
    file = write_benchmark(tmp_path / "bench", per_task=1, tasks=["colour"])
    before = file.stat().st_mtime_ns
    assert write_benchmark(tmp_path / "bench", per_task=1, tasks=["colour"]).stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="holds another benchmark"):
        write_benchmark(tmp_path / "bench", per_task=2, tasks=["colour"])
    with pytest.raises(ValueError, match="unknown task 'juggling'"):
        write_benchmark(tmp_path / "other", tasks=["juggling"])


def test_of_calls_that_start_together_one_draws_and_the_others_wait(tmp_path: Path) -> None:
    drawn_by: list[int] = []

    def write(number: int) -> Path:
        def told(stage: str, done: int, total: int) -> None:
            drawn_by.append(number)

        return write_benchmark(tmp_path / "bench", per_task=20, tasks=["colour"], progress=told)

    with ThreadPoolExecutor(3) as executor:
        files = set(executor.map(write, range(3)))
    assert files == {tmp_path / "bench" / NAME}
    assert len(drawn_by) == 20
    assert len(set(drawn_by)) == 1
    assert len(list((tmp_path / "bench").glob("*.png"))) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["bench"]


def test_leftovers_of_a_killed_call_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".bench.partial").mkdir()
    (tmp_path / ".bench.partial" / "place-00000-1.png").write_bytes(b"half a pic")
    write_benchmark(tmp_path / "bench", per_task=2, tasks=["colour"])
    assert not (tmp_path / "bench" / "place-00000-1.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bench"]


def test_a_longer_benchmark_begins_with_the_shorter_one() -> None:
    assert list(benchmark_samples("story", 5, 4)) == list(benchmark_samples("story", 5, 9))[:4]


def test_chance_is_the_share_of_the_commonest_answer() -> None:
    assert chance_of("is there") == pytest.approx(0.5, abs=0.1)
    assert chance_of("camera") == pytest.approx(0.5, abs=0.1)
    assert chance_of("puzzle") == pytest.approx(0.25, abs=0.08)
    assert chance_of("describe") < 0.05


def test_kinds_are_single_words_that_differ() -> None:
    assert len(set(KINDS)) == len(KINDS)
    assert all(kind.isalnum() for kind in KINDS)


@pytest.mark.parametrize("task", KINDS_OF_VIDEOS)
def test_a_long_clip_matches_its_answer(task: str) -> None:
    for seed in range(12):
        clip = draw_video(task, random.Random(f"{task}/{seed}"), TRAIN)
        assert len(clip.scenes) == LONG_CLIP
        counts = [len(scene.items) for scene in clip.scenes]
        rises = sum(b > a for a, b in pairwise(counts))
        if task == "events":
            assert clip.answer.endswith(f" {TIMES[rises]}.")
        elif task == "order":
            assert clip.answer.count("the ") == rises
        else:
            assert rises == 0


def test_frames_are_taken_at_even_distances() -> None:
    assert sampled(range(24), 4) == [3, 9, 15, 21]
    assert sampled(range(24), 24) == list(range(24))
