"""What lies on disk: a bundle is a folder with a manifest (`bundle.json`) and the files it names.

Knows nothing about engines: it says which files there are, what they claim to be, and whether they are whole.

    bundle.json      the manifest: schema version, architecture, sizes, precisions, source, SHA-256 of each file
    decoder.gguf     the decoder for llama.cpp
    decoder-mlx/     the decoder for MLX, a model folder of mlx-lm; a bundle has either or both
    image_newline.npy  a row after each image's visual tokens, float32 (hidden,), where the model was trained with it
    vision.onnx      vision tower and projector: pixels (n, 3, H, W) float32 -> (n, tokens, hidden)
    mmproj.gguf      the same for llama-server and Ollama, where it was asked for; nothing here reads it
    tokenizer.json   the tokenizer, in the format of Hugging Face tokenizers
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from edge_interleave.errors import BundleError
from edge_interleave.util.atomic_file import atomic_file

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
MANIFEST_BYTES_MAX = 4 << 20
TOKENIZER_NAME = "tokenizer.json"
VISION_NAME = "vision.onnx"
NEWLINE_NAME = "image_newline.npy"
GGUF_NAME = "decoder.gguf"
MLX_NAME = "decoder-mlx"
ONNX_NAME = "decoder-onnx"
ONNX_GRAPH, ONNX_DATA, ONNX_EMBEDDINGS = "decoder.onnx", "decoder.data", "embeddings.npy"
"""Files of that folder."""
MMPROJ_NAME = "mmproj.gguf"
VISION_INPUT = "pixels"
VISION_BATCH = "n"
"""The name of the input's first axis, pictures."""
VISION_OUTPUT = "visual_tokens"

RESIZES = ("squash", "crop", "pad")
RESAMPLES = ("bicubic", "bilinear", "lanczos", "nearest")
POOLING_MODES = ("average", "bilinear", "max")


@dataclass(frozen=True)
class DecoderInfo:
    """The decoder's architecture."""

    type: str
    """`qwen2` or `llama`."""
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    """Rows of the embedding matrix; may be padded past the tokenizer's size."""
    context_length: int
    """Positions the model was trained on."""
    parameters: int


@dataclass(frozen=True)
class VisionInfo:
    """The vision tower, the projector and how pixels must be prepared for them."""

    type: str
    """`siglip` or `clip`."""
    image_size: int
    """Pixels, height and width."""
    patch_size: int
    grid: int
    """Visual tokens are grid x grid, row by row: 27 for a 384-pixel image and 14-pixel patches."""
    resize: str
    """`squash` (SigLIP: straight to image_size x image_size), `crop` (CLIP: shortest edge, then centre crop) or `pad`
    (LLaVA 1.5: made square with bands of the mean colour, then as `squash`)."""
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int
    image_newline: bool = False
    """Whether the row of `image_newline.npy` follows an image's visual tokens."""

    @property
    def tokens(self) -> int:
        """Visual tokens that the tower gives for one image: without `image_newline`, at pooling stride 1."""
        return self.grid * self.grid


@dataclass(frozen=True)
class PromptInfo:
    """What turns messages into a prompt."""

    chat_template: str
    """Jinja2 source, rendered in a sandbox."""
    image_token: str
    """The marker of an image in the rendered prompt, usually `<image>`."""
    bos_token: str | None
    """Put before the prompt where the tokenizer asks for it; None for Qwen."""
    eos_token: str
    eos_token_ids: tuple[int, ...]
    """Any of these ends an answer."""


@dataclass(frozen=True)
class FileInfo:
    """Size and digest of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredMatrices:
    """Matrices of a part that are stored as one type."""

    count: int
    names: tuple[str, ...]
    """What they are called, without the number of the block: `attn_q`, `ffn_down`."""
    as_named: bool
    """Whether the part's precision stands for this type. If not, the matrix did not fit that precision."""


@dataclass(frozen=True)
class PartInfo:
    """What a conversion found out about a file or folder of the bundle. Old bundles have none."""

    bits_per_weight: float
    """Over all matrices, with the scales that belong to them."""
    matrices: dict[str, StoredMatrices]
    """By type: {"q4_k": ..., "q5_0": ...}."""
    cosine: float | None = None
    """Of a vision tower: the least, of all tokens of the pictures it was tried on, to the same token in fp32."""

    @property
    def total(self) -> int:
        """All matrices."""
        return sum(stored.count for stored in self.matrices.values())


