"""Which certificates of servers are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_interleave.errors import InputError, one_line


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Settings for TLS that trust the certificates of a PEM file; None: those that the system trusts.

    Raises InputError if the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or one_line(error, 80)
        raise InputError(f"{ca_file}: holds no certificate in PEM form ({why}); correct 'ca_file'") from error
