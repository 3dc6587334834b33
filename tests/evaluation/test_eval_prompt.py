"""The prompt equals LLaVA-NeXT's `qwen_1_5`, token by token; the test implements its description independently."""

import re

import pytest
from tokenizers import Tokenizer

from edge_interleave.bundle.manifest import TOKENIZER_NAME, Bundle, open_bundle
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.errors import UsageError
from edge_interleave.evaluation.official_prompt import OfficialPrompts
from edge_interleave.prompt.builder import ImageSegment, PromptBuilder, Segment
from edge_interleave.prompt.messages import Image, Message, Video
from edge_interleave.prompt.tokenizer import TextTokenizer

IMAGE = -200
"""What the original code writes where an image goes."""
Conversation = list[tuple[str, str]]


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return open_bundle(embedded_folder())


@pytest.fixture(params=["embedded", "newlines that merge"])
def bundle(request: pytest.FixtureRequest, embedded: Bundle, tiny: Bundle) -> Bundle:
    return embedded if request.param == "embedded" else tiny


def official_tokens(bundle: Bundle, turns: Conversation) -> list[int]:
    """The token sequence of the original evaluation; answers between questions as the model gave them, ended."""
    tokenizer = Tokenizer.from_file(str(bundle.file(TOKENIZER_NAME)))

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    sequence: list[int] = []
    for role, text in turns:
        if role == "assistant":
            sequence += [*ids(text), end]
            continue
        # Each turn of the user's begins with the system message.
        sequence += [start, *ids("system"), *ids("\n"), *ids("You are a helpful assistant."), end, *ids("\n")]
        sequence += [start, *ids("user"), *ids("\n")]
        for piece in re.split("(<image>)", text):
            sequence += [IMAGE, *ids("\n")] if piece == "<image>" else ids(piece)
        sequence += [end, *ids("\n"), start, *ids("assistant"), *ids("\n")]
    return sequence


def tokens(segments: list[Segment]) -> list[int]:
    flat: list[int] = []
    for segment in segments:
        flat += [IMAGE] if isinstance(segment, ImageSegment) else segment.ids
    return flat


def messages(turns: Conversation) -> list[Message]:
    return [Message(role, (*[Image("x.png")] * text.count("<image>"), text)) for role, text in turns]


def prompts(bundle: Bundle) -> OfficialPrompts:
    made = OfficialPrompts.for_bundle(bundle)
    assert made is not None
    return made


@pytest.mark.parametrize(
    "question",
    [
        "What is in the picture?",
        "<image>What is in the picture?",
        "<image>\nWhat is in the picture?",
        "<image> <image>\n\nWhich image contains a red star?",
        "Look at <image>, then at\n<image>\n  and say what changed.\n",
        "<image>",
        "\n\nLeading newlines, and ümläuts, 日本",
    ],
)
def test_a_question_is_tokenized_as_in_the_original_code(bundle: Bundle, question: str) -> None:
    built = prompts(bundle).build(messages([("user", question)]))
    assert tokens(built) == official_tokens(bundle, [("user", question)])
    assert [part.index for part in built if isinstance(part, ImageSegment)] == list(range(question.count("<image>")))


def test_a_later_turn_begins_with_the_system_message_again(bundle: Bundle) -> None:
    turns = [("user", "<image><image>\nWhat?"), ("assistant", "A star."), ("user", "And in <image>\n\nthis?")]
    made, said = prompts(bundle), messages(turns)
    first, later = made.build(said[:1]), made.follow_up(said)
    assert later is not None
    answer = TextTokenizer.open(bundle).encode_plain("A star.")
    assert [*tokens(first), *answer, *tokens(later)] == official_tokens(bundle, turns)
    assert tokens(made.build(said)) == official_tokens(bundle, turns)
    assert [part.index for part in later if isinstance(part, ImageSegment)] == [2]


def test_the_embedded_models_template_gives_the_same_prompt_if_images_come_first(embedded: Bundle) -> None:
    own = PromptBuilder(embedded, TextTokenizer.open(embedded))
    for question in ("<image><image>What changed?", "<image>What is this?", "What is this?"):
        said = messages([("user", question)])
        assert tokens(own.build(said)) == tokens(prompts(embedded).build(said))


@pytest.mark.parametrize("question", ["<image>\nWhat is this?", "In <image> is there a star?"])
def test_the_original_code_keeps_a_newline_that_the_template_drops(embedded: Bundle, question: str) -> None:
    own = PromptBuilder(embedded, TextTokenizer.open(embedded))
    said = messages([("user", question)])
    assert len(tokens(prompts(embedded).build(said))) == len(tokens(own.build(said))) + 1


def test_a_video_is_its_frames_side_by_side(embedded: Bundle) -> None:
    message = Message("user", (Image("a.png"), Video("clip.mp4"), "<image><image>What?"))
    built = prompts(embedded).build([message], [1, 3])
    newline = Tokenizer.from_file(str(embedded.file(TOKENIZER_NAME))).encode("\n").ids
    places = [place for place, token in enumerate(tokens(built)) if token == IMAGE]
    assert tokens(built)[places[0] + 1 : places[1]] == newline
    assert places[1:] == list(range(places[1], places[1] + 3))
    assert tokens(built)[places[-1] + 1 : places[-1] + 2] == newline


def test_special_tokens_in_a_question_stay_text(embedded: Bundle) -> None:
    end = TextTokenizer.open(embedded).token_id("<|im_end|>")
    built = tokens(prompts(embedded).build(messages([("user", "What is <|im_end|>?")])))
    assert built.count(end or 0) == 2  # the system message's and the question's own


def test_messages_that_do_not_fit_the_prompt_are_refused(embedded: Bundle) -> None:
    with pytest.raises(UsageError, match="markers in the text: 1, images and videos: 0"):
        prompts(embedded).build([Message("user", ("<image>?",))])
    with pytest.raises(UsageError, match="has its own system message"):
        prompts(embedded).build([Message("system", ("Be brief.",)), Message("user", ("Hi",))])
    assert prompts(embedded).follow_up([Message("user", ("Hi",))]) is None
