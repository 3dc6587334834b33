"""Everyday tasks: things anywhere, counts, unknown pictures, and the judging of free answers."""

import random
from collections import Counter

import numpy as np
import pytest

from edge_interleave.world import groups, unknown_pictures
from edge_interleave.world.benchmark import ALL_TASKS, benchmark_samples
from edge_interleave.world.drawing import draw, item_map
from edge_interleave.world.everyday_samples import EVERYDAY, draw_everyday
from edge_interleave.world.judging import is_right, is_sentence
from edge_interleave.world.phrases import NUMBERS, UNKNOWN_PICTURE
from edge_interleave.world.scene import PLACES, SAME_MAX, SIZE_LEAST, Item, Look, Scene, blank_scene, free_scene
from edge_interleave.world.scene_questions import POSSIBLE_COLOURS, bigger, count_named, what_is
from edge_interleave.world.vocabulary import HELD_OUT_PAIRS, SHAPES, TRAIN
from edge_interleave.world.wordings import understood

WHITE = Look(200, "plain", (255, 255, 255), (255, 255, 255), 0.0, 0)


@pytest.mark.parametrize("task", EVERYDAY)
def test_a_sample_follows_from_its_seed_and_its_answer_is_a_sentence_of_the_world(task: str) -> None:
    for index in range(4):
        sample = draw_everyday(task, random.Random(f"test/{task}/{index}"))
        assert sample == draw_everyday(task, random.Random(f"test/{task}/{index}"))
        assert sample.question
        assert sample.answer.startswith(("Image", "First")) or is_sentence(sample.answer), sample.answer
        assert is_right(sample.answer, sample.answer, sample.judge)
        for scene in sample.scenes[:2]:
            assert draw(scene).mode == "RGB"


def test_a_bench_of_everyday_tasks_begins_with_a_shorter_one() -> None:
    assert set(EVERYDAY) < set(ALL_TASKS)
    assert list(benchmark_samples("worded", 5, 3)) == list(benchmark_samples("worded", 5, 6))[:3]


def test_free_things_lie_anywhere_in_many_sizes_and_up_to_six_of_a_kind() -> None:
    scenes = [free_scene(random.Random(index), TRAIN) for index in range(400)]
    items = [item for scene in scenes for item in scene.items]
    assert min(item.size for item in items) >= SIZE_LEAST
    assert 0.4 < max(item.size for item in items) <= 0.5
    assert {item.place for item in items} == set(PLACES)
    # Away from the middles of the nine places too.
    assert sum(abs((item.x * 3) % 1 - 0.5) > 0.3 for item in items) > 0.2 * len(items)
    most = Counter(max(Counter(item.shape for item in scene.items).values()) for scene in scenes)
    assert set(range(1, SAME_MAX + 1)) <= set(most)
    assert {item.style for item in items} >= {"filled", "outline", "line", "inked", "edged", "noto", "twemoji"}
    assert not any((item.colour, item.shape) in HELD_OUT_PAIRS for item in items)
    assert {scene.look.edges for scene in scenes} == {"smooth", "hard", "soft"}
    assert any(scene.look.jpeg for scene in scenes)


def test_free_things_overlap_a_little_at_most() -> None:
    for index in range(40):
        scene = free_scene(random.Random(index), TRAIN)
        covered = item_map(scene, 120)
        assert len(set(np.unique(covered)) - {0}) == len(scene.items)


def test_edges_and_jpeg_change_a_drawing_a_little() -> None:
    circle = Item("circle", "red", 0.5, 0.5, 0.5, (255, 0, 0))
    plain = np.asarray(draw(Scene((circle,), WHITE)), int)
    for change in ({"edges": "hard"}, {"edges": "soft"}, {"jpeg": 40}):
        other = np.asarray(draw(Scene((circle,), Look(**{**vars(WHITE), **change}))), int)
        assert abs(other - plain).mean() < 6
    soft = np.asarray(draw(Scene((circle,), Look(**{**vars(WHITE), "edges": "soft"}))), int)
    hard = np.asarray(draw(Scene((circle,), Look(**{**vars(WHITE), "edges": "hard"}))), int)
    assert len(np.unique(soft[..., 1])) > len(np.unique(hard[..., 1])) == 2


def test_a_blank_scene_is_one_background() -> None:
    for index in range(20):
        picture = np.asarray(draw(blank_scene(random.Random(index))), int)
        assert np.ptp(picture, (0, 1)).max() < 130


