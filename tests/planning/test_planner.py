"""Plans for a memory limit: what fits, what is refused, and whether the figures are the engine's."""

import ctypes
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import llama_cpp.llama_cpp as low
import pytest
from support.tiny import change_manifest, tiny_bundle

from edge_interleave.backends.llama_cpp.weights import LOG
from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import ContextFullError, ResourceError, UsageError
from edge_interleave.live.layout import WindowLayout
from edge_interleave.planning.footprint import Footprint, Rates, measure
from edge_interleave.planning.goals import PRESETS
from edge_interleave.planning.planner import plan
from edge_interleave.planning.system_memory import parse_memory
from edge_interleave.vision.pooling import image_tokens

MB = 1_000_000
FOOTPRINT = Footprint(
    libraries=100 * MB,
    tokenizer=5 * MB,
    decoder=10 * MB,
    tower=20 * MB,
    working=5 * MB,
    layout=WindowLayout(sink=18, around_frame=10),
    rates=Rates(encode=0.1, token=0.001, token_per_entry=1e-7),
)


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return open_bundle(store.resolve(None))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The released models' 27 x 27 visual tokens and context, with a decoder that supports a KV cache in q8_0."""
    folder = tmp_path_factory.mktemp("large") / "bundle"
    tiny_bundle(folder, heads=1, layers=8, context_length=32768)
    change_manifest(folder, "vision", grid=27, image_size=384)
    return open_bundle(folder)


def test_frames_without_their_first_patch_are_counted_so_and_never_pooled(large: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(large.folder, tmp_path / "mantis"))
    change_manifest(folder, "vision", first_patch_dropped=True)
    bundle = open_bundle(folder)
    for goal, seconds in (("coverage", None), ("detail", None), ("latency", 9.0)):
        made = plan(bundle, None, goal, frames=4, seconds=seconds, footprint=FOOTPRINT)
        assert (made.pool, made.frame_tokens, made.visual_tokens) == ((1,), (728,), 4 * 728)
    for asked in ({"pool": 2}, {"pool": (1, 4)}, {"preset": "64-pooled"}):
        with pytest.raises(UsageError, match="leaves out the first patch"):
            plan(bundle, **asked, footprint=FOOTPRINT)


class TestWhatFits:
    @pytest.mark.parametrize("goal", ["coverage", "detail"])
    def test_more_memory_holds_more_frames_and_no_plan_exceeds_it(self, large: Bundle, goal: str) -> None:
        made = [plan(large, size * MB, goal, footprint=FOOTPRINT) for size in (190, 195, 200, 220, 240, 260, 300, 400)]
        frames = [one.frames for one in made]
        # More memory may buy speed instead: a KV cache in f16, or larger batches.
        assert all(more >= less / 1.25 for less, more in pairwise(frames))
        assert frames[0] < frames[-1]
        assert all(one.estimate <= (one.memory or 0) for one in made)

    def test_coverage_has_more_frames_and_detail_more_tokens_per_frame(self, large: Bundle) -> None:
        wide, deep = (plan(large, 240 * MB, goal, footprint=FOOTPRINT) for goal in ("coverage", "detail"))
        assert wide.frames > deep.frames
        assert (wide.pool, deep.pool) == ((2,), (1,))
        assert (wide.frame_tokens, deep.frame_tokens) == ((169,), (729,))

    def test_without_a_limit_the_papers_largest_windows_are_planned(self, large: Bundle) -> None:
        assert plan(large, None, "coverage", footprint=FOOTPRINT).frames == 64
        assert plan(large, None, "detail", footprint=FOOTPRINT).frames == 16

    def test_q8_0_and_small_batches_are_used_only_in_little_memory(self, large: Bundle) -> None:
        rich, poor = (
            plan(large, size, "detail", footprint=FOOTPRINT, backend="llama-cpp") for size in (None, 195 * MB)
        )
        assert (rich.kv_precision, rich.batch) == ("f16", 512)
        assert poor.kv_precision == "q8_0"
        forced = plan(large, 240 * MB, "detail", kv_precision="f16", footprint=FOOTPRINT, backend="llama-cpp")
        assert forced.kv_precision == "f16"

    def test_a_decoder_without_q8_0_is_planned_with_f16(self, embedded: Bundle) -> None:
        made = plan(embedded, 187 * MB, "detail", footprint=FOOTPRINT, backend="llama-cpp")
        assert made.kv_precision == "f16"

    def test_a_pattern_counts_at_its_most_expensive_point(self, large: Bundle) -> None:
        made = plan(large, None, frames=5, pool=(1, 4, 4, 4), footprint=FOOTPRINT)
        assert made.frame_tokens == (729, 36, 36, 36)
        assert made.visual_tokens == 2 * 729 + 3 * 36

    def test_larger_source_frames_cost_memory(self, embedded: Bundle) -> None:
        small, large = (plan(embedded, footprint=FOOTPRINT, frame_size=size) for size in ((96, 96), (1920, 1080)))
        assert large.estimate > small.estimate + 1920 * 1080 * 3

    def test_the_costs_sum_up(self, embedded: Bundle) -> None:
        made = plan(embedded, "50%", footprint=FOOTPRINT)
        assert made.estimate == sum(cost.bytes for cost in made.costs)
        assert {"KV cache", "decoder weights", "compute buffers", "reserve"} < {cost.name for cost in made.costs}


