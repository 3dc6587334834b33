"""Writes `checkpoint/questions.json`: which questions the embedded model was trained on, as counts of word pairs.

    python examples/embedded_model/make_questions.py [--questions 6000] [--out checkpoint/questions.json]

`edge-interleave ask` then says so where a question is unlike them. Prints how many questions in wordings and words that
were held out are taken for unfamiliar, and how many questions about other things for familiar.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from edge_interleave.prompt.familiarity import QuestionModel, WordPairs, dump_question_model
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.world.everyday_samples import EVERYDAY, WORDED, draw_everyday
from edge_interleave.world.samples import TASKS, draw_sample
from edge_interleave.world.unknown_questions import unknown_question

MARGIN = -0.25
"""A question is taken for familiar unless it is clearly likelier among other questions than among those of training."""
EXAMPLES = (
    "Describe the image.",
    "What colour is the car?",
    "How many stars are there?",
    "Is there a red circle?",
    "Where is the tree?",
    "What is in the middle?",
    "What is red?",
    "Which is bigger, the cup or the house?",
    "What does the sign say?",
    "What shapes do you see?",
    "What changed between the two images?",
    "Which image shows a blue heart?",
)
"""One question of each kind that a newcomer may ask."""


def main() -> None:
    """Draw the questions, count, write, and print the shares of mistakes on questions that were held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=6000, help="questions to count, of each sort")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("checkpoint") / "questions.json")
    arguments = parser.parse_args()
    rng = random.Random(20261126)
    count = arguments.questions
    model = QuestionModel(
        WordPairs.of(_trained(rng) for _ in range(count)),
        WordPairs.of(unknown_question(rng) for _ in range(count)),
        MARGIN,
        EXAMPLES,
    )
    with atomic_file(arguments.out) as temporary:
        temporary.write_text(dump_question_model(model), "utf-8")
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    for name, questions, familiar in _held_out(rng):
        wrong = sum(model.familiar(question) != familiar for question in questions) / len(questions)
        print(f"{name}: {wrong:.3f} of {len(questions)} taken for {'un' if familiar else ''}familiar")


def _held_out(rng: random.Random) -> Iterator[tuple[str, list[str], bool]]:
    yield "trained wordings, drawn anew", [_trained(rng) for _ in range(2000)], True
    yield "held-out wordings", [_reworded(rng) for _ in range(2000)], True
    yield "held-out questions about other things", [unknown_question(rng, held_out=True) for _ in range(2000)], False


def _trained(rng: random.Random) -> str:
    """A question as training asks it: in everyday wordings, or in the world's own."""
    if rng.random() < 0.7:
        return draw_everyday(WORDED, rng).question
    return draw_sample(rng.choice(list(TASKS)), rng).question


def _reworded(rng: random.Random) -> str:
    """A question about the world in wordings and words that training never sees."""
    return draw_everyday(rng.choice([task for task in EVERYDAY if task.startswith("new words: ")]), rng).question


if __name__ == "__main__":
    main()
