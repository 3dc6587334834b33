"""A conversation with a real decoder of random weights: what is computed, what is said, what stays in the timeline."""

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from support.tiny import HIDDEN

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
from edge_interleave.errors import ContextFullError, UsageError
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
        spans = list(session.timeline.spans)
        with pytest.raises(ContextFullError, match=r"306.*300"):
            session.prefill([*prompt, image(1, tokens=284)])
        assert session.timeline.spans == spans
        assert session.decoder.length == 22
        session.prefill([*prompt, image(1, tokens=278)])
        assert session.decoder.length == 300

    def test_a_cancelled_one_leaves_a_timeline_that_goes_on(self, session: Session) -> None:
        cancel = threading.Event()
        cancel.set()
        assert session.prefill([text("Hi"), image(0)], cancel) is None
        assert session.prefill([text("Hi"), image(0)]) is not None

    def test_one_that_is_cancelled_while_it_computes_ends_at_once(self) -> None:
        """The prompt is one run of text, so the engine is stopped in the middle of a call."""
        prompt = [TextInput(tuple(range(100, 200)) * 30)]
        with ei.load(threads=1) as embedded:
            session = embedded.new_session()
            started = time.perf_counter()
            expected = session.prefill(prompt)
            whole = time.perf_counter() - started
            assert expected is not None
            session.reset()
            cancel = threading.Event()
            timer = threading.Timer(whole / 20, cancel.set)
            timer.start()
            started = time.perf_counter()
            assert session.prefill(prompt, cancel) is None
            assert time.perf_counter() - started < 0.1 + whole * 0.6
            assert session.decoder.length == session.timeline.length == 0
            timer.join()
            again = session.prefill(prompt)
            assert again is not None
            assert cosine(again.logits, expected.logits) > 0.9999
            done = session.recompute(1000, [TextInput(prompt[0].ids[1000:2900])], cancel)
            assert session.decoder.length == session.timeline.length == (3000 if done else 1100)

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
        assert [(span.start, span.end) for span in timeline.spans] == [(0, 1), (1, 11)]

    def test_there_must_be_something_to_evict(self) -> None:
        with pytest.raises(ValueError, match="no spans"):
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
