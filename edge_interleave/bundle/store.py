"""The store of pulled models, a folder with a bundle in each subfolder, and the lookup of models by name.

The folder is `EDGE_INTERLEAVE_HOME`, or `models` in the user's data folder. The name `embedded` means the small bundle
that ships with the package.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from edge_interleave import embedded
from edge_interleave.bundle.manifest import MANIFEST_NAME, open_bundle, read_manifest
from edge_interleave.bundle.writer import discard_partial, partial_folder
from edge_interleave.errors import BundleError, InputError, UsageError
from edge_interleave.util.user_folder import user_folder

EMBEDDED = "embedded"
HOME_VARIABLE = "EDGE_INTERLEAVE_HOME"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class StoredModel:
    """A bundle of the store, or the embedded one."""

    name: str
    folder: Path
    bytes: int
    """Size of all its files."""
    source: str
    """The checkpoint it was made from."""
    precisions: dict[str, str] = field(default_factory=dict)
    """File name to precision."""
    problem: str | None = None
    """Why it cannot be loaded; None if no problem was found."""


def models_folder() -> Path:
    """The store's folder, which may not exist yet. Raises UsageError if the user has no home folder."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return expand_home(home)
    folder = user_folder("models")
    if folder is None:
        raise UsageError(f"no home folder to keep models in; set {HOME_VARIABLE} to a folder")
    return folder


def known_models_folder() -> Path | None:
    """The store's folder, or None if the user has no home folder and thus no pulled models."""
    try:
        return models_folder()
    except UsageError:
        return None


def make_models_folder() -> None:
    """Create the store's folder if it is missing. Raises UsageError, or InputError if it cannot be written."""
    folder = models_folder()
    remedy = f"set {HOME_VARIABLE} to a folder that can be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}); {remedy}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written; {remedy}")


def expand_home(path: str | Path) -> Path:
    """The path with a leading `~` or `~user` replaced. Raises UsageError if that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: its home folder is not known; give the full path") from None


def embedded_folder() -> Path:
    """The bundle that ships with the package."""
    return embedded.BUNDLE


def resolve(model: str | Path | None = None) -> Path:
    """The bundle folder of a model's name, a pulled Hub id, or a path; None means the embedded model.

    A name in the store has priority over a folder of that name in the working directory (`./name` means the folder).
    Raises BundleError, listing the models, if nothing is found.
    """
    if model is None or model == EMBEDDED:
        if not (embedded_folder() / MANIFEST_NAME).is_file():
            raise BundleError("this installation has no embedded model; reinstall edge-interleave, or name a model")
        return embedded_folder()
    text = str(model)
    folder = known_models_folder()
    if isinstance(model, str) and folder is not None and _NAME.fullmatch(text) and (folder / text).is_dir():
        return folder / text
    path = expand_home(model)
    if path.is_dir():
        return path
    if path.exists():
        raise BundleError(f"{path}: is a file; give the bundle's folder, which contains {MANIFEST_NAME}")
    if isinstance(model, str) and re.fullmatch(rf"{_NAME.pattern}/{_NAME.pattern}", text, re.ASCII):
        stored = None if folder is None else folder / short_name(text)
        if stored is not None and stored.is_dir() and _source(stored) == text:
            return stored
        raise BundleError(f"{text}: not a folder and not a pulled model; try 'edge-interleave pull {text}'")
    raise BundleError(_unknown(text))


def list_models() -> list[StoredModel]:
    """The embedded model, if the package has it, then the store's models by name. Damaged ones have a `problem`."""
    return [_stored(name, embedded_folder() if name == EMBEDDED else models_folder() / name) for name in model_names()]


def model_names() -> list[str]:
    """The names of `list_models`. Opens no bundle."""
    names = [EMBEDDED] if (embedded_folder() / MANIFEST_NAME).is_file() else []
    folder = known_models_folder()
    if folder is not None and folder.is_dir():
        names += sorted(path.name for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))
    return names


def removable_bytes(name: str) -> int:
    """Bytes that `remove` would free. Raises BundleError and UsageError like `remove`."""
    if name == EMBEDDED:
        raise UsageError("the embedded model is part of the package and cannot be removed")
    check_name(name)
    folder = models_folder() / name
    if folder.is_symlink():
        return 0
    if not folder.is_dir():
        if partial_folder(folder).is_dir():
            return 0
        raise BundleError(_unknown(name))
    if not (folder / MANIFEST_NAME).is_file():
        raise BundleError(f"{folder}: not a bundle, so it is not deleted; check it, and delete it yourself")
    return _size(folder)


def remove(name: str) -> int:
    """Delete a model of the store and the files of an interrupted pull of it. Returns the bytes freed.

    Raises BundleError if there is no such model, and UsageError for the embedded model.
    """
    freed = removable_bytes(name)
    folder = models_folder() / name
    discard_partial(folder)
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
    return freed


def short_name(repository: str) -> str:
    """The name in the store of a Hub repository's bundle: the repository's own name, without a final `-hf`.

    `llava-hf/llava-interleave-qwen-0.5b-hf` becomes `llava-interleave-qwen-0.5b`.
    """
    name = repository.rstrip("/").rsplit("/", 1)[-1].removesuffix("-hf")
    return check_name(name)


def check_name(name: str) -> str:
    """Return the name if a model can have it. Raises UsageError."""
    if not _NAME.fullmatch(name) or name == EMBEDDED:
        raise UsageError(
            f"{name!r} cannot be a model's name; use letters, digits, '.', '_' and '-', beginning with a letter or "
            f"digit, and not '{EMBEDDED}'"
        )
    return name


def _stored(name: str, folder: Path) -> StoredModel:
    try:
        manifest = open_bundle(folder).manifest
    except BundleError as error:
        return StoredModel(name, folder, _size(folder), _source(folder), problem=str(error))
    return StoredModel(name, folder, _size(folder), manifest.source, manifest.precisions)


def _source(folder: Path) -> str:
    try:
        return read_manifest(folder / MANIFEST_NAME).source
    except BundleError:
        return ""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unknown(name: str) -> str:
    known = [model.name for model in list_models()]
    close = difflib.get_close_matches(name, known, 1)
    advice = f"did you mean {close[0]}?" if close else "get one with 'edge-interleave pull REPOSITORY'"
    return f"no model or folder named {name!r} (models: {', '.join(known) or 'none'}); {advice}"
