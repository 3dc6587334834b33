"""Scores equal the official script's: hand-worked cases, its stored results, and an independent implementation."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.official_reading import normal, right_choice, rouge

from edge_interleave.evaluation import choice_match, exact_match, normalise, rouge_l
from edge_interleave.evaluation.scores import ACCURACY, ROUGE_L, UnscorableError, metric_of, score

TEXTS = st.text(alphabet="ab AB.,:;'\"()[]-/?!12 \n\t", max_size=40) | st.text(max_size=30)
WORDS = st.lists(
    st.sampled_from(["a", "red", "dog", "runs", "Two", ".", "3.5", "1,000", "-", "(b)", "A:", "'s", "cat.", ". ."]),
    max_size=25,
).map(" ".join)


def f(common: int, said: int, wanted: int) -> float:
    """F of distinct words in common, said and wanted."""
    precision, recall = common / said, common / wanted
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("A", "a"),
        ("  The Dog.\n", "the dog"),
        ("one\ttwo\nthree", "one two three"),
        ("well-known", "well known"),  # no space beside any hyphen
        ("well-known - yes", "wellknown  yes"),  # one hyphen has spaces, so all vanish
        ("$1,000 and (x)", "$1000 and x"),  # a comma between digits: every mark vanishes
        ("a,b", "a b"),
        ("a, b", "a b"),
        ("3.5 is not 3. 5", "3.5 is not 3 5"),  # a period before a digit stays
        (".5", ".5"),
        ("'quoted'", "quoted"),
        ('"quoted"', "quoted"),
        ("'('nested')'", "'nested'"),  # brackets become spaces, which end the stripping
        ("' spaced '", "spaced"),
        ("it's", "it's"),
        ("A:B", "a:b"),  # colons are no marks
        ("." * 33, "."),  # the 33rd period stays
        ("x" + ". " * 40, "x" + " " * 32 + ". " * 7 + "."),
        ("", ""),
        ("?!", ""),
        ("ÀÉ", "àé"),
        ("٣,٤-x", "٣٤x"),  # digits of any script
    ],
)
def test_normalised_texts_match_values_worked_by_hand(text: str, normalised: str) -> None:
    assert normalise(text) == normalised
    assert normal(text) == normalised


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("A", "A", True),
        ("a.", "A", True),
        ("(A)", "A", True),
        ("Answer: B", "B", True),
        ("A: a dog. B: a cat", "B", False),  # no lone letter: "b" has words before it
        ("A: B: C", "C", True),  # the last lone letter
        ("b : c : i", "C", True),  # i is no choice
        ("The answer is A", "A", False),  # nothing is looked for in words
        ("A. a dog", "A", False),
        ("image 1", "Image 1.", True),
        ("", "", True),
        (":", "", False),
        ("x:h", "H", True),
    ],
)
def test_choice_matches_equal_those_worked_by_hand(prediction: str, reference: str, right: bool) -> None:
    assert choice_match(prediction, reference) is right
    assert right_choice(prediction, reference) == right
    assert score(ACCURACY, prediction, reference) == float(right)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("a red dog", "a red dog", f(3, 3, 3)),
        ("a red dog", "a blue dog", f(2, 3, 3)),
        ("dog red a", "a red dog", f(1, 3, 3)),
        ("a a a dog", "a dog", f(2, 2, 2)),  # words count once
        ("cat", "dog", 0.0),
        ("", "dog", 0.0),
        ("...", "dog", 0.0),  # empty once normalised
        ("3.5 metres", "3.5 metres", f(3, 3, 3)),  # "3" and "5 metres": two sentences, three words
        ("dog", "", None),
        ("dog", "?!", None),
        ("w" * 600, "w" * 512, f(1, 1, 1)),  # cut to 512 characters
        ("The DOG.", "the dog", f(2, 2, 2)),
        ("one two three four", "one. two. three. four", f(4, 4, 4)),
    ],
)
def test_rouge_l_matches_values_worked_by_hand(prediction: str, reference: str, value: float | None) -> None:
    assert rouge_l(prediction, reference) == value
    assert rouge(prediction, reference) == value


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [("." * 40, "a dog"), ("a dog", "." * 40), (" ".join(["a"] * 200), " ".join(["b"] * 30000))],
    ids=["nothing but periods said", "nothing but periods wanted", "a reference beyond reason"],
)
def test_an_answer_that_crashes_the_official_script_is_unscorable(prediction: str, reference: str) -> None:
    with pytest.raises(UnscorableError):
        rouge_l(prediction, reference)


@settings(max_examples=200, deadline=None)
@given(TEXTS | WORDS)
def test_normalising_agrees_with_the_second_reading(text: str) -> None:
    assert normalise(text) == normal(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS | WORDS, TEXTS | WORDS | st.sampled_from("ABCDEFGHI"))
def test_choices_agree_with_the_second_reading(prediction: str, reference: str) -> None:
    assert choice_match(prediction, reference) == bool(right_choice(prediction, reference))


@settings(max_examples=200, deadline=None)
@given(TEXTS | WORDS, TEXTS | WORDS)
def test_rouge_l_agrees_with_the_second_reading_to_the_last_digit(prediction: str, reference: str) -> None:
    try:
        ours: float | str | None = rouge_l(prediction, reference)
    except UnscorableError:
        ours = "fails"
    wanted = rouge(prediction, reference)
    assert ours == wanted
    assert wanted is None or wanted == "fails" or math.isfinite(float(wanted))


def test_a_set_is_scored_by_its_question_type() -> None:
    assert metric_of("RAVEN", "open-ended") == ROUGE_L
    assert metric_of("RAVEN", "multi-choice") == ACCURACY
    assert metric_of("nlrv2", "anything") == ACCURACY
    assert metric_of("RAVEN", "anything") is None


def test_exact_is_the_whole_answer_word_for_word() -> None:
    assert exact_match(" The circle is red.\n", "The circle is red.")
    assert not exact_match("The circle is red", "The circle is red.")
