"""`--source NAME=SOURCE` of `serve`: sources of this machine under names that pages may know."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_interleave.errors import UsageError

_SOURCE_NAME = re.compile(r"[\w][\w .-]{0,63}")


def named_sources(given: Sequence[str]) -> dict[str, str]:
    """`NAME=SOURCE` texts as a table. Raises UsageError for a wrong one."""
    from edge_interleave.media.sources.open import open_source

    found: dict[str, str] = {}
    for text in given:
        name, equals, spec = text.partition("=")
        if not equals or not _SOURCE_NAME.fullmatch(name) or not spec:
            raise UsageError(
                "--source: give a name and a source, for example door=camera:0 or yard=rtsp://192.168.1.9/"
            )
        if name in found:
            raise UsageError(f"--source {name}: given twice; give each source its own name")
        open_source(spec)
        found[name] = spec
    return found
