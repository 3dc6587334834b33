"""Builds a bundle's folder atomically, and resumes interrupted builds.

The folder is built as a hidden sibling (`.NAME.partial`) and renamed when it is complete. An interrupted build keeps
its finished files and a note of their recipe. The next build with the same recipe continues with them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from edge_interleave.bundle.manifest import (
    MANIFEST_NAME,
    Bundle,
    FileInfo,
    Manifest,
    PartInfo,
    digest,
    open_bundle,
    read_manifest,
    read_parts,
    write_manifest,
)
from edge_interleave.errors import BundleError, InputError
from edge_interleave.util.atomic_file import atomic_file, is_temporary
from edge_interleave.util.directory_lock import LockedError, locked_folder
from edge_interleave.util.disk_space import writing

STATE_NAME = ".build.json"


@dataclass
class BundleWriter:
    """A running build, given by `build_bundle`."""

    out: Path
    """The bundle's final folder."""
    folder: Path
    """The folder it is built in."""
    recipe: Mapping[str, str]
    """What the files are made from. Only a build with the same recipe is resumed."""
    done: dict[str, FileInfo]
    """The finished files."""
    needed: int | None = None
    """Bytes that the build needs on the disk, if known; named in the error for a full disk."""
    parts: dict[str, PartInfo] = field(default_factory=dict)
    """What was measured about the finished files: by file, or by folder for files in a folder."""

    def add(self, name: str, make: Callable[[Path], object]) -> Path:
        """Write a file of the bundle by `make(path)`, unless an interrupted build finished it. Returns its path.

        If `make` returns a PartInfo, it goes into the manifest.
        """
        path = self.folder / name
        if name not in self.done:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing(path, self.needed), atomic_file(path) as temporary:
                found = make(temporary)
            if isinstance(found, PartInfo):
                self.parts[name.split("/")[0]] = found
            self.done[name] = FileInfo(path.stat().st_size, digest(path))
            self.save()
        return path

    def publish(self, manifest: Manifest) -> Bundle:
        """Write the manifest with the added files, and move the folder to its place."""
        files, parts = dict(sorted(self.done.items())), {**manifest.parts, **self.parts}
        write_manifest(self.folder, replace(manifest, files=files, parts=dict(sorted(parts.items()))))
        open_bundle(self.folder)
        old = _beside(self.out, "old")
        if self.out.exists():
            self.out.rename(old)
        self.folder.rename(self.out)
        (self.out / STATE_NAME).unlink()
        if old.exists():
            delete_bundle(old)
        return open_bundle(self.out)

    def save(self) -> None:
        """Write the note of finished files and their recipe."""
        done = {name: [info.bytes, info.sha256] for name, info in self.done.items()}
        parts = {name: asdict(part) for name, part in self.parts.items()}
        with atomic_file(self.folder / STATE_NAME) as temporary:
            temporary.write_text(json.dumps({"recipe": dict(self.recipe), "done": done, "parts": parts}), "utf-8")


