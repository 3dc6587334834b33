"""A folder's pictures are recognised by content and sorted naturally, and files left out are reported."""

from __future__ import annotations

import io
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import command_line
from support.media_files import circle, tiff

from edge_interleave.errors import MediaError
from edge_interleave.media.clip import sample_clip
from edge_interleave.media.pictures import folder as pictures
from edge_interleave.media.pictures.folder import PictureFolder, picture_names
from edge_interleave.media.sources.open import open_source
from edge_interleave.util.natural_order import natural_order

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
JXL = b"\xff\x0a" + bytes(50)


def save(path: Path, kind: str, colour: tuple[int, int, int] = (9, 9, 9)) -> None:
    Image.new("RGB", (4, 4), colour).save(path, kind)


@pytest.mark.parametrize(
    "names",
    [
        [f"f{number}.png" for number in range(1, 13)],
        ["IMG_2.png", "img_9.PNG", "IMG_10.png", "IMG_11.png"],
        ["2024-1-9.png", "2024-1-10.png", "2024-11-2.png"],
        ["01.png", "2.png", "10.png"],
        ["frame.png", "frame2.png", "frame10.png", "frame10a.png", "frame10b.png"],
        ["a1b2.png", "a1b10.png", "a2b1.png"],
        ["9.png", "12345678901234567890123456789.png", "a.png"],
    ],
    ids=lambda names: names[-1],
)
def test_numbers_in_names_sort_as_numbers(names: list[str], tmp_path: Path) -> None:
    for index, name in reversed(list(enumerate(names))):
        save(tmp_path / name, "PNG", (index, 0, 0))
    assert picture_names(tmp_path) == names
    assert [frame.image.getpixel((0, 0))[0] for frame in sample_clip(tmp_path, 99)] == list(range(len(names)))
    source = open_source(tmp_path)
    source.open()
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9))
    shown = [source.read() for _ in names]
    source.close()
    assert [frame.image.getpixel((0, 0))[0] for frame in shown if frame] == list(range(len(names)))


def test_the_order_of_names_is_total() -> None:
    names = ["f01", "f1", "F1", "f", "", "1", "1a", "a1", "²", "٣", "f1 ", "é2", "E10"]
    backwards = names[::-1]
    assert sorted(names, key=natural_order) == sorted(backwards, key=natural_order)


def test_pictures_are_recognised_by_their_first_bytes(tmp_path: Path) -> None:
    kinds = {
        "a.jfif": "JPEG",
        "b.jpe": "JPEG",
        "c.JPG_large": "JPEG",
        "d": "PNG",
        "e.webp.bin": "WEBP",
        "f.jpeg:large": "JPEG",
        "g.dib": "BMP",
        "h.apng": "PNG",
        "i.pbm": "PPM",
        "j.avifs": "AVIF",
        "k.gif.1": "GIF",
        "l.data": "TIFF",
        # A name of another format.
        "m.png": "JPEG",
    }
    for name, kind in kinds.items():
        save(tmp_path / name, kind)
    assert picture_names(tmp_path) == sorted(kinds)
    assert len(sample_clip(tmp_path, 99)) == len(kinds)


def test_files_left_out_of_a_folder_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.png", "PNG")
    for name, content in {"c.heic": HEIC, "f.jxl": JXL, "film.mp4": b"\0\0\0\x18ftypisom", "x.dng": raw()}.items():
        (tmp_path / name).write_bytes(content)
    folder = PictureFolder(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert folder.names() == ["a.png"]
        assert folder.names() == ["a.png"]
        (line,) = caplog.messages
        assert "4 of 5 files left out" in line
        assert "c.heic, f.jxl, film.mp4, x.dng" in line
        for number in range(9):
            (tmp_path / f"later{number}.heic").write_bytes(HEIC)
        folder.names()
    assert len(caplog.messages) == 2
    assert "later4.heic and 4 more" in caplog.messages[1]


def raw() -> bytes:
    """A raw photograph with a preview, which starts like a TIFF."""
    return tiff(np.zeros((4, 4)), 8)


def test_nothing_is_logged_if_nothing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.png", "PNG")
    (tmp_path / ".hidden.heic").write_bytes(HEIC)
    (tmp_path / "b.jpg.part").write_bytes(b"\xff\xd8\xff half of it")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert picture_names(tmp_path) == ["a.png"]
    assert caplog.messages == []


def test_a_heic_named_jpg_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(HEIC)
    with pytest.raises(MediaError, match=r"a\.jpg: HEIC pictures are not supported"):
        sample_clip(tmp_path, 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.heic").write_bytes(HEIC)
    with pytest.raises(MediaError, match="no pictures in this folder; give one of PNG, JPEG"):
        sample_clip(tmp_path / "b", 2)


def test_listing_a_folder_again_reads_no_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(HEIC)
    save(tmp_path / "b", "PNG")
    read = []

    def counted(head: bytes) -> str | None:
        read.append(head[:4])
        return formats(head)

    formats = pictures.picture_format
    monkeypatch.setattr(pictures, "picture_format", counted)
    folder = PictureFolder(tmp_path)
    for _ in range(5):
        assert folder.names() == ["b"]
    assert len(read) == 2
    save(tmp_path / "a", "JPEG")
    os.utime(tmp_path / "a", (time.time(), time.time() + 1))
    assert folder.names() == ["a", "b"]
    assert len(read) == 3


def test_the_command_line_reports_files_left_out(tmp_path: Path) -> None:
    phone = tmp_path / "phone"
    phone.mkdir()
    buffer = io.BytesIO()
    circle().save(buffer, "JPEG")
    (phone / "a.jfif").write_bytes(buffer.getvalue())
    (phone / "b.heic").write_bytes(HEIC)
    command = ["ask", "How many?", "--video", phone, "--max-tokens", "2", "--threads", "1", "--json"]
    done = command_line.run(*command, env=command_line.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("")
    assert done.stdout.count("\n") == 1