class TestPresets:
    @pytest.mark.parametrize(
        ("name", "average", "bilinear"),
        [
            ("10-full", 10 * 729, 10 * 729),
            ("16-full", 16 * 729, 16 * 729),
            ("40-pooled", 40 * 169, 40 * 196),
            ("64-pooled", 64 * 169, 64 * 196),
        ],
    )
    def test_presets_are_the_papers_rows(self, large: Bundle, name: str, average: int, bilinear: int) -> None:
        vision = large.manifest.vision
        preset = PRESETS[name]
        assert preset.frames * image_tokens(vision, preset.stride, "average") == average
        assert preset.frames * image_tokens(vision, preset.stride, "bilinear") == bilinear
        smooth = Bundle(large.folder, replace(large.manifest, pooling_mode="bilinear"))
        for bundle, tokens in ((large, average), (smooth, bilinear)):
            made = plan(bundle, preset=name, footprint=FOOTPRINT)
            assert (made.frames, made.visual_tokens, made.goal) == (PRESETS[name].frames, tokens, name)

    def test_a_preset_that_does_not_fit_is_not_shrunk(self, large: Bundle) -> None:
        with pytest.raises(ResourceError, match="16 frames"):
            plan(large, 180 * MB, preset="16-full", footprint=FOOTPRINT)


class TestRefusals:
    @pytest.mark.parametrize("goal", ["coverage", "detail"])
    @pytest.mark.parametrize("frames", [None, 12])
    def test_too_little_memory_names_the_least_that_is_enough(
        self, large: Bundle, goal: str, frames: int | None
    ) -> None:
        with pytest.raises(ResourceError, match=r"1MB is too little") as caught:
            plan(large, 1 * MB, goal, frames=frames, footprint=FOOTPRINT)
        least = parse_memory(str(caught.value).rpartition(" ")[2])
        made = plan(large, least, goal, frames=frames, footprint=FOOTPRINT)
        assert made.frames >= 1 if frames is None else made.frames == frames
        with pytest.raises(ResourceError):
            plan(large, least - 2 * MB, goal, frames=frames, footprint=FOOTPRINT)

    def test_a_window_beyond_the_trained_context_names_the_most_frames(self, large: Bundle) -> None:
        with pytest.raises(UsageError, match=r"50 frames .* 32768 .*; (\d+) would") as caught:
            plan(large, frames=50, pool=1, footprint=FOOTPRINT)
        most = int(re.findall(r"; (\d+) would", str(caught.value))[0])
        assert plan(large, frames=most, pool=1, footprint=FOOTPRINT).context <= 32768
        with pytest.raises(UsageError):
            plan(large, frames=most + 1, pool=1, footprint=FOOTPRINT)

    @pytest.mark.parametrize(
        "asked",
        [
            {"goal": "beauty"},
            {"goal": "latency"},
            {"goal": "detail", "seconds": 1.0},
            {"goal": "latency", "seconds": 0.0},
            {"goal": "detail", "preset": "10-full"},
            {"preset": "11-full"},
            {"preset": "10-full", "frames": 3},
            {"frames": 0},
            {"pool": 0},
            {"pool": ()},
            {"memory": "much"},
        ],
        ids=str,
    )
    def test_impossible_requests_are_a_usage_error(self, embedded: Bundle, asked: dict) -> None:
        with pytest.raises(UsageError):
            plan(embedded, **asked, footprint=FOOTPRINT)


