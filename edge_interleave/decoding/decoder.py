"""The Decoder protocol, which every backend implements.

A decoder is a language model with one timeline: the KV entries of its cache, each at a position. It takes token ids or
embeddings and returns logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edge_interleave.errors import UsageError
from edge_interleave.util.arrays import FloatArray

if TYPE_CHECKING:
    from edge_interleave.bundle.manifest import Bundle

KV_PRECISIONS = ("f16", "q8_0", "q4_0")
INTERRUPTED = "interrupted; close the decoder, or let it resume"
"""The text of the BackendError of an interrupted call."""


@dataclass(frozen=True)
class DecoderFacts:
    """A decoder's sizes, which do not change while it is open."""

    hidden_size: int
    vocab_size: int
    trained_context: int
    """Positions that the model was trained on. The decoder refuses positions from this one on."""
    capacity: int
    """KV entries that the cache holds."""
    bytes_per_token: int
    """Bytes of one KV entry: keys and values of all layers."""


@dataclass(frozen=True)
class DecoderOptions:
    """How to open a decoder."""

    context: int = 4096
    """KV entries that the cache must hold."""
    threads: int | None = None
    """CPU threads; None: the backend decides."""
    kv_precision: str = "f16"
    """`f16`; `q8_0` and `q4_0` take about half and a quarter of its bytes, and are slower on CPUs."""
    batch: int | None = None
    """KV entries computed at a time; fewer take less memory and more time. None: the backend decides."""

    def __post_init__(self) -> None:
        if self.kv_precision not in KV_PRECISIONS:
            raise UsageError(f"no KV precision {self.kv_precision!r}; choose one of {', '.join(KV_PRECISIONS)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch must be a whole number of at least 1, not {self.batch}")


@dataclass(frozen=True)
class DecoderMemory:
    """The memory that a backend allocates for a decoder, in bytes."""

    weights: int
    cache: int
    """The KV cache."""
    compute: int
    """Buffers for activations, when the KV cache is full."""


@runtime_checkable
class Decoder(Protocol):
    """One timeline in one engine.

    It need not be thread-safe: the runtime makes one call at a time (`EngineLock`), from any thread, and never in a
    forked child. Two decoders of one bundle may be called at the same time; an engine that cannot do that must lock.
    """

    @property
    def facts(self) -> DecoderFacts:
        """Sizes of this decoder."""
        ...

    @property
    def length(self) -> int:
        """KV entries in the cache."""
        ...

    @property
    def position(self) -> int:
        """The position of the next KV entry: `length` plus the gaps that `evict` left."""
        ...

    def append_tokens(self, ids: Sequence[int]) -> FloatArray:
        """Append tokens and return the logits of the last one, float32 (vocab_size,).

        Raises ContextFullError, with the timeline unchanged, if they do not fit.
        """
        ...

    def append_embeddings(self, rows: FloatArray) -> FloatArray:
        """Append embeddings, float32 (n, hidden_size). Result and errors as `append_tokens`."""
        ...

    def truncate(self, position: int) -> None:
        """Remove the KV entries at `position` and after it."""
        ...

    def evict(self, start: int, end: int) -> None:
        """Remove the KV entries at positions start <= p < end. Later ones keep their positions, which leaves a gap."""
        ...

    def rebase(self) -> None:
        """Close the gaps: give the KV entries the positions 0, 1, 2, ... by re-rotating their keys (RoPE)."""
        ...

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        """Compute the KV entries at positions start <= p < end again, without traces of evicted ones.

        `parts`: the token ids or embeddings they were appended from, end - start entries in total. They attend to the
        entries before `start` and are computed as if they followed those without a gap; then their keys are re-rotated
        to the old positions. Later entries do not change.
        Raises ValueError for a range that is not stored or parts of another length; BackendError, with the range
        removed, if the engine fails.
        """
        ...

    def prefetch(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Prefetch scratch entries for `recompute(start, end, parts)` after the positions `leaving` are evicted.

        `leaving`: first <= p < last, all before `start`. Scratch entries attend to the other entries before `start`.
        Computes at most `rows` of them; returns whether a further call would compute more. The timeline does not
        change: lengths, positions and logits are the same as without the call.
        `recompute` reuses scratch entries that match, complete or partial. They use free cells only, and are dropped
        when an append needs these, when entries they attend to are removed, moved or replaced, and when another range
        is prefetched. A backend without prefetching returns False.
        Raises ValueError as `recompute`; BackendError, with the scratch entries dropped, if the engine fails.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the timeline's KV entries to a file, atomically. Raises InputError if the file cannot be written."""
        ...

    def load(self, path: Path) -> None:
        """Replace the timeline by a saved one. Raises InputError for a damaged file or one of another decoder."""
        ...

    def interrupt(self) -> None:
        """Make the running computation and all later ones fail with BackendError at once. Any thread may call it.

        Aborts a running prefill without killing its thread, for shutdown and for questions that nobody waits for. Once
        it has failed, `close` or `resume` follows.
        """
        ...

    def resume(self) -> None:
        """Undo `interrupt`, so that later calls compute. Never called while a call runs.

        The timeline is as the failed call promises: unchanged by an append, without its range after a `recompute`.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory. A second call does nothing."""
        ...


class Backend(Protocol):
    """Opens decoders. A package registers one under the entry-point group `edge_interleave.backends`."""

    name: str
    decoder_file: str
    """The file or folder of a bundle that this backend runs, e.g. `decoder.gguf`."""

    def open(self, bundle: Bundle, options: DecoderOptions) -> Decoder:
        """Open the bundle's decoder. Raises BundleError or BackendError."""
        ...

    def memory(self, bundle: Bundle, options: DecoderOptions) -> DecoderMemory:
        """The memory that `open` would allocate; opens nothing. Raises BundleError or BackendError as `open`."""
        ...
