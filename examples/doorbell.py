"""A doorbell: a line, and a picture on the disk, when somebody comes into view; once a visit.

    python examples/doorbell.py camera:0 --when "Is there a person at the door?" --model llava-interleave-qwen-0.5b

`edge-interleave watch SOURCE --when QUESTION` does the same from the command line, and can run a command or post to a
URL besides. Without --model the small embedded model looks, which knows drawn shapes only.
"""

import argparse
import sys
import time
from pathlib import Path

import edge_interleave as ei
from edge_interleave.alerts.events import EventFolder
from edge_interleave.alerts.rule import Alarm, Rule


def main() -> int:
    parser = argparse.ArgumentParser(description="Say when somebody comes into view.")
    parser.add_argument("source", help="camera:0, a video, a folder, http(s)://... or rtsp://...")
    parser.add_argument("--when", default="Is there a red circle?", help="to be answered with yes or no")
    parser.add_argument("--above", type=float, default=0.8, help="probability of yes that counts")
    parser.add_argument("--for", dest="looks", type=int, default=3, help="so many looks in a row ring")
    parser.add_argument("--below", type=float, help="the visit is over below this (default: 0.5)")
    parser.add_argument("--window", type=int, default=4, help="so many of the latest frames are seen")
    parser.add_argument("--pool", type=int, default=2, help="pooling stride: 2 keeps a quarter of the tokens")
    parser.add_argument("--fps", type=float, default=2.0, help="at most so many frames a second")
    parser.add_argument("--out", type=Path, default=Path("doorbell"), help="where events and pictures are kept")
    parser.add_argument("-m", "--model", help="a pulled model's name, or a bundle's folder")
    parser.add_argument("--backend", help="what runs the decoder (default: the first that can)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a core)")
    options = parser.parse_args()

    try:
        rule = Rule(options.when, options.above, options.looks, options.below)
        alarm = Alarm(rule, EventFolder(options.out, say))
        with (
            ei.load(options.model, backend=options.backend, threads=options.threads) as model,
            model.live(options.window, options.pool) as live,
        ):

            def look(number: int) -> None:
                """A frame has come in: how likely is a yes? Frames wait until this is through."""
                frame = live.latest
                assert frame is not None
                alert = alarm.look(live.probability(rule.question), number, frame.time_s, frame.image)
                if alert is not None:
                    print(f"{alert.time}  ding dong ({alert.probability:.2f})", *alert.frames[-1:], flush=True)

            live.watch(options.source, fps=options.fps, on_status=lambda status: say(status.line), on_frame=look)
            while not live.ended:
                time.sleep(0.1)
            if live.error is not None:
                raise live.error
    except ei.EdgeInterleaveError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
