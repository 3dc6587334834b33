"""Whether the program in the container works: exit code 0 or 1, and a line that says why.

`watch --config` touches the file `EDGE_INTERLEAVE_HEARTBEAT`: it is as old as the last step of its slowest source.
`serve` answers at /health.
"""

import os
import sys
import time
import urllib.request

LONGEST_S = 300.0
"""A long answer of a large model may take minutes."""
ADDRESS = "http://127.0.0.1:8080/health"


def main() -> str | None:
    """What is wrong; None if nothing is."""
    heartbeat = os.environ.get("EDGE_INTERLEAVE_HEARTBEAT", "")
    if os.path.exists(heartbeat):
        age = time.time() - os.stat(heartbeat).st_mtime
        return None if age <= LONGEST_S else f"a source has made no step for {age:.0f} s"
    try:
        with urllib.request.urlopen(ADDRESS, timeout=5) as answer:
            return None if answer.status == 200 else f"{ADDRESS} answers {answer.status}"
    except OSError as error:
        return f"no heartbeat, and {ADDRESS} does not answer ({error})"


if __name__ == "__main__":
    sys.exit(main())
