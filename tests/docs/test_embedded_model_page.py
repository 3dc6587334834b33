"""The page about the embedded model names what the drawn world contains, and the figures of the benchmarks' page."""

import re

import pytest
from support.paths import ROOT

from edge_interleave.world.everyday_samples import EVERYDAY
from edge_interleave.world.samples import TASKS
from edge_interleave.world.scene import PLACES
from edge_interleave.world.scene_questions import EVERYDAY_QUESTIONS, SCENE_QUESTIONS
from edge_interleave.world.vocabulary import COLOURS, HELD_OUT_NUMBERS, NATURAL, SHAPES, TINTED, WORDS

PAGE = (ROOT / "docs" / "guides" / "embedded-model.md").read_text("utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text("utf-8").partition("## The embedded model")[2]
NEW_WORDS = "new words: "
ONE_PICTURE = {name.replace("_", " ") for name in (*SCENE_QUESTIONS, *EVERYDAY_QUESTIONS)}
ALL_KINDS = {
    *ONE_PICTURE,
    *TASKS,
    *(name.removeprefix(NEW_WORDS) for name in EVERYDAY if name.startswith(NEW_WORDS)),
}


def row(subject: str) -> list[str]:
    """The words of a row of the page's tables."""
    found = re.search(rf"^\| {re.escape(subject)} \| (.*) \|$", PAGE, re.MULTILINE)
    assert found is not None, subject
    return found[1].split(", ")


@pytest.mark.parametrize(
    ("subject", "known"),
    [
        ("shapes", SHAPES),
        ("colours", COLOURS),
        ("things in one of these colours", TINTED),
        ("things in their own colours", NATURAL),
        ("places", PLACES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_table_has_the_words_of_the_world(subject: str, known: tuple[str, ...]) -> None:
    assert row(subject) == list(known)


def test_the_table_has_the_words_and_numbers_of_signs() -> None:
    words, _, numbers = ", ".join(row("words on signs")).partition("; ")
    assert words.split(", ") == list(WORDS)
    assert numbers == "numbers from 10 to 99"
    assert all(10 <= number <= 99 for number in HELD_OUT_NUMBERS)


def test_the_table_has_every_kind_of_question() -> None:
    one, several = row("questions about one picture"), row("questions about several pictures, a clip or views")
    assert set(one) == ONE_PICTURE
    assert set(several) == ALL_KINDS - ONE_PICTURE
    assert len(one) + len(several) == len(ALL_KINDS)


def test_the_figures_are_those_of_the_benchmarks() -> None:
    section = PAGE.partition("## How weak it is")[2].partition("\n## ")[0]
    figures = re.findall(r"\b0\.\d+", section)
    assert len(figures) >= 10
    assert [figure for figure in figures if figure not in BENCHMARKS] == []
    assert "--samples 40" in section
    assert "eval --world --samples 40" in BENCHMARKS
