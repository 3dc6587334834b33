"""Handles addresses (URLs) that may contain passwords: hides passwords in messages, and refuses ambiguous addresses."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from edge_interleave.errors import UsageError

_VALUE = re.compile(r"=[^/&;]*")


def check_login(url: str) -> None:
    """Raise UsageError if a name or password holds `/`, `?`, `#` or `@`; the error does not show the address.

    The first three end the host (RFC 3986, 3.2), so that a part of the password would be taken for the host or the
    path. An `@` after the host is refused as well, because it could be the end of such a password.
    """
    if _is_unclear(url):
        raise UsageError(
            f"{_scheme(url)}://...: an '@' makes the host ambiguous; in the name, password and path, "
            "percent-encode / as %2F, ? as %3F, # as %23, @ as %40"
        )


def without_secrets(url: str) -> str:
    """An address for messages: without name, password, query, fragment, and values in its path (`user=me`).

    If the address cannot be parsed or its host is ambiguous, only the scheme is left.
    """
    try:
        parts = urlsplit(url)
        readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable or _is_unclear(url):
        return f"{_scheme(url)}://..."
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=_VALUE.sub("=...", parts.path), fragment="")
    return urlunsplit(bare._replace(query="..." if parts.query else ""))


def _is_unclear(url: str) -> bool:
    rest = url.partition("://")[2]
    login_and_host = re.split("[/?#]", rest, maxsplit=1)[0]
    return "@" in rest[len(login_and_host) :] or login_and_host.count("@") > 1


def _scheme(url: str) -> str:
    scheme = url.partition("://")[0]
    return scheme if re.fullmatch("[A-Za-z][A-Za-z0-9+.-]{0,20}", scheme) else "..."
