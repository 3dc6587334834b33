"""Opening files by name: only regular files of a sensible size, and the kind of error says whose file it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_interleave.errors import InputError, MediaError
from edge_interleave.evaluation.json_stream import JsonStream
from edge_interleave.media.files import open_media_file
from edge_interleave.util.regular_file import display_name, open_regular_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good").write_bytes(b"content")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


UNUSABLE = {
    "missing": "no such file; check the path",
    "good/below": "no such file; check the path",
    "empty": "the file is empty; save or download it again",
    "folder": "is a folder; give a file",
    "loop": "cannot be opened .* check the path",
    "pipe": "not a regular file; give a file on disk",
    "nul\0byte": "cannot be opened .* check the path",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_gives_one_line_with_its_name(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=UNUSABLE[name]) as caught:
        open_regular_file(folder / name)
    assert str(caught.value).startswith(display_name(folder / name))
    assert str(caught.value).isprintable()


def test_a_file_above_the_limit_is_refused_and_one_at_the_limit_opened(folder: Path) -> None:
    with open_regular_file(folder / "good", 7) as file:
        assert file.read() == b"content"
    with pytest.raises(InputError, match="7 bytes, more than 6"):
        open_regular_file(folder / "good", 6)


@pytest.mark.parametrize("name", UNUSABLE)
def test_only_a_picture_or_video_is_a_media_error(folder: Path, name: str) -> None:
    with pytest.raises(MediaError, match=UNUSABLE[name]):
        open_media_file(folder / name)
    with pytest.raises(InputError, match=UNUSABLE[name]) as caught:
        list(JsonStream(folder / name))
    assert not isinstance(caught.value, MediaError)


def test_names_for_messages_are_one_printable_line_of_limited_length() -> None:
    assert display_name("a picture.png") == "a picture.png"
    assert display_name("") == "''"
    assert display_name("two\nlines") == r"'two\nlines'"
    long = display_name("a" * 1000 + ".png")
    assert len(long) <= 300
    assert long.endswith("aaa.png")
