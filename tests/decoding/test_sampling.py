"""Logits to tokens, in the order and meaning of transformers' logits processors."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import GOLDEN_FOLDER

from edge_interleave.decoding.sampling import Sampler, SamplingOptions, distribution
from edge_interleave.errors import UsageError

GOLDEN = GOLDEN_FOLDER / "sampling.json"
LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)


def test_the_default_is_the_largest_logit() -> None:
    assert Sampler(SamplingOptions()).pick(np.array([0.1, 3.0, 2.9], np.float32), []) == 1


def test_greedy_obeys_the_repetition_penalty() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=3.0))
    assert sampler.pick(LOGITS, []) == 0
    assert sampler.pick(LOGITS, [0, 0]) == 1
    assert sampler.pick(np.array([-0.5, -1.0], np.float32), [0]) == 1, "a negative logit is pushed down, not up"


def test_temperature_flattens_and_sharpens() -> None:
    cold, warm, hot = (distribution(LOGITS, [], SamplingOptions(temperature=t))[0] for t in (0.2, 1.0, 5.0))
    assert cold > 0.99 > warm > 0.5 > hot
    assert warm == pytest.approx(np.exp(2) / np.exp(LOGITS.astype(float)).sum())


def test_top_k_top_p_and_min_p_cut_the_tail() -> None:
    def kept(**options: float) -> list[int]:
        return np.flatnonzero(distribution(LOGITS, [], SamplingOptions(temperature=1.0, **options))).tolist()

    assert kept() == [0, 1, 2, 3, 4, 5]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_k=100) == [0, 1, 2, 3, 4, 5]
    assert kept(top_p=0.5) == [0]
    assert kept(top_p=0.8) == [0, 1, 2]
    assert kept(top_p=1e-9) == [0]
    assert kept(min_p=0.3) == [0, 1]
    assert kept(min_p=1.0) == [0]


def test_a_seed_repeats_itself_and_another_differs() -> None:
    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=2.0, seed=seed))
        return [sampler.pick(LOGITS, []) for _ in range(60)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    options = SamplingOptions(temperature=1.5, top_k=4, seed=0)
    sampler = Sampler(options)
    drawn = np.bincount([sampler.pick(LOGITS, []) for _ in range(20_000)], minlength=6) / 20_000
    assert np.abs(drawn - distribution(LOGITS, [], options)).max() < 0.012


@settings(deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.floats(0.05, 5),
    st.integers(0, 50),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_something_can_always_be_drawn(logits: list[float], temperature: float, k: int, p: float, min_p: float) -> None:
    options = SamplingOptions(temperature=temperature, top_k=k, top_p=p, min_p=min_p, seed=0)
    values = np.array(logits, np.float32)
    probabilities = distribution(values, [], options)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[Sampler(options).pick(values, [])] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"seed": -1},
    ],
)
def test_values_without_sense_are_a_usage_error(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingOptions(**wrong)


CASES = [
    {"temperature": t, "top_k": k, "top_p": p, "min_p": m, "repetition_penalty": r}
    for t, k, p, m, r in itertools.product((0.3, 1.0, 1.7), (0, 1, 5), (1.0, 0.9, 0.2), (0.0, 0.05, 0.5), (1.0, 1.3))
]


def case_logits(index: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(index)
    return (random.standard_normal(50) * 3).astype(np.float32), random.integers(0, 50, 12).tolist()


def test_distributions_are_those_transformers_gave() -> None:
    for index, expected in enumerate(json.loads(GOLDEN.read_text())):
        logits, history = case_logits(index)
        ours = distribution(logits, history, SamplingOptions(**CASES[index]))
        theirs = np.zeros(len(logits))
        theirs[expected["tokens"]] = expected["probabilities"]
        assert np.abs(ours - theirs).max() < 1e-5, CASES[index]


@pytest.mark.oracle
def test_distributions_are_those_of_transformers() -> None:
    pytest.importorskip("transformers")
    from golden.make_sampling import transformers_distribution

    for index, case in enumerate(CASES):
        logits, history = case_logits(index)
        theirs = transformers_distribution(logits, history, case)
        assert np.abs(distribution(logits, history, SamplingOptions(**case)) - theirs).max() < 1e-6, case
