"""Plans the windows of all sources of the settings within their memory."""

from __future__ import annotations

from edge_interleave.alerts.alarm import MAX_PICTURES, PICTURE_BYTES_PER_PIXEL
from edge_interleave.alerts.ring import BYTES_PER_S, VIDEO_BYTES
from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.bundle.store import resolve
from edge_interleave.errors import UsageError
from edge_interleave.household.settings import AlertSettings, AskSettings, Settings, SourceSettings
from edge_interleave.live.layout import WindowLayout
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.live.window import SLIDING
from edge_interleave.planning.plan import Cost
from edge_interleave.planning.planner import FRAME_SIZE
from edge_interleave.planning.several import SharedPlan, WindowRequest, check_windows, plan_windows
from edge_interleave.planning.system_memory import parse_memory
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.tokenizer import TextTokenizer


def plan_settings(
    settings: Settings, frame_size: tuple[int, int] = FRAME_SIZE, memory: int | None = None
) -> SharedPlan:
    """Plan the windows; takes seconds.

    `frame_size`: width and height of the sources' frames in pixels. `memory`: the limit in bytes; None: as the settings
    say. Raises as `plan_windows`.
    """
    model, bundle = settings.model, open_bundle(resolve(settings.model.name))
    return plan_windows(
        bundle,
        _requests(bundle, settings, frame_size),
        parse_memory(model.memory) if memory is None and model.memory is not None else memory,
        backend=model.backend,
        threads=model.threads,
        kv_precision=model.kv_precision,
        frame_size=frame_size,
        more=(Cost("writing videos of alerts", VIDEO_BYTES),) if any(s.before_s for s in settings.sources) else (),
    )


def check_settings(bundle: Bundle, settings: Settings) -> None:
    """Check the windows and the questions of all sources. Raises UsageError, which names the source."""
    check_windows(bundle, _requests(bundle, settings, FRAME_SIZE))
    tokenizer, trained = TextTokenizer.open(bundle), bundle.manifest.decoder.context_length
    for source in settings.sources:
        for rule in source.rules:
            for question in _questions(rule):
                tokens = len(tokenizer.encode(question))
                if tokens >= trained:
                    raise UsageError(
                        f"{source.name}: {rule.name}: a question of {tokens} tokens is too long, as "
                        f"{bundle.manifest.name} was trained on {trained}; shorten it"
                    )


def _questions(rule: AlertSettings | AskSettings) -> tuple[str, ...]:
    if isinstance(rule, AskSettings):
        return (rule.question,)
    return (rule.rule.question, *([] if rule.describe is None else [rule.describe]))


def _requests(bundle: Bundle, settings: Settings, frame_size: tuple[int, int]) -> list[WindowRequest]:
    tokenizer = TextTokenizer.open(bundle)
    prompts = PromptBuilder(bundle, tokenizer)
    return [
        WindowRequest(
            source.name,
            source.source,
            source.window,
            source.pool,
            WindowLayout.of(LivePrompt(prompts, tokenizer, source.system)),
            source.keep_answers,
            source.mode == SLIDING,
            _kept_bytes(source, frame_size),
        )
        for source in settings.sources
    ]


def _kept_bytes(source: SourceSettings, frame_size: tuple[int, int]) -> int:
    """Bytes of the last seconds, and of the pictures of alerts that are pending."""
    picture = int(frame_size[0] * frame_size[1] * PICTURE_BYTES_PER_PIXEL)
    alerts = sum(isinstance(rule, AlertSettings) for rule in source.rules)
    return int(source.before_s * BYTES_PER_S) + alerts * (MAX_PICTURES + 1) * picture
