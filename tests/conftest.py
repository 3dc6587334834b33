"""Fixtures that several tests share."""

import os

# NumPy's products here are small, and the engines have their own threads; more threads only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from pathlib import Path

import pytest
from random_checkpoint import model_config, write_random_checkpoint
from support.backends_under_test import backends_of
from support.computed_rows import ComputedRows
from support.tiny import tiny_bundle

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
    """Pin each pytest-xdist worker, and the programs it starts, to one core.

    llama.cpp's threads spin, so two programs that both use all cores slow each other down many times.
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
    """A bundle with a random two-layer decoder. Read-only."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Bundle) -> Path:
    """The GGUF file of `tiny`. Read-only."""
    return tiny.file("decoder.gguf")


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, including tower and projector. Read-only."""
    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random", model_config())


@pytest.fixture(scope="session")
def converted(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`random_checkpoint` converted for llama.cpp. Read-only."""
    return convert(random_checkpoint, tmp_path_factory.mktemp("converted") / "random", quantization="q4_k_m")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> ComputedRows:
    """Counts the rows that decoders compute: each call returns the rows since the last call."""
    return ComputedRows(monkeypatch)
