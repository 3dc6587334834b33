"""The command `edge-interleave eval`."""

import json
import os
import pty
import re
import select
import subprocess
from pathlib import Path

import pytest
from support.command_line import PROGRAM, environment, error_line, run
from support.eval_files import colour_samples, draw, results, sample, write

from edge_interleave.cli import cli, errors
from edge_interleave.evaluation.results import Shard
from edge_interleave.world import benchmark

FAST = ("--threads", 1, "--backend", "llama-cpp")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


def here(*arguments: object) -> int:
    """The command in this process."""
    return errors.run(cli, ["eval", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    two = sample(
        "two", ("<image><image>Which image contains a red circle?", "Image 1."), images=("red", "blue"), dataset="which"
    )
    return write(tmp_path, [*colour_samples(4), two])


def test_one_command_scores_and_stores_and_reports(file: Path, tmp_path: Path, env: dict[str, str]) -> None:
    out = tmp_path / "out"
    done = run("eval", file, "--out", out, *FAST, env=env)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^colours +ROUGE-L +100\.00", done.stdout, re.MULTILINE)
    assert re.search(r"^which +ROUGE-L +50\.00", done.stdout, re.MULTILINE)
    assert "prompt qwen_1_5" in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:])) <= 100
    page = (out / "summary.md").read_text("utf-8")
    assert "| colours | ROUGE-L | 100.00 |" in page
    assert json.loads((out / "summary.json").read_text("utf-8"))["samples"] == 5
    assert len(results(out)) == 5


