"""Downloads a repository from the Hugging Face Hub into its cache.

`huggingface_hub` resumes downloads and respects `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edge_interleave.converters.progress import Progress
from edge_interleave.errors import CheckpointError, one_line
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.util.disk_space import FULL

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
"""The files that a conversion reads. Pickles (`.bin`, `.pt`) are never read, and thus not downloaded."""

_TIMEOUT_S = 10.0
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")


def is_repository_id(source: str) -> bool:
    """Whether the text has the form `owner/name`."""
    return _REPOSITORY.fullmatch(source) is not None and ".." not in source and "--" not in source


def download(
    repository: str, revision: str | None, progress: Progress | None, patterns: Sequence[str] = PATTERNS
) -> Path:
    """Download the matching files that the cache lacks. Returns the snapshot's folder.

    A snapshot is compared with the repository's list of files, since a cache can be incomplete. A checkpoint without
    its `generation_config.json`, for example, would end its answers elsewhere.
    Raises CheckpointError. It is no error if the repository has no file of a pattern.
    """
    _check_cache_place(repository)
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), tqdm_class=_reporter(progress)
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{repository}: gated; accept its terms on the Hub, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{repository}: no such repository on the Hub (private ones need HF_TOKEN)") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repository}: has no revision {revision!r}; leave it out for the newest") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        if type(error).__name__ == "IncompleteSnapshotError":  # newer versions have it
            raise _incomplete(repository, "files are missing") from error
        raise CheckpointError(
            f"{repository}: not in the local cache, and the Hub cannot be reached (offline?); run again when it can"
        ) from error
    except Exception as error:  # the HTTP client's errors, which differ between versions
        if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
            raise CheckpointError(
                f"{error.filename or HF_HUB_CACHE}: the Hub's cache cannot be written ({error.strerror}); "
                "free space, or set HF_HOME to a folder that can be written"
            ) from error
        reason = one_line(error)
        raise CheckpointError(f"{repository}: download failed ({reason}); run again to resume") from error
    _check_complete(repository, folder, patterns)
    return folder


def _check_cache_place(repository: str) -> None:
    """Raise CheckpointError if the cache would be a folder called `~`."""
    named = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    if not any(os.environ.get(name) for name in named) and os.path.expanduser("~") == "~":
        raise CheckpointError(f"{repository}: no home folder for the Hub's cache; set HF_HOME to a folder")


def _check_complete(repository: str, folder: Path, patterns: Sequence[str]) -> None:
    """Compare a snapshot with the repository's list of files. Raises CheckpointError.

    `folder`: `snapshots/COMMIT` in the repository's folder of the cache.
    """
    sizes = _cached_sizes(folder.parent.parent / "trees" / f"{folder.name}.json") or _hub_sizes(repository, folder)
    if sizes is None:
        raise _incomplete(repository, "its list of files is missing")
    for name in sizes:
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        path = folder / name
        if not path.is_file():
            raise _incomplete(repository, f"{name} is missing")
        if path.stat().st_size != sizes[name]:
            raise CheckpointError(
                f"{path}: {path.stat().st_size} bytes where the Hub has {sizes[name]}; delete "
                f"{path.resolve()} and run again when the Hub can be reached"
            )


def _incomplete(repository: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{repository}: the local cache may be incomplete ({what}), and the Hub cannot be reached (offline?); "
        "run again when it can"
    )


def _cached_sizes(path: Path) -> dict[str, int] | None:
    """Name to size of a repository's files, from the list that newer versions of the client keep in the cache."""
    try:
        files = json.loads(path.read_text("utf-8"))["files"]
        return {str(name): int(about["size"]) for name, about in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hub_sizes(repository: str, folder: Path) -> dict[str, int] | None:
    """Name to size of a repository's files, from the Hub, cached for later. None if the Hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    kept = folder.parent.parent / "edge-interleave" / f"{folder.name}.json"
    known = _cached_sizes(kept)
    if known is not None:
        return known
    try:
        HfApi().model_info(repository, revision=folder.name, timeout=_TIMEOUT_S)  # fails at once, without retries
        found = list(HfApi().list_repo_tree(repository, recursive=True, revision=folder.name))
    except Exception:  # offline: the HTTP client's errors differ between versions
        return None
    sizes = {entry.path: entry.size for entry in found if isinstance(entry, RepoFile)}
    with suppress(OSError):
        kept.parent.mkdir(exist_ok=True)
        with atomic_file(kept) as temporary:
            temporary.write_text(json.dumps({"files": {name: {"size": size} for name, size in sizes.items()}}), "utf-8")
    return sizes


def _reporter(progress: Progress | None) -> Any:
    """A tqdm class without output. The bar of the whole snapshot reports its bytes to `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reporter(tqdm):
        """The client makes several bars of this class; only the bar of the whole snapshot has a name."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.whole = kwargs.get("name") == "huggingface_hub.snapshot_download"
            self.done = int(kwargs.get("initial") or 0)
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            """Count `n` more bytes."""
            self.done += int(n or 0)
            if self.whole and progress is not None:
                progress("download", self.done, max(self.done, int(self.total or 0)))
            return None

    return Reporter
