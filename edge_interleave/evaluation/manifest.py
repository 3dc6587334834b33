"""What a folder of results was made of: `run.json`. A run goes on only where it would be made of the same."""

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
from edge_interleave.model import Model

RUN_NAME = "run.json"
_FORMAT = 2
_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class World:
    """How a drawn world was drawn."""

    seed: int
    per_task: int
    """Samples of each task."""


@dataclass(frozen=True)
class RunInfo:
    """What was asked of what."""

    file: str
    """Name of the samples' file."""
    sha256: str
    """Of that file."""
    samples: int
    """In that file."""
    model: str
    """What the bundle calls itself."""
    source: str
    """The checkpoint it was made of."""
    precisions: dict[str, str]
    """File or folder of the bundle to precision: of the decoder that ran, and of the tower."""
    model_sha256: str
    """Of the digests of the bundle's files that answers depend on."""
    backend: str
    prompt: str
    """`qwen_1_5`, the official one, or the bundle's own."""
    settings: Settings
    shards: int
    """Into how many parts the file was divided."""
    world: World | None = None
    model_parts: dict[str, str] = field(default_factory=dict)
    """What of the bundle answers depend on (decoder, tower, tokenizer, preprocessing, prompt, ...), to its digest."""
    edge_interleave: str = ""
    """Version that began the run."""


def describe_run(
    model: Model,
    prompt: str,
    path: Path,
    sha256: str,
    samples: int,
    settings: Settings,
    shards: int,
    world: World | None,
) -> RunInfo:
    """What a run with an open model on a file, whose digest and number of samples are given, is made of."""
    bundle = model.bundle
    decoder = find_backend(model.backend_name).decoder_file
    parts = _parts(bundle, decoder)
    precisions = bundle.manifest.precisions
    return RunInfo(
        file=path.name,
        sha256=sha256,
        samples=samples,
        model=bundle.manifest.name,
        source=bundle.manifest.source,
        precisions={name: precisions[name] for name in (decoder, VISION_NAME) if name in precisions},
        model_sha256=_sha256(parts),
        backend=model.backend_name,
        prompt=prompt,
        settings=settings,
        shards=shards,
        world=world,
        model_parts=parts,
        edge_interleave=version("edge-interleave"),
    )


def claim(out: Path, info: RunInfo) -> None:
    """Note in the folder what is run, or see that it is what was noted. Raises InputError where it is another run."""
    path = out / RUN_NAME
    if path.exists():
        _check_same(path, read_run(out), info)
        return
    others = sorted(out.glob("results*.jsonl"))
    if others:
        raise InputError(f"{others[0]}: results without a {RUN_NAME} that says of what; give another folder")
    write_json(path, {"format": _FORMAT, **asdict(info)})


def read_run(out: Path) -> RunInfo:
    """What a folder's results were made of. Raises InputError."""
    path = out / RUN_NAME
    try:
        if path.stat().st_size > _BYTES_MAX:
            raise InputError(f"{path}: too large; it is not from a run")
        raw: Any = json.loads(path.read_text("utf-8"))
        if raw["format"] != _FORMAT:
            raise InputError(f"{path}: of another version of edge-interleave; give another folder")
        fields = {name: raw[name] for name in RunInfo.__dataclass_fields__}
        fields["settings"] = Settings(**fields["settings"])
        fields["world"] = None if fields["world"] is None else World(**fields["world"])
        info = RunInfo(**fields)
    except FileNotFoundError:
        raise InputError(f"{out}: no {RUN_NAME} there; give the folder of a run") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({type(error).__name__}); give another folder") from error
    _check_types(path, info)
    return info


def _check_types(path: Path, info: RunInfo) -> None:
    texts = (info.file, info.sha256, info.model, info.source, info.model_sha256, info.backend, info.prompt)
    numbers = (info.samples, info.shards, info.settings.pool, info.settings.frames, info.settings.max_tokens)
    named = all(
        isinstance(one, Mapping) and all(isinstance(value, str) for value in one.values())
        for one in (info.precisions, info.model_parts)
    )
    if not named or not all(isinstance(text, str) for text in texts) or not all(type(n) is int for n in numbers):
        raise InputError(f"{path}: not readable (a field of another type); give another folder")


def _check_same(path: Path, there: RunInfo, now: RunInfo) -> None:
    differences = []
    if there.sha256 != now.sha256:
        differences.append(f"the file {there.file} ({there.sha256[:12]}, now {now.file}, {now.sha256[:12]})")
    if there.model_sha256 != now.model_sha256:
        parts = ", ".join(parts_that_differ(there, now)) or "all of it"
        differences.append(f"the model {there.model} ({_shown(there)}, now {now.model}, {_shown(now)}; other: {parts})")
    before = {"backend": there.backend, "prompt": there.prompt, "shards": there.shards, **asdict(there.settings)}
    after = {"backend": now.backend, "prompt": now.prompt, "shards": now.shards, **asdict(now.settings)}
    before |= asdict(there.world) if there.world else {}
    after |= asdict(now.world) if now.world else {}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            differences.append(f"{name} {before.get(name)} (now {after.get(name)})")
    if differences:
        raise InputError(f"{path}: the results there were made with {', '.join(differences)}; give another --out")


def _shown(info: RunInfo) -> str:
    return " ".join([*info.precisions.values(), info.model_sha256[:12]])


def parts_that_differ(a: RunInfo, b: RunInfo) -> list[str]:
    """Names of the parts of the two runs' models that are not the same."""
    names = sorted(a.model_parts.keys() | b.model_parts.keys())
    return [name for name in names if a.model_parts.get(name) != b.model_parts.get(name)]


def _parts(bundle: Bundle, decoder: str) -> dict[str, str]:
    """What answers depend on, by name, to digests: files, and all that the manifest says of how they are used."""
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
