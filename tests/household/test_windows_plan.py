"""The memory plan of several sources with one model."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge_interleave.alerts.rule import Rule
from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.bundle.store import resolve
from edge_interleave.errors import ResourceError, UsageError
from edge_interleave.household.settings import AlertSettings, ModelSettings, Settings, SourceSettings
from edge_interleave.household.windows_plan import check_settings, plan_settings
from edge_interleave.planning.system_memory import parse_memory


def settings(*windows: int | None, memory: str | None = None, system: str | None = None, pool: int = 2) -> Settings:
    """Sources with these windows, of which the first keeps ten seconds for its alerts."""
    rules = (AlertSettings("rule", Rule("Is there a cat?")),)
    sources = tuple(
        SourceSettings(
            f"cam-{number}",
            f"rtsp://127.0.0.1/{number}",
            rules,
            Path(f"cam-{number}"),
            window=window,
            pool=(pool,),
            system=system,
            before_s=0 if number else 10.0,
        )
        for number, window in enumerate(windows)
    )
    return Settings(ModelSettings(threads=1, memory=memory), sources)


def test_windows_share_the_memory_and_the_weights() -> None:
    one, two = plan_settings(settings(8)), plan_settings(settings(8, 8))
    assert [window.frames for window in two.windows] == [8, 8]
    # The second source costs its window, its frames and its process, but no weights; the first one its pictures too.
    assert two.estimate - one.estimate == pytest.approx(two.windows[1].bytes, rel=0.02)
    assert {cost.name for cost in two.windows[0].costs} - {cost.name for cost in two.windows[1].costs} == set()
    assert two.windows[0].bytes > two.windows[1].bytes
    # A window that names no number has the usual one, or as many as fit.
    assert [window.frames for window in plan_settings(settings(2, None)).windows] == [2, 8]
    with pytest.raises(ResourceError, match="the least that is enough is") as caught:
        plan_settings(settings(2, None, memory="50MB"))
    least = str(caught.value).rsplit(" ", 1)[1]
    limited = plan_settings(settings(2, None, memory=least))
    assert limited.estimate <= parse_memory(least)
    if limited.windows[1].frames == 8:
        # The amount is rounded by more than a frame costs the embedded model's window: here, it holds all frames.
        limited = plan_settings(settings(2, None, memory=f"{(limited.estimate - 10_000) / 1e6:.4f}MB"))
    assert limited.windows[0].frames == 2
    assert 1 <= limited.windows[1].frames < 8


def test_a_system_message_counts_and_a_window_that_cannot_be_is_refused() -> None:
    plain, told = plan_settings(settings(8)), plan_settings(settings(8, system="You watch a door. Be brief."))
    assert told.windows[0].context > plain.windows[0].context
    with pytest.raises(UsageError, match="cam-1: a window of 999 frames needs"):
        plan_settings(settings(8, 999))
    with pytest.raises(UsageError, match="cam-0: pooling stride 50"):
        plan_settings(settings(8, pool=50))


def test_a_question_that_can_never_fit_is_refused_before_anything_starts() -> None:
    (source,) = settings(1).sources
    long = AlertSettings("cat", Rule("Is there a cat?"), describe="word " * 20_000)
    bundle = open_bundle(resolve(None))
    check_settings(bundle, settings(1))
    with pytest.raises(UsageError, match=r"cam-0: cat: a question of \d+ tokens is too long"):
        check_settings(bundle, Settings(ModelSettings(), (replace(source, rules=(long,)),)))
