"""Conversations: what a turn computes, what stays, and how a conversation is saved and resumed."""

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.cli.demo import tour_folder
from edge_interleave.decoding.conversation_file import MAGIC
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.inputs import TextInput
from edge_interleave.decoding.registry import find_backend
from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.decoding.session import Session
from edge_interleave.errors import ContextFullError, UsageError
from edge_interleave.prompt.builder import PromptBuilder, Segment
from edge_interleave.prompt.tokenizer import TextTokenizer

PICTURES = [tour_folder() / "before.png", tour_folder() / "after.png"]
FIRST = "What changed between the two images?"
FOLLOW_UP = "Describe the first image."
HEADER_AT = len(MAGIC) + 8 + 32

# A lively answer: random weights repeat one token when greedy.
LIVELY = SamplingOptions(temperature=1.0, seed=3)


@pytest.fixture
def model(tiny: Bundle) -> Iterator[ei.Model]:
    with ei.load(tiny.folder, context=500, threads=1) as model:
        yield model


class TestChat:
    def test_a_turn_computes_only_new_entries(self, model: ei.Model, tiny: Bundle) -> None:
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

    def test_keeps_the_exact_tokens_of_its_answers(self, model: ei.Model, tiny: Bundle) -> None:
        chat = model.chat("Be brief.")
        first = chat.ask("One?", max_tokens=8, sampling=SamplingOptions(temperature=3.0, seed=0))
        second = chat.ask("Two?", max_tokens=8)
        tokenizer = TextTokenizer.open(tiny)
        head = tokenizer.encode("<|im_start|>system\n\nBe brief.<|im_end|>\n<|im_start|>user\n\nOne?<|im_end|>\n")
        head += tokenizer.encode("<|im_start|>assistant\n")
        tail = tokenizer.encode("<|im_end|>\n<|im_start|>user\n\nTwo?<|im_end|>\n<|im_start|>assistant\n")
        decoder = find_backend("llama-cpp").open(tiny, DecoderOptions(context=500, threads=1))
        session = Session(decoder, tokenizer, tiny.manifest.prompt.eos_token_ids)
        expected = session.stream([TextInput((*head, *first.token_ids, *tail))], GenerationOptions(8))
        list(expected)
        assert second.token_ids == expected.answer.token_ids
        session.close()

    def test_keeps_the_exact_tokens_of_an_answer_cut_by_a_stop_text(self, model: ei.Model) -> None:
        chat = model.chat()
        full = chat.ask("Hello", max_tokens=30, sampling=LIVELY).text
        chat.reset()
        answer = chat.ask("Hello", max_tokens=30, sampling=LIVELY, stop=(full[5:7],))
        assert chat.messages[-1].parts == (answer.text,)
        assert chat.ask("And?", max_tokens=3).stats.prompt_tokens < 100

    def test_a_closed_answer_stays_in_the_history_as_far_as_it_went(self, model: ei.Model) -> None:
        chat = model.chat()
        with chat.stream("Hello", max_tokens=50, sampling=LIVELY) as stream:
            said = next(stream)
        assert chat.messages[-1].parts == (said,)
        assert chat.ask("Go on", max_tokens=3).stats.cached_tokens > 20

    def test_an_error_leaves_the_conversation_unchanged(self, model: ei.Model) -> None:
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

    def test_reset_starts_a_new_conversation(self, model: ei.Model) -> None:
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


