"""A doorbell: prints a line and saves a picture when somebody comes into view, once per visit.

    python examples/doorbell.py camera:0 --when "Is there a person at the door?" --model llava-interleave-qwen-0.5b

`edge-interleave watch SOURCE --when QUESTION` does the same from the command line, and can also run a command or post
to a URL. Without --model the small embedded model is used, which only knows drawn shapes.
"""

import argparse
import sys
import time
from pathlib import Path

import edge_interleave as ei
from edge_interleave.alerts.alarm import Alarm
from edge_interleave.alerts.events import EventFolder
from edge_interleave.alerts.rule import Rule


def main() -> int:
    parser = argparse.ArgumentParser(description="Report when somebody comes into view.")
    parser.add_argument("source", help="camera:0, a video, a folder, http(s)://... or rtsp://...")
    parser.add_argument("--when", default="Is there a red circle?", help="a question to be answered with yes or no")
    parser.add_argument("--above", type=float, default=0.8, help="probability of yes from which a check counts")
    parser.add_argument("--for", dest="checks", type=int, default=3, help="checks in a row that ring")
    parser.add_argument("--below", type=float, help="the visit is over below this (default: 0.5)")
    parser.add_argument("--window", type=int, default=4, help="frames that the model sees")
    parser.add_argument("--pool", type=int, default=2, help="pooling stride: 2 keeps a quarter of the tokens")
    parser.add_argument("--fps", type=float, default=2.0, help="frames per second, at most")
    parser.add_argument("--out", type=Path, default=Path("doorbell"), help="folder for events and pictures")
    parser.add_argument("-m", "--model", help="a pulled model's name, or a bundle's folder")
    parser.add_argument("--backend", help="what runs the decoder (default: the first that can)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    options = parser.parse_args()

    try:
        rule = Rule(options.when, options.above, options.checks, options.below)
        alarm = Alarm(rule, EventFolder(options.out, note))
        with (
            ei.load(options.model, backend=options.backend, threads=options.threads) as model,
            model.live(options.window, options.pool) as live,
        ):

            def check(number: int) -> None:
                """Check the rule on a new frame. The next frame waits until this returns."""
                frame = live.latest
                assert frame is not None
                alert = alarm.check(live.probability(rule.question), number, frame.time_s, frame.image)
                if alert is not None:
                    print(f"{alert.time}  ding dong ({alert.probability:.2f})", *alert.frames[-1:], flush=True)

            live.watch(options.source, fps=options.fps, on_frame=check, on_status=lambda status: note(status.line))
            while not live.ended:
                time.sleep(0.1)
            if live.error is not None:
                raise live.error
    except ei.EdgeInterleaveError as error:
        note(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def note(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
