"""`edge-interleave pull`: a model from the Hugging Face Hub into the store, converted where it is a checkpoint."""

from __future__ import annotations

import glob
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import MANIFEST_NAME, Bundle, Manifest, digest, read_manifest
from edge_interleave.bundle.writer import build_bundle, check_target
from edge_interleave.cli import output
from edge_interleave.cli.convert import DECODERS, VISION_PRECISION, converter, precision_options, tell
from edge_interleave.cli.options import json_option
from edge_interleave.errors import BundleError, UsageError
from edge_interleave.util.disk_space import require_room


@click.command()
@click.argument("repository")
@click.option("--name", help="The name it is stored under (default: the repository's own, without -hf).")
@precision_options
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--force", is_flag=True, help="Replace the model of that name; it stays until the new one is whole.")
@json_option()
def pull(
    repository: str,
    name: str | None,
    backends: tuple[str, ...],
    quantization: str | None,
    mlx_quantization: str | None,
    onnx_precision: str | None,
    vision_precision: str | None,
    revision: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Download REPOSITORY (owner/name) from the Hugging Face Hub, convert it, and store it under a short name.

    A repository that holds a bundle is downloaded as it is. An interrupted pull is taken up by the next one.
    HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are honoured.
    """
    hub: Any = import_module("edge_interleave.converters.hub")
    if not hub.is_repository_id(repository):
        raise UsageError(f"{repository!r} is not a Hub repository (owner/name); for a folder use 'convert'")
    stored = store.check_name(name) if name else store.short_name(repository)
    out = store.models_folder() / stored
    check_target(out, force=force)
    store.make_models_folder()
    # config.json is asked for as well, so that a checkpoint's answer is not empty.
    found = hub.download(repository, revision, None, (MANIFEST_NAME, "config.json"))
    with output.progress() as progress:
        if (found / MANIFEST_NAME).is_file():
            _check_decoders(repository, read_manifest(found / MANIFEST_NAME), backends)
            bundle = _pull_bundle(hub, repository, found, out, force, progress)
        else:
            bundle = converter()(
                repository,
                out,
                backends=backends or None,
                quantization=quantization,
                mlx_quantization=mlx_quantization,
                onnx_precision=onnx_precision,
                vision_precision=vision_precision or VISION_PRECISION,
                name=stored,
                revision=revision,
                force=force,
                progress=progress,
            )
    tell(bundle, stored, as_json)


def _check_decoders(repository: str, manifest: Manifest, backends: tuple[str, ...]) -> None:
    for backend in backends:
        if not manifest.has(DECODERS[backend]):
            raise BundleError(
                f"{repository}: a bundle without {DECODERS[backend]}, which {backend} runs; pull the checkpoint "
                f"it was made of: edge-interleave pull {manifest.source} --backend {backend}"
            )


def _pull_bundle(
    hub: Any, repository: str, found: Path, out: Path, force: bool, progress: output.ProgressCall
) -> Bundle:
    """Download a bundle and check it. `found` is the snapshot with its manifest; its folder's name is the commit."""
    manifest = read_manifest(found / MANIFEST_NAME)
    recipe = {"repository": repository, "manifest": digest(found / MANIFEST_NAME)}
    with build_bundle(out, recipe, force=force) as build:
        wanted = [name for name in manifest.files if name not in build.done]
        build.needed = require_room(out.parent, sum(manifest.files[name].bytes for name in wanted))
        if wanted:
            found = hub.download(repository, found.name, progress, [glob.escape(name) for name in wanted])
        for name in wanted:
            if not (found / name).is_file():
                raise BundleError(f"{repository}: bundle.json names {name}, which the repository lacks; tell its owner")
            build.add(name, lambda path, name=name: _take(found / name, path))  # type: ignore[misc]
        for name, info in build.done.items():
            if info != manifest.files[name]:
                raise BundleError(f"{repository}: {name} is not what bundle.json says; do not trust it, tell its owner")
        return build.publish(manifest)


def _take(cached: Path, path: Path) -> None:
    """Link a file out of the Hub's cache, or copy it where the store is on another disk."""
    real = os.path.realpath(cached)
    try:
        os.link(real, path)
    except OSError:
        shutil.copyfile(real, path)
