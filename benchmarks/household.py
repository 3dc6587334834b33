"""Measures four sources at once with one model: looks, alerts, memory, and the end.

    python benchmarks/household.py                                    # 20 minutes, two looks a second at each source
    python benchmarks/household.py --seconds 60 --fps 25 --no-chat    # more than the machine can do: is it shared?

`edge-interleave watch --config` runs in a process of its own, with two videos in real time, an MJPEG camera and an RTSP
camera, all of which this program makes. A red circle comes and goes; each source has a rule for it, whose alerts are
posted to this program, and one source also describes each second what it sees. At the end the watch gets SIGTERM.
Counted is what the watch printed, wrote and posted. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.mjpeg_server import HEAD, Server, part, serving
from support.rtsp_server import playing
from support.webhook_server import status, webhook

SIDE = 128
PERIOD_S = 30
"""The circle comes once in this time, and stays for a third of it."""
NAMES = ("file-1", "file-2", "mjpeg", "rtsp")
MARGIN_S = 30
"""How much longer the sources are than the run."""
SETTLED_S = 30
"""Memory counts after this time."""
SAMPLE_S = 2.0


def main() -> None:
    """Run and print JSON; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1200, help="how long to watch")
    parser.add_argument("--fps", type=float, default=2.0, help="looks a second at each source, at most")
    parser.add_argument("--source-fps", type=int, help="frames a second of each source (default: 10, or fps if more)")
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--model", help="a stored model's name or a bundle's folder (default: the embedded model)")
    parser.add_argument("--no-chat", action="store_true", help="no source describes what it sees")
    arguments = parser.parse_args()
    if arguments.seconds < 10:
        parser.error("give 10 seconds or more")
    rate = arguments.source_fps or max(10, int(arguments.fps))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        length = arguments.seconds + MARGIN_S
        video = write_video(folder / "video.mp4", length, rate, phase=0)
        write_video(folder / "video-2.mp4", length, rate, phase=1)
        stream = write_video(folder / "stream.ts", length, rate, phase=2).read_bytes()
        mjpeg = stack.enter_context(serving(lambda server, connection, number: film(server, connection, rate)))
        rtsp = stack.enter_context(playing(stream, then_silent=True, seconds=length))
        hook = stack.enter_context(webhook(status(204)))
        sources = dict(zip(NAMES, (str(video), str(folder / "video-2.mp4"), mjpeg.url, rtsp), strict=True))
        settings = folder / "cameras.toml"
        settings.write_text(settings_text(sources, hook.url, arguments))
        figures = watch(settings, arguments.seconds)
        posted = Counter(json.loads(body)["source"] for _, _, body in hook.posts)
        written = {name: alerts_written(folder / "edge-interleave-events" / name) for name in NAMES}
    print(json.dumps(report(figures, posted, written, arguments), indent=1))


