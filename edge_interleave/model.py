"""The Python interface: load a model, ask it, chat with it.

    model = load()
    print(model.ask(["What changed between the two images?", Path("a.png"), Path("b.png")]))

Puts the other modules together; what they do is theirs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from .bundle import Bundle, open_bundle
from .chat import FRAMES, GREEDY, MAX_TOKENS, AnswerStream, Chat, asking, inputs_of, stops_of
from .decoder import Backend, Decoder, DecoderOptions, backend_names, find_backend
from .errors import BackendError, UsageError
from .generation import Answer, GenerationOptions
from .media import Eyes
from .messages import Content, Message, media_of
from .prompt import PromptBuilder
from .sampling import SamplingOptions
from .session import Choice, Session
from .tokenizer import TextTokenizer

CONTEXT = 4096


def load(
    model: str | Path | None = None,
    *,
    backend: str | None = None,
    context: int | None = None,
    threads: int | None = None,
) -> Model:
    """Load a model.

    `model`: a bundle folder, or the name of a pulled model; None: the small model that ships with the package.
    `backend`: `llama-cpp` or another installed one; None: the first that runs one of the bundle's decoders.
    `context`: entries the KV cache shall hold, text and visual tokens of prompt and answer together, at most what the
    model was trained on; None: 4096, and more once a prompt needs it.
    `threads`: CPU threads; None: as many as there are cores.
    Raises BundleError, BackendError, UsageError.
    """
    if context is not None and context < 1:
        raise UsageError(f"context must be a whole number from 1, not {context}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be a whole number from 1, not {threads}")
    from .store import resolve

    bundle = open_bundle(resolve(model))
    return Model(bundle, _backend_for(bundle, backend), context, threads)


class Model:
    """An open model. Not thread-safe; `chat()` gives conversations of their own, which share the weights.

    What `ask`, `stream` and `choose` take: a text; an image or a video; a list of texts, images and videos; or a list
    of messages, `{"role": "user", "content": ...}` or `Message`. In lists a string is text and a `pathlib.Path`, a
    Pillow image, a uint8 array or the bytes of a file is an image; `Image(...)` and `Video(path, frames=8)` name files.
    Text may hold an `<image>` marker for each image and video; without markers they come first (see `prompt`).

    Asked again about the same beginning (the same images, say), only what is new is computed.
    """

    def __init__(self, bundle: Bundle, backend: Backend, context: int | None, threads: int | None) -> None:
        """Use `load`. Opens the decoder now, the vision tower when the first image comes."""
        self.bundle = bundle
        self.backend_name = backend.name
        self._tokenizer = TextTokenizer.open(bundle)
        self._prompts = PromptBuilder(bundle, self._tokenizer)
        self._eyes = Eyes(bundle, threads)
        self._open_decoder: Callable[[int], Decoder] = lambda size: backend.open(bundle, DecoderOptions(size, threads))
        self._context = context or CONTEXT
        self._may_grow = context is None
        self._spare: Decoder | None = self._open_decoder(self._context)
        self._session: Session | None = None
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._closed = False

    def ask(
        self,
        content: Content,
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        sampling: SamplingOptions = GREEDY,
        frames: int = FRAMES,
        pool: int = 1,
        tiles: bool = False,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Ask once and wait for the whole answer.

        `frames`: taken of each video that does not say. `pool`: pooling stride; 2 halves the visual grid's width and
        height. `tiles`: a large image as overview plus tiles. `cancel`: set it from another thread to end the answer.
        Raises UsageError, MediaError, ContextFullError, BundleError, BackendError.
        """
        stream = self.stream(
            content,
            max_tokens=max_tokens,
            stop=stop,
            sampling=sampling,
            frames=frames,
            pool=pool,
            tiles=tiles,
            cancel=cancel,
        )
        return stream.wait()

    def stream(
        self,
        content: Content,
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        sampling: SamplingOptions = GREEDY,
        frames: int = FRAMES,
        pool: int = 1,
        tiles: bool = False,
        cancel: threading.Event | None = None,
    ) -> AnswerStream:
        """As `ask`, but the text comes piece by piece. Images are encoded before this returns."""
        options = GenerationOptions(max_tokens, stops_of(stop), sampling)
        messages = asking(content)
        seen = self._eyes.look(media_of(messages), frames=frames, stride=pool, tiles=tiles)
        prompt = inputs_of(self._prompts.build(messages, seen.counts), seen.visuals)
        return AnswerStream(self._own_session().stream(prompt, options, cancel), seen)

    def choose(
        self,
        content: Content,
        options: Sequence[str],
        *,
        frames: int = FRAMES,
        pool: int = 1,
        tiles: bool = False,
    ) -> list[Choice]:
        """The probability of each given answer, in the order given. See `Session.choose` for what it means."""
        messages = asking(content)
        seen = self._eyes.look(media_of(messages), frames=frames, stride=pool, tiles=tiles)
        prompt = inputs_of(self._prompts.build(messages, seen.counts), seen.visuals)
        return self._own_session().choose(prompt, options)

    def chat(self, system: str | None = None) -> Chat:
        """A conversation that remembers, with a KV cache of its own. `system`: a message that goes before it."""
        messages = [] if system is None else [Message("system", (system,))]
        return Chat(self._new_session(), self._prompts, self._eyes, messages)

    def close(self) -> None:
        """Free the decoders, those of chats as well. A second call does nothing."""
        self._closed = True
        for session in list(self._sessions):
            session.close()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own_session(self) -> Session:
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self) -> Session:
        if self._closed:
            raise UsageError("the model is closed; load it again")
        # The decoder that was opened to see whether the bundle is sound serves the first session.
        decoder, self._spare = self._spare or self._open_decoder(self._context), None
        reopen = self._open_decoder if self._may_grow else None
        session = Session(decoder, self._tokenizer, self.bundle.manifest.prompt.eos_token_ids, reopen)
        self._sessions.add(session)
        return session


def _backend_for(bundle: Bundle, name: str | None) -> Backend:
    if name is not None:
        backend = find_backend(name)
        if not bundle.has(backend.decoder_file):
            raise BackendError(
                f"{bundle.folder}: has no {backend.decoder_file}, which {name!r} runs; convert for it, or name another"
            )
        return backend
    problems = []
    for known in backend_names():
        try:
            backend = find_backend(known)
        except BackendError as error:
            problems.append(str(error))
            continue
        if bundle.has(backend.decoder_file):
            return backend
    reason = f" ({problems[0]})" if problems else ""
    raise BackendError(f"{bundle.folder}: no installed backend runs it{reason}; convert the model again")