def test_json_is_the_summary(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(file, "--out", tmp_path / "out", "--json", *FAST) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["failed"] == 0
    assert summary["run"]["settings"]["max_tokens"] == 1024
    assert [one["name"] for one in summary["sets"]] == ["colours", "which"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text("utf-8")) == summary


def test_stored_results_are_summarised_again_and_compared(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(file, "--out", tmp_path / "a", *FAST) == 0
    assert here(file, "--out", tmp_path / "b", "--pool", 2, "--against", tmp_path / "a", *FAST) == 0
    assert "pool 2" in capsys.readouterr().out
    (tmp_path / "b" / "summary.json").unlink()
    assert here("--out", tmp_path / "b", "--against", tmp_path / "a", "--json") == 0
    compared = json.loads(capsys.readouterr().out)["comparison"]
    assert compared["overall"]["answers"] == 5
    assert compared["b"]["settings"]["pool"] == 1
    assert (tmp_path / "b" / "summary.json").exists()


def test_samples_that_fail_end_in_their_own_exit_code(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures" / "green.png").unlink()
    assert here(file, "--out", tmp_path / "out", *FAST) == 3
    said = capsys.readouterr().out
    assert "1 samples could not be answered and are not scored" in said
    assert re.search(r"sample 3 \(2\): .*green\.png: no such file", said)
    draw(tmp_path)
    assert here(file, "--out", tmp_path / "out", *FAST) == 0
    assert here("--out", tmp_path / "out") == 0


def test_limit_and_shards_divide_the_work(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert here(file, "--out", out, "--limit", 3, "--shard", "2/2", *FAST) == 0
    assert [line["index"] for line in results(out)] == [1]
    assert (out / Shard(2, 2).file_name).exists()
    assert here(file, "--out", out, "--shard", "1/2", *FAST) == 0
    assert here(file, "--out", out, "--shard", "2/2", "--json", *FAST) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["samples"] == 5


def test_a_shard_without_samples_is_refused(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(file, "--out", tmp_path / "out", "--shard", "6/6", *FAST) == 2
    assert "there are no samples in this shard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Missing option '--out'"),
        (("{file}", "--world", "--out", "{out}"), 2, "give FILE or --world, not both"),
        (("--out", "{out}"), 3, "holds no run.json"),
        (("--out", "{out}", "--pool", "2"), 2, "--pool needs samples"),
        (("{file}", "--out", "{out}", "--seed", "2"), 2, "--seed has no effect with FILE"),
        (("--world", "--out", "{out}", "--images", "."), 2, "--images has no effect with --world"),
        (("{file}", "--out", "{out}", "--shard", "3/2"), 2, "'3/2' is not a shard"),
        (("{file}", "--out", "{out}", "--shard", "half"), 2, "'half' is not a shard"),
        (("{file}", "--out", "{out}", "--limit", "0"), 2, "'--limit': 0 is not a whole number of at least 1"),
        (("{file}", "--out", "{out}", "--pool", "0"), 2, "'--pool': 0 is not a whole number of at least 1"),
        (("{file}", "--out", "{out}", "--images", "nowhere"), 2, "nowhere: no such folder"),
        (("gone.json", "--out", "{out}"), 3, "gone.json: no such file"),
        (("{file}", "--out", "{file}"), 3, "cannot be created"),
        (("{file}", "--out", "{out}", "--model", "nowhere"), 3, "nowhere"),
    ],
)
def test_a_wrong_call_is_one_line(
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    places = {"{file}": file, "{out}": tmp_path / "out"}
    assert here(*(places.get(argument, argument) for argument in arguments)) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"sample_id": 1', "sample 1: not JSON, or cut off"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not JSON"),
        (b"[" * 100_000, "sample 1: nested deeper"),
        (b"[" + b"9" * 5000 + b"]", "sample 1: not JSON"),
        (b'{"conversations": "\xff"}', "sample 1: not JSON"),
    ],
)
def test_rubbish_is_one_line_and_no_traceback(tmp_path: Path, env: dict[str, str], content: bytes, said: str) -> None:
    (tmp_path / "bench.json").write_bytes(content)
    line = error_line(run("eval", tmp_path / "bench.json", "--out", tmp_path / "out", *FAST, env=env), 3)
    assert "bench.json" in line
    assert said in line


def test_progress_shows_the_share_done_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge_interleave.cli import output

    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(output.time, "monotonic", lambda: float(next(clock)))
    with output.progress(counted="samples") as report:
        report("samples", 40, 100)
        report("samples", 41, 100)
        report("samples", 50, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("samples: 50 %, 50 of 100, about ")
    assert [output.duration(seconds) for seconds in (40, 720, 12_600, 200_000)] == [
        "40 s",
        "12 min",
        "3.5 h",
        "2.3 days",
    ]


def test_a_terminal_shows_a_progress_bar_with_numbers(file: Path, tmp_path: Path, env: dict[str, str]) -> None:
    own, theirs = pty.openpty()
    command = [*PROGRAM, "eval", str(file), "--out", str(tmp_path / "out"), *map(str, FAST)]
    going = subprocess.Popen(command, env={**env, "TERM": "xterm"}, stdout=subprocess.DEVNULL, stderr=theirs)
    shown = b""
    while going.poll() is None or select.select([own], [], [], 0)[0]:
        if select.select([own], [], [], 0.1)[0]:
            shown += os.read(own, 65536)
    assert going.returncode == 0
    assert b"5 of 5" in shown


class TestWorld:
    """Two tasks of the drawn world, one of which has samples with something held out."""

    @pytest.fixture(autouse=True)
    def two_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(benchmark, "ALL_TASKS", {name: benchmark.ALL_TASKS[name] for name in ("colour", "puzzle")})

    def test_is_drawn_asked_and_scored_by_exact_match_beside_the_official_score(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert here("--world", "--out", out, "--samples", 5, "--seed", 5, "--json", *FAST) == 0
        assert (out / "world" / "world.json").is_file()
        summary = json.loads(capsys.readouterr().out)
        colour, puzzle = summary["sets"]
        assert (colour["name"], colour["category"], colour["domain"]) == ("colour", "single-image VQA", "world")
        assert (colour["metric"], puzzle["metric"]) == ("ROUGE-L", "accuracy")
        assert (colour["answers"], puzzle["answers"]) == (5, 5)
        assert puzzle["score"] == puzzle["exact"]
        assert 0 < colour["chance"] < 0.5
        # Four of the five may be of what training shows, one has a new pair; of puzzles nothing is held out.
        assert [(half["name"], half["answers"]) for half in summary["held_out"]] == [("nothing", 4), ("combination", 1)]
        assert summary["run"]["world"] == {"seed": 5, "per_task": 5}

    def test_goes_on_without_drawing_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        world = ("--world", "--out", tmp_path / "out", "--samples", 3)
        assert here(*world, "--limit", 2, *FAST) == 0
        drawn = (tmp_path / "out" / "world" / "world.json").stat().st_mtime_ns
        assert here(*world, *FAST) == 0
        assert (tmp_path / "out" / "world" / "world.json").stat().st_mtime_ns == drawn
        assert len(results(tmp_path / "out")) == 6

    def test_of_another_seed_is_refused_before_anything_is_drawn(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world = ("--world", "--out", tmp_path / "out", "--samples", 3)
        assert here(*world, "--limit", 1, *FAST) == 0
        drawn = (tmp_path / "out" / "world" / "world.json").read_bytes()
        assert here(*world, "--seed", 1, *FAST) == 2
        assert "holds results of seed 0, 3 of each task" in capsys.readouterr().err
        assert (tmp_path / "out" / "world" / "world.json").read_bytes() == drawn

    def test_does_not_replace_a_folder_of_another_kind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "out" / "world").mkdir(parents=True)
        (tmp_path / "out" / "world" / "diary.txt").write_text("dear diary")
        assert here("--world", "--out", tmp_path / "out", "--samples", 3, *FAST) == 2
        assert "holds another bench" in capsys.readouterr().err
        assert (tmp_path / "out" / "world" / "diary.txt").read_text() == "dear diary"
