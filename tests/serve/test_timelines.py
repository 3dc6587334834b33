"""KV caches that requests share: the same beginning, and histories that slide."""

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.serving import Server, serving, user

import edge_interleave as ei
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput, spans_of
from edge_interleave.decoding.session import Session
from edge_interleave.model import Model
from edge_interleave.serve.timelines import SharedTimeline, TimelinePool

TOKENS = 36
"""Of an image."""
TURN = 45
"""Of a turn of ours."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with ei.load(threads=1) as opened:
        yield opened


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    opened = model.new_session()
    yield opened
    opened.close()


def image(number: int) -> VisualInput:
    rows = np.random.default_rng(number).standard_normal((TOKENS, 256)).astype(np.float32)
    return VisualInput(rows * 0.02)


def turn(number: int) -> list[Input]:
    """A question about an image, with its answer: nine tokens and the image."""
    return [TextInput((40, 41)), image(number), TextInput((50, 51, 52, 60 + number, 61 + number, 53, 54))]


def history(turns: range, question: int = 0) -> list[Input]:
    """A system message, turns, and a question of three tokens."""
    parts: list[Input] = [TextInput((10, 11, 12, 13))]
    for number in turns:
        parts += turn(number)
    return [*parts, TextInput((90, 91, 92 + question))]


def test_a_common_prefix_is_kept(session: Session) -> None:
    timeline = SharedTimeline(session, exact=False)
    first = timeline.prefill(history(range(3)))
    again = timeline.prefill(history(range(3), question=1))
    assert first is not None
    assert again is not None
    assert (first.cached_tokens, again.cached_tokens) == (0, again.prompt_tokens - 1)
    more = timeline.prefill(history(range(4)))
    assert more is not None
    assert more.cached_tokens == 4 + 3 * TURN
    assert timeline.slid.evicted == timeline.slid.approximate == 0


def test_a_history_that_lost_its_oldest_turn_computes_the_new_turn_and_the_oldest(session: Session) -> None:
    timeline = SharedTimeline(session, exact=False)
    timeline.prefill(history(range(4)))
    slid = timeline.prefill(history(range(1, 5)))
    assert slid is not None
    assert timeline.slid.evicted == TURN
    assert timeline.slid.recomputed == TURN
    # The two tokens before an image are the same in every turn, and stay from the one that left.
    assert timeline.slid.approximate == 2 * TURN - 2
    assert slid.prompt_tokens - slid.cached_tokens == TURN + TURN + 3
    assert slid.visual_tokens == 4 * TOKENS
    assert session.timeline.length == slid.prompt_tokens
    # And again, from a timeline that has slid.
    for first in range(2, 8):
        slid = timeline.prefill(history(range(first, first + 4)))
        assert slid is not None
        assert slid.prompt_tokens - slid.cached_tokens == TURN + TURN + 3
        assert [span.key for span in session.timeline.spans] == [
            span.key for span in spans_of(history(range(first, first + 4)))
        ]


def test_recomputed_entries_carry_no_traces_of_evicted_ones(session: Session, model: Model) -> None:
    timeline = SharedTimeline(session, exact=False)
    timeline.prefill(history(range(4)))
    timeline.prefill(history(range(1, 5)))
    session.close_gaps()
    slid = timeline.prefill(history(range(1, 2)))
    assert slid is not None
    assert slid.cached_tokens == 4 + TURN
    assert timeline.slid.approximate == 0
    fresh = model.new_session()
    expected = fresh.prefill(history(range(1, 2)))
    fresh.close()
    assert expected is not None
    assert np.abs(slid.logits - expected.logits).max() < 0.02 * np.abs(expected.logits).max()


def test_several_turns_may_leave_at_once_and_later_text_may_differ(session: Session) -> None:
    timeline = SharedTimeline(session, exact=False)
    timeline.prefill(history(range(6)))
    slid = timeline.prefill(history(range(3, 6), question=5))
    assert slid is not None
    assert timeline.slid.evicted == 3 * TURN
    assert slid.prompt_tokens - slid.cached_tokens == TURN + 1


def test_exact_recomputes_everything(session: Session) -> None:
    timeline = SharedTimeline(session, exact=True)
    timeline.prefill(history(range(4)))
    found = timeline.prefill(history(range(1, 5)))
    assert found is not None
    assert found.cached_tokens == 4 + 2
    assert timeline.slid.evicted == 0


def test_text_alone_does_not_slide(session: Session) -> None:
    timeline = SharedTimeline(session, exact=False)
    timeline.prefill([TextInput((1, 2, *range(100, 200)))])
    found = timeline.prefill([TextInput((1, 2, *range(120, 201)))])
    assert found is not None
    assert found.cached_tokens == 2


@pytest.mark.parametrize("seed", range(20))
def test_the_timeline_always_holds_the_prompt(session: Session, seed: int) -> None:
    """Histories that lose and gain turns anywhere, kept beginnings of any length."""
    chance = random.Random(seed)
    timeline = SharedTimeline(session, exact=False)
    numbers = list(range(5))
    for new in range(5, 12):
        parts = [part for number in numbers for part in turn(number)]
        prompt = [TextInput((10, 11)), *parts, TextInput((90,))]
        found = timeline.prefill(prompt)
        assert found is not None
        assert [span.key for span in session.timeline.spans] == [span.key for span in spans_of(prompt)]
        assert session.decoder.length == session.timeline.length == found.prompt_tokens
        assert all(span.end <= after.start for span, after in pairwise(session.timeline.spans))
        assert 0 <= found.cached_tokens < found.prompt_tokens
        first = chance.randrange(len(numbers))
        del numbers[first : first + chance.randrange(3)]
        numbers.append(new)


def test_each_conversation_has_its_own_timeline(model: Model) -> None:
    pool = TimelinePool(model.new_session, 2)
    one, other = history(range(3)), history(range(10, 13))
    first = pool.take(one)
    first.prefill(one)
    second = pool.take(other)
    second.prefill(other)
    assert second is not first
    assert pool.take(history(range(4))) is first
    assert pool.take(history(range(10, 14))) is second
    # A third one takes the place of the one that was used least recently.
    second.prefill(history(range(10, 14)))
    assert pool.take(history(range(20, 23))) is first
    pool.close("the test is over")


def picture(number: int) -> Image.Image:
    chance = random.Random(number)
    colour = [tuple(chance.randrange(256) for _ in range(3)) for _ in range(2)]
    drawn = Image.new("RGB", (144, 144), colour[0])
    at = [chance.randrange(70), chance.randrange(70)]
    ImageDraw.Draw(drawn).ellipse([*at, at[0] + 60, at[1] + 60], fill=colour[1])
    return drawn


def watch(server: Server, turns: int, kept: int) -> list[Any]:
    """A client that appends a picture a turn and keeps the last turns, as camera programs do; gives the usages."""
    client = server.client()
    messages: list[Any] = []
    usages = []
    for number in range(turns):
        messages.append(user("What changed?", picture(number)))
        while sum(message["role"] == "user" for message in messages) > kept:
            del messages[:2]
        found = client.chat.completions.create(model="embedded", messages=messages, max_tokens=12)
        usages.append(found.usage)
        messages.append({"role": "assistant", "content": found.choices[0].message.content})
    return usages


def test_a_watching_client_pays_two_pictures_a_turn_and_exact_ones_pay_all(server: Server, tmp_path: Path) -> None:
    sliding = watch(server, 9, 5)
    with serving(tmp_path, "--exact") as exact:
        computed = watch(exact, 9, 5)
    for usage, plain in zip(sliding[5:], computed[5:], strict=True):
        details = usage.prompt_tokens_details
        assert details.evicted_tokens > TOKENS
        assert details.recomputed_tokens > TOKENS
        assert usage.prompt_tokens - details.cached_tokens < 3 * (TOKENS + 30)
        assert plain.prompt_tokens - plain.prompt_tokens_details.cached_tokens > 5 * TOKENS
        assert plain.prompt_tokens_details.evicted_tokens == 0
    assert server.metric("slides_total") >= 4
