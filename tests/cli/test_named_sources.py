"""`serve --source`: names and sources."""

import pytest

from edge_interleave.cli.named_sources import named_sources
from edge_interleave.errors import UsageError


def test_an_address_may_hold_an_equals_sign() -> None:
    found = named_sources(["front door=camera:0", "yard=rtsp://192.168.1.9/live?channel=1"])
    assert found == {"front door": "camera:0", "yard": "rtsp://192.168.1.9/live?channel=1"}


@pytest.mark.parametrize(
    "given",
    [
        ["camera:0"],
        ["=camera:0"],
        ["a="],
        ["a/b=camera:0"],
        ["a" * 65 + "=camera:0"],
        ["a=ftp://x/"],
        ["a=camera:x"],
        ["a=camera:0", "a=camera:1"],
    ],
)
def test_a_wrong_one_is_refused(given: list[str]) -> None:
    with pytest.raises(UsageError):
        named_sources(given)