@dataclass(frozen=True)
class Manifest:
    """The content of `bundle.json`."""

    name: str
    source: str
    """Where the checkpoint came from: a Hub repository id or a folder's name."""
    decoder: DecoderInfo
    vision: VisionInfo
    prompt: PromptInfo
    pooling_mode: str
    """`average`, `bilinear` or `max`: the mode the model's config names."""
    precisions: dict[str, str]
    """File or folder to precision: {"decoder.gguf": "q4_k_m", "decoder-mlx": "4bit", "vision.onnx": "int8"}."""
    files: dict[str, FileInfo]
    created_by: str = ""
    schema_version: int = SCHEMA_VERSION
    parts: dict[str, PartInfo] = field(default_factory=dict)
    """By file or folder, as in `precisions`."""

    def has(self, name: str) -> bool:
        """Whether it names the file, or files inside a folder of that name."""
        return name in self.files or any(key.startswith(f"{name}/") for key in self.files)

    def precision(self, name: str) -> str | None:
        """The precision of a file, for weights in a folder the folder's; None where there is none."""
        folder = name.split("/")[0] if name.endswith(".safetensors") else name
        return self.precisions.get(name, self.precisions.get(folder))


@dataclass(frozen=True)
class Bundle:
    """A manifest and the folder it describes."""

    folder: Path
    manifest: Manifest = field(repr=False)

    def file(self, name: str) -> Path:
        """Path of a file of the bundle. Raises BundleError where the manifest does not name it."""
        if name not in self.manifest.files:
            held = ", ".join(sorted(self.manifest.files))
            raise BundleError(f"{self.folder}: bundle has no {name} (it holds {held})")
        return self.folder / name

    def files_in(self, name: str) -> dict[str, Path]:
        """The files that the manifest names inside a folder of the bundle: paths by name; none where it names none."""
        inside = (key for key in self.manifest.files if key.startswith(f"{name}/"))
        return {key.removeprefix(f"{name}/"): self.folder / key for key in inside}

    def has(self, name: str) -> bool:
        """Whether the manifest names the file, or files inside a folder of that name."""
        return self.manifest.has(name)


def open_bundle(folder: Path | str) -> Bundle:
    """Read a bundle's manifest and check that its files are there, with the sizes it claims.

    Digests are not computed here (`verify` does): a bundle of gigabytes opens at once.
    Raises BundleError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; give a bundle folder or the name of a pulled model")
    manifest = read_manifest(folder / MANIFEST_NAME)
    for name, info in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{path}: leads out of the bundle folder; convert or pull the model again")
        if not path.is_file():
            raise BundleError(f"{path}: missing; convert or pull the model again")
        if path.stat().st_size != info.bytes:
            raise BundleError(
                f"{path}: {path.stat().st_size} bytes where bundle.json says {info.bytes}; "
                "the file is cut off or was changed: convert or pull the model again"
            )
    return Bundle(folder, manifest)


def verify(bundle: Bundle) -> None:
    """Compare every file's SHA-256 with the manifest. Raises BundleError for the first that differs."""
    for name, info in bundle.manifest.files.items():
        if digest(bundle.folder / name) != info.sha256:
            raise BundleError(f"{bundle.folder / name}: SHA-256 differs from bundle.json; convert or pull again")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """Size and digest of every file below a folder, but for the manifest itself, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): FileInfo(path.stat().st_size, digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json` into the folder, atomically. `bundle.writer` builds whole folders."""
    with atomic_file(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_manifest(path: Path) -> Manifest:
    """Parse and check `bundle.json`. Raises BundleError naming the field that is wrong."""
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise BundleError(f"{path}: {path.stat().st_size} bytes is too large for a manifest")
        raw: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent}: not a bundle (no {MANIFEST_NAME}); make one with 'edge-interleave convert'"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error}); convert or pull the model again") from error
    return _Reader(path).manifest(raw)


def read_parts(path: Path, raw: Any) -> dict[str, PartInfo]:
    """The `parts` of a manifest, from JSON that `path` holds. Raises BundleError naming the field that is wrong."""
    reader = _Reader(path)
    return reader.parts(reader.object({"parts": raw}, "parts"))


T = TypeVar("T")


