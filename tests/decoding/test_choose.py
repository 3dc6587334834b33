"""Given answers are weighed in every usual spelling, and it shows where the model would say none of them."""

import json
import math
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command_line import environment, run

import edge_interleave as ei
from edge_interleave.answer import UNLIKELY, Choice
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.cli.demo import tour_folder
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.inputs import Input, TextInput
from edge_interleave.decoding.registry import find_backend
from edge_interleave.decoding.session import Session
from edge_interleave.decoding.spellings import spellings, tokenized
from edge_interleave.errors import UsageError
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.world.benchmark import benchmark_samples
from edge_interleave.world.drawing import draw

WORDINGS = [("Yes.", "No."), ("yes", "no"), ("Yes", "No"), ("yes.", "no."), (" yes", " no"), ("YES", "NO")]
TELL_COLOUR = "What colour is the circle?"


class TestSpellings:
    @pytest.mark.parametrize("number", [0, 1])
    def test_are_the_same_whichever_of_them_is_given(self, number: int) -> None:
        assert len({frozenset(spellings(wording[number])) for wording in WORDINGS}) == 1

    @pytest.mark.parametrize(
        ("answer", "others"),
        [
            ("yes", {"Yes", "YES", " yes", "yes.", " Yes."}),
            ("a red circle", {"A red circle", "a red circle.", " A red circle."}),
            ("The circle is red.", {"the circle is red", "The circle is red"}),
            ("A", {"a", "A.", "(A)", "A)", " A"}),
            ("(B)", {"B", "B.", "b)"}),
            ("2", {"2.", " 2", "(2)"}),
            ("是", {"是。"}),
            ("はい。", {"はい"}),
            ("Straße", {"straße", "STRASSE"}),
            ("no!", {"No!", "NO!"}),
        ],
    )
    def test_are_those_that_models_and_people_use(self, answer: str, others: set[str]) -> None:
        assert spellings(answer)[answer] == 0
        assert others <= spellings(answer).keys()

    @pytest.mark.parametrize("answer", ["?", ".", "...", "{}", "{0}", "C++", "no!", "e.g.", " x ", "é", "١", "_"])
    def test_of_whatever_is_given_begin_with_it_and_are_never_empty(self, answer: str) -> None:
        found = spellings(answer)
        assert next(iter(found)) == answer.rstrip()
        assert all(text.strip() for text in found)
        assert [changes for changes in found.values() if changes == 0] == [0]

    @pytest.mark.parametrize("answer", ["no!", "really?", "..."])
    def test_of_what_ends_in_a_mark_have_no_full_stop_behind_it(self, answer: str) -> None:
        assert not any(text.endswith(f"{answer}.") for text in spellings(answer))

    def test_that_two_answers_share_count_for_the_nearer_one_and_once_in_all(self) -> None:
        upper, lower = tokenized(["US", "us"], str.encode)
        assert (upper[tuple(b"US.")], lower[tuple(b"us.")]) == (1, 1)
        assert upper[tuple(b"Us")] == lower[tuple(b"Us")] == 0.5
        assert tuple(b"us") not in upper
        for answers in permutations(["Yes", "yes.", "YES"]):
            shares: dict[tuple[int, ...], float] = {}
            for spelled in tokenized(answers, str.encode):
                for ids, share in spelled.items():
                    shares[ids] = shares.get(ids, 0) + share
            assert list(shares.values()) == pytest.approx([1] * len(shares))


