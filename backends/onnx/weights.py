"""`decoder-onnx/`: checked as a stranger's, opened once for all decoders of a bundle that have the same threads.

The graph's weights lie in a file beside it, which ONNX Runtime maps into memory; the matrix of embeddings in another,
of which the rows in use are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.backends.common.shared_weights import SharedWeights, file_key
from edge_interleave.backends.onnx.int8_cache import with_int8_cache
from edge_interleave.backends.onnx.trial import tried
from edge_interleave.bundle.manifest import ONNX_DATA, ONNX_EMBEDDINGS, ONNX_GRAPH, ONNX_NAME, Bundle, DecoderInfo
from edge_interleave.bundle.onnx_check import check_onnx
from edge_interleave.errors import BundleError, one_line
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.onnx_runtime import int8_products_saturate, keep_at_fork, session_options
from edge_interleave.util.providers import CPU, Provider, decoder_provider
from edge_interleave.util.utf8_path import utf8_path

FORMAT = "1"
GRAPH_BYTES_MAX = 64 << 20
_REMEDY = "convert or pull the model again"
Key = tuple[object, ...]


@dataclass(eq=False)
class Weights:
    """An open decoder, without a timeline."""

    key: Key
    session: Any = field(repr=False)
    """ONNX Runtime's."""
    embeddings: npt.NDArray[Any] = field(repr=False)
    """Of each token: a record of `scale` and `row`, or the row alone. Read from the disk as it is used."""
    frequencies: npt.NDArray[np.float64]
    """Of RoPE, radians a position, (head size / 2,)."""

    def rows(self, tokens: npt.NDArray[np.int32]) -> FloatArray:
        """Embeddings of token ids, float32 (n, hidden)."""
        chosen = self.embeddings[tokens]
        if chosen.dtype.names is None:
            rows: FloatArray = chosen.astype(np.float32)
            return rows
        scaled: FloatArray = chosen["row"].astype(np.float32) * chosen["scale"][:, np.newaxis]
        return scaled


def _free(weights: Weights) -> None:
    weights.session = None
    weights.embeddings = np.zeros((0, 0), np.float32)


_shared: SharedWeights[Weights] = SharedWeights(_free)


def acquire(
    bundle: Bundle, threads: int, cache_type: npt.DTypeLike = np.float16, provider: Provider | None = None
) -> Weights:
    """The weights, opened unless another decoder uses them. The caller must `release` them once.

    `cache_type`: of the KV cache, float16 or int8. `provider` runs the graph; None: what this machine has for the
    decoder's precision. Raises BundleError.
    """
    cache_type = np.dtype(cache_type)
    provider = provider or decoder_provider(bundle.manifest.precisions.get(ONNX_NAME))
    paths = [bundle.file(f"{ONNX_NAME}/{name}") for name in (ONNX_GRAPH, ONNX_DATA, ONNX_EMBEDDINGS)]
    key = (threads, cache_type, provider.name, *(file_key(path) for path in paths))

    def load() -> Weights:
        graph, data, embeddings = paths
        if graph.stat().st_size > GRAPH_BYTES_MAX:
            raise BundleError(f"{graph}: {graph.stat().st_size} bytes are too many for a graph; {_REMEDY}")
        check_onnx(graph, data)
        info = bundle.manifest.decoder
        session = _open(graph, threads, CPU, cache_type, info)
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        _check_signature(graph, session, info, cache_type)
        frequencies = _frequencies(graph, metadata, info)
        weights = Weights(key, session, _embeddings(embeddings, info), frequencies)
        if provider != CPU:
            rows = weights.rows(np.arange(8, dtype=np.int32) % info.vocab_size)

            def open_on(other: Provider) -> Any:
                return _open(graph, threads, other, cache_type, info)

            weights.session = tried(graph, session, rows, info, provider, open_on)
        return weights

    return _shared.acquire(key, load)


def release(weights: Weights) -> None:
    """Free the weights if no other decoder uses them."""
    _shared.release(weights.key)


