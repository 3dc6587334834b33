"""Runs a command and turns its errors into one line for the user and an exit code.

The package's own errors carry their exit code; 130 is an interruption, 70 a bug. The line goes to stderr; with
`--json`, stdout also gets one object, `{"error": ..., "exit_code": ...}`.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

import click

from edge_interleave.cli import output
from edge_interleave.errors import EdgeInterleaveError

DEBUG_VARIABLE = "EDGE_INTERLEAVE_DEBUG"
INTERRUPTED = 130
INTERNAL = 70
BROKEN_PIPE = 1
"""Exit code if the reader of stdout, such as `head`, is gone; Click's, too."""
_BAD_INPUT = 3
_NO_RESOURCE = 4
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def run(command: click.Command, args: list[str]) -> int:
    """Run the command; returns the exit code. Raises nothing but SystemExit."""
    as_json = "--json" in args
    output.open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A character that the terminal cannot show must not end an answer.
            stream.reconfigure(errors="backslashreplace")
    try:
        result = command.main(args, prog_name="edge-interleave", standalone_mode=False)
        output.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        output.note(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
        hint = f" (see '{where} --help')" if where else ""
        return _report(error.format_message() + hint, error.exit_code, as_json)
    except (KeyboardInterrupt, click.Abort):
        if as_json:
            _report("interrupted", INTERRUPTED, as_json)
        return INTERRUPTED
    except OSError as error:
        return _system_error(error, as_json)
    except Exception as error:
        return _failed(error, as_json)


def _system_error(error: OSError, as_json: bool) -> int:
    """Report an OSError. If stdout cannot be flushed, stdout is the cause; otherwise it is a file."""
    try:
        if isinstance(error, BrokenPipeError):
            output.discard(sys.stdout)
            return BROKEN_PIPE
        output.flush()
    except BrokenPipeError:
        return BROKEN_PIPE
    except output.OutputError as lost:
        return _failed(lost, as_json)
    return _failed(error, as_json)


def _failed(error: Exception, as_json: bool) -> int:
    """Report any other error, after its traceback if the debug variable is set; returns the exit code."""
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, EdgeInterleaveError):
        return _report(str(error), error.exit_code, as_json)
    if isinstance(error, MemoryError):
        return _report(
            "out of memory; close other programs, or use a smaller model or a smaller --context", _NO_RESOURCE, as_json
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        if error.errno in _DISK_FULL:
            return _report(f"{where}{error.strerror}; free some space, or write to another disk", _NO_RESOURCE, as_json)
        return _report(f"{where}{error.strerror}", _BAD_INPUT, as_json)
    return _report(
        f"internal error ({type(error).__name__}: {error}); please report it with the traceback that "
        f"{DEBUG_VARIABLE}=1 prints",
        INTERNAL,
        as_json,
    )


def _report(message: str, code: int, as_json: bool) -> int:
    """Print the error as one line on stderr and, with --json, as an object on stdout; returns the exit code."""
    line = " ".join(message.split())
    if as_json:
        # If stdout cannot be written, the line on stderr and the exit code remain.
        with suppress(BrokenPipeError, output.OutputError):
            output.print_json({"error": line, "exit_code": code})
    output.note(f"error: {line}")
    return code
