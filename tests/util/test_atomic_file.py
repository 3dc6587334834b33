"""Files that are replaced whole or not at all."""

import errno
import stat
from pathlib import Path

import pytest

from edge_interleave.errors import InputError, ResourceError
from edge_interleave.util.atomic_file import atomic_file, check_writable, is_temporary


def test_the_old_content_stays_until_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_block_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_sibling_is_hidden_and_has_the_suffix(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file", suffix=".safetensors") as temporary:
        temporary.touch()
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".file.")
        assert temporary.suffix == ".safetensors"
        assert is_temporary(temporary, "file")
        assert not is_temporary(temporary, "other")


def test_a_private_file_is_its_owners_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_file(path, private=True) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_durable_file_is_written(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file", durable=True) as temporary:
        temporary.write_text("kept")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_remedy_turns_a_refusal_into_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file"
    line = rf"^{path}: cannot be written \(No such file or directory\); go elsewhere$"
    with pytest.raises(InputError, match=line), atomic_file(path, remedy="go elsewhere") as temporary:
        temporary.touch()
    with pytest.raises(FileNotFoundError), atomic_file(path) as temporary:
        temporary.touch()
    with pytest.raises(InputError, match=line):
        check_writable(path, "go elsewhere")


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}: is a folder and cannot be replaced; go elsewhere$"):
        check_writable(tmp_path, "go elsewhere")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_lack_of_resources(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=rf"^{tmp_path}/file: No space left"),
        atomic_file(tmp_path / "file", remedy="go elsewhere"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_check_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "file", "go elsewhere")
    assert not list(tmp_path.iterdir())
