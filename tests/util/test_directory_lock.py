"""Locks on folders and files, on file systems with locks and without."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.eval_files import colour_samples, results, write
from support.paths import CHECKPOINT

import edge_interleave as ei
from edge_interleave.bundle.writer import build_bundle, discard_partial, partial_folder
from edge_interleave.cli import cli, errors
from edge_interleave.errors import InputError
from edge_interleave.evaluation.results import ResultsFile
from edge_interleave.util.directory_lock import LockedError, lock_file_of, locked, locked_folder

fcntl = pytest.importorskip("fcntl")
WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.EIO]


def without_locks(code: int) -> Callable[..., None]:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    return flock


@pytest.fixture(params=WITHOUT_LOCKS, ids=[errno.errorcode[code] for code in WITHOUT_LOCKS])
def every_failure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call fails like on file systems without locks."""
    monkeypatch.setattr(fcntl, "flock", without_locks(request.param))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks(errno.ENOSYS))


@pytest.fixture(params=["locks", "no locks"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", without_locks(errno.ENOLCK))


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_lock(path: Path, content: object) -> Path:
    file = lock_file_of(path)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def here(pid: int, **more: str) -> dict[str, object]:
    return {"pid": pid, "host": os.uname().nodename, **more}


class TestWithoutLocks:
    def test_folders_and_files_are_locked_all_the_same(self, every_failure: None, tmp_path: Path) -> None:
        with locked_folder(tmp_path / "built", wait=False) as ours, ResultsFile(tmp_path / "results.jsonl"):
            assert ours
            for path in (tmp_path / "built", tmp_path / "results.jsonl"):
                assert lock_file_of(path).exists()
            with pytest.raises(LockedError), locked_folder(tmp_path / "built", wait=False):
                pass
        assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]

    def test_an_evaluation_runs(self, no_locks: None, tmp_path: Path) -> None:
        file = write(tmp_path, colour_samples(2))
        assert errors.run(cli, ["eval", str(file), "--out", str(tmp_path / "out"), "--threads", "1"]) == 0
        assert len(results(tmp_path / "out")) == 2
        assert [path.name for path in tmp_path.rglob("*.lock*")] == []

    def test_a_bundle_is_built(self, no_locks: None, tmp_path: Path) -> None:
        code = errors.run(cli, ["convert", str(CHECKPOINT), str(tmp_path / "bundle"), "--backend", "llama-cpp"])
        assert code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

    def test_what_cannot_be_locked_either_way_is_told_with_file_and_cure(
        self, no_locks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(path: Any, flags: int, *mode: int) -> int:
            if flags & os.O_EXCL:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return opened(path, flags, *mode)

        opened = os.open
        monkeypatch.setattr(os, "open", refused)
        with (
            pytest.raises(InputError, match=r"\.built\.lock: .*no locks.*Read-only.*give a folder on another disk"),
            locked_folder(tmp_path / "built", wait=False),
        ):
            pass


class TestTwoProcesses:
    def test_do_not_build_in_one_folder(self, either: None, tmp_path: Path) -> None:
        with (
            build_bundle(tmp_path / "bundle", {}),
            pytest.raises(InputError, match="another process is building this bundle; wait for it"),
            build_bundle(tmp_path / "bundle", {}),
        ):
            pass

    def test_do_not_write_one_file(self, either: None, tmp_path: Path) -> None:
        with (
            ResultsFile(tmp_path / "results.jsonl"),
            pytest.raises(InputError, match=r"another process is writing it; wait for it.*or use --shard"),
        ):
            ResultsFile(tmp_path / "results.jsonl")
        ResultsFile(tmp_path / "results.jsonl").close()

    def test_take_turns_where_one_waits(self, either: None, tmp_path: Path) -> None:
        # A child of a fork has the same broken locks as this process.
        (tmp_path / "count").write_text("0")
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=_count_up, args=(tmp_path,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert (tmp_path / "count").read_text() == str(4 * 5)


def _count_up(folder: Path) -> None:
    count = folder / "count"
    for _ in range(5):
        ours = False
        while not ours:  # the folder is removed where it is left empty, and made anew by the next one
            with locked_folder(folder / "building", wait=True) as ours:
                if ours:
                    count.write_text(str(int(count.read_text()) + 1))


class TestALockFile:
    @pytest.fixture(autouse=True)
    def without(self, no_locks: None) -> None:
        """On a file system without locks."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Iterator[tuple[int, Path]]:
        path = tmp_path / "results.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        yield descriptor, path
        os.close(descriptor)

    def test_of_a_process_that_has_ended_is_taken_over(self, file: tuple[int, Path], ended: int) -> None:
        left_lock(file[1], here(ended))
        with locked(*file, wait=False):
            assert json.loads(lock_file_of(file[1]).read_bytes())["pid"] == os.getpid()
        assert not lock_file_of(file[1]).exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="says when a process started")
    def test_of_a_process_whose_number_another_one_has_now_is_taken_over(self, file: tuple[int, Path]) -> None:
        left_lock(file[1], here(os.getppid(), started="another boot 17"))
        with locked(*file, wait=False):
            pass

    def test_that_was_never_written_is_taken_over_after_a_while(self, file: tuple[int, Path]) -> None:
        left = left_lock(file[1], b"")
        with pytest.raises(LockedError), locked(*file, wait=False):
            pass
        os.utime(left, (1, 1))
        with locked(*file, wait=False):
            pass

    @pytest.mark.parametrize("holder", [{"pid": 1, "host": "elsewhere"}, {"pid": 1}, b"no JSON", [1], b"\xff"])
    def test_of_who_knows_whom_is_kept_and_named(self, file: tuple[int, Path], holder: Any) -> None:
        left = left_lock(file[1], holder)
        with pytest.raises(LockedError) as error, locked(*file, wait=False):
            pass
        assert f"wait for it, or delete {left}" in error.value.remedy
        assert left.exists()

    def test_of_a_process_that_runs_is_kept_and_names_it(self, file: tuple[int, Path]) -> None:
        left_lock(file[1], here(os.getppid()))
        with pytest.raises(InputError, match=rf"delete .*\.results\.jsonl\.lock if process {os.getppid()} of"):
            ResultsFile(file[1])

    def test_of_another_machine_is_not_waited_for_without_end(
        self, file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_interleave.util.directory_lock._PATIENCE_S", 0.05)
        left_lock(file[1], {"pid": 1, "host": "elsewhere"})
        with pytest.raises(InputError, match=r"not finished it; .*delete"), locked(*file, wait=True):
            pass

    def test_that_cannot_be_taken_over_is_told(
        self, file: tuple[int, Path], ended: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        left_lock(file[1], here(ended))
        monkeypatch.setattr(Path, "rename", refused)
        with (
            pytest.raises(InputError, match=r"\.results\.jsonl\.lock: .*cannot be removed.*delete it"),
            locked(*file, wait=False),
        ):
            pass

    def test_does_not_keep_an_interrupted_build_from_being_removed(self, tmp_path: Path, ended: int) -> None:
        with build_bundle(tmp_path / "bundle", {}) as build:
            build.add("file", lambda path: path.write_text("made"))
        left_lock(partial_folder(tmp_path / "bundle"), here(ended))
        assert discard_partial(tmp_path / "bundle")
        assert list(tmp_path.iterdir()) == []

    def test_of_a_killed_evaluation_does_not_stop_the_next_one(self, tmp_path: Path, ended: int) -> None:
        from edge_interleave.evaluation import run

        file, out = write(tmp_path, colour_samples(2)), tmp_path / "out"
        with ei.load(threads=1) as model:
            run(file, model, out, limit=1)
            left_lock(out / "results.jsonl", here(ended))
            assert run(file, model, out).done == 2
