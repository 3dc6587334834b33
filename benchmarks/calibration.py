"""Expected calibration error of the embedded model's probabilities on yes-or-no questions.

    python benchmarks/calibration.py --questions 600

Draws fresh pictures and asks yes-or-no questions: a third in the world's own words, a third in wordings of training, a
third in held-out wordings. The error is the mean over ten bins of equal width, weighted by their sizes, of the distance
between the mean probability of yes and the share of yes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

import numpy as np

import edge_interleave as ei
from edge_interleave.world import groups
from edge_interleave.world.drawing import draw
from edge_interleave.world.phrases import QA
from edge_interleave.world.scene import Scene, random_scene
from edge_interleave.world.scene_questions import EVERYDAY_QUESTIONS, is_there
from edge_interleave.world.vocabulary import TRAIN
from edge_interleave.world.wordings import reworded

BINS = 10
WORDINGS = ("its own", "of training", "held out")


def main() -> None:
    """Print the error by wording and overall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--model", help="a bundle or a model's name (default: the embedded model)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, bool]]] = {wording: [] for wording in WORDINGS}
    with ei.load(arguments.model, threads=arguments.threads) as model:
        for number, (scene, (question, answer)) in zip(range(arguments.questions), questions(), strict=False):
            wording = WORDINGS[number % len(WORDINGS)]
            if wording != "its own":
                question = reworded(random.Random(f"words/{number}"), question, held_out=wording == "held out")
            yes, no = (option.probability for option in model.choose([draw(scene), question], ["Yes.", "No."]))
            found[wording].append((yes / (yes + no), answer == "Yes."))
    found["all"] = [pair for pairs in found.values() for pair in pairs]
    for name, pairs in found.items():
        right = np.mean([(yes > 0.5) == truth for yes, truth in pairs])
        print(f"{name}: {len(pairs)} questions, {right:.3f} right, expected calibration error {error(pairs):.3f}")


def questions() -> Iterator[tuple[Scene, QA]]:
    """Fresh scenes, each with a question whose answer is yes or no."""
    kinds = {name: EVERYDAY_QUESTIONS[name] for name in ("nearly there", "anything", "is coloured", "is placed")}
    number = 0
    while True:
        rng = random.Random(f"calibration/{number}")
        number += 1
        scene = groups.free(rng, TRAIN).scenes[0] if rng.random() < 0.5 else random_scene(rng, split=TRAIN)
        kind = rng.choice(("is there", *kinds))
        if kind in ("is there", "nearly there"):
            qa = (is_there if kind == "is there" else kinds[kind])(rng, scene, split=TRAIN)
        else:
            qa = kinds[kind](rng, scene)
        if qa is not None:
            yield scene, qa


def error(pairs: list[tuple[float, bool]]) -> float:
    """The expected calibration error of pairs (probability of yes, whether yes was right)."""
    chances = np.array([yes for yes, _ in pairs])
    truths = np.array([truth for _, truth in pairs], float)
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    total = 0.0
    for number in range(BINS):
        some = bins == number
        if some.any():
            total += abs(chances[some].mean() - truths[some].mean()) * some.mean()
    return float(total)


if __name__ == "__main__":
    main()