@contextmanager
def build_bundle(out: Path, recipe: Mapping[str, str], *, force: bool = False) -> Iterator[BundleWriter]:
    """Build the bundle folder `out`: `add` its files, then `publish`.

    `recipe` says what the files are made from. Finished files of an interrupted build are kept if its recipe is equal,
    and made again otherwise. `force`: replace a bundle at `out`, which stays until the new one is complete.
    Raises InputError if `out` is taken or another process builds it. An InputError in the block deletes the partial
    folder; any other interruption keeps its finished files.
    """
    out = Path(os.path.realpath(out))
    folder = partial_folder(out)
    check_target(out, force=force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _restore(out)
        check_target(out, force=force)
        with _writing(out, folder, recipe) as writer:
            yield writer


def add_files(
    bundle: Bundle,
    files: Mapping[str, Callable[[Path], object]],
    precisions: Mapping[str, str],
    recipe: Mapping[str, str],
    needed: int | None = None,
) -> Bundle:
    """Add files to an existing bundle, each written by `make(path)`, and name them in its manifest.

    The bundle does not change before all files are made. An interrupted addition with an equal `recipe` is resumed. If
    it was interrupted between its last two steps, the next run replaces files that the manifest does not name yet.
    Raises InputError if the bundle already has one of the files, if a target folder has other files, or if another
    process works on the bundle.
    """
    out = Path(os.path.realpath(bundle.folder))
    folder = partial_folder(out)
    with _locked(folder):
        manifest = read_manifest(out / MANIFEST_NAME)
        _check_addition(out, manifest, files)
        with _writing(out, folder, recipe) as writer:
            writer.needed = needed
            for name, make in files.items():
                writer.add(name, make)
            made = {name: writer.done[name] for name in files}
            for name in files:
                (out / name).parent.mkdir(exist_ok=True)
                (folder / name).replace(out / name)
            named = dict(sorted({**manifest.files, **made}.items()))
            parts = dict(sorted({**manifest.parts, **writer.parts}.items()))
            precisions = {**manifest.precisions, **precisions}
            write_manifest(out, replace(manifest, files=named, precisions=precisions, parts=parts))
            shutil.rmtree(folder)
    return open_bundle(bundle.folder)


def check_target(out: Path, *, force: bool) -> None:
    """Raise InputError if `out` exists and must not be replaced."""
    if not os.path.lexists(out):
        return
    if not force:
        raise InputError(f"{out}: already exists; give another folder, or --force to replace a bundle")
    if out.is_dir() and not any(out.iterdir()):
        return
    foreign = _foreign_files(out)
    if foreign is None:
        raise InputError(f"{out}: not a bundle, so it is not replaced; give another folder")
    if foreign:
        raise InputError(f"{out}: contains {foreign[0]}, which is not part of the bundle; move it away first")


def delete_bundle(folder: Path) -> None:
    """Delete a bundle's folder. Raises BundleError, with nothing deleted, if it contains other files."""
    foreign = _foreign_files(folder)
    if foreign is None:
        if not any(folder.iterdir()):
            folder.rmdir()
            return
        raise BundleError(f"{folder}: not a bundle, so it is not deleted")
    if foreign:
        raise BundleError(f"{folder}: contains {foreign[0]}, which is not part of the bundle; move it away first")
    shutil.rmtree(folder)


def discard_partial(out: Path) -> bool:
    """Delete the partial folder of an interrupted build of `out`. Returns whether there was one.

    Raises InputError if the build still runs.
    """
    folder = partial_folder(out)
    if not (folder / STATE_NAME).is_file():
        return False
    with _locked(folder):
        shutil.rmtree(folder)
    return True


def partial_folder(out: Path) -> Path:
    """The folder in which the bundle `out` is built."""
    return _beside(out, "partial")


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f".{out.name}.{suffix}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the partial folder. Raises InputError if another process builds there, or has just finished."""
    with ExitStack() as held:
        try:
            ours = held.enter_context(locked_folder(folder, wait=False))
        except LockedError as error:
            raise InputError(f"{folder}: another process is building this bundle; {error.remedy}") from None
        if not ours:
            raise InputError(f"{folder}: another process has just finished this bundle; check it, and try again")
        yield


@contextmanager
def _writing(out: Path, folder: Path, recipe: Mapping[str, str]) -> Iterator[BundleWriter]:
    """Give a writer that resumes a build with an equal recipe, and clean up afterwards."""
    done, parts = _finished(folder, recipe)
    writer = BundleWriter(out, folder, dict(recipe), done, parts=parts)
    _delete_unfinished(folder, keep=writer.done)
    try:
        with writing(folder):
            writer.save()
            yield writer
    except InputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        # After a complete build the folder is gone, and both do nothing.
        _delete_unfinished(folder, keep=writer.done)
        if not writer.done:
            shutil.rmtree(folder, ignore_errors=True)


def _check_addition(out: Path, manifest: Manifest, files: Mapping[str, object]) -> None:
    for name in files:
        if name in manifest.files:
            raise InputError(f"{out}: already has {name}; use --force to make the whole bundle again")
    folders = {name.split("/")[0] for name in files if "/" in name}
    for file in _foreign_files(out) or ():
        if file.split("/")[0] in folders and file not in files:
            raise InputError(f"{out}: contains {file}, which is not part of the bundle; move it away first")


def _restore(out: Path) -> None:
    """Repair an interrupted replacement: undo it if the new bundle is missing, else delete the old bundle."""
    old = _beside(out, "old")
    if _foreign_files(old) is None:
        return
    if out.exists():
        with suppress(BundleError):
            delete_bundle(old)
    else:
        old.rename(out)


def _finished(folder: Path, recipe: Mapping[str, str]) -> tuple[dict[str, FileInfo], dict[str, PartInfo]]:
    """The finished files of an interrupted build with the same recipe, checked by digest, and their measurements."""
    path = folder / STATE_NAME
    try:
        state = json.loads(path.read_text("utf-8"))
        if state["recipe"] != dict(recipe):
            return {}, {}
        done = {str(name): FileInfo(int(size), str(sha256)) for name, (size, sha256) in state["done"].items()}
        parts = read_parts(path, state["parts"])
    except FileNotFoundError:
        if not all(is_temporary(path, STATE_NAME) for path in folder.iterdir()):
            raise InputError(f"{folder}: in the way, and not from an earlier run; move it away") from None
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BundleError):
        return {}, {}
    return {name: info for name, info in done.items() if _is_whole(folder / name, info)}, parts


def _is_whole(path: Path, info: FileInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.bytes and digest(path) == info.sha256


def _delete_unfinished(folder: Path, keep: Mapping[str, FileInfo]) -> None:
    """Delete unfinished files in the partial folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if name in keep or name == STATE_NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _foreign_files(folder: Path) -> list[str] | None:
    """Files in a bundle's folder that its manifest does not name; None if the folder is not a bundle."""
    try:
        manifest = read_manifest(folder / MANIFEST_NAME)
    except BundleError:
        return None
    known = {*manifest.files, MANIFEST_NAME, STATE_NAME}
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not _is_folder(path))
    return [name for name in names if name not in known]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
