"""The errors that this package raises for users. Each message is one line: what is wrong and what to do.

EdgeInterleaveError
├── UsageError             exit code 2: a wrong call
├── InputError             exit code 3: a bad file, folder or download
│   ├── BundleError
│   ├── CheckpointError
│   └── MediaError
├── BackendError           exit code 4: this machine cannot do it
├── ContextFullError
└── ResourceError
"""

from __future__ import annotations


class EdgeInterleaveError(Exception):
    """Base of all errors that this package raises on purpose. `str(error)` is one line for the user."""

    exit_code = 1


class UsageError(EdgeInterleaveError):
    """The call is wrong: more `<image>` markers than images, an unknown option value."""

    exit_code = 2


class InputError(EdgeInterleaveError):
    """A file, a folder or a download is missing, damaged or of the wrong kind."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint cannot be converted."""


class BundleError(InputError):
    """A bundle cannot be loaded."""


class MediaError(InputError):
    """An image or a video cannot be read."""


class BackendError(EdgeInterleaveError):
    """No backend can run this bundle on this machine, or the engine failed."""

    exit_code = 4


class ContextFullError(EdgeInterleaveError):
    """The prompt needs more KV entries than the context holds."""

    exit_code = 4


class ResourceError(EdgeInterleaveError):
    """The machine, or the limit that was set, has too little for the work: disk space, memory, a free port."""

    exit_code = 4


def one_line(error: object, most: int = 200) -> str:
    """An error's text as one line of at most `most` characters; its class's name if the text cannot be printed."""
    text = " ".join(str(error).split())[:most]
    return text if text and text.isprintable() else type(error).__name__


def shown(value: object, most: int = 60) -> str:
    """A value from an untrusted file, in ASCII and at most about `most` characters, for a one-line message."""
    text = ascii(value)
    return text if len(text) <= most else text[:most] + "..."
