"""Bad input on the real command line: one error line, the exit code, and no changed file."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from support import command_line, pictures
from support.bad_input.bundles import CONTENTS, MANIFESTS
from support.bad_input.checkpoints import CHECKPOINTS
from support.bad_input.flips import FLIPS
from support.bad_input.media import IMAGES, VIDEOS
from support.bad_input.running import Outcome, assert_refused, here, in_another_process, snapshot
from support.command_line import environment

from edge_interleave.bundle.manifest import Bundle


@pytest.fixture
def checkpoint(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A sound checkpoint that a test may damage."""
    return Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def bundle(converted: Bundle, tmp_path: Path) -> Path:
    """A sound bundle that a test may damage."""
    return Path(shutil.copytree(converted.folder, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound picture."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    pictures.picture().save(path)
    return path


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_bad_checkpoint_is_refused_and_the_old_bundle_stays(
    name: str, checkpoint: Path, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, says = CHECKPOINTS[name]
    damage(checkpoint)
    before = snapshot(tmp_path)
    outcome = here(capfd, "convert", checkpoint, bundle, "--force")
    assert_refused(outcome, says)
    assert str(checkpoint) in outcome.err
    assert_refused(here(capfd, "convert", checkpoint, tmp_path / "new", "--json"), says, as_json=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_bundle_with_an_unsafe_manifest_is_refused(
    name: str, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, says = MANIFESTS[name]
    damage(bundle)
    before = snapshot(tmp_path)
    for outcome in (here(capfd, "info", bundle), here(capfd, "ask", "What is this?", "--model", bundle)):
        assert_refused(outcome, says)
        assert str(bundle) in outcome.err
    assert_refused(here(capfd, "info", bundle, "--verify", "--json"), says, as_json=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", CONTENTS)
def test_a_bundle_of_hostile_files_is_refused(
    name: str, bundle: Path, tmp_path: Path, picture: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, says = CONTENTS[name]
    damage(bundle)
    before = snapshot(tmp_path)
    outcome = here(
        capfd, "ask", "What is this?", "--image", picture, "--model", bundle, "--context", 256, "--threads", 1
    )
    assert_refused(outcome, says, codes=(3, 4))
    assert str(bundle) in outcome.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("kind", "name"), [("--image", n) for n in IMAGES] + [("--video", n) for n in VIDEOS])
def test_a_bad_image_or_video_is_refused(
    kind: str, name: str, converted: Bundle, picture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lay, says = (IMAGES if kind == "--image" else VIDEOS)[name]
    path = tmp_path / f"a strange file.{'png' if kind == '--image' else 'mp4'}"
    lay(path)
    before = snapshot(tmp_path)
    asked = ("ask", "What is this?", "--model", converted.folder, "--image", picture, kind, path)
    outcome = here(capfd, *asked)
    assert_refused(outcome, says)
    assert str(path) in outcome.err
    assert_refused(here(capfd, *asked, "--json"), says, as_json=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", FLIPS)
def test_flipped_bits_never_crash_the_process_that_answers(
    kind: str, random_checkpoint: Path, converted: Bundle, tmp_path: Path
) -> None:
    chance = random.Random(2024)
    commands = [
        FLIPS[kind](tmp_path / f"{number:02}", chance, random_checkpoint, converted.folder) for number in range(20)
    ]
    before = snapshot(tmp_path)
    outcomes = in_another_process(commands, environment(tmp_path))
    for outcome in outcomes:
        if outcome.code:
            assert_refused(outcome, "", as_json=kind != "safetensors header", codes=(2, 3, 4))
        elif kind != "safetensors header":
            assert outcome.err == ""
            assert "answer" in json.loads(outcome.out)
    assert any(outcome.code for outcome in outcomes)
    after = snapshot(tmp_path)
    assert {name: what for name, what in after.items() if name in before} == before


# One of each kind, as a shell runs them: nothing on the way to the exit may say anything more.
BY_A_SHELL: dict[str, tuple[str, ...]] = {
    "checkpoint, weights are a pickle with another name": ("convert", "{checkpoint}", "{new}"),
    "checkpoint, NaN in a decoder matrix": ("convert", "{checkpoint}", "{bundle}", "--force"),
    "checkpoint, index leads out of the folder": ("convert", "{checkpoint}", "{new}"),
    "bundle, manifest cut off": ("info", "{bundle}", "--verify"),
    "bundle, file name leads out": ("ask", "Hi", "--model", "{bundle}"),
    "bundle, decoder is a link out of the folder": ("chat", "--model", "{bundle}"),
    "bundle, decoder cut off in its weights": ("ask", "Hi", "--model", "{bundle}"),
    "bundle, decoder's weights are NaN": ("ask", "Hi", "--model", "{bundle}"),
    "bundle, tower of NaN weights": ("ask", "Hi", "--model", "{bundle}", "--image", "{picture}"),
    "bundle, tokenizer is empty": ("ask", "Hi", "--model", "{bundle}"),
    "image, TIFF, deflated, cut off": ("ask", "Hi", "--model", "{bundle}", "--image", "{media}"),
    "video, MP4 cut off after 2 %": ("ask", "Hi", "--model", "{bundle}", "--video", "{media}"),
}


@pytest.mark.parametrize("name", BY_A_SHELL)
def test_a_shell_sees_one_line_and_the_exit_code(
    name: str, checkpoint: Path, bundle: Path, picture: Path, tmp_path: Path
) -> None:
    kind, damage = name.split(", ", 1)
    folders = {"checkpoint": checkpoint, "bundle": bundle}
    table = {"checkpoint": CHECKPOINTS, "bundle": MANIFESTS | CONTENTS, "image": IMAGES, "video": VIDEOS}[kind]
    bad, says = table[damage]
    bad(folders.get(kind, tmp_path / "media"))
    before = snapshot(tmp_path)
    places = {"new": tmp_path / "new", "media": tmp_path / "media", "picture": picture, **folders}
    home = tmp_path.with_name(f"{tmp_path.name}-home")
    done = command_line.run(*(part.format(**places) for part in BY_A_SHELL[name]), env=environment(home))
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), says, codes=(3, 4))
    assert snapshot(tmp_path) == before


def test_damaged_models_in_the_store_are_listed_as_such(
    converted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_INTERLEAVE_HOME", str(tmp_path / "models"))
    for number, (damage, _) in enumerate(MANIFESTS.values()):
        (tmp_path / f"{number:02}").mkdir()
        damage(Path(shutil.copytree(converted.folder, tmp_path / f"{number:02}" / "bundle")))
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / f"m{number:02}").symlink_to(tmp_path / f"{number:02}" / "bundle")
    shutil.copytree(converted.folder, tmp_path / "models" / "sound")
    outcome = here(capfd, "models", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    listed = {model["name"]: model["problem"] for model in json.loads(outcome.out)["models"]}
    assert listed.pop("sound") is None
    listed.pop("embedded", None)
    assert len(listed) == len(MANIFESTS)
    assert all(listed.values())
    assert here(capfd, "models").code == 0


def test_a_failed_conversion_does_not_block_the_next_one(
    checkpoint: Path, random_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    CHECKPOINTS["NaN in a decoder matrix"][0](checkpoint)
    assert_refused(here(capfd, "convert", checkpoint, tmp_path / "out"), "values that are not finite")
    assert here(capfd, "convert", random_checkpoint, tmp_path / "out", "--quantization", "f16").code == 0
    assert here(capfd, "info", tmp_path / "out", "--verify").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]
