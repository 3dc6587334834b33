"""Measures how many right answers a sliding window costs: the same clips in `sliding` and in `exact` mode.

    python benchmarks/sliding.py                    # the embedded model, windows 2, 4 and 8
    python benchmarks/sliding.py --clips 500 --pool 2 --json
    python benchmarks/sliding.py --chat             # histories of chats, as `edge-interleave serve` slides them

Every clip is longer than the window, so the oldest frames have left when the question comes. With --chat each frame is
a turn of a conversation, and the history keeps the last `window` turns. Needs only the package.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

import edge_interleave as ei
from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.inputs import as_inputs
from edge_interleave.evaluation.intervals import normal_half_width, wilson_interval
from edge_interleave.prompt.messages import Message
from edge_interleave.serve.timelines import SharedTimeline
from edge_interleave.world.drawing import draw

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "embedded_model"))

import clips

SEED = 707
MODES = ("sliding", "exact")
CHAT_QUESTION = "Describe the image."
CHAT_ANSWER = "I see."
"""Turns of a chat before the last: what was answered does not matter, only that it lies in the history."""


@dataclass(frozen=True)
class Gap:
    """The result of one task at one window size."""

    task: str
    window: int
    clips: int
    sliding: float
    """Share of clips answered correctly, word for word."""
    exact: float
    same: float
    """Share of clips with the same answer in both modes."""
    half: float
    """Half the width of the 95 % interval of the paired difference `sliding` - `exact`."""

    def shown(self, share: float) -> str:
        """A share with its 95 % interval."""
        interval = wilson_interval(round(share * self.clips), self.clips)
        return f"{share:.3f}" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle folder (default: the embedded model)")
    parser.add_argument("--clips", type=int, default=500, help="clips per task and window")
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--pool", type=int, default=2, help="pooling stride")
    parser.add_argument("--tasks", nargs="+", choices=clips.TASKS, default=None)
    parser.add_argument("--chat", action="store_true", help="histories of chats instead of live windows")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # The question of `appearance` names a frame's number, which a chat's turns do not have.
    tasks = arguments.tasks or [task for task in clips.TASKS if not arguments.chat or task != "appearance"]
    work = [(task, window) for window in arguments.windows for task in tasks]
    answer = chat_answer if arguments.chat else live_answer
    with ei.load(arguments.bundle, threads=1) as model:
        gaps = [
            measure(model, task, window, arguments.clips, arguments.pool, answer)
            for task, window in track(work, "clips", console=Console(stderr=True))
        ]
    if arguments.json:
        print(json.dumps([asdict(gap) for gap in gaps]))
    else:
        show(gaps)


Answer = Callable[[ei.Model, Sequence[Any], str, int, int, str], str]
"""Called with the model, a clip's pictures, its question, the window, the pooling stride and the mode."""


def measure(model: ei.Model, task: str, window: int, count: int, pool: int, answer: Answer) -> Gap:
    """Run both modes on `count` new clips."""
    right: dict[str, list[bool]] = {mode: [] for mode in MODES}
    same = 0
    for number in range(count):
        clip = clips.draw_clip(task, random.Random(f"{SEED}/{task}/{window}/{number}"), window)
        pictures = [draw(scene) for scene in clip.scenes]
        answers = []
        for mode in MODES:
            answers.append(answer(model, pictures, clip.question, window, pool, mode))
            right[mode].append(answers[-1] == clip.answer)
        same += answers[0] == answers[1]
    differences = [a - b for a, b in zip(*right.values(), strict=True)]
    shares = {mode: sum(given) / count for mode, given in right.items()}
    half = normal_half_width(differences) or 0.0
    return Gap(task, window, count, shares["sliding"], shares["exact"], same / count, half)


def live_answer(model: ei.Model, pictures: Sequence[Any], question: str, window: int, pool: int, mode: str) -> str:
    """The answer about a live window."""
    with model.live(window, pool, mode=mode) as live:  # type: ignore[arg-type]
        for picture in pictures:
            live.add(picture)
        return live.ask(question, max_tokens=64).text.strip()


def chat_answer(model: ei.Model, pictures: Sequence[Any], question: str, window: int, pool: int, mode: str) -> str:
    """The answer about the history of a chat in which each picture is a turn."""
    images = [ei.Image(picture) for picture in pictures]
    encoded = model.media_encoder.encode(images, frames=1, stride=pool, tiles=False)
    session = model.new_session()
    timeline = SharedTimeline(session, exact=mode == "exact")
    first = len(pictures) if mode == "exact" else 1
    try:
        for count in range(first, len(pictures) + 1):
            shown = range(max(0, count - window), count)
            messages: list[Message] = []
            for number in shown:
                text = question if number == len(pictures) - 1 else CHAT_QUESTION
                messages.append(Message("user", (images[number], text)))
                messages.append(Message("assistant", (CHAT_ANSWER,)))
            prompt = as_inputs(model.prompts.build(messages[:-1]), [encoded.images[number] for number in shown])
            if count < len(pictures):
                timeline.prefill(prompt)
        stream = session.stream(prompt, GenerationOptions(max_tokens=64), through=timeline)
        for _ in stream:
            pass
        return stream.answer.text.strip()
    finally:
        session.close()


def show(gaps: Sequence[Gap]) -> None:
    """Print the table."""
    table = Table("task", "window", "clips", "sliding", "exact", "gap, points", "same answer")
    for gap in gaps:
        table.add_row(
            gap.task, str(gap.window), str(gap.clips), gap.shown(gap.sliding), gap.shown(gap.exact),
            f"{100 * (gap.sliding - gap.exact):+.1f} ± {100 * gap.half:.1f}", f"{gap.same:.3f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
