"""Runs a program for each alert, without a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from edge_interleave.alerts.events import Alert
from edge_interleave.alerts.outbox import DeliveryError
from edge_interleave.errors import UsageError

COMMAND_TIMEOUT_S = 30.0
"""A command that runs longer is killed, together with the processes that it started."""
_OUTPUT_WAIT_S = 0.5
_LINE_BYTES = 4096


class Command:
    """Runs a program for each alert. Its output goes to stderr, because stdout is for results."""

    def __init__(
        self, command: str, timeout_s: float = COMMAND_TIMEOUT_S, on_output: Callable[[str], None] | None = None
    ) -> None:
        """`command` is split into words as in a shell; then placeholders in each word are replaced.

        Placeholders: `{time}`, `{probability}`, `{question}`, `{number}` (of the frame that raised the alert),
        `{frame}` (path of its saved picture), `{frames}` (paths of all saved pictures, one per line), `{best}` (path of
        the likeliest one), `{clip}` (path of the video of the seconds before), `{description}`, `{source}` and `{rule}`
        (names, if several sources are watched), `{json}` (the event as one line). What an alert does not have is empty.
        Other braces are left as they are.
        `on_output` gets each line that the program prints, after the program's name; None: the output goes to stderr.
        Raises UsageError if the program cannot be found.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                f"the command {command!r} cannot be split into words ({error}); correct its quotes"
            ) from None
        if not self._words or shutil.which(self._words[0]) is None:
            program = self._words[0] if self._words else command
            raise UsageError(f"no program {program!r} to run; give its path, then its arguments (no shell is involved)")
        self._on_output = on_output
        self.name = f"command {os.path.basename(self._words[0])}"
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._aborted = False
        self._process: subprocess.Popen[bytes] | None = None

    def words(self, alert: Alert) -> list[str]:
        """The program and its arguments for an alert, placeholders replaced."""
        values = {
            "time": alert.time,
            "probability": f"{alert.probability:.4f}",
            "question": alert.question,
            "number": str(alert.frame),
            "frame": alert.frames[-1] if alert.frames else "",
            "frames": "\n".join(alert.frames),
            "best": alert.best or "",
            "clip": alert.clip or "",
            "description": alert.description or "",
            "source": alert.source or "",
            "rule": alert.rule or "",
            "json": alert.line(),
        }
        return [self._words[0], *(_fill(word, values) for word in self._words[1:])]

    def send(self, alert: Alert) -> None:
        """Run the program and wait for its end. Raises DeliveryError if it cannot start, fails or takes too long."""
        words = self.words(alert)
        with self._lock:
            if self._aborted:
                raise DeliveryError("not run: the watch has ended")
            try:
                # Its own session: ctrl-C does not reach it, and its children can be killed with it.
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno() if self._on_output is None else subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise DeliveryError(f"cannot be started ({error})") from error
            self._process = process
        reader = self._read_output(process)
        try:
            code = process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
            raise DeliveryError(f"not finished within {self._timeout_s:g} s; killed") from None
        finally:
            with self._lock:
                self._process = None
            # The wait is limited: a child that the program left running may never close the pipe.
            if reader is not None:
                reader.join(_OUTPUT_WAIT_S)
        if code:
            raise DeliveryError(f"ended with exit code {code}" if code > 0 else f"ended by signal {-code}")

    def _read_output(self, process: subprocess.Popen[bytes]) -> threading.Thread | None:
        on_output, pipe, name = self._on_output, process.stdout, self.name
        if on_output is None or pipe is None:
            return None

        def read() -> None:
            with pipe:
                # The size is limited, because a line may be endless.
                while line := pipe.readline(_LINE_BYTES):
                    text = line.decode("utf-8", "replace").rstrip()
                    if text:
                        on_output(f"{name}: {text}")

        thread = threading.Thread(target=read, name=f"output of {name}", daemon=True)
        thread.start()
        return thread

    def abort(self) -> None:
        """Kill a running program and refuse later runs."""
        with self._lock:
            self._aborted = True
            if self._process is not None:
                _kill(self._process)


def _fill(word: str, values: Mapping[str, str]) -> str:
    # One pass: a placeholder inside a replacement is not replaced again.
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), word)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children that are still in its group."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
