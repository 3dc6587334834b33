"""An answer is a string wherever a string is expected, and brings its figures along."""

import copy
import json
import pickle
from dataclasses import replace

import pytest

import edge_interleave as ei

STATS = ei.Stats(
    prompt_tokens=9, visual_tokens=4, cached_tokens=2, answer_tokens=3, encode_s=0.1, prefill_s=0.2, first_token_s=0.4,
    decode_tokens_per_s=20.0, prefill_tokens_per_s=35.0, encode_images_per_s=10.0, peak_memory_bytes=1 << 20,
)  # fmt: skip


@pytest.fixture
def answer() -> ei.Answer:
    return ei.Answer("a red star", "stop", STATS, (5, 6, 7))


def test_an_answer_is_a_string(answer: ei.Answer) -> None:
    assert isinstance(answer, str)
    assert answer == "a red star"
    assert (len(answer), "red" in answer, answer.upper(), answer[2:5]) == (10, True, "A RED STAR", "red")
    assert f"{answer:>12}|{answer}" == "  a red star|a red star"
    assert " ".join([answer, "!"]) == "a red star !"
    assert {answer: 1}["a red star"] == 1
    assert json.loads(json.dumps({"answer": answer})) == {"answer": "a red star"}
    assert type(str(answer)) is type(answer.text) is str


def test_its_figures_survive_a_copy(answer: ei.Answer) -> None:
    for made in (copy.copy(answer), copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert (made, made.finish_reason, made.stats, made.token_ids) == (answer, "stop", STATS, (5, 6, 7))
    cut = replace(answer, text="a red", finish_reason="length")
    assert (cut, cut.text, cut.finish_reason, cut.stats) == ("a red", "a red", "length", STATS)


def test_it_cannot_be_changed(answer: ei.Answer) -> None:
    with pytest.raises(AttributeError):
        answer.text = "a blue star"  # type: ignore[misc]


def test_a_notebook_shows_text_and_reason(answer: ei.Answer) -> None:
    assert repr(answer) == "Answer('a red star', finish_reason='stop')"


def test_it_can_be_a_message_of_the_next_question(answer: ei.Answer) -> None:
    with ei.load(threads=1) as model:
        turns = [{"role": "assistant", "content": answer}, {"role": "user", "content": ["Why?", answer]}]
        assert model.ask([{"role": "user", "content": "What is it?"}, *turns], max_tokens=2).stats.prompt_tokens > 20
