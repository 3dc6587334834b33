"""An answer streamed from a server, with the figures that a client can measure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from edge_interleave.answer import CANCELLED, LENGTH, STOP, Answer, FinishReason, Stats, rate
from edge_interleave.decoding.generation import finished
from edge_interleave.util.process_memory import peak_memory_bytes


class RemoteAnswerStream(Iterator[str]):
    """Iterates over pieces of text; then `answer` is the whole answer. Closing it early ends the answer."""

    def __init__(
        self,
        begin: Callable[[], Generator[Any, None, None]],
        encode_s: float,
        cancel: threading.Event | None,
        complete: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        """`begin` sends the request; it is called for the first piece. `complete` gets the whole answer, once."""
        self._answer: Answer | None = None
        self._pieces = self._read(begin, encode_s, cancel, complete)

    @property
    def answer(self) -> Answer:
        """The whole answer, once the stream is exhausted or closed. Raises UsageError before."""
        return finished(self._answer)

    def __next__(self) -> str:
        return next(self._pieces)

    def wait(self) -> Answer:
        """Read the rest of the answer and return the whole."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """End the answer; its text so far is kept."""
        self._pieces.close()
        if self._answer is None:
            self._answer = Answer("", CANCELLED, _stats(None, 0, 0.0, 0.0, 0.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(
        self,
        begin: Callable[[], Generator[Any, None, None]],
        encode_s: float,
        cancel: threading.Event | None,
        complete: Callable[[Answer], None],
    ) -> Generator[str, None, None]:
        started = time.perf_counter()
        first_s, pieces, usage = 0.0, [], None
        reason: FinishReason = CANCELLED
        failed = False
        try:
            # Closing the generator closes the connection, which stops the server.
            with closing(begin()) as chunks:
                for chunk in chunks:
                    if cancel is not None and cancel.is_set():
                        break
                    usage = getattr(chunk, "usage", None) or usage
                    if not chunk.choices:
                        continue
                    choice = chunk.choices[0]
                    if choice.finish_reason is not None:
                        reason = LENGTH if choice.finish_reason == "length" else STOP
                    if choice.delta.content:
                        first_s = first_s or time.perf_counter() - started
                        pieces.append(choice.delta.content)
                        yield choice.delta.content
        except GeneratorExit:
            raise
        except BaseException:
            failed = True
            raise
        finally:
            if not failed:
                whole_s = time.perf_counter() - started
                stats = _stats(usage, len(pieces), encode_s, first_s, whole_s)
                self._answer = Answer("".join(pieces), reason, stats)
                complete(self._answer)


def _stats(usage: Any, pieces: int, encode_s: float, first_s: float, whole_s: float) -> Stats:
    """The figures of an answer. What the server does not report is 0; `prefill_s` is the time to the first piece."""
    details = getattr(usage, "prompt_tokens_details", None)
    answered = getattr(usage, "completion_tokens", None) or pieces
    return Stats(
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        visual_tokens=getattr(details, "visual_tokens", None) or 0,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
        answer_tokens=answered,
        encode_s=encode_s,
        prefill_s=first_s,
        first_token_s=first_s + encode_s,
        decode_tokens_per_s=rate(max(0, answered - 1), whole_s - first_s),
        prefill_tokens_per_s=0.0,
        encode_images_per_s=0.0,
        peak_memory_bytes=peak_memory_bytes(),
    )
