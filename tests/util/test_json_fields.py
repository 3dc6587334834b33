"""JSON objects from untrusted files, read field by field."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_interleave.errors import BundleError
from edge_interleave.util.json_fields import JsonFields, read_json

PATH = Path("config.json")


def fields(**raw: Any) -> JsonFields:
    return JsonFields(PATH, raw, BundleError, remedy="download it again")


def test_fields_have_their_types() -> None:
    read = fields(
        name="a", size=3, rate=1, on=True, mean=[1, 2.5, 3], names=["b", "c"], inner={"x": {"deep": 1}}, none=None
    )
    assert read.text("name") == "a"
    assert read.integer("size") == 3
    assert isinstance(read.number("rate", None, 0, 2), float)
    assert read.boolean("on") is True
    assert read.triple("mean", least=0, most=3) == (1.0, 2.5, 3.0)
    assert read.texts("names") == ("b", "c")
    assert read.choice("name", ("a", "b")) == "a"
    assert read.objects("inner")["x"].integer("deep") == 1


def test_defaults_count_for_missing_fields_and_null_has_its_own_meaning() -> None:
    read = fields(none=None)
    assert read.text("missing", "default") == "default"
    assert read.integer("missing", 7) == 7
    assert read.integer("none", 7, null=9) == 9
    assert read.boolean("none", True) is True


@pytest.mark.parametrize(
    ("read", "line"),
    [
        (lambda f: f.text("size"), "field 'size' must be a string, not 3"),
        (lambda f: f.text("missing"), "field 'missing' must be a string, not None"),
        (lambda f: f.integer("on"), "field 'on' must be a whole number from 1 to 2147483648, not True"),
        (lambda f: f.integer("size", most=2), "field 'size' must be a whole number from 1 to 2, not 3"),
        (lambda f: f.number("nan", None, 0, 1), "field 'nan' must be a number from 0 to 1, not nan"),
        (lambda f: f.boolean("size"), "field 'size' must be true or false, not 3"),
        (lambda f: f.choice("size", ("a", "b")), "field 'size' must be one of a, b, not 3"),
        (lambda f: f.texts("size"), "field 'size' must be a list of strings, not 3"),
        (lambda f: f.triple("size", least=0, most=1), "field 'size' must be three numbers from 0 to 1, not 3"),
        (lambda f: f.object("size"), "field 'size' must be a JSON object, not 3"),
        (lambda f: f.object("inner").object("x").text("deep"), "field 'inner.x.deep' must be a string, not 1"),
        (lambda f: f.expect("size", False, "even"), "field 'size' must be even, not 3"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_must_be(read: Callable[[JsonFields], object], line: str) -> None:
    wrong = fields(size=3, on=True, nan=float("nan"), inner={"x": {"deep": 1}})
    with pytest.raises(BundleError) as caught:
        read(wrong)
    assert str(caught.value) == f"config.json: {line}; download it again"


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(BundleError) as caught:
        fields(name="x" * 10_000).integer("name")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "missing; pull it"),
        (b"{", r"not readable as JSON \(.*\); download it again"),
        (b"\xff", r"not readable as JSON \(.*\); download it again"),
        (b"[" * 100_000, r"not readable as JSON \(.*\); download it again"),
        (b" " * 200_000, "200000 bytes is too large for this file; download it again"),
    ],
    ids=("missing", "cut off", "not UTF-8", "deep", "large"),
)
def test_a_file_that_is_not_json_is_one_line(content: bytes | None, line: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=f"^{path}: {line}$"):
        read_json(path, BundleError, most=150_000, remedy="download it again", missing="pull it")
