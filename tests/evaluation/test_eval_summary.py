"""Summaries and comparisons of recorded answers, checked by an independent implementation and by arithmetic."""

import dataclasses
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist, mean, stdev
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.official_reading import right_choice, rouge
from support.paths import GOLDEN_FOLDER

from edge_interleave.cli import output
from edge_interleave.errors import InputError, ResourceError
from edge_interleave.evaluation import RunInfo, SetScore, Settings, World, compare, summarise
from edge_interleave.evaluation.report import as_json, as_markdown, notes, tables, write
from edge_interleave.evaluation.results import Shard
from edge_interleave.evaluation.run_info import claim_folder

GOLDEN = GOLDEN_FOLDER / "interleave_scores.json"
INFO = RunInfo(
    file="multi_image_in_domain.json",
    sha256="0" * 64,
    samples=400,
    model="recorded",
    source="nowhere",
    precisions={"decoder.gguf": "q4_k_m"},
    model_sha256="1" * 64,
    backend="llama-cpp",
    prompt="qwen_1_5",
    settings=Settings(),
    shards=1,
)
WORDS = (
    "a", "the", "red", "dog", "dogs,", "cat.", "runs", "3.5", "1,000", "-", "(b)", "A:", "image", "2.", "it's",
    "well-known", "?", "Yes",
)  # fmt: skip
OPEN = ("Spot-the-Diff", "Birds-to-Words", "CLEVR-Change", "VIST", "ScanQA", "my own set")
CHOICE = ("RAVEN", "RecipeQA_ImageCoherence", "BLINK", "VISION")


def line(index: int, prediction: str, reference: str, dataset: str = "RAVEN", **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "sample_id": f"s{index}",
        "dataset": dataset,
        "question_type": "open-ended" if dataset in OPEN else "multi-choice",
        "turn": 0,
        "turns": 1,
        "pred_response": prediction,
        "gt_response": reference,
        "finish_reason": "stop",
        "exact": prediction.strip() == reference.strip(),
        **more,
    }


def keep(out: Path, lines: Sequence[dict[str, Any]], info: RunInfo = INFO, name: str = "results.jsonl") -> Path:
    out.mkdir(exist_ok=True)
    claim_folder(out, info)
    (out / name).write_text("".join(json.dumps(one) + "\n" for one in lines), "utf-8")
    return out


