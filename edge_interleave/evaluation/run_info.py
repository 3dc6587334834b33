"""`run.json`: the file, model and settings of a folder of results. A run resumes only with the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_interleave.bundle.manifest import NEWLINE_NAME, TOKENIZER_NAME, VISION_NAME, Bundle
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import InputError
from edge_interleave.evaluation.answering import Settings
from edge_interleave.evaluation.files import write_json
from edge_interleave.model import REMOTE, Model
from edge_interleave.remote.model import RemoteModel
from edge_interleave.util.json_fields import read_json

RUN_NAME = "run.json"
_FORMAT = 2
_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class World:
    """Settings of the drawn world."""

    seed: int
    per_task: int
    """Number of samples of each task."""


@dataclass(frozen=True)
class RunInfo:
    """The samples, model and settings of a run."""

    file: str
    """Name of the samples' file."""
    sha256: str
    """Digest of the samples' file."""
    samples: int
    """Number of samples in the file."""
    model: str
    """The bundle's name, or the model's name on a server."""
    source: str
    """The checkpoint that the bundle was converted from, or the server's address."""
    precisions: dict[str, str]
    """Precisions of the decoder that ran and of the tower, by file or folder of the bundle; empty for a server."""
    model_sha256: str
    """Digest of `model_parts`."""
    backend: str
    prompt: str
    """`qwen_1_5` (the official prompt), `answering.BUNDLES_OWN` or `answering.SERVERS_OWN`."""
    settings: Settings
    shards: int
    """Number of shards of the file."""
    world: World | None = None
    model_parts: dict[str, str] = field(default_factory=dict)
    """Digests of the parts of the bundle that answers depend on: decoder, tower, tokenizer, preprocessing, ...

    For a server, whose weights are unknown: its address and the model's name.
    """
    edge_interleave: str = ""
    """Version of edge-interleave that started the run."""


def describe_run(
    model: Model | RemoteModel,
    prompt: str,
    path: Path,
    sha256: str,
    samples: int,
    settings: Settings,
    shards: int,
    world: World | None,
) -> RunInfo:
    """Describe a run of an open model on a file, given the file's digest and number of samples."""
    precisions: dict[str, str] = {}
    if isinstance(model, RemoteModel):
        source, backend = model.endpoint.name, REMOTE
        parts = {"address": _sha256(source), "name": _sha256(model.name)}
    else:
        manifest, backend = model.bundle.manifest, model.backend_name
        source, decoder = manifest.source, find_backend(backend).decoder_file
        parts = _parts(model.bundle, decoder)
        precisions = {n: manifest.precisions[n] for n in (decoder, VISION_NAME) if n in manifest.precisions}
    return RunInfo(
        file=path.name,
        sha256=sha256,
        samples=samples,
        model=model.name,
        source=source,
        precisions=precisions,
        model_sha256=_sha256(parts),
        backend=backend,
        prompt=prompt,
        settings=settings,
        shards=shards,
        world=world,
        model_parts=parts,
        edge_interleave=version("edge-interleave"),
    )


def claim_folder(out: Path, info: RunInfo) -> None:
    """Write `run.json`, or check that the folder's `run.json` describes the same run. Raises InputError if not."""
    path = out / RUN_NAME
    if path.exists():
        _check_same(path, read_run(out), info)
        return
    others = sorted(out.glob("results*.jsonl"))
    if others:
        raise InputError(f"{others[0]}: results without a {RUN_NAME}; give another folder")
    write_json(path, {"format": _FORMAT, **asdict(info)})


def read_run(out: Path) -> RunInfo:
    """Read a folder's `run.json`. Raises InputError."""
    path = out / RUN_NAME
    if not path.exists():
        raise InputError(f"{out}: holds no {RUN_NAME}; give the folder of a run")
    raw = read_json(path, InputError, most=_BYTES_MAX, remedy="give another folder")
    try:
        if raw["format"] != _FORMAT:
            raise InputError(f"{path}: written by another version of edge-interleave; give another folder")
        fields = {name: raw[name] for name in RunInfo.__dataclass_fields__}
        fields["settings"] = Settings(**fields["settings"])
        fields["world"] = None if fields["world"] is None else World(**fields["world"])
        info = RunInfo(**fields)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({type(error).__name__}); give another folder") from error
    _check_types(path, info)
    return info


def parts_that_differ(a: RunInfo, b: RunInfo) -> list[str]:
    """Names of the model parts that differ between two runs."""
    names = sorted(a.model_parts.keys() | b.model_parts.keys())
    return [name for name in names if a.model_parts.get(name) != b.model_parts.get(name)]


def _check_types(path: Path, info: RunInfo) -> None:
    texts = (info.file, info.sha256, info.model, info.source, info.model_sha256, info.backend, info.prompt)
    numbers = (info.samples, info.shards, info.settings.pool, info.settings.frames, info.settings.max_tokens)
    named = all(
        isinstance(one, Mapping) and all(isinstance(value, str) for value in one.values())
        for one in (info.precisions, info.model_parts)
    )
    if not named or not all(isinstance(text, str) for text in texts) or not all(type(n) is int for n in numbers):
        raise InputError(f"{path}: not readable (a field has the wrong type); give another folder")


def _check_same(path: Path, before: RunInfo, now: RunInfo) -> None:
    differences = []
    if before.sha256 != now.sha256:
        differences.append(f"the file {before.file} ({before.sha256[:12]}, now {now.file}, {now.sha256[:12]})")
    if before.model_sha256 != now.model_sha256:
        parts = ", ".join(parts_that_differ(before, now)) or "all of it"
        differences.append(
            f"the model {before.model} ({_shown(before)}, now {now.model}, {_shown(now)}; other: {parts})"
        )
    settings_before = {
        "backend": before.backend,
        "prompt": before.prompt,
        "shards": before.shards,
        **asdict(before.settings),
    }
    settings_now = {"backend": now.backend, "prompt": now.prompt, "shards": now.shards, **asdict(now.settings)}
    settings_before |= asdict(before.world) if before.world else {}
    settings_now |= asdict(now.world) if now.world else {}
    for name in sorted(settings_before.keys() | settings_now.keys()):
        if settings_before.get(name) != settings_now.get(name):
            differences.append(f"{name} {settings_before.get(name)} (now {settings_now.get(name)})")
    if differences:
        raise InputError(f"{path}: holds results of {', '.join(differences)}; give another --out")


def _shown(info: RunInfo) -> str:
    return " ".join([*info.precisions.values(), info.model_sha256[:12]])


def _parts(bundle: Bundle, decoder: str) -> dict[str, str]:
    """Digests of everything in the bundle that answers depend on, by name: files, and the manifest's settings."""
    manifest = bundle.manifest
    files = {name: info.sha256 for name, info in sorted(manifest.files.items())}
    parts = {name: files[name] for name in (VISION_NAME, NEWLINE_NAME, TOKENIZER_NAME) if name in files}
    parts[decoder] = _sha256({name: sha256 for name, sha256 in files.items() if f"{name}/".startswith(f"{decoder}/")})
    settings = {
        "architecture": asdict(manifest.decoder),
        "preprocessing": asdict(manifest.vision),
        "prompt": asdict(manifest.prompt),
        "pooling mode": manifest.pooling_mode,
    }
    return parts | {name: _sha256(value) for name, value in settings.items()}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