class TestLatency:
    def test_less_time_means_more_pooling(self, large: Bundle) -> None:
        made = [plan(large, None, "latency", seconds=seconds, footprint=FOOTPRINT) for seconds in (3.0, 0.5, 0.2)]
        strides = [one.pool[0] for one in made]
        assert strides == sorted(strides)
        assert strides[0] == 1
        assert strides[-1] > 2
        assert all((one.seconds_per_frame or 9) <= seconds for one, seconds in zip(made, (3.0, 0.5, 0.2), strict=True))

    def test_a_requested_pooling_stays(self, large: Bundle) -> None:
        assert plan(large, None, "latency", seconds=0.5, pool=4, footprint=FOOTPRINT).pool == (4,)

    def test_too_little_time_names_the_least_that_is_enough(self, large: Bundle) -> None:
        with pytest.raises(ResourceError, match=r"0\.01 s is too short") as caught:
            plan(large, None, "latency", seconds=0.01, footprint=FOOTPRINT)
        least = float(str(caught.value).split()[-2])
        assert (plan(large, None, "latency", seconds=least, footprint=FOOTPRINT).seconds_per_frame or 9) <= least


class TestEngine:
    """The figures agree with llama.cpp and with the live window."""

    @pytest.mark.parametrize("precision", ["f16", "q8_0"])
    @pytest.mark.parametrize(("context", "batch"), [(500, 32), (1500, 512), (4000, 128)])
    def test_buffers_are_as_large_as_llama_cpp_says(
        self, large: Bundle, precision: str, context: int, batch: int
    ) -> None:
        options = DecoderOptions(context, 1, precision, batch)
        said: dict[str, float] = {}

        def take(level: int, text: bytes, _user: object) -> None:
            found = re.search(rb"(KV|compute) buffer size =\s+([\d.]+) MiB", text)
            if found:
                said[found[1].decode()] = float(found[2]) * (1 << 20)

        backend = find_backend("llama-cpp")
        backend.open(large, DecoderOptions(1)).close()
        callback = low.llama_log_callback(take)
        installed, LOG.install = LOG.install, lambda: low.llama_log_set(callback, ctypes.c_void_p(0))
        try:
            backend.open(large, options).close()
        finally:
            LOG.install = installed
            LOG.install()
        memory = backend.memory(large, options)
        assert memory.cache == pytest.approx(said["KV"], abs=1e4)
        # Above llama.cpp's count: it also allocates inputs and intermediate products.
        assert said["compute"] <= memory.compute <= 2.5 * said["compute"] + MB / 2

    def test_the_planned_window_fits_into_the_planned_context(self, embedded: Bundle) -> None:
        measured = measure(embedded, "llama-cpp", 1)
        made = plan(embedded, None, "coverage", frames=5, pool=(1, 2), threads=1, footprint=measured)
        with made.open() as model, model.live(made.frames, made.pool) as live:
            assert live.stats().capacity == made.context
        # One more frame uses the entries for prefetching; a second one does not fit.
        with made.open() as model, pytest.raises(ContextFullError, match="7 frames"):
            model.live(made.frames + 2, made.pool)

    def test_a_measurement_is_kept_and_its_rates_are_plausible(self, embedded: Bundle) -> None:
        first = measure(embedded, "llama-cpp", 1, rates=True)
        assert measure(embedded, "llama-cpp", 1, rates=True) is first
        assert first.rates is not None
        assert 0 < first.rates.encode < 10
        assert 0 < first.rates.token < 0.1
