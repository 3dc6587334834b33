"""The files of examples/deploy: systemd accepts the units, the image's steps work, and its health check tells."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.paths import EXAMPLES, ROOT

DEPLOY = EXAMPLES / "deploy"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def installed(unit: Path, folder: Path) -> Path:
    """A copy of the unit whose program is a file that exists here."""
    text, count = re.subn(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1
    (folder / unit.name).write_text(text)
    return folder / unit.name


@needs_systemd
@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_accepts_the_unit(tmp_path: Path, kind: str) -> None:
    unit = DEPLOY / ("user" if kind == "user" else ".") / "edge-interleave-watch.service"
    done = subprocess.run(
        ["systemd-analyze", f"--{kind}", "--man=no", "verify", str(installed(unit, tmp_path))],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_the_unit_little_exposed(tmp_path: Path) -> None:
    unit = installed(DEPLOY / "edge-interleave-watch.service", tmp_path)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def healthy(heartbeat: Path) -> tuple[int, str]:
    program = (DEPLOY / "healthy.py").read_text("utf-8").replace(":8080", f":{_unused_port()}")
    env = {**os.environ, "EDGE_INTERLEAVE_HEARTBEAT": str(heartbeat)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_the_health_check_looks_at_the_heartbeat(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    assert healthy(heartbeat)[0] == 1
    heartbeat.touch()
    assert healthy(heartbeat) == (0, "")
    old = time.time() - 400
    os.utime(heartbeat, (old, old))
    code, said = healthy(heartbeat)
    assert (code, said[:31]) == (1, "a source has made no step for 4")


def test_the_health_check_asks_a_server(tmp_path: Path) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        program = (DEPLOY / "healthy.py").read_text("utf-8").replace(":8080", f":{server.server_port}")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        server.shutdown()
    assert (done.returncode, done.stderr) == (0, "")


def test_the_images_files_exist_and_reach_docker() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    sent = {line.removeprefix("!") for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if "!" in line}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for extra in re.findall(r'"\.\[([a-z,]+)\]"', dockerfile)[0].split(","):
        assert extra in project["project"]["optional-dependencies"]
    # The files that the package's build reads: its packages, its readme and its license.
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["package-dir"].values()}
    assert {*packages, project["project"]["readme"], "LICENSE", "pyproject.toml"} <= copied


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root, debootstrap and a network"
)
def test_the_images_steps_work_without_docker(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DEPLOY / "try_image.py"), str(tmp_path)], check=True)


def _unused_port() -> int:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_port


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd is not installed")
def test_old_pictures_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "edge-interleave-events" / "door"
    old, new, lines = folder / "frames" / "old.jpg", folder / "frames" / "new.jpg", folder / "events.jsonl"
    (folder / "frames").mkdir(parents=True)
    for path, days in ((old, 31), (new, 29), (lines, 31)):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - days * 86400,) * 2)
    rules = tmp_path / "rules.conf"
    rules.write_text(
        (DEPLOY / "edge-interleave-watch.conf").read_text().replace("/var/lib/private/edge-interleave", str(tmp_path))
    )
    subprocess.run(["systemd-tmpfiles", "--clean", str(rules)], check=True)
    assert (old.exists(), new.exists(), lines.exists()) == (False, True, True)
