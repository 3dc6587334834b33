"""`edge-interleave plan` from a shell."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.command_line import environment, error_line, run


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    return environment(tmp_path)


def test_the_plan_is_shown_as_a_table_with_its_costs(env: Mapping[str, str]) -> None:
    result = run("plan", "--memory", "400MB", "--goal", "detail", "--threads", 1, env=env)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^frames +16 *$", result.stdout, re.MULTILINE)
    assert re.search(r"^visual tokens +576 in the window, 36 a frame *$", result.stdout, re.MULTILINE)
    for name in ("interpreter and libraries", "decoder weights", "KV cache", "vision activations", "total"):
        assert re.search(rf"^{name} +[\d.]+ MB", result.stdout, re.MULTILINE), name


def test_json_has_the_same_figures(env: Mapping[str, str]) -> None:
    result = run("plan", "embedded", "--memory", "400MB", "--pool", "1,4,4,4", "--threads", 1, "--json", env=env)
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["pool"] == [1, 4, 4, 4]
    assert made["memory"] == 400_000_000
    assert made["estimate"] == sum(made["costs"].values()) <= made["memory"]
    assert made["goal"] == "coverage"
    assert made["kv_precision"] == "f16"


def test_too_little_memory_names_the_least_that_is_enough(env: Mapping[str, str]) -> None:
    line = error_line(run("plan", "--memory", "20MB", "--threads", 1, env=env), 4)
    assert re.search(r"20MB is too little .* the least that is enough is \d+MB$", line)


def test_a_tiny_amount_is_shown_as_it_was_given(env: Mapping[str, str]) -> None:
    assert "1KB is too little" in error_line(run("plan", "--memory", "1KB", "--threads", 1, env=env), 4)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--memory", "much"), "2GB"),
        (("--goal", "latency"), "--within"),
        (("--preset", "10-full", "--window", "3"), "--preset sets"),
        (("--pool", "two"), "1,4,4,4"),
        (("--frame-size", "big"), "1280x720"),
        (("--goal", "beauty"), "coverage"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_call_is_refused_before_the_model_runs(
    env: Mapping[str, str], arguments: tuple[str, ...], hint: str
) -> None:
    assert hint in error_line(run("plan", *arguments, env=env), 2)