@pytest.mark.parametrize("kind", unknown_pictures.UNKNOWN_KINDS)
def test_held_out_unknown_pictures_ship_with_the_package(kind: str) -> None:
    first, second = (unknown_pictures.paint(unknown_pictures.HELD_OUT + kind, seed, (120, 90)) for seed in (1, 2))
    assert first.size == (120, 90)
    assert first.mode == "RGB"
    assert np.asarray(first, int).std() > 3
    assert (
        np.asarray(first) == np.asarray(unknown_pictures.paint(unknown_pictures.HELD_OUT + kind, 1, (120, 90)))
    ).all()
    assert (np.asarray(first) != np.asarray(second)).any()


def test_a_kind_of_unknown_picture_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind 'dream'"):
        unknown_pictures.paint("dream", 0, (10, 10))


def test_counts_are_of_as_many_as_asked_for() -> None:
    for number in range(SAME_MAX + 1):
        for index in range(5):
            sample = draw_everyday(f"count {NUMBERS[number]}", random.Random(index))
            assert f" {NUMBERS[number]} " in sample.answer


def test_no_colour_question_if_a_thing_in_its_own_colours_could_be_meant() -> None:
    for index in range(200):
        rng = random.Random(index)
        scene = groups.free(rng, TRAIN).scenes[0]
        qa = what_is(rng, scene)
        if qa is not None:
            colour = qa[0].rstrip("?").split()[-1]
            assert not any(colour in POSSIBLE_COLOURS.get(item.shape, ()) for item in scene.items)


def test_the_bigger_of_two_is_clearly_bigger() -> None:
    asked = 0
    for index in range(200):
        rng = random.Random(index)
        scene = groups.sizes(rng, TRAIN).scenes[0]
        qa = bigger(rng, scene)
        if qa is None or " or " not in qa[0]:
            continue
        asked += 1
        more = qa[1].removesuffix(".").split()[-1]
        right = qa[1].removeprefix("The ").rsplit(" is ", 1)[0]
        sizes = {
            name: item.size
            for item in scene.items
            for name in (item.name, item.shape)
            if f"the {name} " in f"{qa[0][:-1]} "
        }
        others = [size for name, size in sizes.items() if name != right and not right.endswith(f" {name}")]
        assert others
        assert all((sizes[right] > size) == (more == "bigger") for size in others)
    assert asked > 20


@pytest.mark.parametrize(
    ("judge", "reference", "right", "wrong"),
    [
        (
            "words",
            "There is a red car at the left and a dog at the top.",
            ["A dog at the top and a red car at the left.", "there is a dog at the top and a red car at the left"],
            [
                "There is a red car at the top left and a dog.",
                "There is a blue car at the left and a dog at the top.",
                "",
            ],
        ),
        (
            "words",
            "There are two dogs.",
            ["two dogs", "There are two dogs in the picture."],
            ["There are three dogs.", "There is one dog."],
        ),
        (
            "words",
            "The car moved from the left to the top.",
            ["Car moved from left to top."],
            ["The car moved from the top to the left."],
        ),
        ("words", "First the car, then the dog.", ["first car then dog"], ["First the dog, then the car."]),
        (
            "words",
            "Image 1 contains a car, and image 2 contains a dog.",
            ["image 1 has a car and image 2 a dog"],
            ["Image 1 contains a dog, and image 2 contains a car."],
        ),
        ("words", "Yes.", ["yes"], ["No.", "Yes. There are two."]),
        (
            "names",
            "There are two red cars and a dog.",
            ["There is a red car at the left, a dog at the top and a red car at the right."],
            [
                "There is a red car and a dog.",
                "There are two blue cars and a dog.",
                "There are two red cars and a cat.",
            ],
        ),
        ("unknown", UNKNOWN_PICTURE, [UNKNOWN_PICTURE], ["There is a cat.", "No.", ""]),
    ],
)
def test_an_answer_is_right_by_its_content_words(
    judge: str, reference: str, right: list[str], wrong: list[str]
) -> None:
    assert all(is_right(answer, reference, judge) for answer in [reference, *right])
    assert not any(is_right(answer, reference, judge) for answer in wrong)


def test_rubbish_is_no_sentence_of_the_world() -> None:
    for rubbish in ("There646.", "It says 90 90.", "0.", "There are no no turtles.", "", "D is a red.", "The the car."):
        assert not is_sentence(rubbish)


def test_shapes_are_counted_without_the_things() -> None:
    asked = 0
    for index in range(1000):
        rng = random.Random(f"shapes/{index}")
        scene = groups.free(rng, TRAIN).scenes[0]
        question, answer = count_named(rng, scene, split=TRAIN) or ("", "")
        if "shapes" not in question:
            continue
        asked += 1
        number = sum(item.shape in SHAPES for item in scene.items)
        noun = "is one shape" if number == 1 else f"are {NUMBERS[number]} shapes"
        assert answer == f"There {noun}."
        assert is_sentence(answer)
        assert understood(question) is not None
    assert asked > 20
