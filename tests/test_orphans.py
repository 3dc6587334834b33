"""Worker processes end when their program is killed, by any signal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.command_line import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks up processes in /proc")

AS_IN_A_SHELL = (  # a suite in the background may ignore both, and what it starts inherits that
    "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
)
QUANTIZE = (
    "import sys; from pathlib import Path; from edge_interleave.converters.gguf.quantize import quantize; "
    "quantize(Path(sys.argv[1]), Path(sys.argv[2]), 15, lambda *_: None)"
)
MEASURE = (
    "from edge_interleave.planning import footprint; from edge_interleave.bundle import store; "
    "from edge_interleave.bundle.manifest import open_bundle; "
    "footprint.measure(open_bundle(store.embedded_folder()), 'llama-cpp', 1, rates=True)"
)


def workers(pid: int, named: str) -> list[int]:
    """The process's children whose command line holds a text."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
        if named.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def waited_for(what: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 60
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def working(
    code: str, named: str, *arguments: Path, env: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program with a worker that is at work."""
    command = [sys.executable, "-c", AS_IN_A_SHELL + code, *map(str, arguments)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        worker = 0
        try:
            assert waited_for(lambda: parent.poll() is not None or workers(parent.pid, named))
            (worker,) = workers(parent.pid, named)
            yield parent, worker
        finally:
            parent.kill()
            if worker and runs(worker):
                os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_llama_cpps_worker_ends_with_convert(tmp_path: Path, how: signal.Signals) -> None:
    # Opening a pipe that nobody writes to waits for ever: a file that takes long.
    os.mkfifo(tmp_path / "plain.gguf")
    files = (tmp_path / "plain.gguf", tmp_path / "packed.gguf")
    with working(QUANTIZE, "quantize_worker.py", *files, env=environment(tmp_path)) as (parent, worker):
        parent.send_signal(how)
        assert parent.wait(30) == -how
        assert waited_for(lambda: not runs(worker))


def test_llama_cpps_worker_ends_with_ctrl_c(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plain.gguf")
    files = (tmp_path / "plain.gguf", tmp_path / "packed.gguf")
    with working(QUANTIZE, "quantize_worker.py", *files, env=environment(tmp_path)) as (parent, worker):
        time.sleep(0.2)
        parent.send_signal(signal.SIGINT)
        parent.wait(30)
        assert waited_for(lambda: not runs(worker))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_process_that_measures_a_model_ends_with_plan(tmp_path: Path, how: signal.Signals) -> None:
    # An engine that takes for ever to import.
    (tmp_path / "onnxruntime.py").write_text("import time; time.sleep(600)")
    env = environment(tmp_path, PYTHONPATH=str(tmp_path))
    with working(MEASURE, "edge_interleave.planning.footprint", env=env) as (parent, worker):
        parent.send_signal(how)
        assert parent.wait(30) == -how
        assert waited_for(lambda: not runs(worker))
