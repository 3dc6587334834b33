"""Benchmarks: LLaVA-Interleave Bench, M4-Instruct's files, and any file of their form.

    import edge_interleave as ei
    from edge_interleave import evaluation as benchmark
    from pathlib import Path

    with ei.load("llava-interleave-qwen-0.5b") as model:
        benchmark.run(Path("multi_image_out_domain.json"), model, Path("out"), limit=100)
    summary = benchmark.summarise(Path("out"))
    print({one.name: one.score for one in summary.sets})

`run` keeps each answer as it comes and goes on where it was; `summarise` scores what a folder holds, by the rules of
the official script; `compare` sets two runs side by side. docs/evaluation.md says what is the same as there, and what
is not. The names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_interleave.evaluation.answering import Settings
    from edge_interleave.evaluation.comparison import Comparison, SetDifference, compare
    from edge_interleave.evaluation.manifest import RunInfo, World
    from edge_interleave.evaluation.registry import BENCH, M4_INSTRUCT, SetInfo
    from edge_interleave.evaluation.results import Shard
    from edge_interleave.evaluation.runner import Outcome, run
    from edge_interleave.evaluation.scores import is_choice, is_exact, normalise, rouge_l
    from edge_interleave.evaluation.summary import Group, SetScore, Summary, summarise

_HOMES = {
    "BENCH": "registry",
    "Comparison": "comparison",
    "Group": "summary",
    "M4_INSTRUCT": "registry",
    "Outcome": "runner",
    "RunInfo": "manifest",
    "SetDifference": "comparison",
    "SetInfo": "registry",
    "SetScore": "summary",
    "Settings": "answering",
    "Shard": "results",
    "Summary": "summary",
    "World": "manifest",
    "compare": "comparison",
    "is_choice": "scores",
    "is_exact": "scores",
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
    "compare",
    "is_choice",
    "is_exact",
    "normalise",
    "rouge_l",
    "run",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
