"""A model of random weights, and the embedded one: questions, streams, options, and errors."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny import tiny_bundle

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.cli.demo import tour_folder
from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.errors import BundleError, UsageError

# A lively answer: random weights repeat one token when greedy.
LIVELY = SamplingOptions(temperature=1.0, seed=3)


@pytest.fixture
def model(tiny: Bundle) -> Iterator[ei.Model]:
    with ei.load(tiny.folder, context=500, threads=1) as model:
        yield model


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
    def test_wrong_arguments_of_load_are_one_line(self, tiny: Bundle, wrong: dict) -> None:
        with pytest.raises(ei.EdgeInterleaveError) as caught:
            ei.load(**{"model": tiny.folder, **wrong})
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("wrong", [{"frames": 0}, {"pool": 0}, {"max_tokens": 0}])
    def test_wrong_arguments_of_ask_are_usage_errors(self, model: ei.Model, wrong: dict) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            model.ask("Hello", **wrong)

    def test_a_bundle_without_a_tower_answers_text_and_refuses_images(self, model: ei.Model) -> None:
        with pytest.raises(BundleError, match=r"vision\.onnx"):
            model.ask([np.zeros((8, 8, 3), np.uint8), "What?"])

    def test_a_closed_model_says_so(self, tiny: Bundle) -> None:
        model = ei.load(tiny.folder, context=64, threads=1)
        chat = model.chat()
        model.close()
        model.close()
        for use in (model, chat):
            with pytest.raises(UsageError, match="the model is closed"):
                use.ask("Hello")


def test_images_and_videos_can_be_named_beside_the_question() -> None:
    paths = [tour_folder() / "before.png", tour_folder() / "after.png"]
    question = "What changed between the two images?"
    with ei.load(threads=1) as model:
        listed = model.ask([*paths, question])
        assert "moved" in listed
        assert model.ask(question, images=[str(path) for path in paths]) == listed
        assert model.ask(question, images=[ei.Image(paths[0]), paths[1].read_bytes()]) == listed
        assert model.ask([{"role": "user", "content": question}], images=paths) == listed
        probabilities = [choice.probability for choice in model.choose([*paths, question], ["Yes.", "No."])]
        beside = model.choose(question, ["Yes.", "No."], images=paths)
        assert [choice.probability for choice in beside] == pytest.approx(probabilities, abs=1e-3)
        clip = tour_folder() / "clip.mp4"
        asked = model.ask("Which way does the red circle move?", videos=[str(clip)], frames=4)
        assert asked == model.ask([ei.Video(clip, frames=4), "Which way does the red circle move?"])


@pytest.mark.parametrize("call", ["ask", "stream", "choose"])
def test_an_unknown_keyword_argument_is_a_type_error(model: ei.Model, call: str) -> None:
    options = (["yes", "no"],) if call == "choose" else ()
    for asked in (model, model.chat()):
        with pytest.raises(TypeError, match="max_tokes"):
            getattr(asked, call)("Hello", *options, max_tokes=3)


def test_choose_refuses_options_of_an_answer(model: ei.Model) -> None:
    with pytest.raises(TypeError, match="max_tokens"):
        model.choose("Hello", ["yes", "no"], max_tokens=3)


def test_progress_is_reported_before_each_image_and_each_part_of_the_prompt() -> None:
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


def test_an_exception_in_progress_ends_the_question(tiny: Bundle) -> None:
    class Enough(Exception):
        pass

    def stop(*step: object) -> None:
        raise Enough

    with ei.load(tiny.folder, threads=1, progress=stop) as model, pytest.raises(Enough):
        model.ask("Hello?")


def test_a_program_that_exits_in_mid_answer_prints_no_error() -> None:
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


def test_another_bundle_is_another_model(tiny: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", seed=5)
    with ei.load(tiny.folder, context=64, threads=1) as one, ei.load(other.folder, context=64, threads=1) as two:
        assert one.ask("Hello", max_tokens=5).token_ids != two.ask("Hello", max_tokens=5).token_ids
