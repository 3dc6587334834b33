"""Fixtures that several tests share."""

import os

# Small products, and an engine beside them that has threads of its own: more of them only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from random_checkpoint import model_config, write_random_checkpoint
from support.backends_under_test import backends_of
from support.tiny import tiny_bundle

from edge_interleave.backends.llama_cpp.decoder import LlamaCppDecoder
from edge_interleave.backends.onnx.decoder import OnnxDecoder
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.converters.convert import convert


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        help="run the suites of the Decoder protocol with this backend instead of ours; may be given more than once",
    )


def pytest_configure() -> None:
    """One core for each of pytest-xdist's workers, and what it starts.

    llama.cpp's threads spin, so that two programs which both take all cores slow each other down many times.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdigit() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", backends_of(metafunc.config))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a random two-layer decoder. Read only."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Bundle) -> Path:
    """That bundle's GGUF. Read only."""
    return tiny.file("decoder.gguf")


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, tower and projector included. Read only."""
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random", model_config())


@pytest.fixture(scope="session")
def converted(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle for llama.cpp that `convert` makes of it. Read only."""
    return convert(random_checkpoint, tmp_path_factory.mktemp("converted") / "random", quantization="q4_k_m")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Says how many rows the decoders have computed since it was asked last."""
    count = 0

    def counted(compute: Callable[..., Any]) -> Callable[..., Any]:
        def counting(decoder: Any, entries: Any, *how: Any, **more: Any) -> Any:
            nonlocal count
            count += len(entries)
            return compute(decoder, entries, *how, **more)

        return counting

    def since_last() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(LlamaCppDecoder, "_decode", counted(LlamaCppDecoder._decode))
    monkeypatch.setattr(OnnxDecoder, "_compute", counted(OnnxDecoder._compute))
    if find_spec("mlx"):
        from edge_interleave.backends.mlx.decoder import MlxDecoder

        monkeypatch.setattr(MlxDecoder, "_compute", counted(MlxDecoder._compute))
    return since_last
