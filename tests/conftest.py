"""Fixtures shared by the tests of the runtime."""

from pathlib import Path

import pytest
from tiny import tiny_bundle

from edge_interleave.bundle import Bundle


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a random two-layer decoder. Read only."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Bundle) -> Path:
    """That bundle's GGUF. Read only."""
    return tiny.file("decoder.gguf")
