"""The demo's tour: told, shown, and saved as one sheet."""

import base64
import io
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from support.command_line import environment, run

from edge_interleave import InputError, load
from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.cli import cli, errors, pictures
from edge_interleave.cli.demo import read_tour, run_tour, save_pictures, tour_folder


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tour of two stops: two images with a follow-up question, and a video."""
    folder = tmp_path_factory.mktemp("tour")
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 30), colour).save(folder / f"{colour}.png")
    frames = [Image.new("RGB", (40, 30), (0, 60 * number, 0)) for number in range(4)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    stops = [
        {"title": "Two", "images": ["red.png", "blue.png"], "question": "Which is red?", "follow_up": "And blue?"},
        {"title": "A clip", "images": [], "video": "clip.gif", "question": "What moves?", "follow_up": None},
    ]
    (folder / "tour.json").write_text(json.dumps(stops))
    return folder


def test_every_stop_is_asked_printed_and_put_on_the_sheet(
    tour: Path, converted: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    with load(converted.folder) as model:
        told = run_tour(model, tour, read_tour(tour), out, quiet=False)
    assert [[question for question, _ in stop.exchanges] for stop in told] == [
        ["Which is red?", "And blue?"],
        ["What moves?"],
    ]
    assert told[0].exchanges[0][1].stats.visual_tokens == 2 * 16
    assert told[0].exchanges[1][1].stats.cached_tokens > 2 * 16  # the images are not computed again
    assert told[1].exchanges[0][1].stats.visual_tokens == 4 * 16
    shown = " ".join(capsys.readouterr().out.split())
    assert "lets you try" in shown
    assert "2 images: red.png, blue.png" in shown
    assert "clip.gif: 4 frames" in shown
    with Image.open(out) as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20) or []}
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png"]


@pytest.mark.parametrize(
    ("name", "format_"), [("s.jpg", "JPEG"), ("s.JPEG", "JPEG"), ("s.webp", "WEBP"), ("s.png", "PNG")]
)
def test_the_suffix_sets_the_format_of_the_sheet(name: str, format_: str, tmp_path: Path) -> None:
    part = pictures.SheetPart("One", [Image.new("RGB", (40, 30), "red")], [("What is it?", "A red picture.")])
    pictures.save_sheet(tmp_path / name, "A sheet", [part])
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format == format_
        assert sheet.convert("RGB").getpixel((2, 2)) == pytest.approx((250, 250, 247), abs=2)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("sheet.gif", 2, ".png, .jpg, .jpeg, .webp"),
        ("sheet", 2, ".png"),
        ("/dev/full", 2, ".png"),
        ("nowhere/sheet.png", 3, "cannot be written"),
        ("file/sheet.png", 3, "cannot be written"),
        ("pipe.png", 3, "not a file"),
    ],
)
def test_an_unwritable_sheet_is_refused_before_the_tour(
    name: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr("edge_interleave.cli.demo.run_tour", lambda *arguments, **more: pytest.fail("the tour began"))
    assert errors.run(cli, ["demo", "--out", str(tmp_path / name)]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe.png"]


def test_the_tour_fits_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("demo", "--threads", 1, "--out", "sheet.jpg", env=environment(tmp_path, COLUMNS="80"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "The car is red." in done.stdout


def test_a_damaged_tour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reinstall"):
        read_tour(tmp_path)
    (tmp_path / "tour.json").write_text('[{"title": "x"}]')
    with pytest.raises(InputError, match="question"):
        read_tour(tmp_path)


def test_pictures_use_the_terminals_own_protocol() -> None:
    picture = pictures.row([Image.new("RGB", (300, 200), "red"), Image.new("L", (5, 500))])
    assert picture.size == (2 * pictures.TILE + 8, pictures.TILE)

    kitty = pictures.escape_sequence(picture, {"KITTY_WINDOW_ID": "1"})
    assert kitty is not None
    chunks = re.findall("\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\\\", kitty)
    assert chunks[0][0].startswith("a=T,f=100,")
    assert [keys[-1] for keys, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks)))) as sent:
        assert sent.size == picture.size

    iterm = pictures.escape_sequence(picture, {"TERM_PROGRAM": "iTerm.app"})
    assert iterm is not None
    assert iterm.startswith("\x1b]1337;File=inline=1;size=")
    assert pictures.escape_sequence(picture, {"KITTY_WINDOW_ID": "1", "TMUX": "x"}) is None
    assert pictures.escape_sequence(picture, {"TERM": "xterm-256color"}) is None


@pytest.mark.parametrize(("colours", "shown"), [("truecolor", True), (None, False)])
def test_half_blocks_need_colour(colours: str | None, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    terminal = Console(file=file, force_terminal=True, color_system=colours, width=40)  # type: ignore[arg-type]
    picture = Image.new("RGB", (pictures.TILE, pictures.TILE), (200, 100, 50))
    assert pictures.show(terminal, picture) is shown
    assert ("▀" in file.getvalue()) is shown
    if shown:
        assert "38;2;200;100;50" in file.getvalue()
        assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in file.getvalue().splitlines()) <= 40


def test_only_text_is_written_without_a_terminal() -> None:
    file = io.StringIO()
    assert pictures.show(Console(file=file), Image.new("RGB", (10, 10))) is False
    assert file.getvalue() == ""


@pytest.mark.skipif(not (tour_folder() / "tour.json").is_file(), reason="this checkout has no embedded tour yet")
@pytest.mark.skipif(not (store.embedded_folder() / "bundle.json").is_file(), reason="no embedded model yet")
def test_the_tour_that_ships_runs_with_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.run(cli, ["demo", "--out", str(tmp_path / "sheet.png"), "--json"]) == 0
    stops = json.loads(capsys.readouterr().out)["stops"]
    assert len(stops) >= 3
    assert any(stop["video"] for stop in stops)
    assert all(exchange["answer"] for stop in stops for exchange in stop["exchanges"])


def test_the_tours_pictures_can_be_saved(tmp_path: Path) -> None:
    saved = tmp_path / "new" / "pictures"
    for _ in range(2):  # a second time they are there already
        save_pictures(tour_folder(), read_tour(tour_folder()), saved)
    assert (saved / "desk.png").read_bytes() == (tour_folder() / "desk.png").read_bytes()
    assert {path.suffix for path in saved.iterdir()} == {".png", ".mp4"}


def test_saving_pictures_never_replaces_another_file(tmp_path: Path) -> None:
    mine = tmp_path / "sign-2.png"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"sign-2\.png: a different file of this name exists"):
        save_pictures(tour_folder(), read_tour(tour_folder()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sign-2.png"]
    assert mine.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_created_is_refused_before_the_tour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code = errors.run(cli, ["demo", "--out", str(tmp_path / "sheet.png"), "--pictures", str(tmp_path / "file" / "in")])
    shown = capsys.readouterr()
    assert (code, shown.out) == (3, "")
    assert "choose another folder" in shown.err
