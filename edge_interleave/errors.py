"""The errors a user can meet. Knows nothing about how they are shown: the command line does that.

Every error names what is wrong and what to do in one line. The exit codes follow the kinds: 2 for a wrong call,
3 for bad input (a file, an image, a bundle, a checkpoint), 4 for something this machine cannot do.
"""

from __future__ import annotations


class EdgeInterleaveError(Exception):
    """Base of all errors this package raises on purpose. `str(error)` is one line for the user."""

    exit_code = 1


class UsageError(EdgeInterleaveError):
    """The call makes no sense: more `<image>` markers than images, an unknown option value."""

    exit_code = 2


class InputError(EdgeInterleaveError):
    """A file, a folder or a download is not what it should be."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint cannot be converted."""


class BundleError(InputError):
    """A bundle cannot be loaded."""


class MediaError(InputError):
    """An image or a video cannot be read."""


class BackendError(EdgeInterleaveError):
    """No backend can run this bundle here, or the engine failed."""

    exit_code = 4


class ContextFullError(EdgeInterleaveError):
    """The prompt needs more positions than the context holds."""

    exit_code = 4


class ResourceError(EdgeInterleaveError):
    """This machine lacks the disk space or the memory that the work needs, or was not given enough of it."""

    exit_code = 4


def one_line(error: object, most: int = 200) -> str:
    """An error's text as one line of at most `most` characters; its class's name without a text that can be printed."""
    text = " ".join(str(error).split())[:most]
    return text if text and text.isprintable() else type(error).__name__


def shown(value: object, most: int = 60) -> str:
    """A value from an untrusted file, in ASCII and at most about `most` characters, for a one-line message."""
    text = ascii(value)
    return text if len(text) <= most else text[:most] + "..."
