"""The bundle on disk: a folder with a manifest (`bundle.json`) and the files it names.

The files:

    bundle.json        the manifest: schema version, architecture, sizes, precisions, source, SHA-256 of each file
    decoder.gguf       the decoder for llama.cpp
    decoder-mlx/       the decoder for MLX, a model folder of mlx-lm; a bundle has at least one decoder
    vision.onnx        vision tower and projector: pixels (n, 3, H, W) float32 -> (n, tokens, hidden), and a second
                       output for the frames of a video if they are pooled before the projector
    image_newline.npy  a row after each image's visual tokens, float32 (hidden,), if the model was trained with it
    tokenizer.json     the tokenizer, in the format of Hugging Face tokenizers
    questions.json     word pairs of the questions that the model was trained on, if the checkpoint has them
    mmproj.gguf        the vision tower for llama-server and Ollama, optional; this package does not read it
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edge_interleave.errors import BundleError
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.util.json_fields import JsonFields, read_json

SCHEMA_VERSION = 2
"""Version 2 added `tiling`, `video`, `first_patch_dropped` and the decoder type `qwen3`. Bundles without them stay at
version 1, which older programs read."""
MANIFEST_NAME = "bundle.json"
MANIFEST_BYTES_MAX = 4 << 20
TOKENIZER_NAME = "tokenizer.json"
VISION_NAME = "vision.onnx"
NEWLINE_NAME = "image_newline.npy"
QUESTIONS_NAME = "questions.json"
GGUF_NAME = "decoder.gguf"
MLX_NAME = "decoder-mlx"
ONNX_NAME = "decoder-onnx"
ONNX_GRAPH, ONNX_DATA, ONNX_EMBEDDINGS = "decoder.onnx", "decoder.data", "embeddings.npy"
"""Files of that folder."""
MMPROJ_NAME = "mmproj.gguf"
VISION_INPUT = "pixels"
VISION_BATCH = "n"
"""The name of the input's first axis: the pictures of a batch."""
VISION_OUTPUT = "visual_tokens"
FRAME_OUTPUT = "frame_tokens"
"""The second output, of a tower that pools the frames of a video before the projector."""

DECODER_TYPES = ("qwen2", "llama", "qwen3")
"""Architectures of decoders, by transformers' model type; all three engines use the same names."""
RESIZES = ("squash", "crop", "pad")
RESAMPLES = ("bicubic", "bilinear", "lanczos", "nearest")
POOLING_MODES = ("average", "bilinear", "max")
ONE_TOKEN, FRAME, GRID, NO_TOKEN = NEWLINE_POSITIONS = ("one_token", "frame", "grid", "no_token")
"""Where `image_newline` stands in a video, by LLaVA-NeXT's names (`mm_newline_position`): after its last frame, after
each frame, after each row of each frame's grid, nowhere."""
GRIDS_MAX = 64
GRID_SIDE_MAX = 12
"""Limits of `TilingInfo.grids`: an image of 12 x 12 tiles takes the tower 145 times."""
CONTEXT_MAX = 1 << 24
"""Limit of `DecoderInfo.context_length`."""
_REMEDY = "convert or pull the model again"


@dataclass(frozen=True)
class DecoderInfo:
    """The decoder's architecture."""

    type: str
    """One of DECODER_TYPES."""
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
class TilingInfo:
    """How an image becomes an overview and tiles: multi-patch, or "anyres"."""

    grids: tuple[tuple[int, int], ...]
    """Candidate grids as (columns, rows) of tiles. The first of equally good candidates wins."""
    most_tiles: int | None = None
    """If the tiles' visual tokens exceed this many tiles' worth, their grid is scaled down (`anyres_max_9`: 9)."""
    several: bool = True
    """Whether each of several images is split; if not, only a single image is (LLaVA-OneVision)."""
    small: bool = True
    """Whether an image no larger than one tile is split, too, which magnifies it."""


@dataclass(frozen=True)
class VideoInfo:
    """How the model was trained to see the frames of a video, if not like images."""

    stride: int
    """The pooling stride of frames; a larger one may be asked for."""
    resize: str
    """As `VisionInfo.resize`."""
    newline: str = ONE_TOKEN
    """Where `image_newline` stands: one of NEWLINE_POSITIONS."""
    before_projector: bool = False
    """Whether frames are pooled between tower and projector (LLaVA-NeXT-Video): `vision.onnx` does it."""
    times: bool = False
    """Whether a video is followed by a text that says how long it is and when its frames are shown (LLaVA-Video)."""


