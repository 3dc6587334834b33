"""Addresses that may hold passwords: what messages show of them, and which of them are refused. Opens none."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from edge_interleave.errors import UsageError

_VALUE = re.compile(r"=[^/&;]*")


def check_login(url: str) -> None:
    """Raise UsageError, which shows nothing of the address, where a name or password holds `/`, `?`, `#` or `@`.

    The first three end the host (RFC 3986, 3.2): what stands before them would be taken for the host, and the rest of
    the password for a path. An `@` behind the host is refused as well, for nothing tells the two apart.
    """
    if _is_unclear(url):
        raise UsageError(
            f"{_scheme(url)}://...: an '@' leaves open which part is the host; percent-encode what a name, password "
            "or path holds of these: / as %2F, ? as %3F, # as %23, @ as %40"
        )


def without_secrets(url: str) -> str:
    """An address for messages: without name, password, query, fragment, and values in its path (`user=me`).

    Only the scheme is left where the address cannot be read, or its host is not clear.
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
