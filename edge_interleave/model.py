"""Loads a model, which answers questions and opens chats and live windows.

    model = load()
    print(model.ask("What changed between the two images?", images=["a.png", "b.png"]))

`load` opens a bundle on this machine, or a model on a server with OpenAI's interface.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Unpack, overload

from edge_interleave.answer import Answer, Choice
from edge_interleave.bundle.manifest import TOKENIZER_NAME, Bundle, open_bundle
from edge_interleave.chat import Chat, Prompts, encode, with_encode_stats
from edge_interleave.decoding.answer_stream import AnswerStream
from edge_interleave.decoding.conversation_file import Origin
from edge_interleave.decoding.decoder import Backend, Decoder, DecoderOptions
from edge_interleave.decoding.inputs import Input, as_inputs
from edge_interleave.decoding.registry import backend_for
from edge_interleave.decoding.session import Session
from edge_interleave.errors import UsageError
from edge_interleave.live.live import Live
from edge_interleave.live.opening import open_live
from edge_interleave.live.window import SLIDING, Mode
from edge_interleave.options import AskOptions, MediaOptions, check_names, generation_options
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.familiarity import is_familiar, read_question_model
from edge_interleave.prompt.messages import Content, Message, as_messages
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.prompt.video_times import with_time_instructions
from edge_interleave.util.engine_lock import check_process, claim_process, is_forked
from edge_interleave.util.progress import QuestionProgress
from edge_interleave.vision.media_encoder import EncodedMedia, MediaEncoder
from edge_interleave.vision.pooling import frame_stride

if TYPE_CHECKING:
    from edge_interleave.remote.model import RemoteModel

CONTEXT = 4096
REMOTE = "openai"
"""The backend's name for models on a server."""
CLOSED = "the model is closed; load it again"


@overload
def load(
    model: str | Path | None = None,
    *,
    backend: str | None = None,
    context: int | None = None,
    threads: int | None = None,
    kv_precision: str = "f16",
    batch: int | None = None,
    progress: QuestionProgress | None = None,
    url: None = None,
    api_key: None = None,
) -> Model: ...
@overload
def load(
    model: str | None = None,
    *,
    backend: str | None = None,
    context: int | None = None,
    threads: int | None = None,
    kv_precision: str = "f16",
    batch: int | None = None,
    progress: QuestionProgress | None = None,
    url: str,
    api_key: str | None = None,
) -> RemoteModel: ...
def load(
    model: str | Path | None = None,
    *,
    backend: str | None = None,
    context: int | None = None,
    threads: int | None = None,
    kv_precision: str = "f16",
    batch: int | None = None,
    progress: QuestionProgress | None = None,
    url: str | None = None,
    api_key: str | None = None,
) -> Model | RemoteModel:
    """Load a model.

    `model`: a bundle's folder, or the name of a pulled model; None: the small embedded model.
    `backend`: `llama-cpp`, `mlx` or another installed one; None: this machine's best that runs the bundle.
    `context`: tokens that the KV cache holds, text and visual, prompt and answer; at most the trained context. None:
    4096, and more once a prompt needs it.
    `threads`: CPU threads; None: one for each core that this process may use, within its CPU quota.
    `kv_precision`: `f16`; `q8_0` takes about half the KV cache's memory, `q4_0` a quarter; both are slower on CPUs.
    `batch`: tokens computed at a time; fewer take less memory and more time; None: the backend decides.
    `progress`: called before each step of a question to the model or a chat, but not to a live window.
    `url`: a server with OpenAI's interface (`http://host:8000/v1`) answers instead. `model` is then a name on that
    server (None: its first), `api_key` its key, `backend` None or `openai`; the other arguments have no effect. Images
    are sent to the server. Needs `edge-interleave[openai]`.
    Raises BundleError, BackendError, UsageError.
    """
    if url is not None or backend == REMOTE:
        return _remote(model, backend, url, api_key)
    if api_key is not None:
        raise UsageError("api_key is for a server; give its url too")
    if context is not None and context < 1:
        raise UsageError(f"context must be a whole number of at least 1, not {context}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be a whole number of at least 1, not {threads}")
    from edge_interleave.bundle.store import resolve

    bundle = open_bundle(resolve(model))
    options = DecoderOptions(context or CONTEXT, threads, kv_precision, batch)
    return Model(bundle, backend_for(bundle, backend), options, may_grow=context is None, progress=progress)