@dataclass(frozen=True)
class VisionInfo:
    """The vision tower, the projector, and their preprocessing."""

    type: str
    """`siglip` or `clip`."""
    image_size: int
    """Pixels, height and width."""
    patch_size: int
    grid: int
    """Visual tokens along one side: 27 for a 384-pixel image and 14-pixel patches. They are ordered row by row."""
    resize: str
    """`squash` (SigLIP: resize to image_size x image_size), `crop` (CLIP: resize the shortest edge, crop the centre) or
    `pad` (LLaVA 1.5: pad to a square with the mean colour, then resize)."""
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int
    image_newline: bool = False
    """Whether the row of `image_newline.npy` follows each image's visual tokens."""
    tiling: TilingInfo | None = None
    """How the model was trained to see images in tiles; None if it sees images whole."""
    video: VideoInfo | None = None
    first_patch_dropped: bool = False
    """Whether the first visual token of the grid is left out. The others are no full grid and cannot be pooled."""

    @property
    def tokens(self) -> int:
        """Visual tokens of one image at pooling stride 1, without `image_newline`."""
        return self.grid * self.grid - self.first_patch_dropped

    @property
    def row_after_video(self) -> bool:
        """Whether one `image_newline` follows all frames of a video together, by the model's rule for video."""
        return self.image_newline and self.video is not None and self.video.newline == ONE_TOKEN


@dataclass(frozen=True)
class PromptInfo:
    """The chat template and special tokens of a prompt."""

    chat_template: str
    """Jinja2 source. It is rendered in a sandbox."""
    image_token: str
    """The marker of an image in the rendered prompt, usually `<image>`."""
    bos_token: str | None
    """Begins every prompt; None if prompts begin without it, as Qwen's do."""
    eos_token: str
    eos_token_ids: tuple[int, ...]
    """Any of these ends an answer."""
    video_token: str | None = None
    """The marker of a video in the rendered prompt; None if the template renders a video as its frames' markers."""


@dataclass(frozen=True)
class FileInfo:
    """Size and digest of a file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredMatrices:
    """The matrices of a part that have the same type."""

    count: int
    names: tuple[str, ...]
    """Their names without the number of the block: `attn_q`, `ffn_down`."""
    as_named: bool
    """Whether this type belongs to the part's precision. Otherwise the matrices did not fit that precision."""


@dataclass(frozen=True)
class PartInfo:
    """What a conversion measured about a file or folder of the bundle. Old bundles have none."""

    bits_per_weight: float
    """Over all matrices, including their scales."""
    matrices: dict[str, StoredMatrices]
    """Type to matrices: {"q4_k": ..., "q5_0": ...}."""
    cosine: float | None = None
    """Of a vision tower: the lowest cosine of a visual token to the same token in fp32, over the probe's pictures."""

    @property
    def total(self) -> int:
        """Number of matrices."""
        return sum(stored.count for stored in self.matrices.values())


@dataclass(frozen=True)
class Manifest:
    """The content of `bundle.json`."""

    name: str
    source: str
    """The checkpoint: a Hub repository id, or the name of a folder."""
    decoder: DecoderInfo
    vision: VisionInfo
    prompt: PromptInfo
    pooling_mode: str
    """`average`, `bilinear` or `max`, as the model's config says."""
    precisions: dict[str, str]
    """File or folder to precision: {"decoder.gguf": "q4_k_m", "decoder-mlx": "4bit", "vision.onnx": "int8"}."""
    files: dict[str, FileInfo]
    created_by: str = ""
    family: str = ""
    """The family of models, for people: `LLaVA-OneVision`. Old bundles have none."""
    schema_version: int = 1
    parts: dict[str, PartInfo] = field(default_factory=dict)
    """By file or folder, as in `precisions`."""

    def has(self, name: str) -> bool:
        """Whether the manifest names this file, or files in this folder."""
        return name in self.files or any(key.startswith(f"{name}/") for key in self.files)

    def precision(self, name: str) -> str | None:
        """The precision of a file, or of the folder of its weights; None if it has none."""
        folder = name.split("/")[0] if name.endswith(".safetensors") else name
        return self.precisions.get(name, self.precisions.get(folder))


