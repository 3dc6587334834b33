"""A resumed run refuses changed pictures, and a comparison reports them."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.eval_files import COLOURS, colour_samples, draw, results, sample, write

import edge_interleave as ei
from edge_interleave.bundle.manifest import PromptInfo, VisionInfo, open_bundle, write_manifest
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.cli import cli, errors
from edge_interleave.errors import InputError
from edge_interleave.evaluation import compare, run, summarise
from edge_interleave.evaluation import fingerprints as fingerprints_module
from edge_interleave.evaluation.report import as_markdown, notes

QUESTION = ("<image>What colour is the circle?", "The circle is red.")


@pytest.fixture(scope="module")
def model() -> Iterator[ei.Model]:
    with ei.load(backend="llama-cpp", threads=1) as model:
        yield model


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures; `bench.json` in it asks about four of them."""
    folder = tmp_path / "images"
    write(folder, colour_samples(4))
    return folder


@pytest.fixture
def half(images: Path, tmp_path: Path, model: ei.Model) -> Path:
    """The results of its first two questions."""
    run(images / "bench.json", model, tmp_path / "out", limit=2)
    return tmp_path / "out"


def turned(folder: Path) -> None:
    """Each picture gets the next one's content."""
    paths = [folder / "pictures" / f"{colour}.png" for colour in COLOURS]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)


