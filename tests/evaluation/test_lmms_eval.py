"""lmms-eval's command line evaluates a bundle through `examples/lmms_eval_model`."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.eval_files import COLOURS, draw
from support.paths import EXAMPLES

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed"),
]
PACKAGE = EXAMPLES / "lmms_eval_model"
GROUP = "lmms_eval.models"
TASK = """
task: circles
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/circles.json
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: "answer"
process_results: !function utils.process_results
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
"""
UTILS = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(path).convert("RGB") for path in doc["pictures"]]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def process_results(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


def test_a_task_on_local_files_is_answered_and_scored(tmp_path: Path) -> None:
    draw(tmp_path)
    docs = [
        {
            "pictures": [str(tmp_path / "pictures" / f"{name}.png") for name in (colour, other)],
            "question": question,
            "answer": f"Image 1 contains a {colour} circle.",
        }
        for colour, other in zip(COLOURS, (*COLOURS[1:], COLOURS[0]), strict=True)
        for question in (
            f"Which image contains a {colour} circle?",  # without markers images come first
            f"<image><image>Which image contains a {colour} circle?",
            f"<image>Which image contains a {colour} circle?",  # a marker that stands for neither
        )
    ]
    docs[-1]["answer"] = "I cannot say."
    (tmp_path / "circles.json").write_text(json.dumps(docs))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "circles.yaml").write_text(TASK.format(folder=tmp_path))
    (tasks / "utils.py").write_text(UTILS)
    command = [
        *(sys.executable, "-m", "lmms_eval", "--model", "edge_interleave", "--model_args", "threads=1"),
        *("--include_path", str(tasks), "--tasks", "circles", "--batch_size", "1"),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    done = subprocess.run(
        command, env=_environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # It ends with 0 after an error, too.
    found = list((tmp_path / "out").rglob("*results.json"))
    assert len(found) == 1, done.stderr[-3000:]
    scores = json.loads(found[0].read_text("utf-8"))["results"]["circles"]
    assert scores["right,none"] == 11 / 12


def _environment(tmp_path: Path) -> dict[str, str]:
    """The package as pip would leave it: its modules on the path, its entry points in a `dist-info` folder."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]
    info = tmp_path / "site" / "edge_interleave_lmms_eval-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    points = [f"{name} = {where}" for name, where in project["entry-points"][GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points, ""]))
    path = os.pathsep.join(filter(None, [str(info.parent), str(PACKAGE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
