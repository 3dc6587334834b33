"""Reads lines from a terminal, with editing, completion of commands and paths, and a history kept between runs.

Without Python's readline (Windows), there is no editing, completion or history.
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
    """The history file: the one that EDGE_INTERLEAVE_HISTORY names, or one in the user's state folder.

    None if that variable is empty, `0` or `off`, or if there is no state folder.
    """
    named = os.environ.get(HISTORY_VARIABLE)
    if named is not None:
        return None if named.lower() in ("", "0", "off") else Path(named).expanduser()
    from platformdirs import user_state_path

    with suppress(OSError, RuntimeError, KeyError):
        folder = user_state_path("edge-interleave")
        # Without a home folder the path may begin with a tilde.
        return folder / "chat-history" if folder.is_absolute() else None
    return None


class LineEditor:
    """Reads the lines of one conversation."""

    def __init__(self, commands: Sequence[str], path_commands: Sequence[str]) -> None:
        """`commands` are completed at the start of a line, paths after one of `path_commands`."""
        self._commands = commands
        self._path_commands = path_commands
        self._matches: list[str] = []
        self._history = history_file()
        self._readline = _readline()
        if self._readline is not None:
            self._set_up(self._readline)

    def read(self, prompt: str) -> str:
        """Read one line. Raises EOFError at ctrl-D, KeyboardInterrupt at ctrl-C."""
        line = input(prompt)
        if self._readline is not None and self._history is not None and line.strip():
            remember(self._history, line)
        return line

    def completions(self, line: str) -> list[str]:
        """The possible completions of the line up to the cursor."""
        command, space, argument = line.partition(" ")
        if not space:
            return [name for name in self._commands if name.startswith(line)] if line.startswith("/") else []
        if command not in self._path_commands:
            return []
        done, quote, typed = _last_word(argument)
        return [f"{command} {done}{path}" for path in _paths(typed, quote)]

    def _set_up(self, readline: Any) -> None:
        readline.clear_history()
        for line in _history_lines(self._history):
            readline.add_history(line)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")

    def _complete(self, text: str, state: int) -> str | None:
        """Readline's completer: readline replaces the text after the last space with a match."""
        if state == 0:
            assert self._readline is not None
            line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
            begin = self._readline.get_begidx()
            self._matches = [match[begin:] for match in self.completions(line) if match.startswith(line[:begin])]
        return self._matches[state] if state < len(self._matches) else None


def split_paths(text: str) -> list[str]:
    """Split a line into paths at spaces that are not quoted or escaped. Raises ValueError for an open quote.

    On Windows, backslashes separate folders instead of escaping.
    """
    import shlex

    if os.name == "nt":
        return [word.strip("'\"") for word in shlex.split(text, posix=False)]
    return shlex.split(text)


def remember(path: Path, line: str) -> None:
    """Append a line to the history, a file that only its owner can read; atomic. Does nothing if it is not writable.

    Lines that another chat added meanwhile stay.
    """
    lines = [*_history_lines(path), line][-_HISTORY_LINES:]
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


def _history_lines(path: Path | None) -> list[str]:
    with suppress(OSError):
        if path is not None and path.is_file():
            return path.read_text("utf-8", "replace").splitlines()[-_HISTORY_LINES:]
    return []


def _last_word(text: str) -> tuple[str, str, str]:
    """The text before the word being typed, its open quote if any, and the word without quotes and escapes."""
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
    """Paths that start with `typed`, quoted or escaped for the line; folders end with a slash."""
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
