"""The sets of LLaVA-Interleave Bench and M4-Instruct: category, domain, scenario, metric, number of samples.

The names are those in the files' `metadata.dataset`; files with other sets work too. Sources:

- Categories of the multi-image sets: LLaVA-NeXT, `llava/eval/evaluate_interleave.py`. It has none for the multi-view
  and the out-of-domain sets; theirs are from lmms-eval, `lmms_eval/tasks/llava_interleave_bench/utils.py`.
- Domains and multi-view sets: LLaVA-OneVision, section 6.2, on the same benchmark. Mantis as out-of-domain: public code
  that reads that file.
- Metrics: DEMON's table of tasks (arXiv 2308.04152, table 6), for the sets that come from DEMON. Scoring does not use
  these: the question type of each sample decides.
- Samples of each file of the benchmark: rows shown on the dataset's page. Samples of each set are not known: the
  paper's table (arXiv 2407.07895) was not accessible.
- Samples of M4-Instruct: figure 5 of LLaVA-OneVision (arXiv 2408.03326), rounded to hundreds; multi-patch
  (single-image) samples: M4-Instruct's dataset card.
"""

from __future__ import annotations

from dataclasses import dataclass

IN_DOMAIN, OUT_OF_DOMAIN, TRAINING = "in-domain", "out-of-domain", "training"
MULTI_IMAGE, MULTI_VIEW, MULTI_FRAME, MULTI_PATCH = "multi-image", "multi-view", "multi-frame", "multi-patch"
ONE_VISION = "arXiv 2408.03326, figure 5"
DATASET_PAGE = "huggingface.co/datasets/lmms-lab/LLaVA-NeXT-Interleave-Bench, rows as its viewer shows them"
M4_CARD = "huggingface.co/datasets/lmms-lab/M4-Instruct-Data, dataset card"
_ROUGE_L, _ACCURACY = "ROUGE-L", "accuracy"


@dataclass(frozen=True)
class SetInfo:
    """One set of samples."""

    name: str
    category: str | None
    """The task that the set belongs to; None if no source gives one."""
    domain: str
    """`in-domain`, `out-of-domain`, or `training` (M4-Instruct)."""
    scenario: str
    metric: str | None
    """As published; None if no source gives it."""
    samples: int | None = None
    """Number of samples, rounded as published; None if no source gives it."""
    source: str | None = None
    """Source of `samples`."""


@dataclass(frozen=True)
class FileInfo:
    """One of the benchmark's files."""

    name: str
    domain: str
    scenario: str
    samples: int
    """Rounded as published."""
    source: str


BENCH_FILES = (
    FileInfo("multi_image_in_domain.json", IN_DOMAIN, MULTI_IMAGE, 12_900, DATASET_PAGE),
    FileInfo("multi_image_out_domain.json", OUT_OF_DOMAIN, MULTI_IMAGE, 3_360, DATASET_PAGE),
    FileInfo("multi_view_in_domain.json", IN_DOMAIN, MULTI_VIEW, 22_400, DATASET_PAGE),
)


def _bench(category: str, domain: str, scenario: str, sets: dict[str, str | None]) -> tuple[SetInfo, ...]:
    return tuple(SetInfo(name, category, domain, scenario, metric) for name, metric in sets.items())


