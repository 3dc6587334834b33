"""The JSON files of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_interleave.errors import CheckpointError
from edge_interleave.util import json_fields
from edge_interleave.util.json_fields import JsonFields

JSON_BYTES_MAX = 64 << 20


def read_json(path: Path) -> Any:
    """The JSON value of a file. Raises CheckpointError."""
    return json_fields.read_json(
        path,
        CheckpointError,
        most=JSON_BYTES_MAX,
        remedy="download it again",
        missing="download the whole checkpoint",
    )


def fields_of(path: Path, raw: Any) -> JsonFields:
    """The fields of a JSON object that `path` holds. They raise CheckpointError."""
    return JsonFields(path, raw, CheckpointError, remedy="is this an unchanged LLaVA-Interleave checkpoint?")
