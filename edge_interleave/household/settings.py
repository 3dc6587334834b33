"""The settings of several sources that are watched with one model. `settings_file` reads them from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_interleave.alerts.rule import Rule
from edge_interleave.live.window import SLIDING, Mode
from edge_interleave.media.sources.frigate_settings import FrigateSettings
from edge_interleave.mqtt.settings import MqttSettings

DEFAULT_POOL = (2,)
DEFAULT_EVERY_S = 2.0
DEFAULT_MAX_TOKENS = 64


@dataclass(frozen=True)
class ModelSettings:
    """The model, its engine, and the memory for all sources together."""

    name: str | None = None
    """A stored model's name or a bundle's folder; None: the embedded model."""
    backend: str | None = None
    threads: int | None = None
    kv_precision: str = "f16"
    memory: str | None = None
    """`2GB`, or `50%` of the free memory; None: no limit."""


@dataclass(frozen=True)
class AlertSettings:
    """A rule that raises alerts."""

    name: str
    rule: Rule
    every_s: float = 0.0
    """Seconds between two checks, at least; 0: every frame is checked."""
    describe: str | None = None
    """Asked when an alert is raised; the answer goes with the alert."""


@dataclass(frozen=True)
class AskSettings:
    """A question that is asked at intervals."""

    name: str
    question: str
    every_s: float = DEFAULT_EVERY_S
    max_tokens: int = DEFAULT_MAX_TOKENS


@dataclass(frozen=True)
class SourceSettings:
    """A source, its window, what is asked about it, and where its alerts go."""

    name: str
    source: str = field(repr=False)
    """`camera:0`, a path, or an address, which may hold a password."""
    rules: tuple[AlertSettings | AskSettings, ...]
    out: Path
    """The folder of its events, pictures and videos."""
    window: int | None = None
    """Frames; None: 8, or fewer where the memory holds no more."""
    pool: tuple[int, ...] = DEFAULT_POOL
    fps: float | None = None
    change: float | None = None
    mode: Mode = SLIDING
    keep_answers: bool = False
    system: str | None = None
    realtime: bool = False
    before_s: float = 0.0
    """Seconds before an alert that are saved as a video; 0: none."""
    command: str | None = None
    webhook: str | None = field(default=None, repr=False)
    frigate: FrigateSettings | None = None
    """How to reach Frigate, for a source `frigate:CAMERA`; None: as the environment says."""

    @property
    def rule_names(self) -> tuple[str, ...]:
        """The names of its rules and questions, in the file's order."""
        return tuple(rule.name for rule in self.rules)


@dataclass(frozen=True)
class Settings:
    """All settings."""

    model: ModelSettings
    sources: tuple[SourceSettings, ...]
    mqtt: MqttSettings | None = None
    """The broker that everything is reported to; None: none."""

    def source(self, name: str) -> SourceSettings:
        """The source of that name. Raises KeyError."""
        return {source.name: source for source in self.sources}[name]
