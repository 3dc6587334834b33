"""Plans the windows of all sources of the settings within their memory."""

from __future__ import annotations

from edge_interleave.alerts.ring import BYTES_PER_S
from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.bundle.store import resolve
from edge_interleave.household.settings import Settings
from edge_interleave.live.window import SLIDING
from edge_interleave.planning.planner import FRAME_SIZE
from edge_interleave.planning.several import SharedPlan, WindowRequest, plan_windows
from edge_interleave.planning.system_memory import parse_memory


def plan_settings(settings: Settings, frame_size: tuple[int, int] = FRAME_SIZE) -> SharedPlan:
    """Plan the windows; takes seconds. `frame_size`: width and height of the sources' frames in pixels.

    Raises as `plan_windows`.
    """
    model = settings.model
    requests = [
        WindowRequest(
            source.name,
            source.source,
            source.window,
            source.pool,
            source.keep_answers,
            source.mode == SLIDING,
            int(source.before_s * BYTES_PER_S),
        )
        for source in settings.sources
    ]
    return plan_windows(
        open_bundle(resolve(model.name)),
        requests,
        None if model.memory is None else parse_memory(model.memory),
        backend=model.backend,
        threads=model.threads,
        kv_precision=model.kv_precision,
        frame_size=frame_size,
    )
