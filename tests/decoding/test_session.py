"""A conversation with a real decoder of random weights: what is computed, what is said, what stays in the timeline."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from support.tiny import HIDDEN, tiny_bundle

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.decoding.decoder import Decoder, DecoderOptions
from edge_interleave.decoding.generation import Generation, GenerationOptions, Prefill
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.decoding.registry import find_backend
from edge_interleave.decoding.sampling import SamplingOptions, log_softmax
from edge_interleave.decoding.session import Session
from edge_interleave.decoding.spellings import spellings
from edge_interleave.decoding.timeline import Timeline
from edge_interleave.errors import BundleError, ContextFullError, UsageError
from edge_interleave.prompt.tokenizer import TextTokenizer

IM_END = 266
NEVER = 10**6
"""An end-of-turn id that the tiny decoder never gives."""
# A lively answer: random weights say one thing over and over when greedy.
LIVELY = SamplingOptions(temperature=1.0, seed=3)


def make_session(bundle: Bundle, *, context: int = 300, eos: tuple[int, ...] = (IM_END,)) -> Session:
    decoder = find_backend("llama-cpp").open(bundle, DecoderOptions(context=context, threads=1))
    return Session(decoder, TextTokenizer.open(bundle), eos)


@pytest.fixture
def session(tiny: Bundle) -> Iterator[Session]:
    session = make_session(tiny)
    yield session
    session.close()


@pytest.fixture
def endless(tiny: Bundle) -> Iterator[Session]:
    session = make_session(tiny, eos=(NEVER,))
    yield session
    session.close()


@pytest.fixture
def model(tiny: Bundle) -> Iterator[ei.Model]:
    with ei.load(tiny.folder, context=500, threads=1) as model:
        yield model


def test_without_a_given_size_the_kv_cache_grows_with_the_prompt(tiny: Bundle) -> None:
    def open_decoder(size: int) -> Decoder:
        return find_backend("llama-cpp").open(tiny, DecoderOptions(context=size, threads=1))

    growing = Session(open_decoder(64), TextTokenizer.open(tiny), (IM_END,), open_decoder)
    fixed = make_session(tiny, context=400)
    prompt = [image(1), text("x" * 150)]
    try:
        grown, wanted = growing.prefill(prompt), fixed.prefill(prompt)
        assert grown is not None
        assert wanted is not None
        np.testing.assert_allclose(grown.logits, wanted.logits, atol=1e-3)
        assert growing.decoder.facts.capacity > 150
        again = growing.prefill([*prompt, text("more")])
        assert again is not None
        assert again.cached_tokens == 166
    finally:
        growing.close()
        fixed.close()


def test_the_kv_cache_grows_for_the_answer_that_was_asked_for() -> None:
    bundle = open_bundle(embedded_folder())

    def open_decoder(size: int) -> Decoder:
        return find_backend("llama-cpp").open(bundle, DecoderOptions(context=size, threads=1))

    session = Session(open_decoder(64), TextTokenizer.open(bundle), (NEVER,), open_decoder)
    try:
        next(session.stream([text("Hello")], options(tokens=1100)).pieces)
        assert session.decoder.facts.capacity >= 5 + 1100
    finally:
        session.close()


def test_a_prompt_past_the_trained_context_is_refused_without_growing(tiny: Bundle) -> None:
    def open_decoder(size: int) -> Decoder:
        return find_backend("llama-cpp").open(tiny, DecoderOptions(context=size, threads=1))

    session = Session(open_decoder(64), TextTokenizer.open(tiny), (IM_END,), open_decoder)
    try:
        with pytest.raises(ContextFullError, match="use fewer images"):
            session.prefill([text("x" * (session.decoder.facts.trained_context + 1))])
        assert session.decoder.facts.capacity == 64
    finally:
        session.close()


def image(seed: int, tokens: int = 16) -> VisualInput:
    return VisualInput(np.random.default_rng(seed).standard_normal((tokens, HIDDEN)).astype(np.float32))


def text(words: str) -> TextInput:
    return TextInput(tuple(words.encode()))


def options(tokens: int = 20, sampling: SamplingOptions = LIVELY, **more: tuple[str, ...]) -> GenerationOptions:
    return GenerationOptions(tokens, sampling=sampling, **more)


def run(session: Session, prompt: list[Input], **more: object) -> ei.Answer:
    stream = session.stream(prompt, options(**more))  # type: ignore[arg-type]
    pieces = list(stream)
    assert "".join(pieces) == stream.answer.text
    return stream.answer


def afresh(bundle: Bundle, prompt: list[Input]) -> np.ndarray:
    session = make_session(bundle)
    prefilled = session.prefill(prompt)
    assert prefilled is not None
    session.close()
    return prefilled.logits


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


class TestPrefill:
    def test_only_what_is_new_is_computed(self, session: Session, tiny: Bundle) -> None:
        first = session.prefill([text("Look: "), image(0), image(1), text("What?")])
        assert first is not None
        assert (first.prompt_tokens, first.visual_tokens, first.cached_tokens) == (6 + 32 + 5, 32, 0)
        again = [text("Look: "), image(0), image(1), text("Why not?")]
        second = session.prefill(again)
        assert second is not None
        assert second.cached_tokens == 6 + 32 + 2, "the Wh as well"
        assert session.decoder.length == second.prompt_tokens == 46
        assert cosine(second.logits, afresh(tiny, again)) > 0.9999

    @pytest.mark.parametrize(
        ("change", "cached"),
        [
            ([text("Look: "), image(0), image(2), text("What?")], 6 + 16),
            ([text("Look: "), image(1), image(0), text("What?")], 6),
            ([text("Look: "), image(0), image(1, tokens=9), text("What?")], 6 + 16),
            ([image(0), image(1), text("What?")], 0),
            ([text("Look: "), image(0)], 6),
            ([text("Look: "), image(0), image(1), text("What?")], 6 + 32 + 4),
        ],
        ids=["second image", "order", "stride", "no text before", "shorter", "same"],
    )
    def test_an_image_is_the_same_where_its_tokens_are(
        self, session: Session, tiny: Bundle, change: list[Input], cached: int
    ) -> None:
        session.prefill([text("Look: "), image(0), image(1), text("What?")])
        prefilled = session.prefill(change)
        assert prefilled is not None
        assert prefilled.cached_tokens == cached
        assert cosine(prefilled.logits, afresh(tiny, change)) > 0.9999

    def test_a_prompt_that_does_not_fit_changes_nothing(self, session: Session) -> None:
        prompt: list[Input] = [text("Look: "), image(0)]
        session.prefill(prompt)
        entries = list(session.timeline.entries)
        with pytest.raises(ContextFullError, match=r"306.*300"):
            session.prefill([*prompt, image(1, tokens=284)])
        assert session.timeline.entries == entries
        assert session.decoder.length == 22
        session.prefill([*prompt, image(1, tokens=278)])
        assert session.decoder.length == 300

    def test_a_cancelled_one_leaves_a_timeline_that_goes_on(self, session: Session) -> None:
        cancel = threading.Event()
        cancel.set()
        assert session.prefill([text("Hi"), image(0)], cancel) is None
        assert session.prefill([text("Hi"), image(0)]) is not None

    def test_gaps_are_closed_when_positions_run_out(self, tiny: Bundle) -> None:
        session = make_session(tiny, context=300)
        frames = [image(seed, tokens=100) for seed in range(2)]
        session.prefill(frames)
        for seed in range(2, 7):
            session.decoder.evict(*session.timeline.evict(0, 1))
            frames = [frames[1], image(seed, tokens=100)]
            session.prefill(frames)
            assert session.decoder.length == session.timeline.length == 200
            assert session.decoder.position == session.timeline.position
        assert session.timeline.position < 512
        session.close()


class TestTimeline:
    def test_keeps_positions_across_gaps(self) -> None:
        timeline = Timeline()
        for key, size in ((1, 1), (b"a", 10), (b"b", 10), (2, 1)):
            timeline.add(key, size)
        assert timeline.evict(1, 2) == (1, 11)
        assert (timeline.length, timeline.position) == (12, 22)
        timeline.add(3)
        assert timeline.common_prefix([1, b"b", 2, 4]) == 3
        assert timeline.truncate(2) == 21
        timeline.rebase()
        assert [(entry.start, entry.end) for entry in timeline.entries] == [(0, 1), (1, 11)]

    def test_there_must_be_something_to_evict(self) -> None:
        with pytest.raises(ValueError, match="no entries"):
            Timeline().evict(0, 1)


class TestAnswers:
    def test_end_at_max_tokens(self, endless: Session) -> None:
        answer = run(endless, [text("Hello")], tokens=7)
        assert answer.finish_reason == "length"
        assert len(answer.token_ids) == answer.stats.answer_tokens == 7

    def test_end_with_any_of_the_models_own_ends(self, tiny: Bundle, endless: Session) -> None:
        tokens = run(endless, [text("Hello")], tokens=12).token_ids
        end = tokens[8]
        first = tokens.index(end)
        ending = make_session(tiny, eos=(NEVER, end))
        answer = run(ending, [text("Hello")], tokens=12)
        assert answer.finish_reason == "stop"
        assert answer.token_ids == tokens[:first]
        ending.close()

    def test_end_before_a_stop_text_even_across_tokens(self, endless: Session) -> None:
        full = run(endless, [text("Hello")], tokens=40).text
        for start in range(3, len(full) - 4):
            stop = full[start : start + 3]
            answer = run(endless, [text("Hello")], tokens=40, stop=("never said", stop))
            assert answer.finish_reason == "stop"
            assert answer.text == full[: full.index(stop)]

    def test_text_that_only_begins_like_a_stop_is_said_after_all(self, endless: Session) -> None:
        full = run(endless, [text("Hello")], tokens=30).text
        answer = run(endless, [text("Hello")], tokens=30, stop=(f"{full[-4:]}and more", f"{full[2:6]}%%"))
        assert (answer.text, answer.finish_reason) == (full, "length")

    def test_end_when_the_context_is_full(self, tiny: Bundle) -> None:
        session = make_session(tiny, context=30, eos=(NEVER,))
        answer = run(session, [text("Hello, you there")], tokens=100)
        assert answer.finish_reason == "length"
        assert session.decoder.length == 30
        assert len(answer.token_ids) == 30 - 16 + 1
        session.close()

    def test_are_the_same_with_and_without_what_was_cached(self, endless: Session) -> None:
        prompt: list[Input] = [image(0), text("What?")]
        first = run(endless, prompt, sampling=SamplingOptions())
        second = run(endless, prompt, sampling=SamplingOptions())
        assert second.token_ids == first.token_ids
        assert second.stats.cached_tokens == second.stats.prompt_tokens - 1

    def test_leaving_early_cancels_and_the_next_prompt_works(self, endless: Session, tiny: Bundle) -> None:
        stream = endless.stream([image(0), text("Hello")], options(50))
        said = next(stream.pieces) + next(stream.pieces)
        stream.close()
        assert stream.answer.text == said
        assert stream.answer.finish_reason == "cancelled"
        assert endless.timeline.length == endless.decoder.length
        following: list[Input] = [image(0), text("Hello"), TextInput(stream.answer.token_ids), text("!")]
        prefilled = endless.prefill(following)
        assert prefilled is not None
        assert prefilled.cached_tokens >= 16 + 5 + len(stream.answer.token_ids) - 1
        assert cosine(prefilled.logits, afresh(tiny, following)) > 0.9999

    def test_an_event_from_another_thread_cancels(self, endless: Session) -> None:
        cancel = threading.Event()
        stream = endless.stream([text("Hello")], options(200), cancel)
        next(stream.pieces)
        thread = threading.Thread(target=cancel.set)
        thread.start()
        thread.join()
        list(stream)
        assert stream.answer.finish_reason == "cancelled"
        assert 0 < len(stream.answer.token_ids) < 10

    def test_closing_one_that_never_began_is_fine(self, endless: Session) -> None:
        stream = endless.stream([text("Hello")], options())
        with pytest.raises(UsageError, match="not finished"):
            _ = stream.answer
        stream.close()
        assert (stream.answer.text, stream.answer.finish_reason) == ("", "cancelled")
        assert endless.decoder.length == 0

    def test_the_next_use_of_the_session_ends_an_unfinished_one(self, endless: Session) -> None:
        old = endless.stream([text("Hello")], options(50))
        next(old.pieces)
        new = run(endless, [text("Hello")], tokens=5, sampling=SamplingOptions())
        list(old)
        assert old.answer.finish_reason == "cancelled"
        again = run(endless, [text("Hello")], tokens=5, sampling=SamplingOptions())
        assert again.token_ids == new.token_ids

    def test_never_hold_broken_characters_that_a_token_more_would_mend(self, tiny: Bundle, endless: Session) -> None:
        tokenizer = TextTokenizer.open(tiny)
        for seed in range(10):
            answer = run(endless, [text("Hello")], tokens=40, sampling=SamplingOptions(temperature=3.0, seed=seed))
            assert tokenizer.decode(answer.token_ids).startswith(answer.text)

    @pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"stop": ("",)}, {"stop": "text"}])
    def test_options_without_sense_are_a_usage_error(self, wrong: dict) -> None:
        with pytest.raises(UsageError):
            GenerationOptions(**wrong)

    def test_stats_add_up(self, endless: Session) -> None:
        stats = run(endless, [image(0), text("Hello")], tokens=9).stats
        assert (stats.prompt_tokens, stats.visual_tokens, stats.cached_tokens, stats.answer_tokens) == (21, 16, 0, 9)
        assert 0 < stats.prefill_s <= stats.first_token_s
        assert stats.prefill_tokens_per_s == pytest.approx(21 / stats.prefill_s)
        assert stats.decode_tokens_per_s > 0
        assert stats.peak_memory_bytes > 10 << 20


class Scripted:
    """Takes the place of a session whose model draws the given tokens, greedily."""

    def __init__(self, tokens: list[int], vocabulary: int) -> None:
        self.turn = 0
        self._left = iter(tokens)
        self._vocabulary = vocabulary

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill:
        return Prefill(self._next(), 1, 0, 0, 0.0)

    def append_token(self, token: int) -> np.ndarray:
        return self._next()

    def _next(self) -> np.ndarray:
        return np.eye(self._vocabulary, dtype=np.float32)[next(self._left)]


class TestBrokenCharacters:
    """A random or small model draws bytes that make no character. The answer goes on."""

    @pytest.fixture
    def tokenizer(self, tiny: Bundle) -> TextTokenizer:
        return TextTokenizer.open(tiny)

    def answer(self, tokenizer: TextTokenizer, tokens: list[int], options: GenerationOptions) -> ei.Answer:
        session = Scripted([*tokens, IM_END], IM_END + 2)
        generation = Generation(session, tokenizer, frozenset([IM_END]), [TextInput((0,))], options, None)
        assert "".join(generation) == generation.answer.text
        return generation.answer

    def test_in_the_middle_and_at_the_end_of_an_answer_are_replaced(self, tokenizer: TextTokenizer) -> None:
        first_byte = tokenizer.encode_plain("é")[0]
        answer = self.answer(tokenizer, [first_byte, *tokenizer.encode_plain("the"), first_byte], GenerationOptions())
        assert (answer.text, answer.finish_reason) == ("�the�", "stop")

    def test_where_max_tokens_cuts_one_is_replaced(self, tokenizer: TextTokenizer) -> None:
        answer = self.answer(tokenizer, tokenizer.encode_plain("aé"), GenerationOptions(max_tokens=2))
        assert (answer.text, answer.finish_reason) == ("a�", "length")

    def test_held_back_behind_a_stop_text_are_not_said(self, tokenizer: TextTokenizer) -> None:
        tokens = [*tokenizer.encode_plain("a."), tokenizer.encode_plain("é")[0]]
        answer = self.answer(tokenizer, tokens, GenerationOptions(stop=(".",)))
        assert (answer.text, answer.finish_reason) == ("a", "stop")


class TestChoose:
    def test_is_the_probability_of_the_answer_and_its_end(self, session: Session, tiny: Bundle) -> None:
        prompt: list[Input] = [image(0), text("Yes or no?")]
        choices = session.choose(prompt, ["yes", "no", "no!"])
        assert [choice.option for choice in choices] == ["yes", "no", "no!"]
        assert sum(choice.probability for choice in choices) == pytest.approx(1)
        total = 0.0
        for choice in choices:
            expected = -np.inf
            for spelling in spellings(choice.option):
                ids, score = TextTokenizer.open(tiny).encode_plain(spelling), 0.0
                for count, token in enumerate([*ids, IM_END]):
                    logits = afresh(tiny, [*prompt, TextInput(tuple(ids[:count]))])
                    score += log_softmax(logits)[token]
                expected = np.logaddexp(expected, score)
            assert choice.log_probability == pytest.approx(expected, abs=0.05)
            total += np.exp(expected)
        assert choices[0].total_probability == pytest.approx(total, rel=0.05)
        scores = np.array([choice.log_probability for choice in choices])
        assert [choice.probability for choice in choices] == pytest.approx(np.exp(scores) / np.exp(scores).sum())

    def test_leaves_the_prompt_in_the_timeline(self, session: Session) -> None:
        prompt: list[Input] = [image(0), text("Yes or no?")]
        session.choose(prompt, ["yes", "no"])
        assert session.decoder.length == session.timeline.length == 26
        prefilled = session.prefill(prompt)
        assert prefilled is not None
        assert prefilled.cached_tokens == 25

    @pytest.mark.parametrize("wrong", [[], [""], ["a", " "], ["a", "a"], "yes"])
    def test_options_without_sense_are_a_usage_error(self, session: Session, wrong: list[str]) -> None:
        with pytest.raises(UsageError):
            session.choose([text("?")], wrong)

    def test_an_option_that_does_not_fit_is_a_context_error(self, tiny: Bundle) -> None:
        session = make_session(tiny, context=40)
        with pytest.raises(ContextFullError, match="option"):
            session.choose([text("x" * 30)], ["short", "a very long option"])
        session.close()


class TestModel:
    def test_asks_and_streams(self, model: ei.Model) -> None:
        answer = model.ask("Hello there", max_tokens=12, sampling=LIVELY)
        assert str(answer) == answer.text
        stream = model.stream("Hello there", max_tokens=12, sampling=LIVELY)
        assert "".join(stream) == answer.text
        assert stream.answer.token_ids == answer.token_ids
        with model.stream("Hello there", max_tokens=12, sampling=LIVELY) as stream:
            next(stream)
        assert stream.answer.finish_reason == "cancelled"

    def test_takes_a_single_stop_text(self, model: ei.Model) -> None:
        full = model.ask("Hello there", max_tokens=30, sampling=LIVELY).text
        stopped = model.ask("Hello there", max_tokens=30, sampling=LIVELY, stop=full[4:6])
        assert stopped.text == full[: full.index(full[4:6])]

    def test_chooses(self, model: ei.Model) -> None:
        assert [choice.option for choice in model.choose("Yes or no?", ["yes", "no"])] == ["yes", "no"]

    @pytest.mark.parametrize(
        "wrong", [{"context": 0}, {"threads": 0}, {"backend": "no-such"}, {"model": "no-such-model"}]
    )
    def test_loading_wrongly_is_one_line(self, tiny: Bundle, wrong: dict) -> None:
        with pytest.raises(ei.EdgeInterleaveError) as caught:
            ei.load(**{"model": tiny.folder, **wrong})
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("wrong", [{"frames": 0}, {"pool": 0}, {"max_tokens": 0}])
    def test_asking_wrongly_is_a_usage_error(self, model: ei.Model, wrong: dict) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            model.ask("Hello", **wrong)

    def test_a_bundle_without_a_tower_answers_text_and_refuses_images(self, model: ei.Model) -> None:
        with pytest.raises(BundleError, match=r"vision\.onnx"):
            model.ask([np.zeros((8, 8, 3), np.uint8), "What?"])

    def test_a_closed_one_says_so(self, tiny: Bundle) -> None:
        model = ei.load(tiny.folder, context=64, threads=1)
        chat = model.chat()
        model.close()
        model.close()
        for use in (model, chat):
            with pytest.raises(UsageError, match="the model is closed"):
                use.ask("Hello")


class TestChat:
    def test_a_turn_computes_only_what_is_new(self, model: ei.Model, tiny: Bundle) -> None:
        chat = model.chat()
        first = chat.ask("A rather long question about nothing at all?", max_tokens=8, sampling=LIVELY)
        second = chat.ask("And?", max_tokens=8, sampling=LIVELY)
        before = first.stats.prompt_tokens + first.stats.answer_tokens
        new = "<|im_end|>\n<|im_start|>user\n\nAnd?<|im_end|>\n<|im_start|>assistant\n"
        assert second.stats.prompt_tokens - before == len(TextTokenizer.open(tiny).encode(new))
        # The answer's last token was not in the cache yet when max_tokens ended it.
        assert second.stats.cached_tokens >= before - 1
        assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
        assert chat.messages[1].parts == (first.text,)

    def test_sees_its_own_words_as_it_said_them(self, model: ei.Model, tiny: Bundle) -> None:
        chat = model.chat("Be brief.")
        first = chat.ask("One?", max_tokens=8, sampling=SamplingOptions(temperature=3.0, seed=0))
        second = chat.ask("Two?", max_tokens=8)
        tokenizer = TextTokenizer.open(tiny)
        head = tokenizer.encode("<|im_start|>system\n\nBe brief.<|im_end|>\n<|im_start|>user\n\nOne?<|im_end|>\n")
        head += tokenizer.encode("<|im_start|>assistant\n")
        tail = tokenizer.encode("<|im_end|>\n<|im_start|>user\n\nTwo?<|im_end|>\n<|im_start|>assistant\n")
        session = make_session(tiny, context=500, eos=tiny.manifest.prompt.eos_token_ids)
        expected = run(session, [TextInput((*head, *first.token_ids, *tail))], tokens=8, sampling=SamplingOptions())
        assert second.token_ids == expected.token_ids
        session.close()

    def test_remembers_an_answer_cut_by_a_stop_text_as_it_was_said(self, model: ei.Model) -> None:
        chat = model.chat()
        full = chat.ask("Hello", max_tokens=30, sampling=LIVELY).text
        chat.reset()
        answer = chat.ask("Hello", max_tokens=30, sampling=LIVELY, stop=(full[5:7],))
        assert chat.messages[-1].parts == (answer.text,)
        assert chat.ask("And?", max_tokens=3).stats.prompt_tokens < 100

    def test_an_answer_left_early_is_remembered_as_far_as_it_went(self, model: ei.Model) -> None:
        chat = model.chat()
        with chat.stream("Hello", max_tokens=50, sampling=LIVELY) as stream:
            said = next(stream)
        assert chat.messages[-1].parts == (said,)
        assert chat.ask("Go on", max_tokens=3).stats.cached_tokens > 20

    def test_an_error_leaves_the_conversation_as_it_was(self, model: ei.Model) -> None:
        chat = model.chat()
        chat.ask("One?", max_tokens=4, sampling=LIVELY)
        before = chat.messages
        with pytest.raises(ContextFullError):
            chat.ask("long " * 200)
        with pytest.raises(UsageError):
            chat.ask(["<image>?"])
        assert chat.messages == before
        chat.ask("Two?", max_tokens=4)
        assert len(chat.messages) == 4

    def test_reset_begins_anew(self, model: ei.Model) -> None:
        chat = model.chat("Be brief.")
        first = chat.ask("One?", max_tokens=5)
        chat.reset()
        assert [message.role for message in chat.messages] == ["system"]
        again = chat.ask("One?", max_tokens=5)
        assert again.stats.cached_tokens == 0
        assert again.token_ids == first.token_ids

    def test_two_chats_and_the_model_do_not_disturb_each_other(self, model: ei.Model) -> None:
        with model.chat() as one, model.chat() as two:
            first = one.ask("One?", max_tokens=6)
            two.ask("Something else?", max_tokens=6)
            model.ask("Or that?", max_tokens=6)
            one.ask("And?", max_tokens=6)
            one.reset()
            assert one.ask("One?", max_tokens=6).token_ids == first.token_ids


def test_progress_is_told_before_each_image_and_each_part_of_the_prompt() -> None:
    steps: list[tuple[str, int, int]] = []
    red, blue = (Image.new("RGB", (96, 96), colour) for colour in ("red", "blue"))
    with ei.load(threads=1, progress=lambda *step: steps.append(step)) as model:
        stats = model.ask([red, blue, "What changed?"], max_tokens=1).stats
        encoded = [step for step in steps if step[0] == "encode"]
        assert encoded == [("encode", 0, 2), ("encode", 1, 2)]
        prefilled = [step[1:] for step in steps if step[0] == "prefill"]
        assert {total for _, total in prefilled} == {stats.prompt_tokens}
        done = [done for done, _ in prefilled]
        assert done == sorted(set(done))
        assert done[0] == 0 < done[1] < done[-1] < stats.prompt_tokens
        assert [later - earlier for earlier, later in pairwise(done)].count(stats.visual_tokens // 2) == 2
        steps.clear()
        stats = model.ask([red, blue, "Describe image 2."], max_tokens=1).stats
        # The images are in the cache and in the timeline: only the question is read.
        assert steps == [("prefill", 0, stats.prompt_tokens - stats.cached_tokens)]


def test_what_progress_raises_ends_the_question(tiny: Bundle) -> None:
    class Enough(Exception):
        pass

    def stop(*step: object) -> None:
        raise Enough

    with ei.load(tiny.folder, threads=1, progress=stop) as model, pytest.raises(Enough):
        model.ask("Hello?")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, edge_interleave as ei; "
        "heavy = {'numpy', 'onnxruntime', 'cv2', 'llama_cpp', 'jinja2', 'tokenizers', 'PIL'} & set(sys.modules); "
        "assert not heavy, heavy; ei.load; ei.Image; dir(ei); "
        "heavy = {'onnxruntime', 'cv2', 'llama_cpp', 'huggingface_hub'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "tests")


def test_a_program_that_ends_in_the_middle_of_an_answer_ends_in_silence() -> None:
    code = """if True:
        from PIL import Image
        import edge_interleave as ei
        model = ei.load(threads=1)
        pieces = model.stream([Image.new("RGB", (64, 64), "red"), "Describe the image."])
        print(next(pieces))
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip()
    assert done.stderr == ""


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such"):
        _ = ei.no_such


def test_another_bundle_is_another_model(tiny: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", seed=5)
    with ei.load(tiny.folder, context=64, threads=1) as one, ei.load(other.folder, context=64, threads=1) as two:
        assert one.ask("Hello", max_tokens=5).token_ids != two.ask("Hello", max_tokens=5).token_ids
