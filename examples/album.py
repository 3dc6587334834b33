"""A conversation about several photos: each photo is encoded once, and later questions reuse it.

    python examples/album.py beach.jpg harbour.jpg market.jpg
    > In which photo is the weather worst?
    > What are the people there doing?

Reads one question per line from the keyboard or a pipe; `/add PATH` adds a photo to the next question. Without --model,
the small embedded model answers, which knows drawn shapes only.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import edge_interleave as ei


def main() -> int:
    parser = argparse.ArgumentParser(description="Talk about several photos.")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-m", "--model", help="a stored model's name or a bundle's folder")
    parser.add_argument("--backend", help="backend that runs the decoder (default: the first one that can)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: one per core)")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens of an answer")
    parser.add_argument(
        "--pool", type=int, default=1, help="pooling stride; 2 keeps a quarter of the visual tokens, for many photos"
    )
    options = parser.parse_args()

    try:
        with (
            ei.load(options.model, backend=options.backend, threads=options.threads) as model,
            model.chat(options.system) as chat,
        ):
            new = list(options.photos)  # photos for the next question
            for line in lines():
                if line.startswith("/add "):
                    photo = Path(line.removeprefix("/add ").strip()).expanduser()
                    if photo.is_file():
                        new.append(photo)
                    else:
                        print(f"{photo}: no such file", file=sys.stderr)
                    continue
                for piece in chat.stream([*new, line], pool=options.pool, max_tokens=options.max_tokens):
                    print(piece, end="", flush=True)
                print()
                new = []
    except ei.EdgeInterleaveError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def lines() -> Iterator[str]:
    """The typed lines without empty ones, until ctrl-D."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


if __name__ == "__main__":
    sys.exit(main())
