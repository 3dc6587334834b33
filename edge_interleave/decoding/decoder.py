"""The Decoder protocol: what every backend implements.

A decoder is a language model with a timeline: the entries of its KV cache, each with a position. It takes token ids
or embedding rows and gives logits. It knows nothing about images, prompts, chat templates or sampling.
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


@dataclass(frozen=True)
class DecoderFacts:
    """What a decoder is, in numbers that do not change while it is open."""

    hidden_size: int
    vocab_size: int
    trained_context: int
    """Positions the model was trained on; a position at or beyond it is refused."""
    capacity: int
    """Entries the KV cache holds."""
    bytes_per_token: int
    """KV cache bytes for one entry, keys and values of all layers."""


@dataclass(frozen=True)
class DecoderOptions:
    """How to open a decoder."""

    context: int = 4096
    """Entries the KV cache shall hold."""
    threads: int | None = None
    """CPU threads; None leaves it to the backend."""
    kv_precision: str = "f16"
    """`f16`; `q8_0` or `q4_0`: about half or a quarter of the bytes for each entry of the KV cache, slower on CPUs."""
    batch: int | None = None
    """Rows computed at a time; fewer take less memory and more time. None leaves it to the backend."""

    def __post_init__(self) -> None:
        if self.kv_precision not in KV_PRECISIONS:
            raise UsageError(f"no KV precision {self.kv_precision!r}; choose one of {', '.join(KV_PRECISIONS)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch must be a whole number of at least 1, not {self.batch}")


@dataclass(frozen=True)
class DecoderMemory:
    """What a backend allocates for a decoder that is opened so, in bytes."""

    weights: int
    cache: int
    """The KV cache."""
    compute: int
    """Buffers for what is computed between the layers, when the KV cache is full."""


@runtime_checkable
class Decoder(Protocol):
    """One timeline in one engine.

    Need not be thread-safe: the runtime makes one call at a time (`EngineLock`), but from any thread, and never in a
    forked child. Decoders of one bundle may be called at the same time; an engine that cannot do that waits by itself.
    """

    @property
    def facts(self) -> DecoderFacts:
        """Sizes of this decoder."""
        ...

    @property
    def length(self) -> int:
        """Entries in the KV cache."""
        ...

    @property
    def position(self) -> int:
        """The position the next entry will have: `length` plus the gaps that `evict` left."""
        ...

    def append_tokens(self, ids: Sequence[int]) -> FloatArray:
        """Extend the timeline by tokens and return the logits of the last, float32 of shape (vocab_size,).

        Raises ContextFullError, with the timeline unchanged, where they do not fit.
        """
        ...

    def append_embeddings(self, rows: FloatArray) -> FloatArray:
        """Extend the timeline by embeddings, float32 of shape (n, hidden_size); logits as `append_tokens`."""
        ...

    def truncate(self, position: int) -> None:
        """Forget every entry at `position` and after."""
        ...

    def evict(self, start: int, end: int) -> None:
        """Forget the entries at positions start <= p < end; later ones keep their positions (a gap)."""
        ...

    def rebase(self) -> None:
        """Close the gaps: entries are renumbered 0, 1, 2, ... by re-rotating the keys (RoPE)."""
        ...

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        """Compute the entries at positions start <= p < end anew, so that they know nothing of what was evicted.

        `parts`: token ids or embeddings, end - start entries in all, as they were appended. They see what lies before
        `start` and follow it without a gap while they are computed; then they have their old positions (their keys are
        re-rotated). What lies after them stays as it is, made from what was there when it was appended.
        Raises ValueError for a range that is not stored or parts of another length, BackendError where the engine
        fails: the range is forgotten then.
        """
        ...

    def prepare(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Work ahead on `recompute(start, end, parts)`, as it will be when the positions `leaving` are evicted.

        `leaving`: first <= p < last, all before `start`; what else lies before `start` is seen. Computes `rows` entries
        at most; True where a further call would compute more. The timeline does not change: lengths, positions and
        logits are what they would be without it.
        `recompute` uses what is prepared, be it all or not, where it is what it would compute itself. It takes room
        that the timeline leaves, and gives way where an append needs that; it is dropped where the entries that it sees
        leave, move or are replaced, and where something else is prepared.
        A backend that cannot do this gives False.
        Raises ValueError as `recompute`, BackendError where the engine fails: what was prepared is dropped then.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the timeline's KV state to a file, atomically."""
        ...

    def load(self, path: Path) -> None:
        """Replace the timeline by a saved one. Raises InputError where the file is not of this decoder."""
        ...

    def interrupt(self) -> None:
        """From any thread: have what is being computed, and all that comes after, fail with BackendError at once.

        For shutdown: aborts a running prefill without killing its thread. `close` is called once that has failed.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory. A second call does nothing."""
        ...


class Backend(Protocol):
    """What a package registers under the entry-point group: a factory of decoders."""

    name: str
    decoder_file: str
    """The file or folder of a bundle this backend runs, e.g. `decoder.gguf`."""

    def open(self, bundle: Bundle, options: DecoderOptions) -> Decoder:
        """Open the bundle's decoder. Raises BundleError or BackendError."""
        ...

    def memory(self, bundle: Bundle, options: DecoderOptions) -> DecoderMemory:
        """What `open` would allocate, without opening. Raises BundleError or BackendError as `open` does."""
        ...
