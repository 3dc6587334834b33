"""The embedded model with a long-running live window."""

import numpy as np
from PIL import Image, ImageDraw

import edge_interleave as ei
from edge_interleave.world.outlines import OUTLINES

SIDE, RADIUS = 224, 29
QUESTION = "Is there a red star?"


def red_star(x: int) -> np.ndarray:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    corners = [(x + RADIUS * a, SIDE / 2 + RADIUS * b) for a, b in OUTLINES["star"]]
    ImageDraw.Draw(picture).polygon(corners, fill="red")
    return np.asarray(picture)


def test_a_question_that_is_asked_again_and_again_keeps_its_answer() -> None:
    """Without new frames and with answers kept: from the 49th on nearly half were wrong, up to the 200th."""
    with ei.load(threads=1) as model, model.live(4, 2, keep_answers=True) as live:
        for x in (SIDE // 2, SIDE // 6, 5 * SIDE // 6):
            live.add(red_star(x))
        answers = [live.ask(QUESTION, max_tokens=8).text.strip() for _ in range(120)]
        assert set(answers) == {"Yes."}
        assert live.probability(QUESTION) > 0.9