class Model:
    """An open model. Chats and live windows share its weights.

    Methods may be called from any thread. Questions are answered one after the other. While a stream is open, other
    threads' questions wait, and a question of the thread that reads the stream raises UsageError. In a forked child
    every use raises UsageError and `close` does nothing: load the model there, or start the child by 'spawn'.

    The content of `ask`, `stream` and `choose` is a text; an image or a video; a list of these; or a list of messages
    (`Message`, or `{"role": "user", "content": ...}`). In content a string is text. A `pathlib.Path`, a Pillow image, a
    uint8 array and the bytes of a file are images; `Image(...)` and `Video(path, frames=8)` take paths as strings, too.
    A text may hold an `<image>` marker for each image and video; without markers these come first (see
    `prompt.builder`).

    A prompt that begins like the previous one (with the same images, for example) is prefilled from their first
    difference on.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        options: DecoderOptions,
        *,
        may_grow: bool,
        progress: QuestionProgress | None = None,
    ) -> None:
        """Use `load`. Opens the decoder; the vision tower opens at the first image.

        `may_grow`: the KV cache grows for larger prompts than `options` say.
        """
        claim_process()
        self.bundle = bundle
        self.name = bundle.manifest.name
        self.backend_name = backend.name
        self.tokenizer = TextTokenizer.open(bundle)
        self._origin = Origin(
            bundle.manifest.name, bundle.manifest.files[TOKENIZER_NAME].sha256, backend.name, options.kv_precision
        )
        self.prompts = PromptBuilder(bundle, self.tokenizer)
        self.questions = read_question_model(bundle)
        """Recognises questions like those of the model's training; None if the bundle has no question model."""
        self.media_encoder = MediaEncoder(bundle, options.threads, progress)
        self._progress = progress
        self._open_decoder: Callable[[int], Decoder] = lambda size: backend.open(bundle, replace(options, context=size))
        self._context = options.context
        self._may_grow = may_grow
        self._spare: Decoder | None = self._open_decoder(self._context)
        """The decoder that was opened to check the bundle, until the first session takes it."""
        self._session: Session | None = None
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lives: weakref.WeakSet[Live] = weakref.WeakSet()
        self._opening = threading.RLock()
        """Held while a decoder is opened or handed out."""
        self._closed = False

    def ask(self, content: Content, **options: Unpack[AskOptions]) -> Answer:
        """Ask once and wait for the whole answer.

            model.ask("What changed?", images=["before.png", "after.png"])
            model.ask([Path("before.png"), "What changed?", Path("after.png")], pool=2, max_tokens=50)

        `options`: `images`, `videos`, `frames`, `pool`, `tiles`, `max_tokens`, `stop`, `sampling`, `cancel`; see
        `AskOptions`. Images and videos given there come before the content.
        Raises UsageError, MediaError, ContextFullError, BundleError, BackendError.
        """
        return self.stream(content, **options).wait()

    def stream(self, content: Content, **options: Unpack[AskOptions]) -> AnswerStream:
        """As `ask`, but the text comes piece by piece. Images are encoded before this returns."""
        self._check()
        check_names(options, AskOptions)
        session = self._own_session()
        generation = generation_options(options, session)
        cancel = options.get("cancel")
        messages, prompt, media = self._prompt(content, options)

        def complete(answer: Answer) -> Answer:
            return replace(with_encode_stats(answer, media), familiar=is_familiar(self.questions, messages))

        return AnswerStream(lambda: session.stream(prompt, generation, cancel), session.scheduler, cancel, complete)

    def choose(self, content: Content, options: Sequence[str], **media: Unpack[MediaOptions]) -> list[Choice]:
        """The probability of each option, in the order given. See `Session.choose` for its meaning.

        `media`: `images`, `videos`, `frames`, `pool`, `tiles`; see `MediaOptions`. Errors as `ask`.
        """
        self._check()
        check_names(media, MediaOptions)
        _, prompt, _ = self._prompt(content, media)
        session = self._own_session()
        with session.scheduler.question():
            return session.choose(prompt, options)

    def chat(
        self, system: str | None = None, *, resume: str | Path | None = None, prompts: Prompts | None = None
    ) -> Chat:
        """Open a conversation with a KV cache of its own.

        `system`: a message before the conversation. `resume`: a file that `Chat.save` wrote; the conversation continues
        without computing its images and text again, with the same bundle, backend and KV precision. `prompts`: turns
        messages into tokens; None: the model's own chat template.
        Raises UsageError for `system` together with `resume`, InputError for a file that is damaged or was saved with
        another model, ContextFullError if the conversation does not fit.
        """
        if resume is not None and system is not None:
            raise UsageError("a resumed conversation has its own system message; leave the new one out")
        messages = [] if system is None else [Message("system", (system,))]
        session, path = self._new_session(), None if resume is None else Path(resume)
        try:
            return Chat(
                session, prompts or self.prompts, self.media_encoder, messages, self._origin, path, self.questions
            )
        except BaseException:
            session.close()
            raise

    def live(
        self,
        window: int = 8,
        pool: int | Sequence[int] = 1,
        *,
        mode: Mode = SLIDING,
        keep_answers: bool = False,
        system: str | None = None,
    ) -> Live:
        """Open a window over a stream of frames, with a KV cache of its own. See `Live`.

        `window`: how many of the latest frames stay. `pool`: pooling stride, or a repeating pattern of strides: (1, 4,
        4, 4) keeps key frames in full and the frames between them at a sixteenth. A model trained on pooled video never
        sees frames at a smaller stride than it was trained with. `mode`: `sliding` computes each frame when it arrives,
        `exact` the whole window for each question (see `live.window.FrameWindow`). `keep_answers`: the last few
        questions and answers stay in the window as text. `system`: a message before all frames.
        Raises UsageError; ContextFullError if the window does not fit into the context.
        """
        vision = self.bundle.manifest.vision
        strides = tuple(frame_stride(vision, stride) for stride in ((pool,) if isinstance(pool, int) else pool))
        self._check()
        live = open_live(
            self.prompts,
            self.tokenizer,
            self.media_encoder.live_encoder(),
            self._new_session,
            window,
            strides,
            limit=self.context_limit,
            mode=mode,
            keep_answers=keep_answers,
            system=system,
            questions=self.questions,
        )
        with self._opening:
            self._lives.add(live)
        if self._closed:
            live.close()
        return live

    def new_session(self) -> Session:
        """Open a session with its own KV cache, for programs that build prompts with `prompts` and `media_encoder`."""
        return self._new_session()

    @property
    def context_limit(self) -> int:
        """The most KV entries that a prompt and its answer may take together."""
        trained = self.bundle.manifest.decoder.context_length
        return trained if self._may_grow else min(trained, self._context)

    def close(self) -> None:
        """Free the decoders, including those of chats and live windows. A second call does nothing.

        Open answers of other threads end with UsageError. Does nothing in a forked child.
        """
        if is_forked():
            return
        self._closed = True
        self.media_encoder.close(CLOSED)
        with self._opening:
            lives, sessions = list(self._lives), list(self._sessions)
            if self._spare is not None:
                self._spare.close()
                self._spare = None
        for live in lives:
            live.close()
        for session in sessions:
            session.close(CLOSED)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        check_process()
        if self._closed:
            raise UsageError(CLOSED)

    def _prompt(self, content: Content, options: MediaOptions) -> tuple[Sequence[Message], list[Input], EncodedMedia]:
        """The content as messages, as inputs of the decoder, and its encoded images."""
        messages = as_messages(content, options.get("images", ()), options.get("videos", ()))
        media = encode(self.media_encoder, messages, options)
        segments = self.prompts.build(with_time_instructions(messages, media.instructions), media.counts)
        return messages, as_inputs(segments, media.images), media

    def _own_session(self) -> Session:
        with self._opening:
            if self._session is None:
                self._session = self._new_session()
            return self._session

    def _new_session(self, window: int | None = None) -> Session:
        """A session for a conversation, or for a live window of `window` KV entries."""
        check_process()
        with self._opening:
            self._check()
            if window is None:
                decoder, progress = self._decoder(self._context), self._progress
                reopen = self._open_decoder if self._may_grow else None
            else:
                decoder, progress, reopen = self._decoder(window), None, None
            eos = self.bundle.manifest.prompt.eos_token_ids
            session = Session(decoder, self.tokenizer, eos, reopen, progress)
            self._sessions.add(session)
        if self._closed:  # by a signal handler
            session.close(CLOSED)
        return session

    def _decoder(self, size: int) -> Decoder:
        """A decoder for one session: `_spare` if it is large enough, otherwise a new one."""
        if self._spare is None or self._spare.facts.capacity < min(size, self._spare.facts.trained_context):
            return self._open_decoder(size)
        decoder, self._spare = self._spare, None
        return decoder


def _remote(model: str | Path | None, backend: str | None, url: str | None, api_key: str | None) -> RemoteModel:
    if backend not in (None, REMOTE):
        raise UsageError(f"url names a server, but backend {backend!r} runs on this machine; give only one of them")
    if url is None:
        raise UsageError(f"backend {REMOTE!r} needs the server's url, such as http://host:8000/v1")
    from edge_interleave.remote.endpoint import Endpoint
    from edge_interleave.remote.model import RemoteModel

    return RemoteModel(Endpoint(url, None if model is None else str(model), api_key))