def same_size_and_time(path: Path) -> None:
    """Change a picture in place, and only its content: a bitmap's pixels, its time put back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-3:] = bytes(255 - value for value in content[-3:])
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class TestARunThatGoesOn:
    def refused(self, images: Path, out: Path, model: ei.Model, named: str, folder: Path | None = None) -> None:
        kept = (out / "results.jsonl").read_bytes()
        with pytest.raises(InputError, match=rf"sample \d was asked about other pictures.*{named}") as error:
            run(images / "bench.json", model, out, images=folder)
        assert "--images" in str(error.value)
        assert (out / "results.jsonl").read_bytes() == kept

    def test_with_other_images_is_refused(self, images: Path, half: Path, model: ei.Model, tmp_path: Path) -> None:
        other = tmp_path / "other"
        shutil.copytree(images, other)
        turned(other)
        self.refused(images, half, model, r"red\.png", other)

    def test_with_missing_images_is_refused(self, images: Path, half: Path, model: ei.Model, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        self.refused(images, half, model, "no such file", tmp_path / "empty")

    def test_after_a_picture_was_changed_in_place_is_refused(self, images: Path, half: Path, model: ei.Model) -> None:
        shutil.copy(images / "pictures" / "green.png", images / "pictures" / "blue.png")
        self.refused(images, half, model, r"blue\.png has changed")

    def test_after_a_change_that_left_size_and_time_is_refused(self, tmp_path: Path, model: ei.Model) -> None:
        file = write(tmp_path, [{**sample("x", QUESTION), "image": ["red.bmp"]}])
        Image.open(tmp_path / "pictures" / "red.png").save(tmp_path / "red.bmp")
        run(file, model, tmp_path / "out")
        same_size_and_time(tmp_path / "red.bmp")
        with pytest.raises(InputError, match=r"red\.bmp has changed"):
            run(file, model, tmp_path / "out")

    def test_with_a_link_to_another_file_is_refused(self, images: Path, tmp_path: Path, model: ei.Model) -> None:
        link = images / "link.png"
        link.symlink_to(images / "pictures" / "red.png")
        file = write(images, [{**sample("x", QUESTION), "image": ["link.png"]}], "links.json")
        run(file, model, tmp_path / "out")
        link.unlink()
        link.symlink_to(images / "pictures" / "blue.png")
        with pytest.raises(InputError, match=r"link\.png has changed"):
            run(file, model, tmp_path / "out")

    def test_with_the_same_images_in_another_place_goes_on(
        self, images: Path, half: Path, model: ei.Model, tmp_path: Path
    ) -> None:
        moved = tmp_path / "moved"
        shutil.copytree(images, moved, copy_function=shutil.copyfile)  # with other times
        assert run(images / "bench.json", model, half, images=moved).done == 4

    def test_with_images_that_were_touched_goes_on(self, images: Path, half: Path, model: ei.Model) -> None:
        for path in (images / "pictures").iterdir():
            os.utime(path, (1, 1))
        assert run(images / "bench.json", model, half).done == 4

    def test_does_not_read_unchanged_pictures_again(
        self, images: Path, half: Path, model: ei.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Path] = []
        whole = fingerprints_module._digest_of_file
        monkeypatch.setattr(fingerprints_module, "_digest_of_file", lambda path: read.append(path) or whole(path))
        fingerprints_module._digest.cache_clear()
        assert run(images / "bench.json", model, half, limit=2).done == 2
        assert read == []
        assert run(images / "bench.json", model, half).done == 4
        assert [path.name for path in read] == ["green.png", "yellow.png"]

    def test_accepts_changed_pictures_of_unanswered_samples(self, images: Path, half: Path, model: ei.Model) -> None:
        shutil.copy(images / "pictures" / "red.png", images / "pictures" / "yellow.png")
        assert run(images / "bench.json", model, half).done == 4
        assert results(half)[-1]["pred_response"] == "The circle is red."

    @pytest.mark.parametrize("media", [None, [], {"pictures/red.png": "x"}, {"pictures/red.png": ["1", 2]}])
    def test_over_results_without_fingerprints_is_refused(
        self, images: Path, half: Path, model: ei.Model, media: Any
    ) -> None:
        lines = results(half)
        lines[0]["media"] = media
        (half / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(InputError, match="the result names no pictures"):
            run(images / "bench.json", model, half)

    def test_of_clips_is_refused_if_one_frame_changed(self, tmp_path: Path, model: ei.Model) -> None:
        draw(tmp_path)
        clip = tmp_path / "clip"
        shutil.copytree(tmp_path / "pictures", clip)
        asked = {**sample("x", ("<video>What colour is it?", "Red.")), "video": "clip"}
        file = write(tmp_path, [asked])
        run(file, model, tmp_path / "out")
        assert run(file, model, tmp_path / "out").done == 1
        (clip / "notes.txt").write_text("no picture, so nothing that was shown")
        assert run(file, model, tmp_path / "out").done == 1
        shutil.copy(clip / "red.png", clip / "blue.png")
        with pytest.raises(InputError, match="clip has changed"):
            run(file, model, tmp_path / "out")

    def test_of_a_video_is_refused_if_the_file_was_replaced(self, tmp_path: Path, model: ei.Model) -> None:
        from edge_interleave.cli.demo import tour_folder

        shutil.copy(tour_folder() / "clip.mp4", tmp_path / "clip.mp4")
        file = write(tmp_path, [{**sample("x", ("<video>What moves?", "A circle.")), "video": "clip"}])
        run(file, model, tmp_path / "out")
        with (tmp_path / "clip.mp4").open("ab") as clip:
            clip.write(b"\0")
        with pytest.raises(InputError, match="clip has changed"):
            run(file, model, tmp_path / "out")


class TestAnotherModel:
    @pytest.fixture
    def remade(self, tmp_path: Path) -> Callable[..., Path]:
        """The embedded bundle again, some fields of its manifest changed; its files are the same."""

        def make(**changes: Any) -> Path:
            folder = tmp_path / "bundle"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(embedded_folder(), folder)
            manifest = open_bundle(folder).manifest
            vision = {name: value for name, value in changes.items() if name in VisionInfo.__dataclass_fields__}
            prompt = {name: value for name, value in changes.items() if name in PromptInfo.__dataclass_fields__}
            named = {name: value for name, value in changes.items() if name not in vision and name not in prompt}
            manifest = dataclasses.replace(
                manifest,
                vision=dataclasses.replace(manifest.vision, **vision),
                prompt=dataclasses.replace(manifest.prompt, **prompt),
                **named,
            )
            write_manifest(folder, manifest)
            return folder

        return make

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"mean": (-0.8, 0.5, 0.5)}, "preprocessing"),
            ({"std": (0.5, 0.5, 0.25)}, "preprocessing"),
            ({"resample": "nearest"}, "preprocessing"),
            ({"eos_token_ids": (552, 550, 13)}, "prompt"),
            ({"chat_template": "{{ messages[0]['content'] }}"}, "prompt"),
            ({"pooling_mode": "max"}, "pooling mode"),
        ],
    )
    def test_with_other_settings_of_the_same_files_is_refused_naming_the_difference(
        self, half: Path, images: Path, remade: Callable[..., Path], change: dict[str, Any], named: str
    ) -> None:
        with (
            ei.load(remade(**change), backend="llama-cpp", threads=1) as other,
            pytest.raises(InputError, match=f"other: {named}"),
        ):
            run(images / "bench.json", other, half)

    def test_with_differences_that_change_no_answer_goes_on(
        self, half: Path, images: Path, remade: Callable[..., Path]
    ) -> None:
        precisions = {**open_bundle(embedded_folder()).manifest.precisions, "other": "f16"}
        folder = remade(name="copy", source="elsewhere", precisions=precisions, parts={})
        with ei.load(folder, backend="llama-cpp", threads=1) as other:
            assert run(images / "bench.json", other, half).done == 4


class TestAComparison:
    def test_reports_samples_with_other_pictures(
        self, images: Path, model: ei.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        a, b = tmp_path / "a", tmp_path / "b"
        run(images / "bench.json", model, a)
        run(images / "bench.json", model, tmp_path / "again")
        assert not [note for note in notes(summarise(a), compare(a, tmp_path / "again")) if "a and b" in note]
        shutil.copy(images / "pictures" / "red.png", images / "pictures" / "yellow.png")
        run(images / "bench.json", model, b)
        comparison = compare(a, b)
        assert (comparison.other_media, comparison.other_media_first) == (1, 4)
        assert "1 samples were asked about other pictures in a than in b, the first is sample 4" in as_markdown(
            summarise(a), comparison
        )
        assert errors.run(cli, ["eval", "--out", str(a), "--against", str(b)]) == 0
        assert "other pictures in a than in b" in capsys.readouterr().out
        assert errors.run(cli, ["eval", "--out", str(a), "--against", str(b), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["comparison"]["other_media"] == 1

    def test_names_the_parts_in_which_the_models_differ(self, images: Path, model: ei.Model, tmp_path: Path) -> None:
        run(images / "bench.json", model, tmp_path / "a")
        folder = tmp_path / "bundle"
        shutil.copytree(embedded_folder(), folder)
        manifest = open_bundle(folder).manifest
        write_manifest(
            folder, dataclasses.replace(manifest, vision=dataclasses.replace(manifest.vision, std=(1, 1, 1)))
        )
        with ei.load(folder, backend="llama-cpp", threads=1) as other:
            run(images / "bench.json", other, tmp_path / "b")
        said = notes(summarise(tmp_path / "a"), compare(tmp_path / "a", tmp_path / "b"))
        assert "the models of a and b differ in preprocessing" in said


def test_answers_that_are_not_a_bare_letter_are_counted(tmp_path: Path, model: ei.Model) -> None:
    asked = sample("x", ("<image>Which? A or B.", "A"), images=("red",), dataset="BLINK", question_type="multi-choice")
    run(write(tmp_path, [asked]), model, tmp_path / "out")
    lines = results(tmp_path / "out")
    answers = ["A", "b.", "(C)", "Answer: D", "The answer is A", "", "A: because it is", "I", "x", "A dog"]
    lines = [{**lines[0], "index": number, "pred_response": text} for number, text in enumerate(answers)]
    for line in lines:
        del line["score"], line["metric"]
    word = {**lines[-1], "index": 90, "gt_response": "yes", "pred_response": "yes"}
    (tmp_path / "out" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, word]))
    summary = summarise(tmp_path / "out")
    assert summary.sets[0].no_letter == 5
    assert any(
        note.startswith("5 answers to multiple-choice questions are not a bare letter") for note in notes(summary)
    )
