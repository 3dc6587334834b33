"""Servers that several tests share."""

from collections.abc import Iterator

import pytest
from support.serving import CARDS, KEY, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the embedded model with its defaults."""
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key and two sources: a folder of pictures, and a camera that is not there."""
    home = tmp_path_factory.mktemp("keyed")
    cards = home / "cards"
    cards.mkdir()
    for card in CARDS:
        (cards / card.name).write_bytes(card.read_bytes())
    with serving(home, "--api-key", KEY, "--source", f"cards={cards}", "--source", "gone=camera:99") as running:
        yield running
