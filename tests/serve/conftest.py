"""Servers that several tests share."""

from collections.abc import Iterator

import pytest
from support.serving import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the embedded model with its defaults."""
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running
