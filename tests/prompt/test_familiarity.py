"""Which questions are worded like those the embedded model was trained on."""

import random
from pathlib import Path

import pytest

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.embedded import BUNDLE
from edge_interleave.errors import BundleError
from edge_interleave.prompt.familiarity import (
    QuestionModel,
    WordPairs,
    dump_question_model,
    load_question_model,
    read_question_model,
)
from edge_interleave.world.everyday_samples import EVERYDAY, draw_everyday
from edge_interleave.world.unknown_questions import unknown_question


@pytest.fixture(scope="module")
def model() -> QuestionModel:
    found = read_question_model(open_bundle(BUNDLE))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "question",
    [
        "Describe the image.",
        "what's in this?",
        "is there a cat",
        "do you see a red circle?",
        "whats the color of the star",
        "Is the circle above the square?",
        "which one is the biggest?",
        "anything blue here?",
    ],
)
def test_what_people_ask_about_shapes_and_things_is_familiar(question: str, model: QuestionModel) -> None:
    assert model.familiar(question)


@pytest.mark.parametrize(
    "question",
    [
        "hello",
        "Who painted this?",
        "what is 2+2",
        "tell me a joke",
        "Wie viele Kreise sind da?",
        "什么颜色？",
        "what is this person wearing?",
        "how old is he?",
        "?",
        "",
    ],
)
def test_questions_about_other_things_are_not(question: str, model: QuestionModel) -> None:
    assert not model.familiar(question)


def test_markers_of_images_do_not_count(model: QuestionModel) -> None:
    assert model.score("<image> What changed? <image>") == model.score("What changed?")


def test_wordings_that_were_held_out_are_rarely_taken_for_unfamiliar(model: QuestionModel) -> None:
    rng = random.Random(3)
    tasks = [task for task in EVERYDAY if task.startswith("new words: ")]
    asked = [draw_everyday(rng.choice(tasks), rng).question for _ in range(300)]
    assert sum(not model.familiar(question) for question in asked) <= 0.05 * len(asked)


def test_other_questions_that_were_held_out_are_rarely_taken_for_familiar(model: QuestionModel) -> None:
    rng = random.Random(3)
    asked = [unknown_question(rng, held_out=True) for _ in range(300)]
    assert sum(model.familiar(question) for question in asked) <= 0.15 * len(asked)


def test_the_examples_are_familiar(model: QuestionModel) -> None:
    assert len(model.examples) >= 10
    assert all(model.familiar(question) for question in model.examples)


def test_probabilities_of_all_words_after_one_sum_to_at_most_one() -> None:
    pairs = WordPairs.of(["how many cats", "how many dogs", "how red"])
    words = ["many", "red", "cats", "dogs"]
    # One word and the end of the question: two factors each.
    from_start = sum(2.718281828 ** (2 * pairs.log_likelihood(word)) for word in [*words, "how"])
    assert 0 < from_start < 1


def test_a_model_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    written = QuestionModel(WordPairs.of(["Is it red?"]), WordPairs.of(["hello"]), 0.5, ("Is it red?",))
    path.write_text(dump_question_model(written), "utf-8")
    read = load_question_model(path)
    assert (read.margin, read.examples) == (0.5, ("Is it red?",))
    assert read.score("is it blue") == written.score("is it blue")


def test_a_bundle_without_one_has_none(tiny: Bundle) -> None:
    assert read_question_model(tiny) is None


GOOD = '{"version":1,"margin":1,"examples":["a"],"about":{"<s>":{"a":1}},"other":{"<s>":{"b":1}}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        GOOD.replace('"version":1', '"version":2'),
        GOOD.replace('"margin":1', '"margin":true'),
        GOOD.replace('"margin":1', '"margin":1e999'),
        GOOD.replace('"margin":1', '"margin":' + "9" * 400),
        GOOD.replace('["a"]', '"a"'),
        GOOD.replace('["a"]', '["\\u001b[2J"]'),
        GOOD.replace('{"a":1}', '{"a":-1}'),
        GOOD.replace('{"a":1}', '{"a":1.5}'),
        GOOD.replace('{"a":1}', "{}"),
        GOOD.replace('{"<s>":{"a":1}}', "{}"),
        GOOD.replace('{"<s>":{"a":1}}', "3"),
    ],
)
def test_files_that_are_no_question_model_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(GOOD, "utf-8")
    load_question_model(path)
    path.write_text(text, "utf-8")
    with pytest.raises(BundleError) as refused:
        load_question_model(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    with path.open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(BundleError, match="too large"):
        load_question_model(path)
