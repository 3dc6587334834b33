"""Amounts of memory as people write them, and the memory that is free."""

import pytest

from edge_interleave.errors import UsageError
from edge_interleave.planning.system_memory import format_memory, free_memory, parse_memory

MB = 1_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5GiB", 3 << 29),
        ("800MB", 800 * MB),
        ("800 mb", 800 * MB),
        ("64KiB", 1 << 16),
        ("7B", 7),
    ],
)
def test_amounts_as_people_write_them(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "2", "GB", "2GBs", "-1GB", "0MB", "1e9B", "0%", "101%", "٣GB", "9" * 400 + "TB"])
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_memory(text)
    assert "\n" not in str(caught.value)


def test_a_percentage_is_of_the_free_memory() -> None:
    assert parse_memory("50%") == pytest.approx(free_memory() / 2, rel=0.1)


@pytest.mark.parametrize("size", [1, 999_999, 153_400_001, 9_999_999_999, 12_345_678_901])
def test_formatted_amounts_are_rounded_up_and_can_be_parsed(size: int) -> None:
    assert size <= parse_memory(format_memory(size)) <= size * 1.05 + MB
