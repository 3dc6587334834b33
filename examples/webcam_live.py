"""Shows the webcam with the model's answer about its latest frames written on the picture.

    python examples/webcam_live.py --ask "What am I holding?" --model llava-interleave-qwen-0.5b

Keys: `a` asks another question (type it; Enter asks, Escape cancels), `q` or Escape ends. Without --model the small
embedded model answers, which only knows drawn shapes and things: hold a red circle in front of the camera.
"""

import argparse
import os
import sys
import textwrap
import threading

import cv2
import numpy as np

import edge_interleave as ei

TITLE = "edge-interleave"
ENTER, ESCAPE, BACKSPACE = (10, 13), 27, (8, 127)


class Asker(threading.Thread):
    """Asks about each newest frame, in its own thread, until no more frames come."""

    def __init__(self, live, question: str, max_tokens: int, on_answer) -> None:
        """`on_answer` is called with each whole answer."""
        super().__init__(daemon=True)
        self.live = live
        self.question = question
        self.max_tokens = max_tokens
        self.on_answer = on_answer
        self.answer = ""
        self.answers = 0
        self.error = None
        self.cancel = threading.Event()

    def run(self) -> None:
        number = 0
        try:
            while not self.cancel.is_set():
                newest = self.live.wait_frame(number, timeout=0.2)
                if newest == number:
                    if self.live.ended:
                        return
                    continue
                number, question, text = newest, self.question, ""
                with self.live.stream(question, max_tokens=self.max_tokens, cancel=self.cancel) as pieces:
                    for piece in pieces:
                        text += piece
                        if question != self.question:
                            break  # the user asked another question
                        self.answer = text
                if question == self.question and not self.cancel.is_set():
                    self.answers += 1
                    if self.on_answer is not None:
                        self.on_answer(text)
        except ei.EdgeInterleaveError as error:
            self.error = error


def draw(image, typed: str | None, asker: Asker) -> np.ndarray:
    """Draw the question and the answer at the bottom of the frame, enlarged if it is small."""
    picture = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
    scale = max(1.0, 640 / picture.shape[1])
    picture = cv2.resize(picture, None, fx=scale, fy=scale)
    question = f"> {asker.question}" if typed is None else f"> {typed}_"
    lines = [question, *textwrap.wrap(asker.answer, picture.shape[1] // 11)]
    top = picture.shape[0] - 26 * len(lines) - 8
    picture[max(top, 0) :] //= 3
    for row, line in enumerate(lines):
        colour = (120, 220, 255) if row == 0 else (255, 255, 255)
        cv2.putText(picture, line, (8, top + 24 + 26 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 1, cv2.LINE_AA)
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask about a live webcam.")
    parser.add_argument("source", nargs="?", default="camera:0", help="or a video, a folder, http(s)://... or rtsp://")
    parser.add_argument("--ask", default="Describe the image.", help="the question")
    parser.add_argument("-m", "--model", help="a pulled model's name, or a bundle's folder")
    parser.add_argument("--backend", help="what runs the decoder (default: the first that can)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one per core)")
    parser.add_argument("--window", type=int, default=4, help="frames that the model sees")
    parser.add_argument("--pool", type=int, default=2, help="pooling stride: 2 keeps a quarter of the tokens")
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second, at most")
    parser.add_argument("--max-tokens", type=int, default=60, help="longest answer")
    parser.add_argument("--headless", action="store_true", help="print the answers, without a window")
    parser.add_argument("--limit", type=int, help="end after this many frames")
    options = parser.parse_args()
    screen = sys.platform != "linux" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if not options.headless and not screen:
        print("error: no display to open a window on; run it in a desktop session, or with --headless", file=sys.stderr)
        return 4

    try:
        with (
            ei.load(options.model, backend=options.backend, threads=options.threads) as model,
            model.live(options.window, options.pool) as live,
        ):
            live.watch(options.source, fps=options.fps, realtime=True, on_status=print_status)
            asker = Asker(live, options.ask, options.max_tokens, print_answer if options.headless else None)
            asker.start()
            window(live, asker, options)
            asker.cancel.set()
            asker.join()
            if asker.error or live.error:
                raise asker.error or live.error
            print(f"{live.stats().frames} frames, {asker.answers} answers", file=sys.stderr)
    except ei.EdgeInterleaveError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except cv2.error:
        print("error: this OpenCV cannot open windows; pip install opencv-python, or use --headless", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130
    return 0


def print_status(status) -> None:
    print(status.line, file=sys.stderr)


def print_answer(answer: str) -> None:
    print(answer, flush=True)


def window(live, asker: Asker, options) -> None:
    """Show the newest frame and handle keys, until the end."""
    typed = None
    while asker.is_alive() and (options.limit is None or live.number < options.limit):
        if options.headless:
            asker.join(0.05)
            continue
        frame = live.latest
        picture = np.zeros((360, 640, 3), np.uint8) if frame is None else draw(frame.image, typed, asker)
        cv2.imshow(TITLE, picture)
        key = cv2.waitKey(30) & 0xFF
        if typed is None and key in (ord("q"), ESCAPE):
            return
        if typed is None and key == ord("a"):
            typed = ""
        elif typed is not None and key == ESCAPE:
            typed = None
        elif typed is not None and key in ENTER:
            asker.question, typed = typed.strip() or asker.question, None
        elif typed is not None and key in BACKSPACE:
            typed = typed[:-1]
        elif typed is not None and 32 <= key < 127:
            typed += chr(key)


if __name__ == "__main__":
    sys.exit(main())