@dataclass(frozen=True)
class Bundle:
    """A manifest and the folder it describes."""

    folder: Path
    manifest: Manifest = field(repr=False)

    def file(self, name: str) -> Path:
        """The path of a file. Raises BundleError if the manifest does not name it."""
        if name not in self.manifest.files:
            held = ", ".join(sorted(self.manifest.files))
            raise BundleError(f"{self.folder}: the bundle has no {name} (it has {held})")
        return self.folder / name

    def files_in(self, name: str) -> dict[str, Path]:
        """Name to path of the files that the manifest names in a folder of the bundle."""
        inside = (key for key in self.manifest.files if key.startswith(f"{name}/"))
        return {key.removeprefix(f"{name}/"): self.folder / key for key in inside}

    def has(self, name: str) -> bool:
        """Whether the manifest names this file, or files in this folder."""
        return self.manifest.has(name)


def open_bundle(folder: Path | str) -> Bundle:
    """Read a bundle's manifest, and check that its files exist and have the sizes it names.

    It does not compute digests (`verify` does), so a bundle of gigabytes opens at once. Raises BundleError.
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
    """Compare each file's SHA-256 with the manifest. Raises BundleError at the first difference."""
    for name, info in bundle.manifest.files.items():
        if digest(bundle.folder / name) != info.sha256:
            raise BundleError(f"{bundle.folder / name}: SHA-256 differs from bundle.json; convert or pull again")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """POSIX path to size and digest of every file in a folder, except the manifest."""
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
    raw = read_json(
        path,
        BundleError,
        most=MANIFEST_BYTES_MAX,
        remedy=_REMEDY,
        missing=f"{path.parent} is not a bundle; make one with 'edge-interleave convert'",
    )
    fields = JsonFields(path, raw, BundleError, remedy=_REMEDY)
    version = fields.integer("schema_version", most=10**6)
    if version > SCHEMA_VERSION:
        raise BundleError(f"{path}: schema version {version} is newer than this edge-interleave; upgrade it")
    precisions = fields.object("precisions")
    vision = _vision(fields.object("vision"))
    pooling_mode = fields.choice("pooling_mode", POOLING_MODES)
    if vision.video is not None and vision.video.before_projector:
        fields.expect("pooling_mode", pooling_mode != "bilinear", "average or max, where vision.onnx pools frames")
    return Manifest(
        schema_version=version,
        name=fields.text("name"),
        source=fields.text("source"),
        created_by=fields.text("created_by"),
        family=fields.text("family", ""),
        decoder=_decoder(fields.object("decoder")),
        vision=vision,
        prompt=_prompt(fields.object("prompt")),
        pooling_mode=pooling_mode,
        precisions={key: precisions.text(key) for key in precisions.raw},
        files=_files(fields.object("files")),
        parts=_parts(fields) if "parts" in fields.raw else {},
    )


def read_parts(path: Path, raw: Any) -> dict[str, PartInfo]:
    """The `parts` of a manifest, from JSON that `path` holds. Raises BundleError naming the field that is wrong."""
    return _parts(JsonFields(path, {"parts": raw}, BundleError, remedy=_REMEDY))


def _decoder(fields: JsonFields) -> DecoderInfo:
    return DecoderInfo(
        type=fields.choice("type", DECODER_TYPES),
        hidden_size=fields.integer("hidden_size", most=1 << 17),
        layers=fields.integer("layers", most=1 << 10),
        heads=fields.integer("heads", most=1 << 10),
        kv_heads=fields.integer("kv_heads", most=1 << 10),
        head_dim=fields.integer("head_dim", most=1 << 12),
        vocab_size=fields.integer("vocab_size", most=1 << 22),
        context_length=fields.integer("context_length", most=CONTEXT_MAX),
        parameters=fields.integer("parameters", least=0, most=1 << 44),
    )


