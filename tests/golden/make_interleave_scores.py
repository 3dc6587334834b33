"""Writes interleave_scores.json: random answers, and their scores by LLaVA-NeXT's own script.

    python tests/golden/make_interleave_scores.py LLaVA-NeXT/llava/eval/evaluate_interleave.py

The script needs `rouge` and NumPy. It imports scikit-learn without using it, so an empty module stands in.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

SETS = {
    "open-ended": ("Spot-the-Diff", "Birds-to-Words", "CLEVR-Change", "IEdit", "HQ-Edit", "VIST", "WebQA", "ScanQA"),
    "multi-choice": ("RAVEN", "COMICS_Dialogue", "RecipeQA_ImageCoherence", "COMICS_Panel", "NLVR2_Mantis", "BLINK"),
}
WORDS = (
    "a", "the", "red", "Dog", "dog,", "cat.", "runs", "3.5", "1,000", "-", "(b)", "A:", "'s", "Image", "2.", "it's",
    "well-known", ".", "?", "!", '"x"', "/y", "E:", "f", "B", "C", ":", ";", "und\n", "tab\t", "ÀÉ", "٣,٤",
)  # fmt: skip
COUNT = 420


def drawn() -> list[dict[str, object]]:
    rng = random.Random(2407)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(most)))

    lines: list[dict[str, object]] = []
    for index in range(COUNT):
        question_type = rng.choice(sorted(SETS))
        letter = question_type == "multi-choice" and rng.random() < 0.8
        reference = rng.choice("ABCDEFGH") if letter else text(30)
        prediction = rng.choice(
            (reference, f"{reference} {text(3)}", text(60), text(140), rng.choice(("A", "b.", "Answer: C", "D: E", "")))
        )
        lines.append(
            {
                "dataset": rng.choice(SETS[question_type]),
                "sample_id": index,
                "pred_response": prediction,
                "gt_response": reference,
                "question_type": question_type,
            }
        )
    return lines


def main(script: Path) -> None:
    lines = drawn()
    with tempfile.TemporaryDirectory() as folder:
        for path, name in (("feature_extraction/text", "TfidfVectorizer"), ("metrics/pairwise", "cosine_similarity")):
            module = Path(folder, "sklearn", f"{path}.py")
            module.parent.mkdir(parents=True, exist_ok=True)
            module.write_text(f"{name} = None\n")
        Path(folder, "result.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        command = [sys.executable, "-W", "ignore", str(script), "--result-dir", folder]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": folder}, check=True, stdout=subprocess.DEVNULL)
        sets, categories = (
            json.loads(Path(folder, f"eval_{name}.json").read_text("utf-8")) for name in ("dataset", "cat")
        )
    golden = {"answers": lines, "sets": sets, "categories": categories}
    target = Path(__file__).with_name("interleave_scores.json")
    target.write_text(json.dumps(golden, indent=0) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
