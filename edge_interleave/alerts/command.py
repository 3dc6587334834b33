"""A program that is run for each alert, without a shell.

Knows nothing about when an alert is due, nor about the thread it runs in: `deliveries` does.
"""

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

COMMAND_SECONDS = 30.0
"""A command that runs longer is killed, with what it started."""
_LAST_LINES_S = 0.5
_LINE_BYTES = 4096


class Command:
    """Runs a program for each alert, without a shell. What it prints goes to stderr: stdout is for results."""

    def __init__(
        self, command: str, limit_s: float = COMMAND_SECONDS, say: Callable[[str], None] | None = None
    ) -> None:
        """`say` gets each line that the program prints, with its name before it; None: this process's stderr does.

        `command` is split into words as a shell would; then, in each word, `{placeholder}` is filled in.

        The placeholders: `{time}`, `{probability}`, `{question}`, `{number}` of the frame that raised the alert,
        `{frame}` (path of its saved picture), `{frames}` (paths of all saved pictures, one to a line), `{json}` (the
        event's whole line). Other braces stay. Raises UsageError for a command without a program that can be found.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"the command {command!r} cannot be split into words ({error}); mend its quotes") from None
        if not self._words or shutil.which(self._words[0]) is None:
            program = self._words[0] if self._words else command
            raise UsageError(f"no program {program!r} to run; give its path, then its arguments (no shell is involved)")
        self._say = say
        self.name = f"command {os.path.basename(self._words[0])}"
        self._limit = limit_s
        self._lock = threading.Lock()
        self._aborted = False
        self._process: subprocess.Popen[bytes] | None = None

    def words(self, alert: Alert) -> list[str]:
        """The program and its arguments for an alert."""
        values = {
            "time": alert.time,
            "probability": f"{alert.probability:.4f}",
            "question": alert.question,
            "number": str(alert.frame),
            "frame": alert.frames[-1] if alert.frames else "",
            "frames": "\n".join(alert.frames),
            "json": alert.line(),
        }
        return [self._words[0], *(_filled(word, values) for word in self._words[1:])]

    def send(self, alert: Alert) -> None:
        """Run it and wait for its end. Raises DeliveryError where it cannot run, fails or takes too long."""
        words = self.words(alert)
        with self._lock:
            if self._aborted:
                raise DeliveryError("not run, for the watch has ended")
            try:
                # A session of its own: ctrl-C is not for it, and what it starts can be ended with it.
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno() if self._say is None else subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise DeliveryError(f"cannot be run ({error})") from error
            self._process = process
        printed = self._pass_on(process)
        try:
            code = process.wait(self._limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
            raise DeliveryError(f"not done within {self._limit:g} s, killed") from None
        finally:
            with self._lock:
                self._process = None
            # A process that the program left running may never close its output.
            if printed is not None:
                printed.join(_LAST_LINES_S)
        if code:
            raise DeliveryError(f"ended with exit code {code}" if code > 0 else f"ended by signal {-code}")

    def _pass_on(self, process: subprocess.Popen[bytes]) -> threading.Thread | None:
        say, pipe, name = self._say, process.stdout, self.name
        if say is None or pipe is None:
            return None

        def read() -> None:
            with pipe:
                # In pieces, for a line may have no end.
                while line := pipe.readline(_LINE_BYTES):
                    text = line.decode("utf-8", "replace").rstrip()
                    if text:
                        say(f"{name}: {text}")

        thread = threading.Thread(target=read, name=f"output of {name}", daemon=True)
        thread.start()
        return thread

    def abort(self) -> None:
        """Kill a command that runs."""
        with self._lock:
            self._aborted = True
            if self._process is not None:
                _kill(self._process)


def _filled(word: str, values: Mapping[str, str]) -> str:
    # One pass, so that what is filled in is never taken for a placeholder.
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), word)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and what it started, as far as that stayed in its group."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
