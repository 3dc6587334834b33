"""The header of a safetensors file: allowed types, and the caller's error class. `test_checkpoint` has the rest."""

import json
from pathlib import Path

import pytest

from edge_interleave.bundle.safetensors_header import Entry, read_header
from edge_interleave.errors import BundleError


def write(path: Path, header: dict[str, object], data: int) -> Path:
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(data))
    return path


def test_a_valid_header_is_read_and_the_file_is_at_its_data(tmp_path: Path) -> None:
    header: dict[str, object] = {
        "__metadata__": {"format": "mlx"},
        "scales": {"dtype": "U8", "shape": [2, 3], "data_offsets": [8, 14]},
        "packed": {"dtype": "U32", "shape": [2], "data_offsets": [0, 8]},
    }
    path = write(tmp_path / "a.safetensors", header, 14)
    with path.open("rb") as file:
        entries = read_header(path, file, BundleError, dtypes={"U8", "U32"})
        data = file.tell()
    assert data == path.stat().st_size - 14
    assert entries == {"packed": Entry("U32", (2,), data, 8), "scales": Entry("U8", (2, 3), data + 8, 6)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}, "is of type F64, not one of F16, U32"),
        ({"dtype": "F16", "shape": [5], "data_offsets": [0, 8]}, "claims 8 bytes, not 10"),
        ({"dtype": "F16", "shape": [5], "data_offsets": [0, 10]}, "cut off at"),
    ],
)
def test_the_callers_error_names_the_file_and_the_remedy(
    entry: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", {"a": entry}, 8)
    with path.open("rb") as file, pytest.raises(BundleError) as caught:
        read_header(path, file, BundleError, remedy="convert or pull again", dtypes={"F16", "U32"})
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; convert or pull again")