@pytest.fixture(scope="module", params=["llama-cpp", "mlx"])
def model(request: pytest.FixtureRequest) -> Iterator[ei.Model]:
    """The embedded model, whose answers begin with a capital and end with a full stop."""
    if request.param == "mlx":
        pytest.importorskip("mlx")
    with ei.load(backend=request.param, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def asked() -> list[tuple[list[Any], bool]]:
    """Pictures with a question after what is in them, and whether it is."""
    samples = [one for _, one in benchmark_samples("is there", 8, 12)]
    return [([*map(draw, one.scenes), one.question], one.answer.startswith("Yes")) for one in samples]


def shares(found: list[Choice]) -> dict[str, float]:
    return {choice.option.strip().rstrip(".").lower(): choice.probability for choice in found}


class TestTheEmbeddedModel:
    def test_gives_the_same_shares_for_every_wording(
        self, model: ei.Model, asked: list[tuple[list[Any], bool]]
    ) -> None:
        some = asked if model.backend_name == "llama-cpp" else asked[:3]  # MLX is slow on CPUs
        right = 0
        for content, truth in some:
            wanted = model.choose(content, WORDINGS[0])
            right += (wanted[0].probability > 0.5) == truth
            for wording in WORDINGS[1:]:
                found = model.choose(content, wording)
                assert shares(found) == pytest.approx(shares(wanted), abs=0.01)
                assert found[0].total_probability == pytest.approx(wanted[0].total_probability, abs=0.01)
                assert found[0].total_probability > 0.9
        assert right >= len(some) - 1

    def test_is_caught_where_it_would_say_something_else(self, model: ei.Model) -> None:
        picture = Image.open(tour_folder() / "card-1.png")
        sure = model.choose([picture, TELL_COLOUR], ["yes", "no"])
        assert sum(choice.probability for choice in sure) == pytest.approx(1)
        assert {choice.total_probability for choice in sure} == {sure[0].total_probability}
        assert sure[0].total_probability < UNLIKELY
        assert sum(math.exp(one.log_probability) for one in sure) == pytest.approx(sure[0].total_probability)

    def test_knows_the_answer_that_it_would_give_among_lower_case_ones(self, model: ei.Model) -> None:
        picture = Image.open(tour_folder() / "card-1.png")
        said = model.ask([picture, TELL_COLOUR]).text.strip()
        others = [said.replace(said.split()[-1], f"{colour}.") for colour in ("pink", "red", "blue", "green")]
        options = [text.lower().rstrip(".") for text in {said, *others}]
        best = max(model.choose([picture, TELL_COLOUR], options), key=lambda choice: choice.probability)
        assert best.option == said.lower().rstrip(".")

    def test_in_a_chat_remembers_the_conversation_and_not_the_question(self, model: ei.Model) -> None:
        picture = Image.open(tour_folder() / "card-1.png")
        with model.chat() as chat, model.chat() as other:
            first = chat.ask([picture, TELL_COLOUR])
            assert other.ask([picture, TELL_COLOUR]).text == first.text
            for wording in WORDINGS[:2]:
                found = chat.choose("Is there a blue square?", wording)
                assert found[0].total_probability > 0.9
            assert len(chat.messages) == 2
            assert chat.ask("How many things are there?").text == other.ask("How many things are there?").text

    def test_over_a_live_window_weighs_yes_and_no_alike_in_every_wording(self, model: ei.Model) -> None:
        with model.live(window=2) as live:
            live.add(tour_folder() / "card-1.png")
            found = [live.choose("Is there a blue square?", wording) for wording in WORDINGS]
            assert all(shares(one) == pytest.approx(shares(found[0]), abs=0.01) for one in found)
            checked = live.check("Is there a blue square?")
            assert checked.probability == live.probability("Is there a blue square?")
            assert checked.probability == pytest.approx(shares(found[0])["yes"], abs=0.02)
            assert checked.total_probability > 0.9
            assert live.check("Describe the image.").total_probability < UNLIKELY


class TestSession:
    @pytest.fixture
    def session(self, tiny: Bundle) -> Iterator[Session]:
        decoder = find_backend("llama-cpp").open(tiny, DecoderOptions(context=200, threads=1))
        session = Session(decoder, TextTokenizer.open(tiny), tiny.manifest.prompt.eos_token_ids)
        yield session
        session.close()

    @pytest.fixture
    def prompt(self) -> list[Input]:
        return [TextInput(tuple(b"Yes or no?"))]

    def test_takes_an_answer_of_more_tokens_than_python_can_call_functions(
        self, tiny: Bundle, prompt: list[Input]
    ) -> None:
        decoder = find_backend("llama-cpp").open(tiny, DecoderOptions(context=500, threads=1))
        session = Session(decoder, TextTokenizer.open(tiny), tiny.manifest.prompt.eos_token_ids)
        long = "x" * 470
        try:
            for choice in session.choose(prompt, [long, f"{long}y"]):
                assert math.isfinite(choice.log_probability)
        finally:
            session.close()

    def test_leaves_out_the_spellings_that_do_not_fit_and_no_answer(self, tiny: Bundle, prompt: list[Input]) -> None:
        decoder = find_backend("llama-cpp").open(tiny, DecoderOptions(context=14, threads=1))
        session = Session(decoder, TextTokenizer.open(tiny), tiny.manifest.prompt.eos_token_ids)
        try:
            found = session.choose(prompt, ["yes?", "no??"])
        finally:
            session.close()
        assert all(math.isfinite(choice.log_probability) for choice in found)

    @pytest.mark.parametrize("twice", [["yes", " yes"], ["yes", "yes\n"], ["no", "yes", "no "]])
    def test_takes_white_space_for_no_difference(self, session: Session, prompt: list[Input], twice: list[str]) -> None:
        with pytest.raises(UsageError, match="twice"):
            session.choose(prompt, twice)

    def test_counts_what_two_answers_share_once(self, session: Session, prompt: list[Input]) -> None:
        one = session.choose(prompt, ["Yes", "no"])
        both = session.choose(prompt, ["Yes", "yes.", "no"])
        assert both[0].total_probability == pytest.approx(one[0].total_probability, rel=1e-3)
        of_yes = sum(math.exp(choice.log_probability) for choice in both[:2])
        assert of_yes == pytest.approx(math.exp(one[0].log_probability), rel=1e-3)


class TestTheCommand:
    @pytest.fixture
    def ask(self, tmp_path: Path) -> Callable[..., Any]:
        env = environment(tmp_path)
        picture = ("--image", tour_folder() / "card-1.png", "--threads", 1)
        options = ("--choose", "yes", "--choose", "no")
        return lambda question, *more: run("ask", question, *picture, *options, *more, env=env)

    def test_shows_how_likely_any_of_the_answers_is(self, ask: Callable[..., Any]) -> None:
        result = ask("Is there a blue square?")
        assert result.returncode == 0, result.stderr
        assert sum(float(line.split("%")[0]) for line in result.stdout.splitlines()) == pytest.approx(100, abs=0.2)
        assert result.stderr.startswith("probability of any of these options: 9")
        assert "something else" not in result.stderr

    @pytest.mark.parametrize("more", [(), ("--json",)])
    def test_warns_where_the_model_would_say_none_of_them(self, ask: Callable[..., Any], more: tuple[str]) -> None:
        result = ask(TELL_COLOUR, *more)
        assert result.returncode == 0, result.stderr
        assert "the model would answer something else" in result.stderr
        if more:
            said = json.loads(result.stdout)
            assert 0 <= said["total_probability"] < UNLIKELY
            assert [set(choice) for choice in said["choices"]] == [{"option", "probability", "log_probability"}] * 2
        else:
            assert sum(float(line.split("%")[0]) for line in result.stdout.splitlines()) == pytest.approx(100, abs=0.2)

    @pytest.mark.parametrize(("question", "doubted"), [("Is there a blue square?", False), (TELL_COLOUR, True)])
    def test_a_watch_says_once_that_its_question_is_none_of_yes_or_no(
        self, tmp_path: Path, question: str, doubted: bool
    ) -> None:
        clip = tour_folder() / "clip.mp4"
        result = run(
            "watch", clip, "--when", question, "--json", "--threads", 1, env=environment(tmp_path), cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("neither yes nor no") == doubted
        checks = [event for event in map(json.loads, result.stdout.splitlines()) if event["event"] == "check"]
        assert len(checks) > 2
        assert all((check["total_probability"] < UNLIKELY) == doubted for check in checks)