def recorded(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of every kind, to sets of every kind."""
    rng = random.Random(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(most)))

    lines = []
    for index in range(count):
        dataset = rng.choice((*OPEN, *CHOICE))
        reference = text(20) if dataset in OPEN else rng.choice("ABCD")
        prediction = rng.choice((reference, text(40), f"Answer: {rng.choice('ABCD')}", rng.choice("abcd"), ""))
        lines.append(line(index, prediction, reference, dataset))
    return lines


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return keep(tmp_path / "out", recorded(400))


def test_tables_for_a_terminal_fit_it_and_break_between_words(tmp_path: Path) -> None:
    drawn = dataclasses.replace(INFO, file="world.json", world=World(0, 20))
    names = ("true or false", "what changed", "which image", "appearance")
    for info, sets in ((INFO, (*OPEN, *CHOICE)), (drawn, names)):
        outs = []
        for run in "ab":
            lines = [line(index, f"{run} {index % 3}", "a 0", sets[index % len(sets)]) for index in range(400)]
            outs.append(keep(tmp_path / f"{info.file}-{run}", lines, info))
        summary, comparison = summarise(outs[0]), compare(*outs)
        for made in tables(summary, comparison, narrow=True):
            right = [column for column, number in zip(made.columns, made.numbers, strict=True) if number]
            console = Console(file=io.StringIO(), width=80)
            console.print(output.table(made.columns, made.rows, right=right))
            shown = console.file.getvalue()  # type: ignore[attr-defined]
            assert max(map(len, shown.splitlines())) <= 80
            words = set(shown.split())
            assert all(word in words for row in made.rows for cell in row for word in cell.split() if len(word) <= 28)


def by_name(sets: Sequence[SetScore]) -> dict[str, SetScore]:
    return {one.name: one for one in sets}


def test_recorded_answers_have_the_scores_that_the_official_script_gave_them(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    lines = [
        line(index, one["pred_response"], one["gt_response"], one["dataset"], question_type=one["question_type"])
        for index, one in enumerate(golden["answers"])
    ]
    summary = summarise(keep(tmp_path / "out", lines))
    assert {one.name: one.score for one in summary.sets} == {
        name: next(iter(scores.values())) for name, scores in golden["sets"].items()
    }
    assert {group.name: group.score for group in summary.categories if group.name in golden["categories"]} == golden[
        "categories"
    ]


def test_sets_have_the_official_scores_to_the_last_digit(out: Path) -> None:
    found = by_name(summarise(out).sets)
    assert set(found) == {*OPEN, *CHOICE}
    for name, one in found.items():
        answers = [(a["pred_response"], a["gt_response"]) for a in recorded(400) if a["dataset"] == name]
        scores = [rouge(*pair) if name in OPEN else right_choice(*pair) for pair in answers]
        counted = [0.0 if score == "fails" else score for score in scores if score is not None]
        assert one.answers == len(counted)
        assert one.empty_references == len(scores) - len(counted)
        assert one.unscorable == scores.count("fails")
        wanted = np.mean(counted) if name in OPEN else sum(counted) / len(counted)
        assert one.score == wanted
        assert one.exact == mean(said.strip() == wanted.strip() for said, wanted in answers)


def test_stored_scores_equal_recomputed_ones(tmp_path: Path) -> None:
    from edge_interleave.evaluation.scores import ACCURACY, ROUGE_L, score

    again = summarise(keep(tmp_path / "again", recorded(400))).sets
    lines = recorded(400)
    for one in lines:
        one["metric"] = ROUGE_L if one["dataset"] in OPEN else ACCURACY
        one["score"] = score(one["metric"], one["pred_response"], one["gt_response"])
    assert summarise(keep(tmp_path / "stored", lines)).sets == again


def test_categories_are_means_of_sets_and_domains_of_categories(out: Path) -> None:
    summary = summarise(out)
    score = {one.name: one.score or 0.0 for one in summary.sets}
    category = {group.name: group for group in summary.categories}
    assert set(category["spot_the_diff"].of) == {"Spot-the-Diff", "Birds-to-Words", "CLEVR-Change"}
    assert category["spot_the_diff"].score == pytest.approx(mean(score[name] for name in OPEN[:3]), abs=1e-15)
    assert category["multi_image_vqa"].score == pytest.approx(mean((score["VISION"], score[CHOICE[1]])), abs=1e-15)
    assert "my own set" not in {name for group in summary.categories for name in group.of}
    domain = {group.name: group for group in summary.domains}
    assert set(domain) == {"in-domain", "in-domain, multi-view", "out-of-domain"}
    assert set(domain["in-domain"].of) == {"spot_the_diff", "visual_story_telling", "puzzle", "multi_image_vqa"}
    assert domain["in-domain"].score == pytest.approx(
        mean(category[name].score for name in domain["in-domain"].of), abs=1e-15
    )
    assert domain["in-domain, multi-view"].score == score["ScanQA"]


def test_a_set_is_scored_by_its_first_sample_of_the_file(tmp_path: Path) -> None:
    lines = [
        line(3, "A", "A", "mixed", question_type="open-ended"),
        line(1, "the answer is b", "B", "mixed", question_type="multi-choice"),
        line(2, "c", "C", "mixed", question_type="multi-choice"),
    ]
    (mixed,) = summarise(keep(tmp_path / "out", lines)).sets
    assert (mixed.metric, mixed.score) == ("accuracy", 2 / 3)


def test_a_question_type_unknown_to_the_official_script_has_no_score(tmp_path: Path) -> None:
    out = keep(tmp_path / "out", [line(0, "A", "A", "odd", question_type="essay"), line(1, "a", "A")])
    summary = summarise(out)
    odd = by_name(summary.sets)["odd"]
    assert (odd.metric, odd.score, odd.interval, odd.exact, odd.samples) == (None, None, None, 1.0, 1)
    assert any("odd" in note for note in notes(summary))


def test_turns_count_one_by_one_and_samples_once(tmp_path: Path) -> None:
    turns = [line(0, said, "A", turn=turn, turns=3) for turn, said in enumerate("ABA")]
    (one,) = summarise(keep(tmp_path / "out", [*turns, line(1, "b", "A", finish_reason="length")])).sets
    assert (one.samples, one.answers, one.score, one.cut) == (2, 4, 0.5, 1)


def test_an_average_over_nothing_is_none(tmp_path: Path) -> None:
    out = keep(tmp_path / "out", [line(0, "dog", "", "VIST"), {**line(1, "", "", "ScanQA"), "error": "gone"}])
    summary = summarise(out)
    assert [(one.score, one.interval) for one in summary.sets] == [(None, None), (None, None)]
    assert summary.categories == summary.domains == ()
    json.dumps(as_json(summary), allow_nan=False)


def test_intervals_are_wilsons_and_the_normal_one(tmp_path: Path) -> None:
    right = [line(number, "A" if number < 45 else "B", "A") for number in range(50)]
    said = [line(50 + number, "a red dog", "a blue dog" if number % 3 else "a red dog", "VIST") for number in range(30)]
    found = by_name(summarise(keep(tmp_path / "out", [*right, *said])).sets)
    # 45 of 50: Newcombe (1998) has Wilson's interval as a formula; here it is solved for instead.
    z = NormalDist().inv_cdf(0.975)
    for end in found["RAVEN"].interval or ():
        assert abs(0.9 - end) == pytest.approx(z * (end * (1 - end) / 50) ** 0.5, rel=1e-9)
    scores = [float(rouge(one["pred_response"], one["gt_response"]) or 0) for one in said]
    half = z * stdev(scores) / 30**0.5
    assert found["VIST"].interval == pytest.approx((mean(scores) - half, min(mean(scores) + half, 1)), rel=1e-9)
    certain = summarise(keep(tmp_path / "all", [line(number, "A", "A") for number in range(20)])).sets[0]
    assert certain.interval is not None
    assert 0.8 < certain.interval[0] < 0.9
    assert summarise(keep(tmp_path / "one", [line(0, "A", "A")])).sets[0].interval is None


def test_chance_and_held_out_samples_are_reported_separately(tmp_path: Path) -> None:
    about = {"category": "counting", "scenario": "multi-image", "chance": 0.25}
    lines = [
        line(number, "A", "A" if number % 4 else "B", "count", held_out="pair" if number >= 8 else "", **about)
        for number in range(16)
    ]
    info = dataclasses.replace(INFO, file="world.json", world=World(0, 16), samples=16)
    summary = summarise(keep(tmp_path / "out", lines, info))
    (one,) = summary.sets
    assert (one.chance, one.category, one.scenario, one.domain) == (0.25, "counting", "multi-image", "world")
    assert [(half.name, half.exact, half.answers) for half in summary.held_out] == [
        ("nothing", 0.75, 8),
        ("pair", 0.75, 8),
    ]
    assert [group.name for group in summary.domains] == ["world"]
    assert "held out" in as_markdown(summary)


def test_shards_in_several_files_are_one_run(tmp_path: Path, out: Path) -> None:
    info = dataclasses.replace(INFO, shards=3)
    for number in (3, 1, 2):
        lines = [one for one in recorded(400) if one["index"] % 3 == number - 1]
        keep(tmp_path / "parts", lines, info, Shard(number, 3).file_name)
    assert summarise(tmp_path / "parts").sets == summarise(out).sets
    (tmp_path / "parts" / "results.jsonl").write_text("")
    with pytest.raises(InputError, match="does not belong to this run"):
        summarise(tmp_path / "parts")


class TestComparing:
    def test_is_paired(self, tmp_path: Path) -> None:
        a = [line(index, "A" if index % 2 else "B", "A") for index in range(40)]
        b = [line(index, "A" if index % 4 == 1 else "B", "A") for index in range(40)]
        found = compare(keep(tmp_path / "a", a), keep(tmp_path / "b", b))
        (one,) = found.sets
        assert (one.a, one.b, one.difference, one.answers, one.answers_differ) == (0.5, 0.25, 0.25, 40, 10)
        differences = [float(index % 4 == 3) for index in range(40)]
        half = NormalDist().inv_cdf(0.975) * stdev(differences) / 40**0.5
        assert one.interval == pytest.approx((0.25 - half, 0.25 + half), rel=1e-9)
        assert found.overall is not None
        assert found.overall.difference == 0.25
        back = compare(tmp_path / "b", tmp_path / "a").sets[0]
        assert (back.difference, back.interval) == (-0.25, pytest.approx((-0.25 - half, -0.25 + half)))

    def test_takes_only_samples_that_both_have(self, tmp_path: Path) -> None:
        a = keep(tmp_path / "a", [line(0, "A", "A"), line(1, "A", "A"), line(2, "A", "A"), line(4, "A", "A")])
        gone = {**line(1, "", ""), "error": "gone"}
        b = keep(tmp_path / "b", [line(0, "B", "A"), gone, line(2, "a", "A"), line(3, "B", "A")])
        (one,) = compare(a, b).sets
        assert (one.answers, one.a, one.b, one.answers_differ) == (2, 1.0, 0.5, 2)

    def test_of_a_run_with_itself_finds_nothing(self, out: Path) -> None:
        found = compare(out, out)
        assert {one.difference for one in found.sets} == {0.0}
        assert {one.answers_differ for one in found.sets} == {0}
        assert {one.name for one in found.sets} == {*OPEN, *CHOICE}

    def test_of_nothing_in_common_is_empty(self, tmp_path: Path) -> None:
        a, b = keep(tmp_path / "a", [line(0, "A", "A")]), keep(tmp_path / "b", [line(1, "A", "A")])
        found = compare(a, b)
        assert (found.sets, found.overall) == ((), None)
        as_markdown(summarise(a), found)

    def test_of_another_file_is_refused(self, tmp_path: Path, out: Path) -> None:
        other = keep(tmp_path / "other", recorded(9), dataclasses.replace(INFO, sha256="2" * 64))
        with pytest.raises(InputError, match="results on another file"):
            compare(out, other)


class TestReports:
    def test_explain_what_the_numbers_leave_out(self, tmp_path: Path) -> None:
        lines = [line(number, "." * 40 + "a", "a dog", "VIST", finish_reason="length") for number in range(3)]
        lines += [line(3, "a", "?", "VIST"), line(4, "." * 40, "a dog", "VIST")]
        lines += [{**line(number, "", ""), "error": "gone"} for number in range(5, 30)]
        said = "\n".join(notes(summarise(keep(tmp_path / "out", lines))))
        for part in (
            "30 of the file's 400 samples",
            "the published multi_image_in_domain.json has about 12900 samples, this one 400",
            "25 samples could not be answered",
            "1 answers do not count",
            "1 answers count 0",
            "3 answers were cut off",
            "sample 6 (s5): gone",
            "and 5 more",
        ):
            assert part in said

    def test_escape_untrusted_markup(self, tmp_path: Path) -> None:
        name = "a|b\n# <script>\x1b[31m"
        page = as_markdown(summarise(keep(tmp_path / "out", [line(0, "A", "A", name)])))
        assert "\x1b" not in page
        assert "<script>" not in page
        assert page.count("\n# ") == 0
        assert "a\\|b" in page

    def test_are_written_whole_or_not_at_all(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        summary = summarise(out)
        write(out, summary, compare(out, out))
        before = (out / "summary.json").read_text("utf-8")
        assert json.loads(before)["comparison"]["overall"]["difference"] == 0
        assert len(json.loads(before)["sets"]) == 10

        def fail(self: Path, target: Path) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(ResourceError, match="No space left"):
            write(out, summary)
        assert (out / "summary.json").read_text("utf-8") == before
        assert not list(out.glob(".*"))

    def test_show_scores_as_the_official_script_prints_them(self, out: Path) -> None:
        summary = summarise(out)
        shown = {table.title: table for table in tables(summary)}
        assert shown["sets"].rows[0][2] == f"{100 * (summary.sets[0].score or 0):.2f}"
        assert set(shown) == {"sets", "categories", "averages"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda one: {**one, "index": -1},
        lambda one: {**one, "index": "0"},
        lambda one: {**one, "dataset": None},
        lambda one: {**one, "turn": 1},
        lambda one: {**one, "pred_response": 5},
        lambda one: {**one, "turns": 2},
        lambda one: [one],
    ],
)
def test_damaged_results_are_refused_naming_the_line(tmp_path: Path, damage: Callable[[dict[str, Any]], Any]) -> None:
    lines = [line(number, "A", "A") for number in range(3)]
    out = keep(tmp_path / "out", [lines[0], damage(lines[1]), lines[2]])
    with pytest.raises(InputError, match=r"results\.jsonl: line [23] is "):
        summarise(out)


def test_invalid_stored_scores_are_ignored(tmp_path: Path) -> None:
    lines = [line(number, "A", "A", metric="accuracy", score=wrong) for number, wrong in enumerate((7, "1", -1, [1]))]
    (one,) = summarise(keep(tmp_path / "out", lines)).sets
    assert one.score == 1.0


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        summarise(tmp_path)
    with pytest.raises(InputError, match="holds no results yet"):
        summarise(keep(tmp_path / "out", []))
