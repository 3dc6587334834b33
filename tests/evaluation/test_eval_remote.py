"""Benchmarks asked of a server: several samples at once, results in the file's order."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.command_line import environment, error_line, run
from support.eval_files import colour_samples, results, sample, write
from support.serving import Server, serving

import edge_interleave as ei
from edge_interleave import evaluation as benchmark
from edge_interleave.errors import InputError
from edge_interleave.evaluation.in_order import in_order
from edge_interleave.evaluation.run_info import read_run

TWO_TURNS = sample(
    "two", ("<image>What colour is the circle?", "red"), ("<image>And now?", "blue"), images=("red", "blue")
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


def answers(out: Path) -> list[tuple[int, str]]:
    return [(line["index"], line.get("pred_response", line.get("error"))) for line in results(out)]


def test_several_calls_run_at_once_and_results_keep_their_order() -> None:
    together = threading.Barrier(4, timeout=10)

    def work(item: int) -> int:
        if item < 4:
            together.wait()  # passes only if four calls run at once
            time.sleep(0.02 * (4 - item))
        if item == 5:
            raise ValueError("five")
        return item * 2

    found: list[Any] = []
    for item, result in in_order(work, iter(range(8)), 4, lambda: None):
        try:
            found.append((item, result()))
        except ValueError as error:
            found.append((item, str(error)))
    assert found == [(n, n * 2 if n != 5 else "five") for n in range(8)]


def test_a_caller_that_stops_ends_the_calls_that_run() -> None:
    stop, begun = threading.Event(), []

    def work(item: int) -> bool:
        begun.append(item)
        return item == 0 or stop.wait(20)

    work_left = in_order(work, iter(range(100)), 2, stop.set)
    assert next(work_left)[1]()
    started = time.monotonic()
    work_left.close()
    assert time.monotonic() - started < 10
    assert len(begun) < 10


def test_a_server_is_asked_and_the_run_resumes(tmp_path: Path, server: Server) -> None:
    bad = sample("bad", ("<image>What?", "x"), images=("nowhere",))
    file = write(tmp_path, [*colour_samples(14), bad, TWO_TURNS, *colour_samples(3)])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with ei.load(url=f"{server.url}/v1") as model:
        seen: list[tuple[str, int]] = []
        outcome = benchmark.run(file, model, whole, report=lambda stage, done, of: seen.append((stage, done)))
        assert (outcome.done, outcome.of, outcome.errors, outcome.interrupted) == (19, 19, 1, False)
        benchmark.run(file, model, parts, limit=5)
        with pytest.raises(InputError, match="pool"):
            benchmark.run(file, model, parts, settings=benchmark.Settings(pool=2))
        benchmark.run(file, model, parts)
    assert [index for index, _ in answers(whole)] == [*range(16), 15, *range(16, 19)]
    assert answers(parts) == answers(whole)
    assert [done for stage, done in seen if stage == "samples"] == list(range(20))
    info = read_run(whole)
    assert (info.backend, info.model, info.prompt) == ("openai", "embedded", "the server's own")
    assert info.source == f"{server.url}/v1"


def test_an_interrupted_run_keeps_its_answers_and_goes_on(tmp_path: Path, server: Server) -> None:
    file, out = write(tmp_path, colour_samples(40)), tmp_path / "out"
    cancel = threading.Event()

    def report(stage: str, done: int, of: int) -> None:
        if stage == "samples" and done >= 3:
            cancel.set()

    with ei.load(url=f"{server.url}/v1") as model:
        outcome = benchmark.run(file, model, out, report=report, cancel=cancel)
        assert outcome.interrupted
        assert 3 <= outcome.done < 40
        assert [index for index, _ in answers(out)] == list(range(outcome.done))
        assert benchmark.run(file, model, out).done == 40
    assert [index for index, _ in answers(out)] == list(range(40))


def test_the_command(tmp_path: Path, server: Server) -> None:
    env = environment(tmp_path)
    file, where = write(tmp_path, colour_samples(4)), ("--url", f"{server.url}/v1")
    done = run("eval", file, "--out", tmp_path / "out", *where, "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == 0
    again = run("eval", file, "--out", tmp_path / "out", *where, env=env)
    assert f"embedded at {server.url}/v1, pool 1" in again.stdout
    refused = error_line(run("eval", file, "--out", tmp_path / "b", *where, "--kv-precision", "q8_0", env=env), 2)
    assert "--kv-precision is for a model on this machine" in refused


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    file, out = write(tmp_path, colour_samples(30)), tmp_path / "out"
    with serving(tmp_path / "home") as server, ei.load(url=f"{server.url}/v1") as model:
        benchmark.run(file, model, out, limit=2)
        server.process.kill()
        server.process.wait(10)
        with pytest.raises(httpx.TransportError):
            server.get("/health")
        with pytest.raises(ei.BackendError, match="no answer"):
            benchmark.run(file, model, out)
    assert [index for index, _ in answers(out)] == [0, 1, 2]