def watch(settings: Path, seconds: int) -> dict[str, Any]:
    """Run the watch for so long after its last source came up; return its events, memory and the time of its end."""
    command = [sys.executable, "-m", "edge_interleave", "watch", "--config", str(settings), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    events: list[tuple[float, dict[str, Any]]] = []
    all_up = threading.Event()
    output = process.stdout

    def read() -> None:
        up = set()
        for line in output:
            event = json.loads(line)
            events.append((time.monotonic(), event))
            if event["event"] == "source" and event["state"] == "up":
                up.add(event["source"])
                if len(up) == len(NAMES):
                    all_up.set()

    reader = threading.Thread(target=read)
    reader.start()
    if not all_up.wait(120):
        process.kill()
        raise SystemExit("a source did not come up within two minutes")
    began = time.monotonic()
    memory: list[tuple[float, int]] = []
    cpu = processor_s(process.pid)
    while (now := time.monotonic() - began) < seconds:
        memory.append((now, resident_bytes(process.pid)))
        if len(memory) % 15 == 0:
            print(f"{now:.0f} s, {memory[-1][1] / 1e6:.1f} MB, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        time.sleep(min(SAMPLE_S, max(0.0, seconds - now)))
    ended = time.monotonic()
    cpu = processor_s(process.pid) - cpu
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    took = time.monotonic() - ended
    reader.join()
    return {"events": events, "began": began, "ended": ended, "memory": memory, "cpu": cpu, "end_s": took, "code": code}


def report(
    figures: dict[str, Any], posted: Counter[str], written: dict[str, int], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The figures of the run."""
    began, ended = figures["began"], figures["ended"]
    during = [event for at, event in figures["events"] if began <= at < ended]
    everything = [event for _, event in figures["events"]]
    checks = Counter(event["source"] for event in during if event["event"] == "check")
    answers = Counter(event["source"] for event in everything if event["event"] == "answer")
    printed = Counter(event["source"] for event in everything if event["event"] == "alert")
    states = [event["state"] for event in during if event["event"] == "source"]
    troubles = Counter(state for state in states if state in ("lost", "failed", "broken", "frozen"))
    shown_s = {event["source"]: event["frame_time_s"] for event in everything if event["event"] == "check"}
    seconds = ended - began
    equal = sum(checks.values()) / len(NAMES)
    memory = [size for at, size in figures["memory"] if at >= min(SETTLED_S, seconds / 4)]
    part_of = max(len(memory) // 5, 1)
    first, last = statistics.median(memory[:part_of]), statistics.median(memory[-part_of:])
    return {
        "seconds": round(seconds, 1),
        "looks_allowed": round(arguments.fps * seconds),
        "looks": {name: checks[name] for name in NAMES},
        "looks_of_allowed": {name: round(checks[name] / (arguments.fps * seconds), 3) for name in NAMES},
        "looks_of_equal_share": {name: round(checks[name] / equal, 3) for name in NAMES},
        "answers": dict(answers),
        "alerts_due": {name: appearances(phase, shown_s[name]) for phase, name in enumerate(NAMES)},
        "alerts": {name: printed[name] for name in NAMES},
        "alerts_written": written,
        "alerts_posted": {name: posted[name] for name in NAMES},
        "troubles": dict(troubles),
        "memory_first_bytes": int(first),
        "memory_last_bytes": int(last),
        "memory_growth_percent": round(100 * (last / first - 1), 2),
        "memory_peak_bytes": max(memory),
        "processor_of_one_core": round(figures["cpu"] / seconds, 3),
        "load_average": round(os.getloadavg()[1], 2),
        "end_s": round(figures["end_s"], 2),
        "exit_code": figures["code"],
    }


def settings_text(sources: dict[str, str], hook: str, arguments: argparse.Namespace) -> str:
    """The watch's settings."""
    text = f"[model]\nthreads = {arguments.threads}\n"
    text += f"name = {json.dumps(arguments.model)}\n" if arguments.model else ""
    for name, source in sources.items():
        text += f'\n[sources.{name}]\nsource = "{source}"\nrealtime = true\nfps = {arguments.fps}\n'
        text += f'window = {arguments.window}\nbefore = "5s"\nwebhook = "{hook}/{name}"\n'
        text += f'\n[[sources.{name}.rules]]\nname = "circle"\nwhen = "Is there a red circle?"\nfor = 2\n'
        if name == NAMES[0] and not arguments.no_chat:
            text += f'\n[[sources.{name}.rules]]\nname = "what"\nask = "Describe the image."\nevery = "1s"\n'
    return text


def appearances(phase: int, seconds: float) -> int:
    """How often the circle comes until two seconds before this time: an alert is due for each."""
    return sum(not shows(phase, at - 1) and shows(phase, at) for at in range(int(seconds) - 1))


def shows(phase: int, at: float) -> bool:
    """Whether a source shows the circle at a time. Each source begins at another place of the period."""
    return at >= 0 and PERIOD_S / 3 <= (at + phase * 4) % PERIOD_S < 2 * PERIOD_S / 3


def picture(phase: int, at: float) -> Image.Image:
    """What a source shows: a grey scene with a little noise, as of a sensor, and the circle at times."""
    rng = np.random.default_rng(int(at * 1000) + phase)
    image = Image.fromarray((235 + rng.integers(-6, 7, (SIDE, SIDE, 1)).repeat(3, axis=2)).astype(np.uint8))
    if shows(phase, at):
        left = 30 + int(at * 2) % 30
        ImageDraw.Draw(image).ellipse((left, 40, left + 50, 90), fill=(220, 20, 20))
    return image


def write_video(path: Path, seconds: int, rate: int, phase: int) -> Path:
    """Write what a source shows as a video; each second begins with a key frame."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "tune": "zerolatency"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        video.codec_context.gop_size = rate
        for number in range(seconds * rate):
            pixels = np.asarray(picture(phase, number / rate))
            out.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(video.encode())
    return path


def film(server: Server, connection: socket.socket, rate: int) -> None:
    """Send what the MJPEG camera shows, in real time."""
    connection.sendall(HEAD)
    began = time.monotonic()
    number = 0
    while not server.stopping.wait(max(0.0, began + number / rate - time.monotonic())):
        file = io.BytesIO()
        picture(NAMES.index("mjpeg"), number / rate).save(file, "JPEG", quality=90)
        connection.sendall(part(file.getvalue()))
        number += 1


def alerts_written(folder: Path) -> int:
    """Alerts in a source's folder whose pictures and video are all there."""
    count = 0
    for line in (folder / "events.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "alert":
            count += all(Path(path).stat().st_size > 0 for path in (*event["frames"], event["best"], event["clip"]))
    return count


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in family(pid)) * os.sysconf(
        "SC_PAGE_SIZE"
    )


def processor_s(pid: int) -> float:
    """Processor time of a process and its children so far, in seconds."""
    total = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


if __name__ == "__main__":
    main()
