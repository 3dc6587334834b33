"""Writes sampling.json: the distributions of transformers' logits processors for the cases in test_sampling.py.

Run in the tests folder: python -m golden.make_sampling
"""

import json
from pathlib import Path

import numpy as np


def transformers_distribution(logits: np.ndarray, history: list[int], case: dict[str, float]) -> np.ndarray:
    """The probabilities that `generate` samples from."""
    import torch
    from transformers.generation import logits_process as processors

    ids, scores = torch.tensor([history]), torch.tensor(logits[np.newaxis])
    steps = [
        processors.RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]),
        processors.TemperatureLogitsWarper(case["temperature"]),
    ]
    if case["top_k"]:
        steps.append(processors.TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1:
        steps.append(processors.TopPLogitsWarper(case["top_p"]))
    if case["min_p"]:
        steps.append(processors.MinPLogitsWarper(case["min_p"]))
    for step in steps:
        scores = step(ids, scores)
    return torch.softmax(scores, dim=-1)[0].numpy()


def main() -> None:
    from test_sampling import CASES, GOLDEN, case_logits

    golden = []
    for index, case in enumerate(CASES):
        probabilities = transformers_distribution(*case_logits(index), case)
        tokens = np.flatnonzero(probabilities > 1e-6)
        golden.append({"tokens": tokens.tolist(), "probabilities": [round(float(p), 6) for p in probabilities[tokens]]})
    Path(GOLDEN).write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
