"""Errors of a full disk name the file and the space free and needed; a file size limit stands for a full disk."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import environment, error_line
from support.paths import CHECKPOINT

from edge_interleave.bundle.writer import build_bundle
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.gguf.decoder import write_gguf
from edge_interleave.errors import ResourceError
from edge_interleave.evaluation.files import write_json
from edge_interleave.util.disk_space import check_still_room, require_room, writing

resource = pytest.importorskip("resource")
WITH_LIMIT = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); {1}"
MAIN = "from edge_interleave.cli import main; main()"
QUANTIZE = (
    "from pathlib import Path; from edge_interleave.converters.gguf.quantize import quantize; "
    "quantize(Path(sys.argv[1]), Path(sys.argv[2]), 15)"
)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def limited(tmp_path: Path) -> Run:
    """Runs Python with a file size limit in bytes: a write beyond it fails as on a full disk."""

    def run(most: int, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITH_LIMIT.format(most, code), *map(str, arguments)]
        return subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.mark.parametrize(
    ("most", "file", "options"),
    [
        (10_000, "tokenizer.json", ()),
        (1_000_000, "vision.onnx", ()),
        (6_000_000, "decoder.gguf", ()),
        (6_000_000, "model.safetensors", ("--backend", "mlx", "--mlx-quantization", "f16")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_convert_names_the_file_that_did_not_fit(
    limited: Run, tmp_path: Path, most: int, file: str, options: tuple[str, ...]
) -> None:
    if "mlx" in options:
        pytest.importorskip("mlx")
    else:
        options = (*options, "--backend", "llama-cpp")
    line = error_line(limited(most, MAIN, "convert", CHECKPOINT, tmp_path / "bundle", *options), 4)
    assert line.startswith(f"error: {tmp_path}/.bundle.partial/")
    assert f"/{file}: File too large (" in line
    assert " MB are needed" in line
    assert "free some space, or write to another disk" in line
    assert not (tmp_path / "bundle").exists()


def test_llama_cpp_names_the_file_that_did_not_fit(limited: Run, tmp_path: Path) -> None:
    with open_checkpoint(CHECKPOINT) as checkpoint:
        write_gguf(checkpoint, tmp_path / "plain.gguf", "f16")
    done = limited(500_000, QUANTIZE, tmp_path / "plain.gguf", tmp_path / "packed.gguf")
    assert done.stderr.splitlines()[-1].startswith(f"OSError: [Errno {errno.EFBIG}] File too large: ")
    assert "packed.gguf" in done.stderr.splitlines()[-1]
    assert (tmp_path / "packed.gguf").stat().st_size <= 500_000


def test_another_failure_of_llama_cpp_shows_its_last_error(limited: Run, tmp_path: Path) -> None:
    (tmp_path / "plain.gguf").write_bytes(b"GGUF" + bytes(100))
    done = limited(1 << 30, QUANTIZE, tmp_path / "plain.gguf", tmp_path / "packed.gguf")
    line = done.stderr.splitlines()[-1]
    assert "llama.cpp did not quantize the decoder (" in line
    assert "exit code" not in line


def test_a_world_and_a_summary_that_do_not_fit_are_named(
    limited: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    line = error_line(limited(400, MAIN, "eval", "--world", "--samples", 1, "--out", out), 4)
    assert f"{out}/.world.partial: File too large" in line

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ResourceError, match=rf"{tmp_path}/summary\.json: No space left on device"):
        write_json(tmp_path / "summary.json", {})


class TestWriting:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_names_the_file_if_the_error_does_not(self, tmp_path: Path, code: int) -> None:
        with (
            pytest.raises(ResourceError, match=rf"^{tmp_path}/made/file: .*free some"),
            writing(tmp_path / "made/file"),
        ):
            raise OSError(code, "full")

    def test_keeps_the_name_of_a_file_elsewhere(self, tmp_path: Path) -> None:
        with pytest.raises(ResourceError, match=r"^/elsewhere/file: full"), writing(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "full", "/elsewhere/file")

    def test_lets_other_errors_pass(self, tmp_path: Path) -> None:
        with pytest.raises(PermissionError), writing(tmp_path / "file"):
            raise PermissionError(errno.EACCES, "no")

    def test_suggests_a_quota_if_the_disk_has_free_space(self, tmp_path: Path) -> None:
        with pytest.raises(ResourceError, match="is there a quota") as error, writing(tmp_path / "file", 1000):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        assert "free where about 1 kB are needed" in str(error.value)

    def test_in_a_build_keeps_the_finished_parts(self, tmp_path: Path) -> None:
        def fail(path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def build() -> None:
            with build_bundle(tmp_path / "bundle", {"of": "tests"}) as writer:
                writer.add("first", lambda path: path.write_text("whole"))
                writer.add("second", fail)

        with pytest.raises(ResourceError, match=r"\.bundle\.partial/second: No space left"):
            build()
        assert (tmp_path / ".bundle.partial" / "first").read_text() == "whole"


class TestRoom:
    def test_check_still_room_passes_and_restores_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"kept")
        check_still_room(tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"kept"
        assert require_room(tmp_path, 1000) > 1000

    def test_check_still_room_names_the_file_of_a_full_disk(self) -> None:
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            check_still_room(Path("/dev/full"))

    def test_require_room_reports_the_space_free_and_needed(self, tmp_path: Path) -> None:
        with pytest.raises(ResourceError, match=rf"^{tmp_path}: .*B free where about .* GB are needed; free some"):
            require_room(tmp_path, 1 << 60)
