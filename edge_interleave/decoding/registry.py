"""Finds backends by entry point and chooses one for a bundle."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from edge_interleave.decoding.decoder import Backend
from edge_interleave.errors import BackendError
from edge_interleave.util.cpus import has_int8_dot_products

if TYPE_CHECKING:
    from edge_interleave.bundle.manifest import Bundle

ENTRY_POINT_GROUP = "edge_interleave.backends"


@dataclass(frozen=True)
class BackendChoice:
    """The backend that runs decoders fastest on this machine, and why."""

    name: str
    reason: str


def best_backend() -> str:
    """The name of the backend that runs decoders fastest on this machine; see `choose_backend`."""
    return choose_backend().name


def choose_backend() -> BackendChoice:
    """`mlx` on Apple Silicon; elsewhere `onnx`, or `llama-cpp` if it is installed and the CPU has no int8 dot products.

    On CPUs with int8 dot products ONNX Runtime prefills twice as fast as llama.cpp; on others llama.cpp is faster.
    """
    if (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return BackendChoice("mlx", "Apple Silicon")
    if has_int8_dot_products():
        return BackendChoice("onnx", "the CPU has int8 dot products")
    if find_spec("llama_cpp") is not None:
        return BackendChoice("llama-cpp", "the CPU has no int8 dot products")
    remedy = "pip install 'edge-interleave[llama-cpp]'"
    return BackendChoice("onnx", f"llama.cpp, which is faster on this CPU, is not installed: {remedy}")


def backend_names() -> list[str]:
    """Names of the installed backends, this machine's best first. Imports none of them."""
    names, best = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}, best_backend()
    return sorted(names, key=lambda name: (name != best, name))


def find_backend(name: str) -> Backend:
    """The backend of that name. Raises BackendError if it is not installed or cannot be imported."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            try:
                return cast(Backend, point.load())
            except ImportError as error:
                ours = point.dist is not None and point.dist.name == "edge-interleave"
                remedy = f"; pip install 'edge-interleave[{name}]'" if ours else ""
                raise BackendError(f"backend {name!r} cannot be imported: {error}{remedy}") from error
    known = ", ".join(backend_names()) or "none"
    raise BackendError(f"no backend named {name!r}; installed: {known}")


def backend_for(bundle: Bundle, name: str | None) -> Backend:
    """The named backend; None: the best installed one that can run the bundle. Raises BackendError."""
    if name is not None:
        backend = find_backend(name)
        if not bundle.has(backend.decoder_file):
            raise BackendError(
                f"{bundle.folder}: no {backend.decoder_file}, which {name!r} needs; add it with 'edge-interleave "
                f"convert {bundle.manifest.source} {bundle.folder} --backend {name}', or name another backend"
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
