"""Folders and files whose names are not UTF-8 are read and written like others."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import environment, run
from support.eval_files import colour_samples, write
from support.paths import CHECKPOINT

from edge_interleave.bundle.manifest import open_bundle, verify
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.cli.demo import tour_folder
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import BundleError, InputError
from edge_interleave.util.utf8_path import utf8_path, utf8_text
from edge_interleave.vision.tower import VisionTower

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode")
CARD = tour_folder() / "card-1.png"


@pytest.fixture
def odd(tmp_path: Path) -> Callable[[str], Path]:
    """A path whose name is Latin-1."""
    return lambda name: tmp_path / os.fsdecode(f"{name}-é".encode("latin-1"))


@pytest.fixture
def bundle(odd: Callable[[str], Path]) -> Path:
    return Path(shutil.copytree(embedded_folder(), odd("bundle")))


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


def test_a_bundle_is_asked(backend: str, bundle: Path, odd: Callable[[str], Path], env: dict[str, str]) -> None:
    picture = odd("picture")
    shutil.copy(CARD, picture)
    fixed = ("--backend", backend, "--threads", 1)
    result = run("ask", "Describe the image.", "--image", picture, "--model", bundle, *fixed, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout == run("ask", "Describe the image.", "--image", CARD, *fixed, env=env).stdout


def test_a_checkpoint_is_converted_into_one(backend: str, odd: Callable[[str], Path], env: dict[str, str]) -> None:
    source, out = odd("checkpoint"), odd("out")
    shutil.copytree(CHECKPOINT, source)
    result = run("convert", source, out, "--backend", backend, env=env)
    assert result.returncode == 0, result.stderr
    made = open_bundle(out)
    verify(made)
    assert (made.manifest.name, made.manifest.source) == ("out-?", "checkpoint-?")
    assert run("info", out, "--json", env=env).returncode == 0
    result = run("ask", "Describe the image.", "--image", CARD, "--model", out, "--threads", 1, env=env)
    assert result.stdout.strip(), result.stderr


def test_an_evaluation_is_stored_and_resumes(odd: Callable[[str], Path], bundle: Path, env: dict[str, str]) -> None:
    images, out = odd("images"), odd("out")
    file = write(images, colour_samples(3))
    call = ("eval", file, "--out", out, "--model", bundle, "--threads", 1, "--json")
    for limit in (2, 3):
        result = run(*call, "--limit", limit, env=env)
        assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["samples"] == 3


def test_a_watch_keeps_its_events(odd: Callable[[str], Path], bundle: Path, env: dict[str, str]) -> None:
    clip, events = odd("clip"), odd("events")
    shutil.copy(tour_folder() / "clip.mp4", clip)
    rule = ("--when", "Is there a red circle?", "--above", 0, "--for", 1)
    result = run("watch", clip, *rule, "--out", events, "--model", bundle, "--threads", 1, env=env)
    assert result.returncode == 0, result.stderr
    assert list(events.rglob("*.jpg"))


def test_a_saved_timeline_is_loaded_again(backend: str, bundle: Path, odd: Callable[[str], Path]) -> None:
    decoder = find_backend(backend).open(open_bundle(bundle), DecoderOptions(64, threads=1))
    before = decoder.append_tokens([1, 2, 3])
    decoder.save(odd("timeline"))
    decoder.truncate(0)
    decoder.load(odd("timeline"))
    assert decoder.length == 3
    decoder.truncate(2)
    assert decoder.append_tokens([3]) == pytest.approx(before, abs=1e-3)
    decoder.close()


class TestTheLink:
    def test_is_created_only_if_needed(self, tmp_path: Path, odd: Callable[[str], Path]) -> None:
        with utf8_path(tmp_path / "plain") as name:
            assert name == str(tmp_path / "plain")
        odd("file").write_text("read")
        with utf8_path(odd("file").with_suffix(".onnx")) as name:
            name.encode("utf-8")
            assert name.endswith(".onnx")
            Path(name).write_text("there")
        assert not os.path.lexists(name)
        assert odd("file").with_suffix(".onnx").read_text() == "there"
        with utf8_path(odd("file")) as name:
            assert Path(name).read_text() == "read"

    def test_that_cannot_be_created_advises_to_rename(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "symlink_to", refused)
        opened = open_bundle(bundle)
        with pytest.raises(InputError, match="the path is not UTF-8; rename the folder"):
            VisionTower(opened.file("vision.onnx"), opened.manifest.vision, 1)

    def test_does_not_hide_that_a_file_is_damaged(self, bundle: Path) -> None:
        opened = open_bundle(bundle)
        (bundle / "vision.onnx").write_bytes(b"no graph")
        with pytest.raises(BundleError, match=r"vision\.onnx"):
            VisionTower(opened.file("vision.onnx"), opened.manifest.vision, 1)


def test_names_in_text_contain_no_lone_surrogates() -> None:
    assert utf8_text("caf\udce9 é") == "caf? é"
