"""The user's data folder, where the program keeps what it makes for itself."""

from __future__ import annotations

from pathlib import Path


def user_folder(name: str) -> Path | None:
    """The folder `name` in the user's data folder, which may not exist yet; None if the user has no home folder."""
    from platformdirs import user_data_path

    try:
        folder = user_data_path("edge-interleave") / name
    except RuntimeError:  # no HOME, and the user is not in the system's list
        return None
    return folder if folder.is_absolute() else None
