"""Reads the settings of several sources from a TOML file, and checks all of them.

    [model]
    name = "llava-interleave-qwen-0.5b"
    memory = "2GB"

    [sources.door]
    source = "rtsp://camera:${DOOR_PASSWORD}@192.168.1.9/stream"
    fps = 2
    before = "10s"
    webhook = "${file:secrets/webhook}"

    [[sources.door.rules]]
    name = "person"
    when = "Is there a person?"
    for = 3
    cooldown = "1m"
    describe = "What is the person doing?"

    [[sources.door.rules]]
    ask = "What is happening?"
    every = "30s"

    [mqtt]
    host = "192.168.1.10"

Keys are the options of `edge-interleave watch`; `broker_settings` reads `[mqtt]` and `[frigate]`. Paths are relative to
the file's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from edge_interleave.alerts.command import Command
from edge_interleave.alerts.ring import LONGEST_S
from edge_interleave.alerts.rule import Rule
from edge_interleave.alerts.webhook import Webhook
from edge_interleave.decoding.decoder import KV_PRECISIONS
from edge_interleave.errors import shown
from edge_interleave.household.broker_settings import FRIGATE_KEYS, MQTT_KEYS, read_frigate, read_mqtt
from edge_interleave.household.secrets import fill_secrets
from edge_interleave.household.settings import (
    DEFAULT_EVERY_S,
    DEFAULT_MAX_TOKENS,
    DEFAULT_POOL,
    AlertSettings,
    AskSettings,
    ModelSettings,
    Settings,
    SourceSettings,
)
from edge_interleave.household.toml_table import TomlFile, TomlTable
from edge_interleave.live.window import MODES, SLIDING, Mode
from edge_interleave.media.sources.frigate_settings import FrigateSettings
from edge_interleave.media.sources.open import is_address, open_source
from edge_interleave.mqtt.settings import MqttSettings
from edge_interleave.planning.system_memory import parse_memory

OUT = Path("edge-interleave-events")
_MODEL_KEYS = ("name", "backend", "threads", "kv_precision", "memory")
_SOURCE_KEYS = (
    "source", "window", "pool", "fps", "change", "mode", "keep_answers", "system", "realtime", "before", "out", "exec",
    "webhook", "rules",
)  # fmt: skip
_ALERT_KEYS = ("name", "when", "above", "for", "below", "every", "cooldown", "describe")
_ASK_KEYS = ("name", "ask", "every", "max_tokens")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MOST_SOURCES = 64
_MOST_RULES = 32


def read_settings(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check a file. Opens no source and no model.

    `environment`: where `${NAME}` is looked up. Raises InputError, which names the file and the line.
    """
    file = TomlFile(path)
    top = TomlTable(file, (), ("model", "mqtt", "frigate", "sources"))
    reader = _Reader(path.absolute().parent, environment)
    model = reader.model(top.table("model", _MODEL_KEYS))
    mqtt = reader.mqtt(top)
    names = top.table("sources")
    sources = tuple(reader.source(name, names) for name in names)
    if not sources:
        raise top.error(None, "no source to watch; add one: [sources.door], with 'source' and [[sources.door.rules]]")
    if len(sources) > _MOST_SOURCES:
        raise names.error(None, f"{len(sources)} sources are too many; give {_MOST_SOURCES} at most")
    _check_folders(sources, names)
    return Settings(model, sources, mqtt)


