"""Fills in secrets that a file of settings refers to: `${NAME}` of the environment, `${file:PATH}` of a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from edge_interleave.errors import UsageError

_REFERENCE = re.compile(r"\$\{(file:)?([^{}]+)\}")
_BYTES_MAX = 1 << 14


def fill_secrets(text: str, folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Replace the references in a text.

    A reference that is the whole text is replaced as is. Inside an address it is percent-encoded, because a password
    may hold `@` or `/`. `folder`: where relative paths of files begin. A line break at a file's end is left out.
    Raises UsageError if there is no such variable or file, without saying anything of its content.
    """

    def value(match: re.Match[str]) -> str:
        found = _file(folder / match[2]) if match[1] else environment.get(match[2])
        if not found:
            raise UsageError(f"the environment has no variable {match[2]}, or it is empty; set it")
        return found if match[0] == text else quote(found, safe="")

    return _REFERENCE.sub(value, text)


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
        text = content.decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; a secret is read from this file") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not text; a secret is read from this file") from None
    if len(content) > _BYTES_MAX or not text:
        raise UsageError(f"{path}: empty or too large for a secret")
    return text
