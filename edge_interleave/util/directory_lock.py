"""A lock on a folder that is being built, or on a file that is being written, held by the folder or file itself.

A killed process frees it, and no lock file is left. File systems without such locks (some NFS mounts, FUSE) get a lock
file beside it instead, which names its process and is taken over once that process has ended. Independent of what is
built.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edge_interleave.errors import InputError

_POLL_S = 0.1
_WRITING_S = 2.0
"""A lock file is made and then written; one that stays empty for longer was left by a process that ended in between."""
_PATIENCE_S = 600.0
"""For a process on another machine, of which nobody here can say whether it still runs."""
_BYTES_MAX = 4096


class LockedError(BlockingIOError):
    """Another process holds the lock."""

    def __init__(self, remedy: str = "wait for it") -> None:
        super().__init__(remedy)
        self.remedy = remedy
        """What to do about it, in a few words."""


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Make a folder where it is missing, and hold a lock on it; on Windows there is none.

    Gives whether the folder that is locked is still the one that lies there: between opening and locking, the process
    that had it may have finished and renamed it. Where it is left empty it is removed. Raises LockedError where
    another process has it and `wait` is not set, InputError where it cannot be locked.
    """
    if sys.platform == "win32":
        folder.mkdir(exist_ok=True)
        yield True
        return
    descriptor = _opened(folder)
    try:
        with locked(descriptor, folder, wait=wait):
            ours = _lies_at(descriptor, folder)
            try:
                yield ours
            finally:
                if ours:
                    with suppress(OSError):
                        folder.rmdir()  # only where nothing is in it
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    """A descriptor of the folder, made where it is missing."""
    while True:
        # Another process that leaves it empty may remove it at any moment.
        with suppress(FileExistsError):
            folder.mkdir()
        with suppress(FileNotFoundError):
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _lies_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


@contextmanager
def locked(descriptor: int, path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock on an open file or folder until the block ends or `descriptor` is closed; on Windows there is none.

    `path`: where it lies. Raises LockedError where another process has it and `wait` is not set, InputError where
    neither a lock nor a lock file can be had.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise LockedError from None
    except OSError:
        # ENOSYS, EOPNOTSUPP, ENOLCK, or EBADF for a folder on NFS: whichever it is, nothing is locked.
        with _lock_file(path, wait=wait):
            yield
    else:
        yield


def lock_file_of(path: Path) -> Path:
    """Where the lock file of a file or folder lies, on file systems without locks."""
    return path.with_name(f".{path.name.lstrip('.')}.lock")


@contextmanager
def _lock_file(path: Path, *, wait: bool) -> Iterator[None]:
    file = lock_file_of(path)
    mine = json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "started": _started(os.getpid())}).encode()
    waited = 0.0
    while not _made(file, mine):
        holder = _read(file)
        if holder is not None and _has_ended(holder):
            _take_away(file, holder)
            continue
        if not wait:
            raise LockedError(_remedy(file, holder))
        if waited > _PATIENCE_S and not _is_here(holder):
            raise InputError(f"{path}: another machine has not finished it; {_remedy(file, holder)}")
        time.sleep(_POLL_S)
        waited += _POLL_S
    try:
        yield
    finally:
        if _read(file) == mine:
            with suppress(OSError):
                file.unlink()


def _made(file: Path, content: bytes) -> bool:
    """Make the lock file, unless there is one. Raises InputError."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise _unlockable(file, error) from error
    try:
        os.write(descriptor, content)
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise _unlockable(file, error) from error
    finally:
        os.close(descriptor)
    return True


def _unlockable(file: Path, error: OSError) -> InputError:
    return InputError(
        f"{file}: this file system has no locks, and a lock file cannot be made ({error.strerror}); "
        "give a place on another disk"
    )


def _read(file: Path) -> bytes | None:
    """What the lock file says; None where it is gone, or still being written."""
    try:
        content = file.read_bytes()[:_BYTES_MAX]
        if content or time.time() - file.stat().st_mtime < _WRITING_S:
            return content or None
    except OSError:
        return None
    return b""


def _has_ended(holder: bytes) -> bool:
    """Whether the process that made a lock file is known to have ended. One on another machine never is."""
    if not holder:
        return True
    said = _said(holder)
    if not _is_here(holder) or type(said.get("pid")) is not int:
        return False
    try:
        os.kill(said["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # it runs, as another user
        return False
    # The number may be another process's by now.
    started = _started(said["pid"])
    return bool(started and said.get("started") and started != said["started"])


def _is_here(holder: bytes | None) -> bool:
    return _said(holder or b"").get("host") == os.uname().nodename


def _take_away(file: Path, holder: bytes) -> None:
    """Remove the lock file of a process that has ended, unless it is another one's by now. Raises InputError."""
    away = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.rename(away)
    except FileNotFoundError:
        return  # another process was faster
    except OSError as error:
        raise InputError(
            f"{file}: was left by a process that has ended, and cannot be removed ({error.strerror}); delete it"
        ) from error
    if away.read_bytes()[:_BYTES_MAX] != holder:
        with suppress(OSError):
            os.link(away, file)
    away.unlink()


def _remedy(file: Path, holder: bytes | None) -> str:
    said = _said(holder or b"")
    if "pid" not in said:
        return f"wait for it, or delete {file} if nothing runs"
    return f"wait for it, or delete {file} if process {said['pid']} of {said.get('host')} no longer runs"


def _said(holder: bytes) -> dict[str, Any]:
    try:
        said = json.loads(holder)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _started(pid: int) -> str:
    """What tells a process from a later one of the same number: when it started; empty where Linux does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text('utf-8', 'replace').rsplit(')', 1)[1].split()[19]}"
    except (OSError, IndexError):
        return ""