class _Reader:
    """Checks types and ranges while it reads, so that a manifest from a stranger can be trusted afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self, raw: Any) -> Manifest:
        if not isinstance(raw, dict):
            raise self.error("", "an object")
        version = self.integer(raw, "schema_version", 1, 10**6)
        if version > SCHEMA_VERSION:
            raise BundleError(f"{self.path}: schema version {version} is newer than this edge-interleave; upgrade it")
        return Manifest(
            schema_version=version,
            name=self.text(raw, "name"),
            source=self.text(raw, "source"),
            created_by=self.text(raw, "created_by"),
            decoder=self.decoder(self.object(raw, "decoder")),
            vision=self.vision(self.object(raw, "vision")),
            prompt=self.prompt(self.object(raw, "prompt")),
            pooling_mode=self.choice(raw, "pooling_mode", POOLING_MODES),
            precisions={key: self.text(self.object(raw, "precisions"), key) for key in self.object(raw, "precisions")},
            files=self.files(self.object(raw, "files")),
            parts=self.parts(self.object(raw, "parts")) if "parts" in raw else {},
        )

    def decoder(self, raw: Mapping[str, Any]) -> DecoderInfo:
        return DecoderInfo(
            type=self.choice(raw, "type", ("qwen2", "llama")),
            hidden_size=self.integer(raw, "hidden_size", 1, 1 << 17),
            layers=self.integer(raw, "layers", 1, 1 << 10),
            heads=self.integer(raw, "heads", 1, 1 << 10),
            kv_heads=self.integer(raw, "kv_heads", 1, 1 << 10),
            head_dim=self.integer(raw, "head_dim", 1, 1 << 12),
            vocab_size=self.integer(raw, "vocab_size", 1, 1 << 22),
            context_length=self.integer(raw, "context_length", 1, 1 << 24),
            parameters=self.integer(raw, "parameters", 0, 1 << 44),
        )

    def vision(self, raw: Mapping[str, Any]) -> VisionInfo:
        return VisionInfo(
            type=self.choice(raw, "type", ("siglip", "clip")),
            image_size=self.integer(raw, "image_size", 1, 4096),
            patch_size=self.integer(raw, "patch_size", 1, 4096),
            grid=self.integer(raw, "grid", 1, 256),
            resize=self.choice(raw, "resize", RESIZES),
            resample=self.choice(raw, "resample", RESAMPLES),
            mean=self.triple(raw, "mean", -1e6),
            std=self.triple(raw, "std", 1e-6),
            parameters=self.integer(raw, "parameters", 0, 1 << 44),
            image_newline="image_newline" in raw and self.typed(raw, "image_newline", bool, "true or false"),
        )

    def prompt(self, raw: Mapping[str, Any]) -> PromptInfo:
        ids = raw.get("eos_token_ids")
        if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
            raise self.error("eos_token_ids", "a list of token ids")
        bos = raw.get("bos_token")
        return PromptInfo(
            chat_template=self.text(raw, "chat_template"),
            image_token=self.text(raw, "image_token"),
            bos_token=None if bos is None else self.text(raw, "bos_token"),
            eos_token=self.text(raw, "eos_token"),
            eos_token_ids=tuple(ids),
        )

    def files(self, raw: Mapping[str, Any]) -> dict[str, FileInfo]:
        files = {}
        for name in raw:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
                raise BundleError(
                    f"{self.path}: file name {name!r} leads out of the bundle folder; do not trust this bundle"
                )
            # Not printable covers lone surrogates, which no file system takes.
            if name == MANIFEST_NAME or not name.isprintable() or str(PurePosixPath(name)) != name:
                raise BundleError(f"{self.path}: file name {name!r} is not one a bundle can have; do not trust it")
            entry = self.object(raw, name)
            sha256 = self.text(entry, "sha256")
            if not re.fullmatch("[0-9a-f]{64}", sha256):
                raise self.error("sha256", f"64 hex digits (of {name})")
            files[name] = FileInfo(self.integer(entry, "bytes", 0, 1 << 50), sha256)
        return files

    def parts(self, raw: Mapping[str, Any]) -> dict[str, PartInfo]:
        parts = {}
        for name in raw:
            part = self.object(raw, name)
            matrices = self.object(part, "matrices")
            parts[name] = PartInfo(
                bits_per_weight=self.number(part, "bits_per_weight", 0, 64),
                matrices={kind: self.stored(self.object(matrices, kind)) for kind in matrices},
                cosine=None if part.get("cosine") is None else self.number(part, "cosine", -1.0001, 1.0001),
            )
        return parts

    def stored(self, raw: Mapping[str, Any]) -> StoredMatrices:
        names = raw.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.error("names", "a list of strings")
        return StoredMatrices(
            count=self.integer(raw, "count", 0, 1 << 20),
            names=tuple(names),
            as_named=self.typed(raw, "as_named", bool, "true or false"),
        )

    def object(self, raw: Mapping[str, Any], key: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self.typed(raw, key, dict, "an object"))

    def text(self, raw: Mapping[str, Any], key: str) -> str:
        return self.typed(raw, key, str, "a string")

    def integer(self, raw: Mapping[str, Any], key: str, least: int, most: int) -> int:
        value = raw.get(key)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"a whole number from {least} to {most}")
        return value

    def number(self, raw: Mapping[str, Any], key: str, least: float, most: float) -> float:
        value = raw.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.error(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def choice(self, raw: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
        value = self.text(raw, key)
        if value not in choices:
            raise self.error(key, f"one of {', '.join(choices)}")
        return value

    def triple(self, raw: Mapping[str, Any], key: str, least: float) -> tuple[float, float, float]:
        value = raw.get(key)
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(type(v) in (int, float) and least <= v <= 1e6 for v in value)
        ):
            raise self.error(key, f"three numbers, none below {least:g}")
        return (float(value[0]), float(value[1]), float(value[2]))

    def typed(self, raw: Mapping[str, Any], key: str, kind: type[T], what: str) -> T:
        value = raw.get(key)
        if not isinstance(value, kind):
            raise self.error(key, what)
        return value

    def error(self, key: str, what: str) -> BundleError:
        return BundleError(f"{self.path}: field {key!r} must be {what}; convert or pull the model again")
