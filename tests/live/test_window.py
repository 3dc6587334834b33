"""A window of frames over a real decoder with random weights: what it holds, computes and evicts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.tiny import HIDDEN, LLAVA_TEMPLATE, change_manifest, tiny_bundle

from edge_interleave.answer import Answer
from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.generation import Generation, GenerationOptions
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.decoding.registry import find_backend
from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.decoding.session import ANSWER_ROOM, Session
from edge_interleave.errors import BundleError, ContextFullError, UsageError
from edge_interleave.live.layout import KEPT_ANSWERS, KEPT_ROOM, WindowLayout
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.live.window import EXACT, MODES, SLIDING, FrameWindow
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray

TRAINED_CONTEXT = 1200
ROWS = 16
"""Visual tokens of a frame."""
SAME = 0.99999
"""Cosine of logits."""
LIVELY = SamplingOptions(temperature=1.0, seed=3)
PLAIN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
NUMBERING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{{ loop.index }}{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
)
FORGETFUL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|im_start|>user\n{{ message['content'] }}"
    "<|im_end|>\n{% endif %}{% endfor %}<|im_start|>assistant\n"
)
TEMPLATES = {"structured": LLAVA_TEMPLATE, "plain": PLAIN_TEMPLATE}

Open = Callable[..., "Opened"]
Computed = Callable[[], int]


class Opened:
    """A window and its parts."""

    def __init__(self, bundle: Bundle, frames: int, mode: str, keep_answers: bool, context: int) -> None:
        self.bundle = bundle
        self.tokenizer = TextTokenizer.open(bundle)
        self.prompt = LivePrompt(PromptBuilder(bundle, self.tokenizer), self.tokenizer)
        self.session = new_session(bundle, context)
        self.window = FrameWindow(self.session, self.prompt, frames, mode, keep_answers)

    @property
    def sink(self) -> int:
        return len(self.prompt.sink)

    @property
    def layout(self) -> WindowLayout:
        return WindowLayout.of(self.prompt)

    def logits(self, question: str = "What?") -> FloatArray:
        prefill = self.window.prefill([TextInput(self.prompt.question(question))])
        assert prefill is not None
        return prefill.logits

    def stream(self, question: str = "What?", tokens: int = 8) -> Generation:
        return self.window.stream(self.prompt.question(question), GenerationOptions(tokens, sampling=LIVELY))

    def ask(self, question: str = "What?", tokens: int = 8) -> Answer:
        stream = self.stream(question, tokens)
        for _ in stream:
            pass
        self.window.finish(self.prompt.question(question), stream.answer.token_ids)
        return stream.answer

    def frame(self, number: int, rows: FloatArray) -> list[Input]:
        inputs: list[Input] = [TextInput(self.prompt.announce(number)), VisualInput(rows)]
        return [*inputs, TextInput(self.prompt.after_frame)]

    def afresh(self, *parts: Input) -> FloatArray:
        """The logits of a new session with the same sink."""
        session = new_session(self.bundle, TRAINED_CONTEXT)
        prefill = session.prefill([TextInput(self.prompt.sink), *parts])
        session.close()
        assert prefill is not None
        return prefill.logits


def new_session(bundle: Bundle, context: int) -> Session:
    decoder = find_backend("llama-cpp").open(bundle, DecoderOptions(context=context, threads=1))
    return Session(decoder, TextTokenizer.open(bundle), ())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A bundle for each template, with the same weights."""
    made = {}
    for name, template in TEMPLATES.items():
        made[name] = with_template(tmp_path_factory.mktemp(name), template)
    return made


def with_template(folder: Path, template: str) -> Bundle:
    tiny_bundle(folder, context_length=TRAINED_CONTEXT)
    change_manifest(folder, "prompt", chat_template=template)
    return open_bundle(folder)


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_window(bundles: dict[str, Bundle]) -> Iterator[Open]:
    opened: list[Opened] = []

    def open_(
        frames: int = 3, mode: str = SLIDING, keep_answers: bool = False, context: int = 600, template: str = "plain"
    ) -> Opened:
        opened.append(Opened(bundles[template], frames, mode, keep_answers, context))
        return opened[-1]

    yield open_
    for one in opened:
        one.window.close()


def image(number: int) -> FloatArray:
    return np.random.default_rng(number).standard_normal((ROWS, HIDDEN)).astype(np.float32)


