"""Home Assistant's MQTT discovery: one device for each source, with its entities, as one retained message.

The format is Home Assistant's "device discovery payload" (https://www.home-assistant.io/integrations/mqtt/, since
2024.11). Names are written in full, without the abbreviations that it allows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_interleave.mqtt.topics import SET, Topics

MAX_STATE = 255
"""Characters of a state that Home Assistant takes; so also of a question that it can show and change."""


@dataclass(frozen=True)
class AnnouncedSource:
    """A source, with what is watched for and asked. Names are those of the settings: letters, digits, - and _."""

    name: str
    rules: Mapping[str, str]
    """Name of each rule to its question."""
    asks: Mapping[str, str]
    """Name of each question that is asked at intervals, to the question."""


def discovery_topic(discovery: str, prefix: str, source: str) -> str:
    """The topic of a source's discovery message."""
    return f"{discovery}/device/{_device_id(prefix, source)}/config"


def device_config(source: AnnouncedSource, topics: Topics, version: str) -> dict[str, Any]:
    """The discovery message of a source."""
    device = _device_id(topics.prefix, source.name)
    connected = {"topic": topics.status}
    delivers = {"topic": topics.source(source.name, "availability")}
    watching = {"availability": [connected, delivers], "availability_mode": "all"}
    pause = {"platform": "switch", "name": "Pause", "icon": "mdi:pause"}
    components = {"paused": pause | _switched(topics.source(source.name, "paused"))}
    for rule in source.rules:

        def of(part: str, rule: str = rule) -> str:
            return topics.rule(source.name, rule, part)

        components[f"{rule}_state"] = {
            "platform": "binary_sensor",
            "name": rule,
            "state_topic": of("state"),
            "json_attributes_topic": of("attributes"),
            **watching,
        }
        components[f"{rule}_alert"] = {
            "platform": "image",
            "name": f"{rule} last alert",
            "image_topic": of("snapshot"),
            "content_type": "image/jpeg",
            "json_attributes_topic": of("alert"),
        }
        components[f"{rule}_question"] = _question(of("question"), rule)
    for ask in source.asks:
        answer = topics.rule(source.name, ask, "answer")
        components[f"{ask}_answer"] = {
            "platform": "sensor",
            "name": f"{ask} answer",
            "state_topic": answer,
            "value_template": f"{{{{ value_json.answer[:{MAX_STATE}] }}}}",
            "json_attributes_topic": answer,
            "icon": "mdi:message-text",
            **watching,
        }
        components[f"{ask}_question"] = _question(topics.rule(source.name, ask, "question"), ask)
    return {
        "device": {"identifiers": [device], "name": source.name, "manufacturer": "edge-interleave", "model": "source"},
        "origin": {"name": "edge-interleave", "sw_version": version},
        "availability": [connected],
        "components": {key: {**part, "unique_id": f"{device}_{key}"} for key, part in components.items()},
        "qos": 1,
    }


def without_components(config: Mapping[str, Any], removed: Mapping[str, str]) -> dict[str, Any]:
    """The discovery message with entities that are to be removed: a component with its platform alone."""
    gone = {key: {"platform": platform} for key, platform in removed.items()}
    return {**config, "components": {**config["components"], **gone}}


def encode(config: Mapping[str, Any]) -> bytes:
    """A discovery message's payload."""
    return json.dumps(config, ensure_ascii=False).encode()


def _device_id(prefix: str, source: str) -> str:
    """The identifier of a source's device: the same after each start."""
    return f"{re.sub('[^a-zA-Z0-9_-]', '_', prefix)}_{source}"


def _switched(topic: str) -> dict[str, Any]:
    return {"state_topic": topic, "command_topic": topic + SET}


def _question(topic: str, name: str) -> dict[str, Any]:
    return _switched(topic) | {
        "platform": "text",
        "name": f"{name} question",
        "min": 1,
        "max": MAX_STATE,
        "entity_category": "config",
        "icon": "mdi:comment-question",
    }
