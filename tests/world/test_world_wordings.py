"""Rewordings of the world's questions: their meaning, their number, and the held-out ones."""

import random
import re
from collections.abc import Iterator

import pytest

from edge_interleave.world import groups
from edge_interleave.world.group_questions import compare, puzzle, same
from edge_interleave.world.samples import TASKS, draw_sample
from edge_interleave.world.scene_questions import EVERYDAY_QUESTIONS, SCENE_QUESTIONS
from edge_interleave.world.unknown_questions import HELD_OUT, TRAINED, unknown_question
from edge_interleave.world.vocabulary import TRAIN
from edge_interleave.world.wordings import HELD_OUT_WORDS, KINDS, number_of_wordings, reworded, understood, wordings

OF_CAST = ("count", "is there", "absent", "nearly there", "count of a kind")


def questions() -> Iterator[str]:
    """Every kind of question that the world asks, several times."""
    for task in TASKS:
        for index in range(30):
            yield draw_sample(task, random.Random(f"wordings/{task}/{index}"), TRAIN).question
    yield puzzle(groups.puzzle(random.Random(0), TRAIN))[0]
    for kind, ask in {**SCENE_QUESTIONS, **EVERYDAY_QUESTIONS}.items():
        for index in range(40):
            rng = random.Random(f"wordings/{kind}/{index}")
            scene = groups.sizes(rng, TRAIN).scenes[0]
            for where in ("", " in image 2"):
                qa = ask(rng, scene, where, **({"split": TRAIN} if kind in OF_CAST else {}))
                if qa is not None:
                    yield qa[0]
    rng = random.Random(0)
    pair = groups.change_pair(rng, TRAIN)
    yield from (same(rng, True)[0], compare(rng, pair.scenes, pair)[0])


def test_every_question_of_the_world_is_understood() -> None:
    lost = [question for question in questions() if understood(question) is None]
    assert not lost
    assert {found.kind for question in questions() if (found := understood(question))} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_forty_wordings_and_keeps_some_from_training(kind: str) -> None:
    trained, kept = (number_of_wordings(kind, held_out=held_out) for held_out in (False, True))
    assert trained + kept >= 40
    assert kept >= 1
    assert not set(wordings(kind, held_out=False)) & set(wordings(kind, held_out=True))


def test_wordings_contain_no_marks_of_the_grammar() -> None:
    for question in questions():
        for held_out in (False, True):
            text = reworded(random.Random(question), question, held_out)
            assert not re.search(r"[(){}|$~]|  ", text), text
            assert text == text.strip()


def test_rewording_keeps_the_names_in_a_question() -> None:
    for index in range(60):
        rng = random.Random(index)
        assert re.search(r"red (car|auto)", reworded(rng, "What colour is the red car?").lower()) or index % 7
        text = reworded(rng, "Which image says 42?", held_out=True)
        assert "42" in text
    texts = [reworded(random.Random(index), "What is at the center?").lower() for index in range(200)]
    assert sum(any(word in text for word in ("middle", "cent")) for text in texts) > 180


def test_wordings_are_as_people_type() -> None:
    texts = [reworded(random.Random(index), "What colour is the car in image 2?") for index in range(400)]
    assert len(set(texts)) > 250
    for sign in ("color ", "colour ", "second ", "picture 2", "photo", "please", "what's"):
        assert any(sign in text.lower() for text in texts), sign
    assert 0.3 < sum(text[-1] not in "?." for text in texts) / len(texts) < 0.7
    assert 0.4 < sum(text[0].islower() for text in texts) / len(texts) < 0.8


def test_held_out_words_are_in_no_wording_of_training() -> None:
    words = set(HELD_OUT_WORDS.values())
    for question in questions():
        text = reworded(random.Random(question), question)
        assert not words & set(re.findall(r"[a-z]+", text.lower())), text


def test_rewording_leaves_choices_unchanged() -> None:
    question = "What completes the puzzle? A: red star B: blue star C: red heart D: pink moon"
    for index in range(50):
        text = reworded(random.Random(index), question, held_out=index % 2 == 1)
        assert text.endswith("A: red star B: blue star C: red heart D: pink moon")


def test_a_question_of_another_kind_is_left_alone() -> None:
    assert reworded(random.Random(0), "Do you dream?") == "Do you dream?"


def test_unknown_questions_of_tests_and_of_training_differ() -> None:
    assert not set(TRAINED) & set(HELD_OUT)
    drawn = {unknown_question(random.Random(index)) for index in range(3000)}
    kept = {unknown_question(random.Random(index), held_out=True) for index in range(3000)}
    assert len(drawn) > 2000
    assert not {text.lower().rstrip("?") for text in drawn} & {text.lower().rstrip("?") for text in kept}


def test_things_to_count_have_other_names_too_and_keep_their_colour() -> None:
    texts = [reworded(random.Random(index), "How many red squares are there?").lower() for index in range(1000)]
    assert any("red boxes" in text for text in texts)
    assert any("red blocks" in text for text in texts)
    assert 10 < sum("red boxes" in text or "red blocks" in text for text in texts) < 150
