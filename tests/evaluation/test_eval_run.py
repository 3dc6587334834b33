"""Runs of the embedded model on a benchmark: stored answers survive kills, interruptions and errors."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command_line import PROGRAM, environment
from support.eval_files import COLOURS, colour_samples, draw, results, sample, write

import edge_interleave as ei
from edge_interleave.bundle.manifest import describe_files, open_bundle, write_manifest
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.chat import Chat
from edge_interleave.errors import BackendError, InputError, ResourceError, UsageError
from edge_interleave.evaluation import Settings, Shard, World, run, summarise
from edge_interleave.evaluation import results as results_module
from edge_interleave.evaluation.results import ResultsFile


@pytest.fixture(scope="module")
def model() -> Iterator[ei.Model]:
    with ei.load(backend="llama-cpp", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ei.Model]:
    """The embedded model again, its tokenizer written otherwise: another bundle."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(embedded_folder(), folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text("utf-8"))), "utf-8")
    manifest = open_bundle(embedded_folder()).manifest
    write_manifest(folder, dataclasses.replace(manifest, name="other", files=describe_files(folder)))
    with ei.load(folder, backend="llama-cpp", threads=1) as model:
        yield model


def said(out: Path) -> dict[tuple[int, int], str]:
    """Answers by place and turn; checks that none is there twice."""
    lines = [line for line in results(out) if "error" not in line]
    counted = Counter((line["index"], line["turn"]) for line in lines)
    assert set(counted.values()) <= {1}
    return {(line["index"], line["turn"]): line["pred_response"] for line in lines}


TWO_TURNS = sample(
    "two turns",
    ("<image><image>What colour is the circle in image 1?", "The circle is red."),
    ("And in <image>?", "The circle is green."),
    ("What colour is the circle in image 2?", "The circle is blue."),
    images=("red", "blue", "green"),
)


def test_answers_are_stored_with_their_questions(tmp_path: Path, model: ei.Model) -> None:
    samples = [*colour_samples(4), TWO_TURNS, sample("text", ("Hello?", "Hi."), dataset="talk")]
    seen: list[tuple[str, int, int]] = []
    outcome = run(write(tmp_path, samples), model, tmp_path / "out", report=lambda *told: seen.append(told))
    assert (outcome.done, outcome.of, outcome.errors, outcome.interrupted) == (6, 6, 0, False)
    lines = results(tmp_path / "out")
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4, 4, 4, 5]
    assert [line["turn"] for line in lines] == [0, 0, 0, 0, 0, 1, 2, 0]
    first = lines[0]
    assert first["pred_response"] == "The circle is red."
    assert first["exact"] is True
    assert first["score"] > 0.999
    assert (first["dataset"], first["sample_id"], first["question_type"]) == ("colours", "0", "open-ended")
    assert first["visual_tokens"] == 36
    assert first["finish_reason"] == "stop"
    assert lines[5]["prompt"] == "And in <image>?"
    assert lines[6]["visual_tokens"] == 3 * 36
    assert seen[-1] == ("samples", 6, 6)


def test_no_answer_depends_on_the_samples_before_it(tmp_path: Path, model: ei.Model) -> None:
    samples = [*colour_samples(3), TWO_TURNS, *colour_samples(4)]
    run(write(tmp_path, samples), model, tmp_path / "forth")
    turned = write(tmp_path, samples[::-1], "turned.json")
    run(turned, model, tmp_path / "back")
    forth, back = said(tmp_path / "forth"), said(tmp_path / "back")
    assert {(len(samples) - 1 - index, turn): text for (index, turn), text in back.items()} == forth


def test_a_run_resumes_and_a_larger_limit_extends_it(tmp_path: Path, model: ei.Model) -> None:
    file, out = write(tmp_path, colour_samples(6)), tmp_path / "out"
    assert run(file, model, out, limit=2).of == 2
    before = (out / "results.jsonl").read_bytes()
    assert run(file, model, out, limit=4).done == 4
    assert run(file, model, out).done == 6
    content = (out / "results.jsonl").read_bytes()
    assert content.startswith(before)
    run(file, model, out)
    assert (out / "results.jsonl").read_bytes() == content
    assert sorted(said(out)) == [(index, 0) for index in range(6)]


@pytest.mark.parametrize(
    "torn",
    [b'{"index": 3, "data', b'{"index": 3}\n', b"\0\0\0\0", b"\xff\n", b"[" * 50_000],
    ids=["cut off", "half a result", "zeros", "no text", "deep"],
)
def test_a_torn_last_line_is_dropped_and_done_again(tmp_path: Path, model: ei.Model, torn: bytes) -> None:
    file, out = write(tmp_path, colour_samples(4)), tmp_path / "out"
    run(file, model, out, limit=3)
    with (out / "results.jsonl").open("ab") as kept:
        kept.write(torn)
    assert run(file, model, out).done == 4
    assert sorted(said(out)) == [(index, 0) for index in range(4)]
    assert summarise(out).samples == 4


