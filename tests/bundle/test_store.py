"""The store of models: its folder, its names, and building bundles."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import MANIFEST_NAME, Bundle, open_bundle, verify
from edge_interleave.bundle.writer import build_bundle, delete_bundle, partial_folder
from edge_interleave.errors import BundleError, InputError, UsageError

RECIPE = {"of": "tests"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("EDGE_INTERLEAVE_HOME", str(folder))
    return folder


def copied(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, folder))


def build(out: Path, bundle: Bundle, *, force: bool = False) -> Bundle:
    """Build `out` as a copy of `bundle`."""
    with build_bundle(out, RECIPE, force=force) as writer:
        for name in bundle.manifest.files:
            writer.add(name, lambda path, name=name: shutil.copyfile(bundle.folder / name, path))
        return writer.publish(bundle.manifest)


def break_off(out: Path, error: BaseException, content: bytes = b"{}", *, force: bool = False, **recipe: str) -> None:
    """Start to build `out`, finish `tokenizer.json`, and raise the error."""
    with build_bundle(out, recipe or RECIPE, force=force) as writer:
        writer.add("tokenizer.json", lambda path: path.write_bytes(content))
        raise error


def left_beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def test_a_name_means_the_stored_model_and_a_path_the_folder(tiny: Bundle, home: Path, tmp_path: Path) -> None:
    stored = copied(tiny, home / "small")
    assert store.resolve("small") == stored
    elsewhere = copied(tiny, tmp_path / "elsewhere")
    assert store.resolve(str(elsewhere)) == elsewhere
    assert store.resolve(elsewhere) == elsewhere


def test_a_hub_id_means_the_model_that_was_pulled_from_it(tiny: Bundle, home: Path) -> None:
    stored = copied(tiny, home / "small")
    manifest = json.loads((stored / MANIFEST_NAME).read_text())
    manifest["source"] = "someone/small-hf"
    (stored / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert store.resolve("someone/small-hf") == stored
    with pytest.raises(BundleError, match="edge-interleave pull other/small-hf"):
        store.resolve("other/small-hf")


def test_an_unknown_name_is_answered_with_the_known_ones(tiny: Bundle, home: Path) -> None:
    with pytest.raises(BundleError, match="edge-interleave pull"):
        store.resolve("llava")
    copied(tiny, home / "llava-interleave")
    with pytest.raises(BundleError, match=r"models: .*llava-interleave.*did you mean llava-interleave\?"):
        store.resolve("llava-interleav")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".", "..", ".x", "a\nb", "a b", "embedded", "é", "-x"])
def test_names_that_lead_out_of_the_store_are_refused(name: str, home: Path) -> None:
    with pytest.raises(UsageError):
        store.check_name(name)
    with pytest.raises((UsageError, BundleError)):
        store.remove(name)


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("llava-hf/llava-interleave-qwen-0.5b-hf", "llava-interleave-qwen-0.5b"),
        ("lmms-lab/llava-next-interleave-qwen-0.5b", "llava-next-interleave-qwen-0.5b"),
    ],
)
def test_short_names(repository: str, name: str) -> None:
    assert store.short_name(repository) == name


def test_models_are_listed_with_sizes_and_problems(tiny: Bundle, home: Path) -> None:
    copied(tiny, home / "whole")
    damaged = copied(tiny, home / "damaged")
    (damaged / "tokenizer.json").unlink()
    (home / ".half.partial").mkdir()
    found = {model.name: model for model in store.list_models() if model.name != store.EMBEDDED}
    assert sorted(found) == ["damaged", "whole"]
    assert found["whole"].problem is None
    assert found["whole"].bytes == sum(path.stat().st_size for path in tiny.folder.rglob("*") if path.is_file())
    assert found["whole"].precisions == tiny.manifest.precisions
    assert "tokenizer.json" in (found["damaged"].problem or "")


def test_remove_deletes_a_model_even_a_damaged_one_and_no_other_folder(tiny: Bundle, home: Path) -> None:
    damaged = copied(tiny, home / "damaged")
    (damaged / MANIFEST_NAME).write_text("{")
    assert store.remove("damaged") > 0
    assert not damaged.exists()
    (home / "photos").mkdir()
    (home / "photos" / "a.png").write_bytes(b"x")
    with pytest.raises(BundleError, match="not a bundle"):
        store.remove("photos")
    assert (home / "photos" / "a.png").exists()
    with pytest.raises(BundleError, match="no model"):
        store.remove("damaged")


def test_remove_deletes_a_link_but_not_its_target(tiny: Bundle, home: Path, tmp_path: Path) -> None:
    target = copied(tiny, tmp_path / "target")
    home.mkdir()
    (home / "linked").symlink_to(target)
    store.remove("linked")
    assert not (home / "linked").exists()
    verify(open_bundle(target))


def test_a_built_bundle_is_complete_and_leaves_no_temporary_files(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "new" / "bundle"
    built = build(out, tiny)
    verify(built)
    assert built.manifest.files == tiny.manifest.files
    assert left_beside(out) == []
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert sorted(files) == sorted([*tiny.manifest.files, MANIFEST_NAME])


def test_an_interrupted_build_keeps_its_finished_files(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    made: list[str] = []

    def make(name: str, path: Path) -> None:
        made.append(name)
        shutil.copyfile(tiny.folder / name, path)
        if made == ["tokenizer.json", "decoder.gguf"]:
            raise KeyboardInterrupt

    def attempt(recipe: dict[str, str]) -> Bundle:
        with build_bundle(out, recipe) as writer:
            for name in ("tokenizer.json", "decoder.gguf"):
                writer.add(name, lambda path, name=name: make(name, path))
            return writer.publish(tiny.manifest)

    with pytest.raises(KeyboardInterrupt):
        attempt(RECIPE)
    assert not out.exists()
    assert sorted(p.name for p in partial_folder(out).iterdir()) == [".build.json", "tokenizer.json"]
    attempt(RECIPE)
    assert made == ["tokenizer.json", "decoder.gguf", "decoder.gguf"]
    verify(open_bundle(out))


def test_a_build_of_something_else_starts_over(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        break_off(out, KeyboardInterrupt(), of="another")
    assert (partial_folder(out) / "tokenizer.json").exists()
    verify(build(out, tiny))
    assert open_bundle(out).manifest.files == tiny.manifest.files


def test_a_finished_file_that_was_changed_is_made_again(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        break_off(out, KeyboardInterrupt(), tiny.file("tokenizer.json").read_bytes())
    damaged = partial_folder(out) / "tokenizer.json"
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    verify(build(out, tiny))


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(InputError):
        break_off(out, InputError("the checkpoint is bad"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_without_force(tiny: Bundle, tmp_path: Path) -> None:
    out = copied(tiny, tmp_path / "bundle")
    with pytest.raises(InputError, match="--force"):
        build(out, tiny)
    verify(build(out, tiny, force=True))
    assert left_beside(out) == []


def test_with_force_the_old_bundle_stays_until_the_new_one_is_whole(tiny: Bundle, tmp_path: Path) -> None:
    out = copied(tiny, tmp_path / "bundle")
    with build_bundle(out, RECIPE, force=True) as writer:
        writer.add("tokenizer.json", lambda path: path.write_text("{}"))
        verify(open_bundle(out))
    with pytest.raises(InputError):
        break_off(out, InputError("the checkpoint is bad"), force=True)
    verify(open_bundle(out))


@pytest.mark.parametrize("kind", ["file", "folder of other things", "bundle with other things in it"])
def test_force_replaces_nothing_but_a_bundle(kind: str, tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    if kind == "file":
        out.write_text("mine")
    elif kind == "folder of other things":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        copied(tiny, out)
        (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError):
        build(out, tiny, force=True)
    assert (out if kind == "file" else out / "mine.txt").read_text() == "mine"
    if kind != "file":
        with pytest.raises(BundleError):
            delete_bundle(out)
        assert (out / "mine.txt").read_text() == "mine"


def test_a_folder_in_the_way_that_no_build_left_is_not_touched(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    partial_folder(out).mkdir()
    (partial_folder(out) / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="in the way"):
        build(out, tiny)
    assert (partial_folder(out) / "mine.txt").read_text() == "mine"


def test_a_replacement_cut_between_its_two_renames_is_undone(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    copied(tiny, tmp_path / ".bundle.old")
    with pytest.raises(InputError, match="--force"):
        build(out, tiny)
    verify(open_bundle(out))
    assert left_beside(out) == []


def test_two_builds_of_one_bundle_exclude_each_other(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    hold = (
        "import sys, time; from pathlib import Path; from edge_interleave.bundle.writer import build_bundle\n"
        "with build_bundle(Path(sys.argv[1]), {}) as writer:\n"
        "    writer.add('tokenizer.json', lambda path: path.write_text('{}'))\n"
        "    print('building', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"building\n"
        with pytest.raises(InputError, match="another process"):
            build(out, tiny)
        os.kill(other.pid, signal.SIGKILL)
    verify(build(out, tiny))  # a killed process holds no lock
