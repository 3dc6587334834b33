"""Benchmark files are read one sample at a time; errors name the file and the sample."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.eval_files import sample

from edge_interleave.errors import InputError
from edge_interleave.evaluation import BENCH, M4_INSTRUCT
from edge_interleave.evaluation.benchmark_sets import BENCH_FILES, find_file, find_set
from edge_interleave.evaluation.json_stream import JsonStream
from edge_interleave.evaluation.samples import InvalidSample, Sample, parse, read_samples

RAVEN = sample(
    7, ("Which fits? <image> <image> <image> <image>", "C"), images=("a", "b", "c", "d"), dataset="RAVEN",
    question_type="multi-choice", split="val", num_sample=1400, task_instruction="..",
)  # fmt: skip


def read(path: Path) -> list[Sample | InvalidSample]:
    return list(read_samples(JsonStream(path)))


def good(raw: Any) -> Sample:
    made = parse(raw, 0, "file")
    assert isinstance(made, Sample), made
    return made


def bad(raw: Any) -> str:
    made = parse(raw, 0, "file")
    assert isinstance(made, InvalidSample)
    return made.problem


@pytest.mark.parametrize("name", ["bench.json", "bench.jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "with a byte order mark"])
def test_arrays_and_lines_are_read_alike(tmp_path: Path, name: str, mark: bytes) -> None:
    written = [RAVEN, sample("x", ("Hi?", "Hello.\u2028"), ("And?", "So."))]
    text = json.dumps(written, indent=2) if name.endswith("json") else "\n\n".join(map(json.dumps, written)) + "\n"
    (tmp_path / name).write_bytes(mark + text.encode())
    items = JsonStream(tmp_path / name)
    first, second = read_samples(items)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert first.labels.dataset == "RAVEN"
    assert first.labels.question_type == "multi-choice"
    assert first.images == ("pictures/a.png", "pictures/b.png", "pictures/c.png", "pictures/d.png")
    assert (first.turns[0].question, first.turns[0].reference) == (RAVEN["conversations"][0]["value"], "C")
    assert [turn.reference for turn in second.turns] == ["Hello.\u2028", "So."]
    assert second.labels.index == 1
    assert items.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_the_forms_that_published_files_have_are_understood() -> None:
    one = {
        "id": "v1",
        "video": "clips/a",
        "conversations": [{"value": "<video>\nWhat happens?"}, {"value": "It runs."}],
    }
    video = good(one)
    assert video.video == "clips/a"
    assert video.turns[0].question == "<image>\nWhat happens?"
    assert video.labels.dataset == "file"
    assert video.labels.question_type == "open-ended"
    swapped = good(
        {"image": "a.jpg", "conversations": [{"from": "gpt", "value": "<image>?"}, {"from": "human", "value": "A"}]}
    )
    assert (swapped.images, swapped.turns[0].reference) == (("a.jpg",), "A")
    choices = good({**RAVEN, "choice_list": ["red", "blue"]})
    assert choices.choices == ("red", "blue")
    assert good({**RAVEN, "choice_list": "None"}).choices == ()
    drawn = good(sample(1, ("?", "a"), category="colour", scenario="multi-image", chance=0.125, held_out="pair")).labels
    assert (drawn.category, drawn.scenario, drawn.chance, drawn.held_out) == ("colour", "multi-image", 0.125, "pair")
    odd = good(sample(1, ("?", "a"), category=3, chance="x", held_out=True)).labels
    assert (odd.category, odd.chance, odd.held_out) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": ["a.png"]}, "markers in the questions: 4, images and videos: 1"),
        ({"image": 3}, "'image' is not a list of paths"),
        ({"image": ["a", "b", "c", None]}, "'image' is not a list of paths"),
        ({"video": 5}, "'video' is not a path"),
        ({"conversations": None}, "'conversations' is not a list of turns"),
        ({"conversations": []}, "'conversations' is not a list of turns"),
        ({"conversations": [{"value": "?"}, {"value": 4}]}, "turn 2 of 'conversations' has no text"),
        ({"conversations": ["?", "a"]}, "turn 1 of 'conversations' has no text"),
        ({"conversations": [{"value": "?"}]}, "has 1 turns; the last question has no answer"),
        ({"conversations": [{"value": " "}, {"value": "a"}]}, "a question is empty"),
    ],
)
def test_a_sample_of_another_shape_is_reported_without_ending_the_run(change: dict[str, Any], problem: str) -> None:
    assert problem in bad({**RAVEN, **change})


@pytest.mark.parametrize("raw", [5, "text", None, [1]])
def test_a_value_that_is_no_sample_is_reported(raw: Any) -> None:
    assert "not an object" in bad(raw)


DEEP = b'{"a":' * 100 + b"1" + b"}" * 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"a": 1}, {"b"', "sample 2: not JSON, or cut off"),
        ('[{"a": "café"}]'.encode("latin-1"), "save the file as UTF-8"),
        ('{"a": "café"}'.encode("latin-1"), "save the file as UTF-8"),
        (b'[{"a": 1}, {"b": 2}', "sample 3: not JSON, or cut off"),
        (b'{"a": 1}\n{"b"', "sample 2: not JSON, or cut off"),
        (b'[{"a": 1}] x', "sample 2: not JSON, or cut off"),
        (b'[{"a": "\xff"}]', "sample 1: not JSON"),
        (b'{"a": "\xff"}', "sample 1: not JSON"),
        (b"hello", "is not JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not JSON"),
        (b" \n ", "is empty"),
        (b"", "the file is empty"),
        (b"[]", "holds no samples"),
        (b"[" + DEEP + b"]", "sample 1: nested deeper than 32"),
        (b"[" * 200_000, "sample 1: nested deeper than 32"),
        (b'{"a":' * 200_000, "sample 1: nested too deep"),
        (b"[" + b"1" * 10_000 + b"]", "sample 1: not JSON"),
        (b'{"a":' + b"1" * 10_000 + b"}", "sample 1: not JSON"),
        (b"[1e999999999999999999999]", "sample 1: not JSON"),
        (b'[{"a": "' + b"x" * (9 << 20) + b'"}]', "sample 1: more than 8 MiB"),
        (b'{"a": "' + b"x" * (9 << 20) + b'"}', "sample 1: a line of more than 8 MiB"),
        (b'[{"a": [' + b"1," * 450_000 + b"1]}]", "sample 1: more than 400000 parts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_refused_naming_file_and_sample(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_samples_before_the_damage_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([RAVEN] * 5)[:-40])
    seen = []
    with pytest.raises(InputError, match="sample 5: not JSON, or cut off"):
        seen.extend(read_samples(JsonStream(path)))
    assert len(seen) <= 4


MEASURE = """
import sys
from pathlib import Path
from edge_interleave.evaluation.json_stream import JsonStream
from edge_interleave.evaluation.samples import read_samples
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes
before = memory_bytes()
count = sum(1 for one in read_samples(JsonStream(Path(sys.argv[1]))))
print(count, peak_memory_bytes() - before)
"""


@pytest.mark.parametrize(("name", "count"), [("many.json", 60_000), ("many.jsonl", 40_000)])
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_file_is_never_in_memory_whole(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / name
    one = json.dumps(sample(1, ("<image>What is this? " + "x" * 150, "A dog."), images=("a",)))
    size = _write_many(path, itertools.repeat(one, count))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    found, grown = map(int, done.stdout.split())
    assert found == count
    assert size > count * 300
    assert grown < 4 << 20


def _write_many(path: Path, samples: Iterable[str]) -> int:
    lines = path.suffix == ".jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.write("" if lines else "[")
        for number, one in enumerate(samples):
            file.write(("\n" if lines else ",") * (number > 0) + one)
        file.write("" if lines else "]")
    return path.stat().st_size


def test_every_set_is_listed_once_with_the_source_of_its_numbers() -> None:
    for sets in (BENCH, M4_INSTRUCT):
        assert len({info.name.casefold() for info in sets}) == len(sets)
        assert all((info.samples is None) == (info.source is None) for info in sets)
    assert {info.domain for info in BENCH} == {"in-domain", "out-of-domain"}
    assert {info.scenario for info in M4_INSTRUCT} == {"multi-image", "multi-view", "multi-frame", "multi-patch"}
    assert sum(info.samples for info in BENCH_FILES) == 38_660


def test_a_set_is_found_by_its_name_and_the_file_it_is_in() -> None:
    bench, training = find_set("Spot-the-Diff"), find_set("Spot-the-Diff", "m4_instruct_annotations.json")
    assert bench is not None
    assert training is not None
    assert (bench.category, bench.domain, bench.metric) == ("spot_the_diff", "in-domain", "ROUGE-L")
    assert (training.domain, training.samples) == ("training", 10_800)
    mantis = find_set("Mantis-dreamsim", "m4_instruct_annotations.json")
    assert mantis is not None
    assert mantis.name == "dreamsim"
    assert find_set("a set of mine") is None
    assert find_file("multi_view_in_domain.json") is not None
    assert find_file("mine.json") is None