def test_a_sample_that_lost_its_last_turns_is_done_again_whole(tmp_path: Path, model: ei.Model) -> None:
    file, out = write(tmp_path, [*colour_samples(1), TWO_TURNS]), tmp_path / "out"
    run(file, model, out)
    whole = said(out)
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (2, 3):
        (out / "results.jsonl").write_bytes(b"".join(lines[:kept]))
        assert summarise(out).samples == 1
        run(file, model, out)
        assert said(out) == whole


def test_damage_before_the_end_is_not_silently_repaired(tmp_path: Path, model: ei.Model) -> None:
    file, out = write(tmp_path, colour_samples(4)), tmp_path / "out"
    run(file, model, out)
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join([lines[0], b'{"index": 1, "da\n', *lines[2:]]))
    for use in (lambda: run(file, model, out), lambda: summarise(out)):
        with pytest.raises(InputError, match=r"results\.jsonl: line 2 is damaged"):
            use()


def test_a_killed_run_loses_nothing_and_does_nothing_twice(tmp_path: Path, model: ei.Model) -> None:
    file, out = write(tmp_path, [*colour_samples(12), TWO_TURNS] * 2), tmp_path / "out"
    run(file, model, tmp_path / "whole")
    command = [*PROGRAM, "eval", str(file), "--out", str(out), "--threads", "1", "--backend", "llama-cpp"]
    kept = out / "results.jsonl"
    for least in (3, 12):
        with subprocess.Popen(
            command, env=environment(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        ) as going:
            while going.poll() is None and (not kept.exists() or kept.read_bytes().count(b"\n") < least):
                time.sleep(0.005)
            os.kill(going.pid, signal.SIGKILL)
        assert going.wait() == -signal.SIGKILL
        assert least <= kept.read_bytes().count(b"\n") < 28
    assert run(file, model, out).done == 26
    assert said(out) == said(tmp_path / "whole")


def test_an_interrupted_run_stops_between_samples_and_goes_on(tmp_path: Path, model: ei.Model) -> None:
    file, out, cancel = write(tmp_path, colour_samples(5)), tmp_path / "out", threading.Event()

    def stop(stage: str, done: int, of: int) -> None:
        if stage == "samples" and done == 2:
            cancel.set()

    outcome = run(file, model, out, report=stop, cancel=cancel)
    assert (outcome.done, outcome.interrupted) == (2, True)
    assert run(file, model, out).done == 5


def test_shards_together_give_the_whole_run(tmp_path: Path, model: ei.Model) -> None:
    file, out = write(tmp_path, colour_samples(7)), tmp_path / "out"
    run(file, model, tmp_path / "whole")
    assert run(file, model, out, shard=Shard(1, 2)).done == 4
    assert run(file, model, out, shard=Shard(2, 2)).done == 3
    assert said(out) == said(tmp_path / "whole")
    parts, whole = summarise(out), summarise(tmp_path / "whole")
    assert parts.sets == whole.sets
    with pytest.raises(InputError, match="shards 2"):
        run(file, model, out, shard=Shard(1, 3))
    with pytest.raises(UsageError, match="no part 3 of 2"):
        Shard(3, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
def test_two_runs_do_not_write_one_file(tmp_path: Path, model: ei.Model) -> None:
    file, out = write(tmp_path, colour_samples(2)), tmp_path / "out"
    run(file, model, out, limit=1)
    with ResultsFile(out / "results.jsonl"), pytest.raises(InputError, match="another process is writing it"):
        run(file, model, out)


class TestWhatCannotBeAnswered:
    def test_is_kept_as_an_error_and_counted_and_never_scored(self, tmp_path: Path, model: ei.Model) -> None:
        draw(tmp_path)
        (tmp_path / "pictures" / "torn.png").write_bytes((tmp_path / "pictures" / "red.png").read_bytes()[:60])
        (tmp_path / "pictures" / "text.png").write_text("no picture")
        (tmp_path / "secret.png").write_bytes((tmp_path / "pictures" / "red.png").read_bytes())
        inside = tmp_path / "inside"
        write(inside, [])
        (inside / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
        for name in ("torn.png", "text.png"):
            (tmp_path / "pictures" / name).rename(inside / "pictures" / name)
        question = ("<image>What colour is the circle?", "The circle is red.")

        def asks(*images: str) -> dict[str, Any]:
            return {**sample("x", question), "image": list(images)}

        samples = [
            *colour_samples(1),
            asks("pictures/gone.png"),
            asks("pictures/torn.png"),
            asks("pictures/text.png"),
            asks("../secret.png"),
            asks(str(tmp_path / "secret.png")),
            asks("pictures/link.png"),
            asks("pictures"),
            asks("pictures/\0.png"),
            asks("x" * 5000),
            asks("pictures/red.png", "pictures/red.png"),
            {
                **asks(),
                "conversations": [{"value": "<image>" * 200 + "?"}, {"value": "?"}],
                "image": ["pictures/red.png"] * 200,
            },
            "nothing",
        ]
        file = write(inside, samples)
        outcome = run(file, model, tmp_path / "out")
        assert (outcome.done, outcome.errors) == (13, 12)
        wrong = [
            "no such file", "damaged or cut off", "not an image", "leaves the", "leaves the", "leaves the",
            "no such file", "not a valid path", "not a valid path", "images and videos: 2",
            "200 images are 7200 visual tokens", "not an object",
        ]  # fmt: skip
        lines = results(tmp_path / "out")
        assert len(lines) == 13
        for line, problem in zip(lines[1:], wrong, strict=True):
            assert problem in line["error"]
            assert "pred_response" not in line
            assert "score" not in line
        summary = summarise(tmp_path / "out")
        assert (summary.samples, summary.failed) == (13, 12)
        assert [(one.name, one.answers, one.errors) for one in summary.sets] == [("colours", 1, 11), ("bench", 0, 1)]
        assert summary.sets[0].score == pytest.approx(1, abs=1e-6)
        assert summary.sets[1].score is None
        assert [problem.number for problem in summary.errors] == list(range(2, 14))

    def test_is_tried_again_by_the_next_run(self, tmp_path: Path, model: ei.Model) -> None:
        file, out = write(tmp_path, colour_samples(4)), tmp_path / "out"
        (tmp_path / "pictures" / "blue.png").rename(tmp_path / "away.png")
        assert run(file, model, out).errors == 1
        failed = (out / "results.jsonl").read_bytes()
        assert run(file, model, out).errors == 1
        assert (out / "results.jsonl").read_bytes() == failed
        (tmp_path / "away.png").rename(tmp_path / "pictures" / "blue.png")
        assert run(file, model, out).errors == 0
        assert said(out)[1, 0] == "The circle is blue."
        summary = summarise(out)
        assert (summary.samples, summary.failed, summary.sets[0].answers) == (4, 0, 4)


class TestAnotherRunsResults:
    def test_are_refused_naming_the_difference(self, tmp_path: Path, model: ei.Model) -> None:
        file, out = write(tmp_path, colour_samples(2)), tmp_path / "out"
        run(file, model, out)
        kept = (out / "results.jsonl").read_bytes()
        other = write(tmp_path, colour_samples(3), "other.json")
        for again, named in (
            (lambda: run(other, model, out), r"the file bench\.json .* now other\.json"),
            (lambda: run(file, model, out, settings=Settings(pool=2)), r"pool 1 \(now 2\)"),
            (lambda: run(file, model, out, settings=Settings(max_tokens=8)), r"max_tokens 1024 \(now 8\)"),
            (lambda: run(file, model, out, world=World(1, 2)), r"per_task None \(now 2\), seed None \(now 1\)"),
        ):
            with pytest.raises(InputError, match=named) as error:
                again()
            assert "give another --out" in str(error.value)
        assert (out / "results.jsonl").read_bytes() == kept

    def test_are_refused_of_another_model(self, tmp_path: Path, model: ei.Model, another: ei.Model) -> None:
        file, out = write(tmp_path, colour_samples(2)), tmp_path / "out"
        run(file, model, out)
        with pytest.raises(InputError, match=r"the model embedded .* now other"):
            run(file, another, out)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"format": 2}', "\0", '{"format": 1, "settings": {"pool": "x"}}', "[" * 100_000]
    )
    def test_with_a_damaged_manifest_are_refused(self, tmp_path: Path, model: ei.Model, content: str) -> None:
        file, out = write(tmp_path, colour_samples(2)), tmp_path / "out"
        run(file, model, out)
        (out / "run.json").write_text(content)
        for use in (lambda: run(file, model, out), lambda: summarise(out)):
            with pytest.raises(InputError, match=r"run\.json"):
                use()

    def test_without_a_manifest_are_refused(self, tmp_path: Path, model: ei.Model) -> None:
        file, out = write(tmp_path, colour_samples(2)), tmp_path / "out"
        run(file, model, out)
        (out / "run.json").unlink()
        with pytest.raises(InputError, match=r"results without a run\.json"):
            run(file, model, out)


def test_a_damaged_file_is_refused_before_any_question_and_earlier_answers_stay(
    tmp_path: Path, model: ei.Model
) -> None:
    file, out = write(tmp_path, colour_samples(3)), tmp_path / "out"
    run(file, model, out, limit=2)
    kept = (out / "results.jsonl").read_bytes()
    file.write_text(file.read_text()[:-30])
    with pytest.raises(InputError, match=r"bench\.json: sample 3: not JSON, or cut off"):
        run(file, model, out)
    assert (out / "results.jsonl").read_bytes() == kept
    assert summarise(out).samples == 2


def test_a_full_disk_ends_the_run_and_keeps_its_answers(
    tmp_path: Path, model: ei.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write(tmp_path, colour_samples(4)), tmp_path / "out"
    write_as_ever, written = os.write, 0

    def until_full(descriptor: int, content: bytes) -> int:
        nonlocal written
        written += 1
        if written == 3:
            return write_as_ever(descriptor, content[:50])
        if written == 4:
            raise OSError(28, "No space left on device")
        return write_as_ever(descriptor, content)

    with monkeypatch.context() as patched:
        patched.setattr(results_module.os, "write", until_full)
        with pytest.raises(ResourceError, match=r"No space left on device.*run it again to resume"):
            run(file, model, out)
    assert summarise(out).samples == 2
    assert run(file, model, out).done == 4
    assert len(said(out)) == 4


def test_videos_are_clips_or_folders_of_frames_with_an_optional_extension(tmp_path: Path, model: ei.Model) -> None:
    import cv2

    draw(tmp_path)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (112, 112))
    for number in range(8):
        picture = Image.new("RGB", (112, 112), "white")
        picture.paste((255, 0, 0), (8 + 8 * number, 40, 40 + 8 * number, 72))
        writer.write(np.asarray(picture)[..., ::-1])
    writer.release()
    turns = [{"value": "<image>Which way does the square move?"}, {"value": "It moves right."}]
    samples = [{"id": name, "video": name, "conversations": turns} for name in ("clip.avi", "clip", "pictures", "gone")]
    run(write(tmp_path, samples), model, tmp_path / "out", settings=Settings(frames=4))
    lines = results(tmp_path / "out")
    assert [line.get("visual_tokens") for line in lines] == [4 * 36, 4 * 36, len(COLOURS) * 36, None]
    assert lines[0]["pred_response"] == lines[1]["pred_response"]
    assert "no such file" in lines[3]["error"]


def test_a_bundle_with_another_chat_format_uses_its_own_template(tmp_path: Path, model: ei.Model) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(embedded_folder(), folder)
    manifest = open_bundle(folder).manifest
    for name in ("tokenizer.json", "decoder-mlx/tokenizer.json"):
        path = folder / name
        path.write_text(path.read_text("utf-8").replace("<|im_start|>", "<|turn|>"), "utf-8")
    template = manifest.prompt.chat_template.replace("<|im_start|>", "<|turn|>")
    prompt = dataclasses.replace(manifest.prompt, chat_template=template)
    write_manifest(folder, dataclasses.replace(manifest, prompt=prompt, files=describe_files(folder)))
    file = write(tmp_path, colour_samples(4))
    run(file, model, tmp_path / "official")
    with ei.load(folder, backend="llama-cpp", threads=1) as other:
        run(file, other, tmp_path / "own")
    # The same tokens by another way: here images come first.
    assert said(tmp_path / "own") == said(tmp_path / "official")
    prompts = [summarise(tmp_path / name).run.prompt for name in ("own", "official")]
    assert prompts == ["the bundle's own", "qwen_1_5"]


def test_one_engine_failure_fails_a_sample_and_two_in_a_row_end_the_run(
    tmp_path: Path, model: ei.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out, ask = write(tmp_path, colour_samples(6)), tmp_path / "out", Chat.ask
    broken = {1, 3, 4}
    asked = 0

    def fail(self: Chat, *content: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked - 1 in broken:
            raise BackendError("llama.cpp: no memory for a KV cache")
        return ask(self, *content, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Chat, "ask", fail)
        with pytest.raises(BackendError):
            run(file, model, out)
    assert [line["index"] for line in results(out) if "error" in line] == [1, 3]
    assert run(file, model, out).errors == 0
    assert sorted(said(out)) == [(index, 0) for index in range(6)]


def test_invalid_settings_are_refused(tmp_path: Path, model: ei.Model) -> None:
    file = write(tmp_path, colour_samples(1))
    for wrong in ({"pool": 0}, {"frames": 0}, {"max_tokens": 0}):
        with pytest.raises(UsageError, match="must be a whole number of at least 1"):
            Settings(**wrong)
    with pytest.raises(UsageError, match="stride"):
        run(file, model, tmp_path / "out", settings=Settings(pool=50))
    with pytest.raises(UsageError, match="limit"):
        run(file, model, tmp_path / "out", limit=0)
    with pytest.raises(UsageError, match="no such folder"):
        run(file, model, tmp_path / "out", images=tmp_path / "nowhere")
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path / "gone.json", model, tmp_path / "out")
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        run(file, model, tmp_path / "taken")