class _Reader:
    """Reads the tables of one file."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """`folder`: the file's. `environment`: where secrets are looked up."""
        self._folder = folder
        self._environment = environment
        self._frigate: FrigateSettings | None = None

    def mqtt(self, top: TomlTable) -> MqttSettings | None:
        """Read `[mqtt]`, and `[frigate]` for the sources."""
        mqtt = None
        if "mqtt" in top:
            mqtt = read_mqtt(top.table("mqtt", MQTT_KEYS), self._folder, OUT, self._secret)
        if "frigate" in top:
            self._frigate = read_frigate(top.table("frigate", FRIGATE_KEYS), self._folder, mqtt, self._secret)
        return mqtt

    def model(self, table: TomlTable) -> ModelSettings:
        name, memory = table.optional_text("name"), table.optional_text("memory")
        if name is not None and (self._folder / name).is_dir():
            name = str(self._folder / name)
        if memory is not None:
            table.checked("memory", lambda: parse_memory(memory))
        return ModelSettings(
            name,
            table.optional_text("backend"),
            table.integer("threads", None),
            table.choice("kv_precision", KV_PRECISIONS, "f16"),
            memory,
        )

    def source(self, name: str, names: TomlTable) -> SourceSettings:
        _check_name(name, names, name)
        table = names.table(name, _SOURCE_KEYS)
        realtime = table.boolean("realtime", False)
        rules = table.tables("rules", tuple(dict.fromkeys((*_ALERT_KEYS, *_ASK_KEYS))))
        if not rules:
            raise table.error(None, f"'{name}' has no rule; add [[sources.{name}.rules]] with 'when' or 'ask'")
        if len(rules) > _MOST_RULES:
            raise rules[_MOST_RULES].error(None, f"more than {_MOST_RULES} rules for one source are too many")
        settings = SourceSettings(
            name,
            self._address(table, realtime),
            _with_names(rules),
            self._folder / table.text("out", str(OUT / name)),
            table.integer("window", None, 1, 1024),
            table.integers("pool", DEFAULT_POOL),
            table.number("fps", None, 0, 1000, above=True),
            table.number("change", None, 0, 255),
            cast(Mode, table.choice("mode", MODES, SLIDING)),
            table.boolean("keep_answers", False),
            table.optional_text("system"),
            realtime,
            table.seconds("before", None, LONGEST_S) or 0.0,
            table.optional_text("exec"),
            self._secret(table, "webhook") if "webhook" in table else None,
            self._frigate,
        )
        command, webhook = settings.command, settings.webhook
        if command is not None:
            table.checked("exec", lambda: Command(command))
        if webhook is not None:
            table.checked("webhook", lambda: Webhook(webhook))
        return settings

    def _address(self, table: TomlTable, realtime: bool) -> str:
        """The source: an address or a camera as is, a path below the file's folder."""
        text = self._secret(table, "source")
        if not is_address(text):
            text = str(self._folder / text)
            if not os.path.exists(text):
                written = table.text("source")  # a secret, if it is one, is not shown
                raise table.error("source", f"{written}: no such file or folder; correct the path, or give an address")
        table.checked("source", lambda: open_source(text, realtime=realtime, frigate=self._frigate))
        return text

    def _secret(self, table: TomlTable, key: str) -> str:
        return table.checked(key, lambda: fill_secrets(table.text(key), self._folder, self._environment))


def _with_names(tables: list[TomlTable]) -> tuple[AlertSettings | AskSettings, ...]:
    """The rules of a source. A rule without a name is called by its place: rule-1."""
    found: dict[str, AlertSettings | AskSettings] = {}
    for number, table in enumerate(tables, 1):
        name = table.text("name", f"rule-{number}")
        _check_name(name, table, "name")
        if name in found:
            raise table.error("name", f"two rules are called '{name}'; rename one")
        found[name] = _rule(name, table)
    return tuple(found.values())


def _rule(name: str, table: TomlTable) -> AlertSettings | AskSettings:
    if ("when" in table) == ("ask" in table):
        raise table.error(None, "a rule needs either 'when', to raise alerts, or 'ask', to get answers")
    kind, known = ("when", _ALERT_KEYS) if "when" in table else ("ask", _ASK_KEYS)
    for key in table:
        if key not in known:
            raise table.error(key, f"'{key}' does not go with '{kind}'; leave it out")
    if kind == "ask":
        return AskSettings(
            name,
            _question(table, "ask"),
            table.seconds("every", DEFAULT_EVERY_S) or DEFAULT_EVERY_S,
            table.integer("max_tokens", DEFAULT_MAX_TOKENS) or DEFAULT_MAX_TOKENS,
        )
    above = table.number("above", 0.8, 0, 1)
    below = table.number("below", None, 0, 1)
    rule = table.checked(
        "below" if "below" in table else None,
        lambda: Rule(
            _question(table, "when"),
            0.8 if above is None else above,
            table.integer("for", 3) or 3,
            below,
            table.seconds("cooldown", None) or 0.0,
        ),
    )
    describe = _question(table, "describe") if "describe" in table else None
    return AlertSettings(name, rule, table.seconds("every", None) or 0.0, describe)


def _question(table: TomlTable, key: str) -> str:
    text = table.text(key)
    if "<image>" in text:
        raise table.error(key, f"'{key}' cannot contain <image>; the question is about the latest frames")
    return text


def _check_name(name: str, table: TomlTable, key: str) -> None:
    """Names become folders, and parts of topics."""
    if not _NAME.fullmatch(name):
        raise table.error(key, f"{shown(name)} is no name; use letters, digits, - and _, 64 characters at most")


def _check_folders(sources: tuple[SourceSettings, ...], names: TomlTable) -> None:
    """Each source's events have a folder of their own."""
    seen: dict[Path, str] = {}
    for source in sources:
        folder = Path(os.path.normpath(source.out))
        if folder in seen:
            raise names.table(source.name).error("out", f"'{seen[folder]}' has the same folder; give another")
        seen[folder] = source.name
