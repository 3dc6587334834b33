"""Runs a program on a pseudo-terminal: types text, and reads what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.command_line import PROGRAM

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Shown:
    """The output of a program on a terminal."""

    def __init__(self, terminal: int, process: subprocess.Popen[bytes]) -> None:
        self.terminal = terminal
        self.process = process
        self.text = ""
        self.seen = 0

    def until(self, wanted: str) -> str:
        """Wait for a text after the last one waited for; returns the output up to and including it."""
        deadline = time.monotonic() + 60
        while wanted not in self.text[self.seen :]:
            assert time.monotonic() < deadline, self.text
            self._read(0.1)
        begin, self.seen = self.seen, self.text.index(wanted, self.seen) + len(wanted)
        return self.text[begin : self.seen]

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self.terminal, text.encode())

    def ended(self) -> int:
        """Wait for the program to end; returns its exit code."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read(0.1)
        self._read(0)
        return self.process.returncode

    @property
    def lines(self) -> list[str]:
        """The lines shown so far, without control sequences."""
        return _CONTROLS.sub("", self.text).split("\n")

    def _read(self, patience_s: float) -> None:
        if select.select([self.terminal], [], [], patience_s)[0]:
            try:
                self.text += os.read(self.terminal, 65536).decode("utf-8", "replace")
            except OSError:  # the program has ended, and its terminal with it
                return


@contextmanager
def on_terminal(
    *arguments: object,
    env: Mapping[str, str],
    columns: int = 80,
    cwd: Path | None = None,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Shown]:
    """Run `edge-interleave`, or another program, on a terminal; the block's end kills it if it still runs."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*program, *map(str, arguments)], env=env, cwd=cwd, stdin=end, stdout=end, stderr=end, start_new_session=True
    )
    os.close(end)
    try:
        yield Shown(terminal, process)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