def _vision(fields: JsonFields) -> VisionInfo:
    return VisionInfo(
        type=fields.choice("type", ("siglip", "clip")),
        image_size=fields.integer("image_size", most=4096),
        patch_size=fields.integer("patch_size", most=4096),
        grid=fields.integer("grid", most=256),
        resize=fields.choice("resize", RESIZES),
        resample=fields.choice("resample", RESAMPLES),
        mean=fields.triple("mean", least=-1e6, most=1e6),
        std=fields.triple("std", least=1e-6, most=1e6),
        parameters=fields.integer("parameters", least=0, most=1 << 44),
        image_newline=fields.boolean("image_newline", False),
        tiling=None if fields.raw.get("tiling") is None else _tiling(fields.object("tiling")),
        video=None if fields.raw.get("video") is None else _video(fields.object("video")),
        first_patch_dropped=_first_patch_dropped(fields),
    )


def _first_patch_dropped(fields: JsonFields) -> bool:
    dropped = fields.boolean("first_patch_dropped", False)
    others = (fields.raw.get(name) for name in ("tiling", "video"))
    whole = fields.raw.get("image_newline") is not True and all(other is None for other in others)
    fields.expect(
        "first_patch_dropped",
        not dropped or (whole and fields.raw.get("grid") != 1),
        "false for a model with tiles, video or image_newline, or with a grid of one patch",
    )
    return dropped


def _tiling(fields: JsonFields) -> TilingInfo:
    grids = fields.raw.get("grids")
    fields.expect(
        "grids",
        isinstance(grids, list) and 0 < len(grids) <= GRIDS_MAX and all(map(_is_grid, grids)),
        f"1 to {GRIDS_MAX} pairs of whole numbers from 1 to {GRID_SIDE_MAX}",
    )
    most = fields.raw.get("most_tiles")
    return TilingInfo(
        grids=tuple((columns, rows) for columns, rows in grids or ()),
        most_tiles=None if most is None else fields.integer("most_tiles", most=GRID_SIDE_MAX**2),
        several=fields.boolean("several"),
        small=fields.boolean("small"),
    )


def _is_grid(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) is int and 0 < side <= GRID_SIDE_MAX for side in value)
    )


def _video(fields: JsonFields) -> VideoInfo:
    return VideoInfo(
        stride=fields.integer("stride", most=256),
        resize=fields.choice("resize", RESIZES),
        newline=fields.choice("newline", NEWLINE_POSITIONS) if "newline" in fields.raw else ONE_TOKEN,
        before_projector=fields.boolean("before_projector", False),
        times=fields.boolean("times", False),
    )


def _prompt(fields: JsonFields) -> PromptInfo:
    ids = fields.raw.get("eos_token_ids")
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise fields.error("eos_token_ids", "a list of token ids")
    for name in ("image_token", "video_token"):
        fields.expect(name, fields.raw.get(name) != "", "a marker that is not empty")
    return PromptInfo(
        chat_template=fields.text("chat_template"),
        image_token=fields.text("image_token"),
        bos_token=None if fields.raw.get("bos_token") is None else fields.text("bos_token"),
        eos_token=fields.text("eos_token"),
        eos_token_ids=tuple(ids),
        video_token=None if fields.raw.get("video_token") is None else fields.text("video_token"),
    )


def _files(fields: JsonFields) -> dict[str, FileInfo]:
    files = {}
    for name in fields.raw:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
            raise BundleError(
                f"{fields.path}: file name {name!r} leads out of the bundle folder; do not trust this bundle"
            )
        # Lone surrogates, which no file system takes, are not printable.
        if name == MANIFEST_NAME or not name.isprintable() or str(PurePosixPath(name)) != name:
            raise BundleError(f"{fields.path}: file name {name!r} is not one a bundle can have; do not trust it")
        file = fields.object(name)
        sha256 = file.text("sha256")
        file.expect("sha256", re.fullmatch("[0-9a-f]{64}", sha256) is not None, "64 hex digits")
        files[name] = FileInfo(file.integer("bytes", least=0, most=1 << 50), sha256)
    return files


def _parts(fields: JsonFields) -> dict[str, PartInfo]:
    return {
        name: PartInfo(
            bits_per_weight=part.number("bits_per_weight", None, 0, 64),
            matrices={kind: _stored(stored) for kind, stored in part.objects("matrices").items()},
            cosine=None if part.raw.get("cosine") is None else part.number("cosine", None, -1.0001, 1.0001),
        )
        for name, part in fields.objects("parts").items()
    }


def _stored(fields: JsonFields) -> StoredMatrices:
    return StoredMatrices(
        count=fields.integer("count", least=0, most=1 << 20),
        names=fields.texts("names"),
        as_named=fields.boolean("as_named"),
    )
