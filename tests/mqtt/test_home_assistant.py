"""A running Home Assistant makes the entities, shows their states, and sends commands.

It needs the program `hass` (`pip install homeassistant`, on a Python that it supports). Home Assistant tells its states
by its own integration `mqtt_statestream`, so no user has to log in.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mqtt.test_bridge import ASK, DOOR, House
from support.mosquitto import mosquitto, needs_mosquitto, subscriber

from edge_interleave.mqtt.discovery import AnnouncedSource

_CONFIGURATION = """
mqtt_statestream: {base_topic: ha, publish_attributes: true}
automation:
  - alias: pause
    triggers: [{trigger: mqtt, topic: test/pause}]
    actions: [{action: switch.turn_on, target: {entity_id: switch.door_pause}}]
  - alias: ask
    triggers: [{trigger: mqtt, topic: test/ask}]
    actions:
      - action: text.set_value
        target: {entity_id: text.door_person_question}
        data: {value: "{{ trigger.payload }}"}
"""


def prepared(folder: Path, port: int) -> Path:
    """A folder of Home Assistant's settings, with the integration MQTT set up as a person would."""
    (folder / ".storage").mkdir(parents=True)
    (folder / "configuration.yaml").write_text(_CONFIGURATION)
    entry = {
        "created_at": "2025-01-01T00:00:00+00:00", "modified_at": "2025-01-01T00:00:00+00:00",
        "data": {"broker": "127.0.0.1", "port": port}, "options": {}, "disabled_by": None, "discovery_keys": {},
        "domain": "mqtt", "entry_id": "01J00000000000000000000000", "version": 1, "minor_version": 1,
        "pref_disable_new_entities": False, "pref_disable_polling": False, "source": "user", "subentries": [],
        "title": "broker", "unique_id": None,
    }  # fmt: skip
    stored = {"version": 1, "minor_version": 5, "key": "core.config_entries", "data": {"entries": [entry]}}
    (folder / ".storage" / "core.config_entries").write_text(json.dumps(stored))
    return folder


@pytest.mark.slow
@needs_mosquitto
@pytest.mark.skipif(shutil.which("hass") is None, reason="Home Assistant (hass) is not installed")
def test_home_assistant_shows_and_steers_a_source(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker, subscriber(broker.port, "ha/#", "homeassistant/status", f"{ASK}/#") as client:
        home = prepared(tmp_path / "home", broker.port)
        process = subprocess.Popen(["hass", "-c", str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with House(broker.port, tmp_path / "outbox") as house:
                client.wait_for(lambda _: client.last("homeassistant/status") == b"online", 300)
                house.bridge.set_available("door", True)
                house.bridge.checked("door", "person", True, {"probability": 0.9})
                house.bridge.answered("door", "scene", {"answer": "A cat sleeps. " * 40})
                house.alert(1)
                client.wait_last("ha/binary_sensor/door_person/state", b"on")
                client.wait_last("ha/binary_sensor/door_person/probability", b"0.9")
                client.wait_last("ha/image/door_person_last_alert/id", b'"a1"')
                client.wait_last("ha/sensor/door_scene_answer/state", ("A cat sleeps. " * 40)[:255].encode())
                client.wait_last("ha/switch/door_pause/state", b"off")
                client.wait_last("ha/text/door_scene_question/state", b"What is happening?")
                client.publish("test/ask", b"Is there a cat?")
                client.wait_last("ha/text/door_person_question/state", b"Is there a cat?")
                client.publish("test/pause", b"")
                client.wait_last("ha/switch/door_pause/state", b"on")
                client.wait_last("ha/binary_sensor/door_person/state", b"unknown")
                assert house.household.commands == [("door", "person", "Is there a cat?"), ("door", "pause")]
                house.bridge.begin((AnnouncedSource("door", DOOR.rules, {}),), house.household)
                client.wait_last(f"{ASK}/question", b"")
            client.wait_last("ha/binary_sensor/door_person/state", b"unavailable")
        finally:
            process.terminate()
            process.wait(60)
    registry = json.loads((home / ".storage" / "core.entity_registry").read_text())["data"]["entities"]
    assert {entity["entity_id"] for entity in registry if entity["platform"] == "mqtt"} == {
        "binary_sensor.door_person", "image.door_person_last_alert", "switch.door_pause", "text.door_person_question",
    }  # fmt: skip