def cache_names(layers: int) -> list[tuple[str, str]]:
    """The names of each layer's keys and values in the graph."""
    return [(f"keys.{layer}", f"values.{layer}") for layer in range(layers)]


def _open(path: Path, threads: int, provider: Provider, cache_type: np.dtype[Any], info: DecoderInfo) -> Any:
    import onnxruntime as ort

    options = session_options()
    options.intra_op_num_threads = threads
    # The threads wait in a loop for work within a run, which has hundreds of short steps, but not after it: the tower
    # and other programs have the cores then.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider.name == "DmlExecutionProvider":
        # https://onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html#configuration-options
        options.enable_mem_pattern = False
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        with utf8_path(path.parent) as name:
            model: str | bytes = str(Path(name, path.name))
            if cache_type == np.int8:
                model = with_int8_cache(path, info)
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(name))
            session = ort.InferenceSession(model, options, **provider.session_arguments())
    except BundleError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this.
        raise BundleError(
            f"{path}: not a decoder that ONNX Runtime can open ({one_line(error, 300)}); {_REMEDY}"
        ) from error
    keep_at_fork(session)
    return session


def _check_signature(path: Path, session: Any, info: DecoderInfo, cache_type: np.dtype[Any]) -> None:
    """Raise BundleError where the graph does not take and give what a decoder of `info` does."""
    half, float_ = "tensor(float16)", "tensor(float)"
    stored = "tensor(int8)" if cache_type == np.int8 else half
    cache = {
        name: (stored, [1, info.kv_heads, "cells", info.head_dim]) for pair in cache_names(info.layers) for name in pair
    }
    takes = {
        "rows": (float_, [1, "n", info.hidden_size]),
        "positions": ("tensor(int64)", [1, "n"]),
        "last": ("tensor(int32)", [1]),
        "total": ("tensor(int32)", [1]),
        "cos": (half, ["trained", info.head_dim // 2]),
        "sin": (half, ["trained", info.head_dim // 2]),
        **cache,
    }
    gives = {
        "logits": (float_, [1, info.vocab_size]),
        **{f"new_{name}": value for name, value in cache.items()},
    }
    for what, found, wanted in (("takes", session.get_inputs(), takes), ("gives", session.get_outputs(), gives)):
        there = {value.name: (value.type, list(value.shape)) for value in found}
        if there != wanted:
            odd = next(name for name in {**wanted, **there} if there.get(name) != wanted.get(name))
            raise BundleError(
                f"{path}: not the decoder that bundle.json describes: {what} {odd} as {there.get(odd, 'nothing')} "
                f"where {wanted.get(odd, 'nothing')} is due; {_REMEDY}"
            )


def _frequencies(path: Path, metadata: dict[str, str], info: DecoderInfo) -> npt.NDArray[np.float64]:
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path}: of another version of edge-interleave ({metadata.get('format')!r}); {_REMEDY}")
    try:
        values = np.asarray(json.loads(metadata["rope_frequencies"]), np.float64)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: its RoPE frequencies are no numbers; {_REMEDY}") from error
    if values.shape != (info.head_dim // 2,) or not np.isfinite(values).all():
        raise BundleError(f"{path}: its RoPE frequencies are not {info.head_dim // 2} numbers; {_REMEDY}")
    return values


def _embeddings(path: Path, info: DecoderInfo) -> npt.NDArray[Any]:
    record = np.dtype([("scale", "<f4"), ("row", "<i1", (info.hidden_size,))])
    try:
        table: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, RecursionError) as error:
        raise BundleError(f"{path}: not a matrix of embeddings ({one_line(error, 300)}); {_REMEDY}") from error
    fits = isinstance(table, np.ndarray) and (
        (table.dtype == record and table.shape == (info.vocab_size,))
        or (table.dtype in (np.dtype("<f2"), np.dtype("<f4")) and table.shape == (info.vocab_size, info.hidden_size))
    )
    if not fits:
        raise BundleError(f"{path}: not the embeddings of {info.vocab_size} tokens of {info.hidden_size}; {_REMEDY}")
    return table
