"""Runs benchmarks: LLaVA-Interleave Bench, M4-Instruct's files, and other files in their format.

    import edge_interleave as ei
    from edge_interleave import evaluation as benchmark
    from pathlib import Path

    with ei.load("llava-interleave-qwen-0.5b") as model:
        benchmark.run(Path("multi_image_out_domain.json"), model, Path("out"), limit=100)
    summary = benchmark.summarise(Path("out"))
    print({one.name: one.score for one in summary.sets})

`run` stores each answer at once and resumes an interrupted run; `summarise` scores a folder of results by the rules of
the official script; `compare` compares two runs, answer by answer. docs/guides/evaluation.md lists the
differences from the official script. Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_interleave.evaluation.answering import Settings
    from edge_interleave.evaluation.benchmark_sets import BENCH, M4_INSTRUCT, SetInfo
    from edge_interleave.evaluation.comparison import Comparison, SetDifference, compare
    from edge_interleave.evaluation.results import Shard
    from edge_interleave.evaluation.run_info import RunInfo, World
    from edge_interleave.evaluation.runner import Outcome, run
    from edge_interleave.evaluation.scores import choice_match, exact_match, normalise, rouge_l
    from edge_interleave.evaluation.summary import Group, SetScore, Summary, summarise

_MODULES = {
    "BENCH": "benchmark_sets",
    "Comparison": "comparison",
    "Group": "summary",
    "M4_INSTRUCT": "benchmark_sets",
    "Outcome": "runner",
    "RunInfo": "run_info",
    "SetDifference": "comparison",
    "SetInfo": "benchmark_sets",
    "SetScore": "summary",
    "Settings": "answering",
    "Shard": "results",
    "Summary": "summary",
    "World": "run_info",
    "compare": "comparison",
    "choice_match": "scores",
    "exact_match": "scores",
    "normalise": "scores",
    "rouge_l": "scores",
    "run": "runner",
    "summarise": "summary",
}

__all__ = [
    "BENCH",
    "M4_INSTRUCT",
    "Comparison",
    "Group",
    "Outcome",
    "RunInfo",
    "SetDifference",
    "SetInfo",
    "SetScore",
    "Settings",
    "Shard",
    "Summary",
    "World",
    "choice_match",
    "compare",
    "exact_match",
    "normalise",
    "rouge_l",
    "run",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
