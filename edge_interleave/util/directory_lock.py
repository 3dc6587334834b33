"""Locks a folder that is being built, or a file that is being written, against other processes.

The system locks the folder or file itself, and releases it if the process is killed. On file systems without locks
(some NFS mounts, FUSE) a lock file beside it names its process, and is taken over after that process has ended.
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
"""Seconds between creating and writing a lock file. If it stays empty for longer, its process has ended."""
_PATIENCE_S = 600.0
"""Seconds to wait for a process on another machine, which may have ended."""
_BYTES_MAX = 4096


class LockedError(BlockingIOError):
    """Another process holds the lock."""

    def __init__(self, remedy: str = "wait for it") -> None:
        super().__init__(remedy)
        self.remedy = remedy
        """What the user can do, in a few words."""


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Create a folder if needed, and hold a lock on it. On Windows nothing is locked.

    Yields whether the locked folder is still at its path: the process that held the lock may have renamed the finished
    folder. A folder that is empty at the end is removed. Raises LockedError if another process holds the lock and
    `wait` is False, and InputError if the folder cannot be locked.
    """
    if sys.platform == "win32":
        folder.mkdir(exist_ok=True)
        yield True
        return
    descriptor = _opened(folder)
    try:
        with locked(descriptor, folder, wait=wait):
            ours = _is_at(descriptor, folder)
            try:
                yield ours
            finally:
                if ours:
                    with suppress(OSError):
                        folder.rmdir()  # fails unless the folder is empty
    finally:
        os.close(descriptor)


@contextmanager
def locked(descriptor: int, path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock on an open file or folder until the block ends. On Windows nothing is locked.

    `path`: the path of `descriptor`. Raises LockedError if another process holds the lock and `wait` is False, and
    InputError if neither a lock nor a lock file is possible.
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
        # The file system has no locks: ENOSYS, EOPNOTSUPP, ENOLCK, or EBADF for a folder on NFS.
        with _lock_file(path, wait=wait):
            yield
    else:
        yield


def lock_file_of(path: Path) -> Path:
    """The path of the lock file of a file or folder, on file systems without locks."""
    return path.with_name(f".{path.name.lstrip('.')}.lock")


def _opened(folder: Path) -> int:
    """A descriptor of the folder, which is created if needed."""
    while True:
        # Another process may remove the empty folder at any moment.
        with suppress(FileExistsError):
            folder.mkdir()
        with suppress(FileNotFoundError):
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether the open folder is the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _lock_file(path: Path, *, wait: bool) -> Iterator[None]:
    file = lock_file_of(path)
    mine = json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "started": _started(os.getpid())}).encode()
    waited = 0.0
    while not _made(file, mine):
        holder = _read(file)
        if holder is not None and _has_ended(holder):
            _remove_stale(file, holder)
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
    """Create the lock file. Returns False if it exists. Raises InputError."""
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
        "give a folder on another disk"
    )


def _read(file: Path) -> bytes | None:
    """The lock file's content; None if it is gone or being written."""
    try:
        content = file.read_bytes()[:_BYTES_MAX]
        if content or time.time() - file.stat().st_mtime < _WRITING_S:
            return content or None
    except OSError:
        return None
    return b""


def _has_ended(holder: bytes) -> bool:
    """Whether the process of a lock file has certainly ended. Always False for a process on another machine."""
    if not holder:
        return True
    facts = _facts_of(holder)
    if not _is_here(holder) or type(facts.get("pid")) is not int:
        return False
    try:
        os.kill(facts["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # it runs, as another user
        return False
    # The id may belong to another process now.
    started = _started(facts["pid"])
    return bool(started and facts.get("started") and started != facts["started"])


def _is_here(holder: bytes | None) -> bool:
    return _facts_of(holder or b"").get("host") == os.uname().nodename


def _remove_stale(file: Path, holder: bytes) -> None:
    """Remove the lock file of an ended process, unless another process has replaced it. Raises InputError."""
    away = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.rename(away)
    except FileNotFoundError:
        return  # another process was faster
    except OSError as error:
        raise InputError(
            f"{file}: belongs to a process that has ended, and cannot be removed ({error.strerror}); delete it"
        ) from error
    if away.read_bytes()[:_BYTES_MAX] != holder:
        with suppress(OSError):
            os.link(away, file)
    away.unlink()


def _remedy(file: Path, holder: bytes | None) -> str:
    facts = _facts_of(holder or b"")
    if "pid" not in facts:
        return f"wait for it, or delete {file} if nothing runs"
    return f"wait for it, or delete {file} if process {facts['pid']} of {facts.get('host')} no longer runs"


def _facts_of(holder: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(holder)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _started(pid: int) -> str:
    """When a process started, to distinguish it from a later one with the same id; empty if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text('utf-8', 'replace').rsplit(')', 1)[1].split()[19]}"
    except (OSError, IndexError):
        return ""
