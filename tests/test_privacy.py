"""Nothing leaves the device: only `pull` looks up names or opens connections, and no library stores an id.

Each command runs in a network namespace without interfaces, where Linux counts name lookups and connections that found
no route, also those of native code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.command_line import PROGRAM
from support.paths import CHECKPOINT

from edge_interleave.cli.demo import tour_folder

ISOLATED = ["unshare", "--net"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "-r", "--net"]
COUNTED = """
import subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
sent = 0
names = None
for line in open("/proc/net/snmp"):
    kind, *rest = line.split()
    if names is None:
        names = rest
        continue
    row = dict(zip(names, rest))
    names = None
    sent += sum(int(row[name]) for name in ("OutNoRoutes", "ActiveOpens", "OutDatagrams") if name in row)
print(done.stdout, done.stderr, file=sys.stderr)
print(done.returncode, sent)
"""
LOOKUP = "import socket\ntry: socket.getaddrinfo('a-name-that-is-looked-up.example', 443)\nexcept OSError: pass"
CONNECT = "import socket\ntry: socket.create_connection(('192.0.2.1', 443), 1)\nexcept OSError: pass"


def can_isolate() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode == 0


isolated = pytest.mark.skipif(not can_isolate(), reason="no network namespaces here (Linux, root or user namespaces)")


def attempts(command: list[str], home: Path, **more: str) -> int:
    """Lookups and connections that `command` tried; it has to end with exit code 0."""
    # These variables would silence the libraries, but users do not set them.
    silencing = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
    env: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if name not in silencing},
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        **more,
    }
    counted = [*ISOLATED, sys.executable, "-c", COUNTED, *command]
    done = subprocess.run(counted, env=env, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    code, sent = done.stdout.split()
    assert code == "0", done.stderr
    return int(sent)


@isolated
@pytest.mark.parametrize("code", [LOOKUP, CONNECT], ids=["lookup", "connection"])
def test_attempted_connections_are_counted(code: str, tmp_path: Path) -> None:
    assert attempts([sys.executable, "-c", code], tmp_path) > 0


CARD = str(tour_folder() / "card-1.png")
CLIP = str(tour_folder() / "clip.mp4")
ONE = ["--threads", "1"]
COMMANDS = {
    "ask": ["ask", "Describe the image.", "--image", CARD, *ONE],
    "ask about a clip": ["ask", "Which way does the red circle move?", "--video", CLIP, *ONE],
    "ask with MLX": ["ask", "Describe the image.", "--image", CARD, "--backend", "mlx", *ONE],
    "watch": ["watch", CLIP, "--ask", "Describe the image.", *ONE],
    "watch with rules": ["watch", CLIP, "--when", "Is there a red circle?", "--out", "alerts", *ONE],
    "plan": ["plan", "--memory", "1GB"],
    "info": ["info"],
    "models": ["models"],
    "convert": ["convert", str(CHECKPOINT), "bundle", "--mmproj"],
    "eval": ["eval", "--world", "--samples", "1", "--out", "evaluation", *ONE],
    "demo": ["demo", "--out", "demo.png", *ONE],
}


@isolated
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_no_command_looks_up_or_connects_to_anything(arguments: list[str], tmp_path: Path) -> None:
    if "mlx" in arguments:
        pytest.importorskip("mlx.core")
    assert attempts([*PROGRAM, *arguments], tmp_path) == 0


@isolated
def test_chat_looks_up_nothing(tmp_path: Path) -> None:
    chat = f"printf 'Describe the image.\\n' | '{sys.executable}' -c '{PROGRAM[-1]}' chat --threads 1 --image '{CARD}'"
    assert attempts(["sh", "-c", chat], tmp_path) == 0


def test_no_library_leaves_an_id_behind(tmp_path: Path) -> None:
    """ONNX Runtime keeps a device id and the events that wait to be sent below the home folder, unless told not to."""
    silencing = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    env = {name: value for name, value in os.environ.items() if name not in silencing}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache"), "EDGE_INTERLEAVE_HOME": "unused"}
    command = [*PROGRAM, "ask", "Describe the image.", "--image", CARD, "--backend", "llama-cpp", *ONE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_child_processes_inherit_the_settings() -> None:
    code = "import edge_interleave, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    child = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    env = {name: value for name, value in os.environ.items() if not name.endswith("DISABLE_TELEMETRY")}
    command = [sys.executable, "-c", code, child]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_an_onnxruntime_imported_before_is_reported() -> None:
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    # CI keeps ONNX Runtime itself silent in this test.
    command = [sys.executable, "-c", "import onnxruntime, edge_interleave"]
    done = subprocess.run(command, env={**env, "CI": "1"}, capture_output=True, text=True, timeout=60, check=True)
    assert "import edge_interleave first" in done.stderr