class TestSaved:
    def test_resumes_without_computing_its_images_again(self, backend: str, tmp_path: Path) -> None:
        path, expected = saved(backend, tmp_path)
        stages: set[str] = set()
        with ei.load(backend=backend, threads=1, progress=lambda stage, *_: stages.add(stage)) as model:
            chat = model.chat(resume=path)
            assert [message.role for message in chat.messages] == ["system", "user", "assistant"]
            answer = chat.ask(FOLLOW_UP)
            assert answer.token_ids == expected.token_ids
            assert answer.stats.visual_tokens == expected.stats.visual_tokens > 0
            assert answer.stats.cached_tokens == expected.stats.cached_tokens
            assert stages == {"prefill"}
            chat.reset()
            assert [message.role for message in chat.messages] == ["system"]

    def test_contains_what_is_needed_to_recompute_its_kv_cache(self, backend: str, tmp_path: Path) -> None:
        path, _ = saved(backend, tmp_path)
        with ei.load(backend=backend, threads=1) as model:
            anew = Anew(model.bundle)
            with model.chat("Look closely.", prompts=anew) as chat:
                chat.ask(FIRST, images=PICTURES)
                expected = chat.ask(FOLLOW_UP)
            with model.chat(resume=path, prompts=anew) as chat:
                answer = chat.ask(FOLLOW_UP)
        assert answer.token_ids == expected.token_ids
        assert answer.stats.cached_tokens < answer.stats.prompt_tokens - answer.stats.visual_tokens

    def test_does_not_contain_the_options_of_choose(self, tmp_path: Path) -> None:
        path, expected = saved("llama-cpp", tmp_path)
        with ei.load(threads=1, backend="llama-cpp") as model:
            with model.chat(resume=path) as chat:
                chat.choose("Is there a star?", ["Yes.", "No."], images=PICTURES[:1])
                chat.save(path)
            with model.chat(resume=path) as chat:
                assert chat.ask(FOLLOW_UP).token_ids == expected.token_ids

    def test_may_be_saved_before_the_first_question(self, backend: str, tmp_path: Path) -> None:
        with ei.load(backend=backend, threads=1) as model:
            model.chat("Be brief.").save(tmp_path / "chat")
            chat = model.chat(resume=tmp_path / "chat")
            assert [message.role for message in chat.messages] == ["system"]
            assert chat.ask("Describe the image.", images=PICTURES[:1])

    def test_is_readable_by_its_owner_only_and_replaced_atomically(self, tmp_path: Path) -> None:
        path = tmp_path / "chat"
        path.write_text("an older file")
        with ei.load(threads=1) as model:
            chat = model.chat()
            chat.ask("Hello", max_tokens=1)
            chat.save(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert list(tmp_path.iterdir()) == [path]
            assert len(model.chat(resume=path).messages) == 2
            with pytest.raises(ei.InputError, match="cannot be written"):
                chat.save(tmp_path / "no" / "such" / "folder")

    def test_is_refused_by_another_model_and_other_settings(self, tiny: Bundle, tmp_path: Path) -> None:
        path, _ = saved("llama-cpp", tmp_path)
        with ei.load(tiny.folder, threads=1) as model, pytest.raises(ei.InputError, match="saved with another model"):
            model.chat(resume=path)
        with ei.load(threads=1, context=100, backend="llama-cpp") as model:
            with pytest.raises(ei.ContextFullError):
                model.chat(resume=path)
            with pytest.raises(UsageError, match="system message"):
                model.chat("Be brief.", resume=path)

    def test_damage_anywhere_is_one_line_that_names_the_file(self, backend: str, tmp_path: Path) -> None:
        path, _ = saved(backend, tmp_path)
        content = path.read_bytes()
        rng = np.random.default_rng(7)
        damaged = [content + b"x", *(content[:size] for size in rng.integers(0, len(content), 12))]
        for place in (*range(0, 90, 7), *rng.integers(0, len(content), 12)):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            damaged.append(bytes(changed))
        with ei.load(backend=backend, threads=1) as model:
            for wrong in damaged:
                path.write_bytes(wrong)
                check_refused(model, path)

    def test_an_untrusted_header_is_checked(self, tmp_path: Path) -> None:
        path, _ = saved("llama-cpp", tmp_path)
        content = path.read_bytes()
        size = int.from_bytes(content[len(MAGIC) : HEADER_AT - 32], "little")
        header = json.loads(content[HEADER_AT : HEADER_AT + size])
        forgeries: list[object] = [[], None]
        for change in (
            {"messages": [{"role": "user", "parts": ["Hello"]}]},
            {"messages": [{"role": "robot", "parts": []}]},
            {"messages": 3},
            {"opening": 99},
            {"opening": True},
            {"counts": [1, -1, 2]},
            {"images": [{"rows": 1 << 40, "newline": False, "digest": ""}] * 2},
            {"images": [{**image, "newline": True} for image in header["images"]]},
            {"inputs": [[1, 2, 10**9]]},
            {"inputs": [5]},
            {"inputs": [[1, 2, 3]]},
            {"inputs": []},
            {"cache_bytes": -5},
            {"backend": None},
            {"model": "x" * 10**5},
        ):
            forgeries.append({**header, **change})
        with ei.load(backend="llama-cpp", threads=1) as model:
            for forged in forgeries:
                written = json.dumps(forged).encode()
                head = MAGIC + len(written).to_bytes(8, "little") + hashlib.sha256(written).digest()
                path.write_bytes(head + written + content[HEADER_AT + size :])
                check_refused(model, path)


class Anew:
    """Renders the whole conversation for each question, behind another system message."""

    def __init__(self, bundle: Bundle) -> None:
        self._builder = PromptBuilder(bundle, TextTokenizer.open(bundle))

    def build(self, messages: Sequence[ei.Message], counts: Sequence[int] | None = None) -> list[Segment]:
        return self._builder.build([ei.Message("system", ("Look again.",)), *messages[1:]], counts)

    def follow_up(self, messages: Sequence[ei.Message], counts: Sequence[int] | None = None) -> None:
        return None


def saved(backend: str, folder: Path) -> tuple[Path, ei.Answer]:
    """The file of a conversation about two images, and the answer to the next question in it."""
    content, answer = conversation(backend)
    path = folder / "chat"
    path.write_bytes(content)
    return path, answer


@cache
def conversation(backend: str) -> tuple[bytes, ei.Answer]:
    with TemporaryDirectory() as folder, ei.load(backend=backend, threads=1) as model:
        chat = model.chat("Look closely.")
        chat.ask(FIRST, images=PICTURES)
        chat.save(Path(folder) / "chat")
        return (Path(folder) / "chat").read_bytes(), chat.ask(FOLLOW_UP)


def check_refused(model: ei.Model, path: Path) -> None:
    with pytest.raises(ei.InputError) as caught:
        model.chat(resume=path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert len(said) < 500
