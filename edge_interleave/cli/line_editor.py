"""Reads lines from a terminal: editing, completion of commands and paths, a history kept between runs.

Where Python has no readline (Windows), lines are read as the terminal gives them, and no history is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_interleave.util.atomic_file import atomic_file

HISTORY_VARIABLE = "EDGE_INTERLEAVE_HISTORY"
_HISTORY_LINES = 1000
_TO_ESCAPE = re.compile(r"([\s'\"\\])")


def history_file() -> Path | None:
    """Where what is typed is kept: the file that EDGE_INTERLEAVE_HISTORY names, or one in the user's state folder.

    None where that variable is empty, `0` or `off`, or where there is no such folder.
    """
    named = os.environ.get(HISTORY_VARIABLE)
    if named is not None:
        return None if named.lower() in ("", "0", "off") else Path(named).expanduser()
    from platformdirs import user_state_path

    with suppress(OSError, RuntimeError, KeyError):
        folder = user_state_path("edge-interleave")
        # Without a home folder it may begin with a tilde.
        return folder / "chat-history" if folder.is_absolute() else None
    return None


class LineEditor:
    """Reads lines. Keep one open for a conversation."""

    def __init__(self, commands: Sequence[str], path_commands: Sequence[str]) -> None:
        """`commands` complete at the beginning of a line; after one of `path_commands` paths do."""
        self._commands = commands
        self._path_commands = path_commands
        self._matches: list[str] = []
        self._history = history_file()
        self._readline = _readline()
        if self._readline is not None:
            self._set_up(self._readline)

    def read(self, prompt: str) -> str:
        """One line. Raises EOFError at ctrl-D, KeyboardInterrupt at ctrl-C."""
        line = input(prompt)
        if self._readline is not None and self._history is not None and line.strip():
            remember(self._history, line)
        return line

    def completions(self, line: str) -> list[str]:
        """What the line up to the cursor may become."""
        command, space, argument = line.partition(" ")
        if not space:
            return [name for name in self._commands if name.startswith(line)] if line.startswith("/") else []
        if command not in self._path_commands:
            return []
        done, quote, typed = _last_word(argument)
        return [f"{command} {done}{path}" for path in _paths(typed, quote)]

    def _set_up(self, readline: Any) -> None:
        readline.clear_history()
        for line in _lines(self._history):
            readline.add_history(line)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")

    def _complete(self, text: str, state: int) -> str | None:
        """For readline, which replaces the text after the last space by one of the matches."""
        if state == 0:
            assert self._readline is not None
            line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
            begin = self._readline.get_begidx()
            self._matches = [match[begin:] for match in self.completions(line) if match.startswith(line[:begin])]
        return self._matches[state] if state < len(self._matches) else None


def split_paths(text: str) -> list[str]:
    """The paths of a line: between spaces, which quotes or `\\ ` make part of a path. Raises ValueError.

    On Windows `\\` parts folders.
    """
    import shlex

    if os.name == "nt":
        return [word.strip("'\"") for word in shlex.split(text, posix=False)]
    return shlex.split(text)


def remember(path: Path, line: str) -> None:
    """Add a line to a file that only its owner can read, atomically. Does nothing where it cannot be written.

    What another chat has written meanwhile stays.
    """
    lines = [*_lines(path), line][-_HISTORY_LINES:]
    with suppress(OSError, UnicodeError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(path, private=True) as temporary:
            temporary.write_text("".join(f"{one}\n" for one in lines), "utf-8")


def _readline() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline


def _lines(path: Path | None) -> list[str]:
    with suppress(OSError):
        if path is not None and path.is_file():
            return path.read_text("utf-8", "replace").splitlines()[-_HISTORY_LINES:]
    return []


def _last_word(text: str) -> tuple[str, str, str]:
    """The text up to the word that is being typed, the quote that is open in it, and the word as the file is named."""
    start, quote, escaped, word = 0, "", False, ""
    for index, character in enumerate(text):
        if escaped:
            word, escaped = word + character, False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "'\"":
            quote = character
        elif character.isspace():
            start, word = index + 1, ""
        else:
            word += character
    return text[:start], quote, word


def _paths(typed: str, quote: str) -> list[str]:
    """Paths that begin so, as they must be typed; folders end with a slash."""
    folder, slash, beginning = typed.rpartition("/")
    folder += slash
    found = []
    with suppress(OSError):
        for entry in sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name):
            if entry.name.startswith(beginning) and (beginning or not entry.name.startswith(".")):
                name = folder + entry.name
                end = "/" if entry.is_dir() else quote
                found.append((quote + name if quote else _TO_ESCAPE.sub(r"\\\1", name)) + end)
    return found
