"""Brings a checkpoint from the Hugging Face Hub into its cache. Knows nothing about what the files hold.

Downloads resume, and `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` are honoured: all by `huggingface_hub`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_interleave.errors import CheckpointError

from .progress import Progress

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
"""All that is read. Pickles (`.bin`, `.pt`) are not, so they are not fetched either."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")


def is_repository_id(source: str) -> bool:
    """Whether the text is of the form `owner/name`."""
    return _REPOSITORY.fullmatch(source) is not None and ".." not in source and "--" not in source


def download(
    repository: str, revision: str | None, progress: Progress | None, patterns: Sequence[str] = PATTERNS
) -> Path:
    """Fetch the files of these names, where the cache lacks them, and return the snapshot's folder.

    Raises CheckpointError. A name that the repository does not have is no error.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(patterns), tqdm_class=_reporter(progress)
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{repository}: gated; accept its terms on the Hub, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{repository}: no such repository on the Hub (private ones need HF_TOKEN)") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repository}: has no revision {revision!r}; leave it out for the newest") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"{repository}: not in the local cache, and the Hub cannot be reached (offline?); run again when it can"
        ) from error
    except Exception as error:  # the HTTP client's own errors, of a kind that differs between versions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{repository}: download failed ({reason}); run again to resume") from error
    return Path(folder)


def _reporter(progress: Progress | None) -> Any:
    """A tqdm class that shows nothing; the bar that adds up the bytes of all files reports to `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reporter(tqdm):
        """Several bars are made of one class; the one of the whole snapshot has a name."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.whole = kwargs.get("name") == "huggingface_hub.snapshot_download"
            self.done = int(kwargs.get("initial") or 0)
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            """A part arrived."""
            self.done += int(n or 0)
            if self.whole and progress is not None:
                progress("download", self.done, max(self.done, int(self.total or 0)))
            return None

    return Reporter
