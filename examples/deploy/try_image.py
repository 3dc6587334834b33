"""Goes through the steps of the Dockerfile beside it without Docker, in folders that debootstrap fills with Debian.

Needs root, debootstrap and a network. Then it starts the image's program as the image's user and asks for its health,
as Docker would. Where a Docker daemon runs, `docker build` does all of this; then this script is not needed.

    sudo python3 examples/deploy/try_image.py /tmp/image
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONTEXT = HERE.parent.parent
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Stage:
    """One `FROM` of the Dockerfile: a folder with a system, and the settings that the steps made."""

    def __init__(self, base: str, root: Path) -> None:
        suite = re.fullmatch(r"debian:([a-z]+)-slim", base)
        if suite is None:
            raise SystemExit(f"FROM {base}: this script knows debian:SUITE-slim only")
        self.root = root
        if not root.exists():
            run(["debootstrap", "--variant=minbase", suite[1], str(root), "http://deb.debian.org/debian"])
        # The machine's network and its certificates, which Docker gives a build too.
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        shutil.copy(CERTIFICATES, root / "machine-certificates.pem")
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.folder = "/"
        self.user = "root"
        self.instructions: dict[str, str] = {}

    def command(self, words: list[str], **environment: str) -> list[str]:
        """A command line that runs `words` in the stage, as its user."""
        settings = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        inner = f"cd {shlex.quote(self.folder)} && exec {shlex.join(words)}"
        return ["chroot", f"--userspec={self.user}", str(self.root), "env", "-i", *settings, "sh", "-c", inner]

    def copy(self, sources: list[str], target: str, origin: Path) -> None:
        """Copy files or folders, as COPY does: a folder's content goes into the target."""
        place = self.root / os.path.join(self.folder, target).lstrip("/")
        for source in sources:
            found = origin / source.lstrip("/")
            if found.is_dir():
                hidden = shutil.ignore_patterns("__pycache__")
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=hidden)
            else:
                into = place / found.name if target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, into)


def build(folder: Path) -> Stage:
    """Carry out the Dockerfile's steps; returns the last stage."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in (HERE / "Dockerfile").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        print(f"== {line}", flush=True)
        name, rest = line.split(" ", 1)
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            stage = Stage(base, folder / (alias or "image"))
            stages[alias or "image"] = stage
            continue
        assert stage is not None
        if name == "RUN":
            run(stage.command(["sh", "-ec", rest], PIP_CERT="/machine-certificates.pem", HOME="/root"))
        elif name == "COPY":
            words = shlex.split(rest)
            origin = CONTEXT
            if words[0].startswith("--from="):
                origin = stages[words.pop(0).removeprefix("--from=")].root
            stage.copy(words[:-1], words[-1], origin)
        elif name == "ENV":
            stage.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif name == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "USER":
            stage.user = rest
        elif name in ("VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"):
            stage.instructions[name] = rest
        else:
            raise SystemExit(f"{name}: this script does not know the instruction")
    assert stage is not None
    return stage


def try_out(image: Stage) -> None:
    """Start the image's program as its user, with a folder of pictures to watch, and ask for its health."""
    data = image.root / "data"
    (data / "cameras.toml").write_text(
        '[sources.pictures]\nsource = "pictures"\nwindow = 2\n'
        'rules = [{ name = "circle", when = "Is there a red circle?" }]\n'
    )
    (data / "pictures").mkdir(exist_ok=True)
    entry = json.loads(image.instructions["ENTRYPOINT"])
    health = json.loads(image.instructions["HEALTHCHECK"].partition("CMD ")[2])
    uid = int(subprocess.check_output(image.command(["id", "-u"])))
    assert uid != 0, "the image's program must not run as root"
    for path in (data, data / "cameras.toml", data / "pictures"):
        os.chown(path, uid, uid)
    compiler = subprocess.run(image.command(["sh", "-c", "command -v cc gcc g++ clang"]), stdout=subprocess.DEVNULL)
    assert compiler.returncode != 0, "the image has a compiler"
    # Docker gives a container /proc and /dev; chroot does not.
    for name, kind in (("proc", "proc"), ("dev/shm", "tmpfs")):
        (image.root / name).mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", kind, kind, str(image.root / name)])
    try:
        run(image.command([*entry, "info"]))
        assert subprocess.run(image.command(health)).returncode == 1, "nothing runs yet"
        watch = subprocess.Popen(image.command([*entry, *json.loads(image.instructions["CMD"])]))
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(image.command(health), stderr=subprocess.DEVNULL).returncode:
                assert watch.poll() is None, "the watch has ended"
                assert time.monotonic() < deadline, "the watch is not healthy"
                time.sleep(0.5)
        finally:
            watch.terminate()
            code = watch.wait(30)
        assert code == 0, f"SIGTERM ended the watch with {code}"
        assert subprocess.run(image.command(health)).returncode == 1, "the watch has ended"
    finally:
        for name in ("proc", "dev/shm"):
            run(["umount", str(image.root / name)])
    size = sum(file.lstat().st_size for file in image.root.rglob("*") if not file.is_symlink() and file.is_file())
    print(f"the image's files: {size / 1e6:.0f} MB; the program ran as user {uid}, and was healthy")


def run(command: list[str]) -> None:
    """Run a command to its end. Raises SystemExit if it fails."""
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(f"ended with {done.returncode}: {shlex.join(command)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="an empty or new folder for the systems, about 2 GB")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("needs root and debootstrap (Debian: apt-get install debootstrap)")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try_out(build(arguments.folder))
