"""The embedded model on everyday tasks: reworded questions and unknown pictures; least scores on fixed samples."""

import random
from collections.abc import Iterator

import pytest

import edge_interleave as ei
from edge_interleave.world.drawing import draw
from edge_interleave.world.everyday_samples import draw_everyday
from edge_interleave.world.judging import is_right, is_sentence
from edge_interleave.world.phrases import NO_PICTURE, UNKNOWN_QUESTION

SAMPLES = 12
"""Number of samples of each task."""


@pytest.fixture(scope="module")
def model() -> Iterator[ei.Model]:
    with ei.load(threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("task", "at_least"),
    [("worded", 9), ("free colour", 10), ("unknown photo", 11), ("unknown noise", 11), ("empty picture", 9)],
)
def test_everyday_questions_are_answered(model: ei.Model, task: str, at_least: int) -> None:
    wrong = []
    for number in range(SAMPLES):
        sample = draw_everyday(task, random.Random(f"everyday/{task}/{number}"))
        answer = model.ask([*map(draw, sample.scenes), sample.question]).text
        assert is_sentence(answer), f"{sample.question}: {answer}"
        if answer != sample.answer and not is_right(answer, sample.answer, sample.judge):
            wrong.append(f"{sample.question} {sample.answer} {answer}")
    assert len(wrong) <= SAMPLES - at_least, "\n".join(wrong)


@pytest.mark.parametrize("question", ["hello", "Who is this?", "what is 12 + 30?", "quelle heure est-il?"])
def test_questions_about_nothing_it_sees_are_not_guessed_at(model: ei.Model, question: str) -> None:
    assert model.ask(question).text in (UNKNOWN_QUESTION, NO_PICTURE)
