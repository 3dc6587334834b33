"""Runs the commands on stdin (one JSON list on each line) and prints each result as one JSON object on a line."""

from __future__ import annotations

import json
import os
import sys
import tempfile

from edge_interleave.cli import cli
from edge_interleave.cli.errors import run


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        for line in sys.stdin:
            code = run(cli, json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            told = {"code": code}
            for name, file in (("out", out), ("err", err)):
                file.seek(0)
                told[name] = file.read().decode("utf-8", "replace")
                file.seek(0)
                file.truncate()
            print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
