"""`edge-interleave pull`: downloads a model from the Hugging Face Hub into the store; converts it if needed."""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path

import click

from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import MANIFEST_NAME, Bundle, Manifest, digest, read_manifest
from edge_interleave.bundle.writer import build_bundle, check_target
from edge_interleave.cli import output
from edge_interleave.cli.convert import precision_options, report
from edge_interleave.cli.options import json_option
from edge_interleave.converters.precisions import DECODERS, DEFAULT_VISION_PRECISION
from edge_interleave.errors import BundleError, UsageError
from edge_interleave.util.disk_space import require_room


@click.command()
@click.argument("repository")
@click.option("--name", help="The model's name in the store.  [default: the repository's name, without -hf]")
@precision_options
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--force", is_flag=True, help="Replace the model of that name. It stays until the new one is complete.")
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

    A repository that holds a bundle is stored without conversion. An interrupted pull resumes when you run it again.
    The variables HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are respected.
    """
    from edge_interleave.converters import hub

    if not hub.is_repository_id(repository):
        raise UsageError(f"{repository!r} is not a Hub repository (owner/name); for a folder use 'convert'")
    stored = store.check_name(name) if name else store.short_name(repository)
    out = store.models_folder() / stored
    check_target(out, force=force)
    store.make_models_folder()
    # A bundle has bundle.json and a checkpoint has config.json, so at least one file is found.
    found = hub.download(repository, revision, None, (MANIFEST_NAME, "config.json"))
    with output.progress() as progress:
        if (found / MANIFEST_NAME).is_file():
            _check_decoders(repository, read_manifest(found / MANIFEST_NAME), backends)
            bundle = _pull_bundle(repository, found, out, force, progress)
        else:
            from edge_interleave.converters.convert import convert as make_bundle

            bundle = make_bundle(
                repository,
                out,
                backends=backends or None,
                quantization=quantization,
                mlx_quantization=mlx_quantization,
                onnx_precision=onnx_precision,
                vision_precision=vision_precision or DEFAULT_VISION_PRECISION,
                name=stored,
                revision=revision,
                force=force,
                progress=progress,
            )
    report(bundle, stored, as_json)


def _check_decoders(repository: str, manifest: Manifest, backends: tuple[str, ...]) -> None:
    for backend in backends:
        if not manifest.has(DECODERS[backend]):
            raise BundleError(
                f"{repository}: the bundle has no {DECODERS[backend]} for {backend}; pull the checkpoint "
                f"it was made from: edge-interleave pull {manifest.source} --backend {backend}"
            )


def _pull_bundle(repository: str, found: Path, out: Path, force: bool, progress: output.ProgressCall) -> Bundle:
    """Download a bundle and check it. `found`: the snapshot with its manifest; its folder is named after the commit."""
    from edge_interleave.converters import hub

    manifest = read_manifest(found / MANIFEST_NAME)
    recipe = {"repository": repository, "manifest": digest(found / MANIFEST_NAME)}
    with build_bundle(out, recipe, force=force) as build:
        wanted = [name for name in manifest.files if name not in build.done]
        build.needed = require_room(out.parent, sum(manifest.files[name].bytes for name in wanted))
        if wanted:
            found = hub.download(repository, found.name, progress, [glob.escape(name) for name in wanted])
        for name in wanted:
            if not (found / name).is_file():
                raise BundleError(f"{repository}: bundle.json names {name}, which the repository lacks; ask its owner")
            build.add(name, lambda path, name=name: _link_or_copy(found / name, path))  # type: ignore[misc]
        for name, info in build.done.items():
            if info != manifest.files[name]:
                raise BundleError(f"{repository}: {name} does not match bundle.json; do not trust it, ask its owner")
        return build.publish(manifest)


def _link_or_copy(cached: Path, path: Path) -> None:
    """Link a file from the Hub's cache; copy it if the store is on another disk."""
    real = os.path.realpath(cached)
    try:
        os.link(real, path)
    except OSError:
        shutil.copyfile(real, path)