def cosine(a: FloatArray, b: FloatArray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def counted(one: Opened) -> int:
    """KV entries in use; asserts that the timeline counts the same."""
    assert one.session.timeline.length == one.session.decoder.length
    assert one.session.timeline.position == one.session.decoder.position
    return one.session.decoder.length


class TestFrames:
    @pytest.mark.parametrize("mode", MODES)
    def test_the_latest_stay_and_are_numbered_from_one(self, open_window: Open, mode: str) -> None:
        one = open_window(3, mode)
        assert len(one.window) == 0
        assert [one.window.add(image(number)) for number in range(1, 6)] == [1, 2, 3, 4, 5]
        assert one.window.numbers == (3, 4, 5)
        assert len(one.window) == 3

    def test_a_full_window_has_a_constant_number_of_entries(self, open_window: Open) -> None:
        one = open_window(3)
        lengths, starts = [], one.sink
        for number in range(1, 10):
            one.window.add(image(number))
            lengths.append(counted(one))
        around = len(one.prompt.announce(1)) + len(one.prompt.after_frame)
        assert lengths == [starts + min(frames, 3) * (ROWS + around) for frames in range(1, 10)]

    def test_the_sink_never_leaves(self, open_window: Open) -> None:
        one = open_window(2)
        for number in range(30):
            one.window.add(image(number))
        keys = [span.key for span in one.session.timeline.spans]
        assert tuple(keys[: one.sink]) == one.prompt.sink
        assert [span.start for span in one.session.timeline.spans[: one.sink]] == list(range(one.sink))

    def test_the_window_is_not_computed_again(self, open_window: Open) -> None:
        """Otherwise positions would start again; they grow by one frame each time."""
        one = open_window(2)
        positions = []
        for _ in range(8):
            one.window.add(image(0))
            positions.append(one.session.decoder.position)
        steps = {after - before for before, after in itertools.pairwise(positions)}
        assert steps == {ROWS + len(one.prompt.announce(1)) + len(one.prompt.after_frame)}

    def test_positions_are_rebased_near_the_trained_context_and_not_before(self, open_window: Open) -> None:
        one = open_window(3)
        decoder = one.session.decoder
        rebased = 0
        for number in range(1, 101):
            before = decoder.position
            one.window.add(image(number))
            if decoder.position < before:
                rebased += 1
                assert before + ROWS + ANSWER_ROOM > TRAINED_CONTEXT - 20
                assert decoder.position == counted(one)
            assert decoder.position + ANSWER_ROOM <= TRAINED_CONTEXT
        assert 2 <= rebased <= 6

    def test_the_oldest_carries_no_trace_of_evicted_frames(self, tmp_path: Path) -> None:
        """In a window of two, the newer frame saw only the oldest, so the window equals a newly computed one.

        Without a sink: its growing distance would matter.
        """
        one = Opened(with_template(tmp_path, BARE_TEMPLATE), 2, SLIDING, False, 600)
        assert one.sink == 0
        for number in range(1, 7):
            one.window.add(image(number))
        frames = [*one.frame(5, image(5)), *one.frame(6, image(6))]
        logits = one.logits()
        one.session.reset()
        afresh = one.session.prefill([*frames, TextInput(one.prompt.question("What?"))])
        one.window.close()
        assert afresh is not None
        assert cosine(logits, afresh.logits) > SAME

    def test_the_oldest_is_recomputed_after_kept_answers(self, open_window: Open) -> None:
        one = open_window(2, keep_answers=True)
        one.window.add(image(1))
        answer = one.ask()
        turn = (*one.prompt.question("What?"), *answer.token_ids, *one.prompt.after_answer)
        for number in range(2, 5):
            one.window.add(image(number))
        one.session.decoder.rebase()
        one.session.timeline.rebase()
        frames = [*one.frame(3, image(3)), *one.frame(4, image(4))]
        without_turn = one.afresh(*frames, TextInput(one.prompt.question("What?")))
        keys = [span.key for span in one.session.timeline.spans]
        assert tuple(keys[one.sink : one.sink + len(turn)]) == turn
        assert cosine(one.logits(), without_turn) < SAME

    def test_each_frame_is_announced_by_its_number(self, open_window: Open) -> None:
        one = open_window(3)
        for number in range(1, 6):
            one.window.add(image(number))
        texts = [span.key for span in one.session.timeline.spans if isinstance(span.key, int)]
        shown = one.tokenizer.decode(texts[one.sink :])
        assert shown.replace("\n", "") == "Frame 3:Frame 4:Frame 5:"

    def test_frames_may_differ_in_size(self, open_window: Open) -> None:
        one = open_window(2)
        around = len(one.prompt.announce(1)) + len(one.prompt.after_frame)
        for size in (16, 4, 4, 16, 4):
            one.window.add(image(size)[:size])
        assert counted(one) == one.sink + 20 + 2 * around


class TestQuestions:
    @pytest.mark.parametrize("mode", MODES)
    def test_a_question_is_removed_once_answered(self, open_window: Open, mode: str) -> None:
        one = open_window(3, mode)
        for number in range(2):
            one.window.add(image(number))
        first = one.ask("A question of some length?")
        assert len(first.token_ids) == 8
        one.ask("And another?")
        assert one.ask("A question of some length?").token_ids == first.token_ids

    def test_a_question_leaves_the_timeline_unchanged(self, open_window: Open) -> None:
        one = open_window(3)
        for number in range(5):
            one.window.add(image(number))
        before = list(one.session.timeline.spans)
        one.ask()
        assert one.session.timeline.spans == before
        assert counted(one) == sum(span.end - span.start for span in before)

    def test_a_question_sees_the_frames_and_no_earlier_question(self, open_window: Open, template: str) -> None:
        one = open_window(3, template=template)
        one.window.add(image(1))
        one.ask("Is it so?")
        one.window.add(image(2))
        frames = [*one.frame(1, image(1)), *one.frame(2, image(2))]
        wanted = one.afresh(*frames, TextInput(one.prompt.question("What?")))
        assert cosine(one.logits("What?"), wanted) > SAME
        assert cosine(one.logits("Where?"), wanted) < SAME

    @pytest.mark.parametrize("mode", MODES)
    def test_a_question_can_come_before_the_first_frame(self, open_window: Open, mode: str) -> None:
        one = open_window(3, mode)
        question = TextInput(one.prompt.question("What?"))
        assert cosine(one.logits("What?"), one.afresh(question)) > SAME
        assert one.ask("What?", tokens=1).stats.prompt_tokens == one.sink + len(question.ids)

    @pytest.mark.parametrize("mode", MODES)
    def test_an_answer_closed_early_is_removed(self, open_window: Open, mode: str) -> None:
        one = open_window(3, mode, keep_answers=True)
        one.window.add(image(1))
        undisturbed = one.logits("What?")
        stream = one.stream(tokens=50)
        next(stream.pieces)
        stream.close()
        assert stream.answer.finish_reason == "cancelled"
        assert cosine(one.logits("What?"), undisturbed) > SAME
        assert one.window.add(image(2)) == 2

    def test_a_frame_ends_an_answer_that_is_being_generated(self, open_window: Open) -> None:
        one = open_window(3)
        one.window.add(image(1))
        stream = one.stream(tokens=50)
        next(stream.pieces)
        one.window.add(image(2))
        length = counted(one)
        list(stream)
        assert stream.answer.finish_reason == "cancelled"
        assert counted(one) == length


class TestKeptAnswers:
    @pytest.mark.parametrize("mode", MODES)
    def test_the_next_question_sees_kept_answers_in_their_place(self, open_window: Open, mode: str) -> None:
        one = open_window(3, mode, keep_answers=True)
        one.window.add(image(1))
        answer = one.ask("One?")
        one.window.add(image(2))
        turn = TextInput((*one.prompt.question("One?"), *answer.token_ids, *one.prompt.after_answer))
        question = TextInput(one.prompt.question("Two?"))
        wanted = one.afresh(*one.frame(1, image(1)), turn, *one.frame(2, image(2)), question)
        assert cosine(one.logits("Two?"), wanted) > SAME

    @pytest.mark.parametrize("mode", MODES)
    def test_the_last_few_answers_stay(self, open_window: Open, mode: str) -> None:
        one = open_window(2, mode, keep_answers=True)
        for number in range(1, 7):
            one.window.add(image(number))
            one.ask(f"Question {number}?", tokens=3)
        one.logits("Which?")
        texts = [span.key for span in one.session.timeline.spans if isinstance(span.key, int)]
        said = one.tokenizer.decode(texts)
        asked = [number for number in range(1, 7) if f"Question {number}?" in said]
        assert asked == [4, 5, 6]
        assert len(asked) == KEPT_ANSWERS
        assert one.window.numbers == (5, 6)

    def test_kept_answers_do_not_fill_the_cache(self, open_window: Open) -> None:
        one = open_window(2, keep_answers=True)
        lengths = []
        for number in range(40):
            one.window.add(image(number % 7))
            one.ask(tokens=3)
            lengths.append(counted(one))
        assert len(set(lengths[9:])) <= 3, "but for the digits of the frames' numbers"

    def test_never_leave_wide_gaps_between_frames_and_question(self, open_window: Open) -> None:
        """No text that a model was trained on has such distances."""
        one = open_window(2, keep_answers=True)
        one.window.add(image(1))
        one.window.add(image(2))
        for _ in range(60):
            one.ask("What is it?", tokens=4)
            assert one.session.decoder.position - counted(one) <= KEPT_ROOM + 32

    def test_a_long_answer_is_cut(self, open_window: Open) -> None:
        one = open_window(2, keep_answers=True, context=1000)
        before = counted(one)
        one.window.finish(one.prompt.question("What?"), [5] * 2 * KEPT_ROOM)
        assert counted(one) == before + KEPT_ROOM
        assert tuple(span.key for span in one.session.timeline.spans)[-len(one.prompt.after_answer) :] == (
            one.prompt.after_answer
        )

    def test_a_long_question_is_not_kept(self, open_window: Open) -> None:
        one = open_window(2, keep_answers=True, context=1000)
        before = counted(one)
        one.window.finish([5] * KEPT_ROOM, [6, 7])
        assert counted(one) == before


class TestModes:
    def test_sliding_equals_exact_until_a_frame_leaves(self, open_window: Open, template: str) -> None:
        sliding, exact = (open_window(4, mode, keep_answers=True, template=template) for mode in (SLIDING, EXACT))
        for number in range(1, 5):
            for one in (sliding, exact):
                one.window.add(image(number))
            assert cosine(sliding.logits(), exact.logits()) > SAME
            if number == 2:
                assert sliding.ask("Why?").token_ids == exact.ask("Why?").token_ids
        for one in (sliding, exact):
            one.window.add(image(5))
        assert cosine(sliding.logits(), exact.logits()) < SAME, "or the two modes are one"

    def test_exact_equals_a_new_session(self, open_window: Open, template: str) -> None:
        one = open_window(2, EXACT, template=template)
        for number in range(1, 6):
            one.window.add(image(number))
            one.ask()
        question = TextInput(one.prompt.question("What?"))
        wanted = one.afresh(*one.frame(4, image(4)), *one.frame(5, image(5)), question)
        assert cosine(one.logits("What?"), wanted) > SAME

    @pytest.mark.parametrize("wrong", [{"frames": 0}, {"mode": "gliding"}])
    def test_impossible_windows_are_a_usage_error(self, open_window: Open, wrong: dict) -> None:
        with pytest.raises(UsageError):
            open_window(**wrong)


class TestRoom:
    def test_the_computed_entries_are_enough_and_not_much_more(self, open_window: Open) -> None:
        sizes = (ROWS, 4)
        needed = open_window().layout.entries(3, sizes, keep_answers=False)
        one = open_window(3, context=needed)
        most = 0
        for number in range(12):
            one.window.add(image(number)[: sizes[number % 2]])
            most = max(most, counted(one))
            if number in (5, 10):
                assert len(one.ask("What?", tokens=ANSWER_ROOM - 40).token_ids) == ANSWER_ROOM - 40
        # The computation allows numbers of eight digits; these have one or two.
        assert needed - ANSWER_ROOM - 3 * 7 <= most <= needed - ANSWER_ROOM

    def test_kept_answers_have_room_of_their_own(self, open_window: Open) -> None:
        layout = open_window().layout
        needed = layout.entries(2, [4], keep_answers=True)
        assert needed <= TRAINED_CONTEXT + ANSWER_ROOM
        assert needed == layout.entries(2, [4], keep_answers=False) + KEPT_ANSWERS * KEPT_ROOM

    def test_a_frame_that_does_not_fit_leaves_the_window_usable(self, open_window: Open) -> None:
        two = open_window().layout.entries(2, [ROWS], keep_answers=False) - ANSWER_ROOM
        one = open_window(8, context=two)
        one.window.add(image(1))
        one.window.add(image(2))
        with pytest.raises(ContextFullError):
            one.window.add(image(3))
        held = one.window.numbers
        assert held == (1, 2)
        frames = [part for number in held for part in one.frame(number, image(number))]
        tokens = one.prompt.question("?")[:1]
        prefill = one.window.prefill([TextInput(tokens)])
        assert prefill is not None
        assert cosine(prefill.logits, one.afresh(*frames, TextInput(tokens))) > SAME
        one.window.add(image(9)[:1])
        assert one.window.numbers[-1] == len(held) + 1

    @pytest.mark.parametrize("mode", MODES)
    def test_a_question_that_does_not_fit_names_the_number_of_frames(self, open_window: Open, mode: str) -> None:
        one = open_window(3, mode, context=110)
        for number in range(1, 4):
            one.window.add(image(number))
        with pytest.raises(ContextFullError, match="the window holds 3 frames"):
            one.logits("long " * 30)
        one.window.add(image(4))
        assert one.window.numbers == (2, 3, 4)
        assert np.isfinite(one.logits("?")).all()

    def test_an_answer_ends_where_the_cache_is_full(self, open_window: Open) -> None:
        one = open_window(3, context=110)
        one.window.add(image(1))
        answer = one.ask(tokens=200)
        assert answer.finish_reason == "length"
        assert len(answer.token_ids) < 110
        assert one.window.add(image(2)) == 2

    def test_an_invalid_frame_leaves_the_window_unchanged(self, open_window: Open) -> None:
        one = open_window(3)
        one.window.add(image(1))
        before = one.logits()
        with pytest.raises(ValueError, match="finite"):
            one.window.add(np.full((4, HIDDEN), np.nan, np.float32))
        assert one.window.numbers == (1,)
        assert cosine(one.logits(), before) > SAME
        assert one.window.add(image(2)) == 2


class TestPrefetching:
    """The recomputation of the next oldest frame, done before a new frame comes."""

    @staticmethod
    def prefetch_all(one: Opened) -> None:
        while one.window.prefetch():
            pass

    @pytest.mark.parametrize("keep_answers", [False, True])
    def test_only_the_time_of_the_computation_changes(self, open_window: Open, keep_answers: bool) -> None:
        ahead, plain = (open_window(3, keep_answers=keep_answers) for _ in range(2))
        for number in range(1, 30):
            for one in (ahead, plain):
                one.window.add(image(number))
                if number % 4 == 0:
                    one.ask(tokens=3)
            for _ in range(number % 3):
                ahead.window.prefetch()
            assert counted(ahead) == counted(plain)
            assert ahead.session.timeline.spans == plain.session.timeline.spans
            assert cosine(ahead.logits(), plain.logits()) > SAME
            if number % 2:
                self.prefetch_all(ahead)

    @pytest.mark.parametrize("keep_answers", [False, True])
    def test_a_frame_then_costs_its_own_rows(self, open_window: Open, computed: Computed, keep_answers: bool) -> None:
        one = open_window(3, keep_answers=keep_answers)
        for number in range(1, 8):
            one.window.add(image(number))
            if number in (4, 5):
                one.ask(tokens=3)
                self.prefetch_all(one)
            one.logits()
            self.prefetch_all(one)
            computed()
            one.window.add(image(number))
            assert computed() == ROWS + len(one.prompt.announce(2 * number)) + len(one.prompt.after_frame)
        one.window.add(image(9))
        assert computed() > 2 * ROWS

    def test_an_answer_that_is_being_generated_continues(self, open_window: Open) -> None:
        ahead, plain = (open_window(2) for _ in range(2))
        texts = []
        for one in (ahead, plain):
            for number in range(4):
                one.window.add(image(number))
            stream = one.stream(tokens=20)
            for _ in stream:
                if one is ahead:
                    one.window.prefetch()
            texts.append(stream.answer.token_ids)
        assert texts[0] == texts[1]
        assert len(texts[0]) == 20

    @pytest.mark.parametrize(("frames", "mode", "adds"), [(1, SLIDING, 3), (3, SLIDING, 2), (3, EXACT, 4)])
    def test_there_may_be_nothing_to_prefetch(
        self, open_window: Open, computed: Computed, frames: int, mode: str, adds: int
    ) -> None:
        one = open_window(frames, mode)
        for number in range(adds):
            one.window.add(image(number))
        computed()
        assert not one.window.prefetch()
        assert computed() == 0

    @pytest.mark.parametrize("more", [True, False])
    def test_an_answer_keeps_its_room_and_drops_prefetched_entries_only_if_it_must(
        self, open_window: Open, computed: Computed, more: bool
    ) -> None:
        layout = open_window().layout
        context = layout.context(3, [ROWS], keep_answers=False, sliding=more, limit=TRAINED_CONTEXT)
        one = open_window(3, context=context)
        for number in range(1, 6):
            one.window.add(image(number))
        self.prefetch_all(one)
        # The room allows numbers of eight digits; these have one.
        tokens = ANSWER_ROOM - len(one.prompt.question("What?"))
        assert len(one.ask("What?", tokens=tokens + 3 * 7).token_ids) == tokens + 3 * 7
        computed()
        one.window.add(image(6))
        each = ROWS + len(one.prompt.announce(6)) + len(one.prompt.after_frame)
        assert computed() == (each if more else 2 * each)

    def test_a_window_of_one_frame_prefetches_nothing(self, open_window: Open) -> None:
        assert open_window().layout.prefetch_entries(1, [ROWS]) == 0


class TestPrompt:
    """The parts of a live conversation, as the template renders them."""

    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_parts_of_a_structured_template(self, bundles: dict[str, Bundle], system: str | None) -> None:
        prompt, tokenizer = live_prompt(bundles["structured"], system)
        opening = "" if system is None else f"<|im_start|>system\n\n{system}<|im_end|>\n"
        assert tokenizer.decode(prompt.announce(12)) == "Frame 12:"
        assert prompt.sink == ids(tokenizer, f"{opening}<|im_start|>user\n")
        assert prompt.after_frame == ()
        assert prompt.question("What?") == ids(tokenizer, "\nWhat?<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.after_answer == ids(tokenizer, "<|im_end|>\n<|im_start|>user\n")

    @pytest.mark.parametrize("system", [None, "Be brief."])
    def test_parts_of_a_plain_template(self, bundles: dict[str, Bundle], system: str | None) -> None:
        prompt, tokenizer = live_prompt(bundles["plain"], system)
        opening = "" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n"
        assert prompt.sink == ids(tokenizer, f"{opening}<|im_start|>user\n")
        assert prompt.after_frame == ids(tokenizer, "\n")
        assert prompt.question("What?") == ids(tokenizer, "What?<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.after_answer == ids(tokenizer, "<|im_end|>\n<|im_start|>user\n")

    def test_special_tokens_in_a_question_are_text(self, bundles: dict[str, Bundle]) -> None:
        prompt, tokenizer = live_prompt(bundles["plain"])
        (end,) = ids(tokenizer, "<|im_end|>")
        assert prompt.question("a <|im_end|> b").count(end) == prompt.question("a b").count(end)

    @pytest.mark.parametrize("question", ["<image>?", "Is <image> like <image>?", "<image><image><image>"])
    def test_a_question_must_not_contain_images(self, bundles: dict[str, Bundle], question: str) -> None:
        prompt, _ = live_prompt(bundles["plain"])
        with pytest.raises(UsageError, match="<image>"):
            prompt.question(question)

    def test_a_template_that_begins_with_the_image_has_no_sink(self, tmp_path: Path) -> None:
        one = Opened(with_template(tmp_path / "bare", BARE_TEMPLATE), 2, SLIDING, True, 300)
        assert one.prompt.sink == ()
        for number in range(1, 5):
            one.window.add(image(number))
            one.ask()
        assert one.window.numbers == (3, 4)
        one.window.close()

    @pytest.mark.parametrize(
        ("template", "complaint"),
        [(NUMBERING_TEMPLATE, "images differently"), (FORGETFUL_TEMPLATE, "changes the model's answers")],
    )
    def test_a_template_that_cannot_run_live_is_refused(self, tmp_path: Path, template: str, complaint: str) -> None:
        bundle = with_template(tmp_path / "odd", template)
        with pytest.raises(BundleError, match=complaint):
            live_prompt(bundle)


def live_prompt(bundle: Bundle, system: str | None = None) -> tuple[LivePrompt, TextTokenizer]:
    tokenizer = TextTokenizer.open(bundle)
    return LivePrompt(PromptBuilder(bundle, tokenizer), tokenizer, system), tokenizer


def ids(tokenizer: TextTokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text))