BENCH = (
    *_bench(
        "spot_the_diff",
        IN_DOMAIN,
        MULTI_IMAGE,
        {"Spot-the-Diff": _ROUGE_L, "Birds-to-Words": _ROUGE_L, "CLEVR-Change": _ROUGE_L},
    ),
    *_bench("image_edit_instruct", IN_DOMAIN, MULTI_IMAGE, {"IEdit": _ROUGE_L, "HQ-Edit": None, "MagicBrush": None}),
    *_bench(
        "visual_story_telling",
        IN_DOMAIN,
        MULTI_IMAGE,
        {"AESOP": _ROUGE_L, "FlintstonesSV": _ROUGE_L, "PororoSV": _ROUGE_L, "VIST": _ROUGE_L},
    ),
    *_bench("visual_cloze", IN_DOMAIN, MULTI_IMAGE, {"COMICS_Dialogue": _ACCURACY, "RecipeQA_VisualCloze": _ACCURACY}),
    *_bench(
        "text_rich_vqa",
        IN_DOMAIN,
        MULTI_IMAGE,
        {"WebQA": _ACCURACY, "TQA": _ACCURACY, "OCR-VQA": _ACCURACY, "DocVQA": _ACCURACY},
    ),
    *_bench(
        "multi_image_vqa",
        IN_DOMAIN,
        MULTI_IMAGE,
        {
            "MIT-States_StateCoherence": _ACCURACY,
            "MIT-States_PropertyCoherence": _ACCURACY,
            "VISION": _ACCURACY,
            "RecipeQA_ImageCoherence": _ACCURACY,
        },
    ),
    *_bench("puzzle", IN_DOMAIN, MULTI_IMAGE, {"RAVEN": None}),
    *_bench("nlrv2", IN_DOMAIN, MULTI_IMAGE, {"NLVR2_Mantis": _ACCURACY}),
    *_bench("qbench", IN_DOMAIN, MULTI_IMAGE, {"QBench": None}),
    *_bench("scan_qa", IN_DOMAIN, MULTI_VIEW, {"ScanQA": None}),
    *_bench("alfred", IN_DOMAIN, MULTI_VIEW, {"ALFRED": _ROUGE_L}),
    *_bench("nuscenes", IN_DOMAIN, MULTI_VIEW, {"nuscenes": _ACCURACY}),
    *_bench("scannet_chat", IN_DOMAIN, MULTI_VIEW, {"ScanNet_chat": None}),
    *_bench("scannet_task", IN_DOMAIN, MULTI_VIEW, {"ScanNet_task": None}),
    *_bench("blink", OUT_OF_DOMAIN, MULTI_IMAGE, {"BLINK": None}),
    *_bench("math_verse", OUT_OF_DOMAIN, MULTI_IMAGE, {"MathVerse": None}),
    *_bench("sci_verse", OUT_OF_DOMAIN, MULTI_IMAGE, {"SciVerse": None}),
    *_bench("mantis", OUT_OF_DOMAIN, MULTI_IMAGE, {"Mantis": None}),
)


def _m4(scenario: str, samples: dict[str, int | None], source: str = ONE_VISION) -> tuple[SetInfo, ...]:
    known = {info.name: info for info in BENCH}
    return tuple(
        SetInfo(
            name,
            known[name].category if name in known else None,
            TRAINING,
            scenario,
            known[name].metric if name in known else None,
            count,
            None if count is None else source,
        )
        for name, count in samples.items()
    )


M4_INSTRUCT = (
    *_m4(
        MULTI_IMAGE,
        {
            "Spot-the-Diff": 10_800,
            "Birds-to-Words": 14_300,
            "CLEVR-Change": 3_900,
            "IEdit": 3_500,
            "HQ-Edit": 7_000,
            "MagicBrush": 6_700,
            "AESOP": 6_900,
            "FlintstonesSV": 22_300,
            "PororoSV": 12_300,
            "VIST": 26_000,
            "COMICS_Dialogue": 5_900,
            "RecipeQA_VisualCloze": 8_700,
            "RecipeQA_ImageCoherence": 8_700,
            "WebQA": 9_300,
            "TQA": 8_200,
            "OCR-VQA": 1_900,
            "DocVQA": 1_900,
            "MIT-States_StateCoherence": 1_900,
            "MIT-States_PropertyCoherence": 1_900,
            "VISION": 9_900,
            "VizWiz": 4_900,
            "RAVEN": 35_000,
            "nlvr2": 86_400,
            "coinstruct": 50_000,
            "dreamsim": 15_900,
            "iconqa": 34_600,
            "imagecode": 16_600,
            "multi_vqa": 5_000,
            "contrastive_caption": 25_200,
            "mmchat": None,
        },
    ),
    *_m4(MULTI_VIEW, {"ScanNet": 49_900, "ScanQA": 25_600, "ALFRED": 22_600, "nuscenes": 9_800}),
    *_m4(MULTI_FRAME, {"nextqa": 3_900, "star": 3_000, "ShareGPTVideo": 255_000}),
    *_m4(MULTI_PATCH, {"LLaVA-1.5": 307_000}, M4_CARD),
)
_M4_FILES = "m4_instruct"
_MANTIS = "mantis-"


def find_set(dataset: str, file_name: str = "") -> SetInfo | None:
    """The set of a name: M4-Instruct's if the file's name says so, else the benchmark's; None for unknown sets."""
    in_m4 = {info.name.casefold(): info for info in M4_INSTRUCT}
    in_bench = {info.name.casefold(): info for info in BENCH}
    name = dataset.casefold()
    if file_name.casefold().startswith(_M4_FILES):
        # Some copies prefix the sets that came through Mantis-Instruct.
        return in_m4.get(name) or in_m4.get(name.removeprefix(_MANTIS)) or in_bench.get(name)
    return in_bench.get(name)


def find_file(file_name: str) -> FileInfo | None:
    """One of the benchmark's files by its name; None for others."""
    return next((info for info in BENCH_FILES if info.name == file_name), None)
