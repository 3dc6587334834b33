"""The program's entry: `edge-interleave`, and `python -m edge_interleave`."""

import signal


def main() -> None:
    """Run the program, and exit with the command's exit code. Ctrl-C during the first imports ends it silently."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import edge_interleave.cli.errors  # noqa: F401
    from edge_interleave import cli

    signal.signal(signal.SIGINT, handler)
    cli.main()


if __name__ == "__main__":
    main()
