"""A camera of Frigate as a source, against a stand-in and a real broker."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from support.command_line import PROGRAM, environment
from support.frigate import Frigate, frigate
from support.mosquitto import Mosquitto, mosquitto, needs_mosquitto

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media.sources import frigate as module
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.frigate import FrigateSource
from edge_interleave.media.sources.frigate_settings import FrigateSettings, frigate_from_environment
from edge_interleave.media.sources.open import open_source
from edge_interleave.mqtt.settings import Broker

pytestmark = needs_mosquitto
LOGIN = ("viewer", "correct horse")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def stand_in(broker: Mosquitto) -> Iterator[Frigate]:
    with frigate(broker.port) as running:
        yield running


def opened(stand_in: Frigate, broker: Mosquitto, camera: str = "door", **settings: str) -> FrigateSource:
    source = FrigateSource(camera, FrigateSettings(stand_in.url, Broker("127.0.0.1", broker.port), **settings))
    source.open()
    return source


def colour(source: FrigateSource) -> tuple[int, ...]:
    frame = source.read()
    assert frame is not None
    return tuple(round(value / 64) for value in frame.image.getpixel((5, 5)))


def test_frames_come_while_an_object_moves(
    stand_in: Frigate, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.1)
    with closing(opened(stand_in, broker)) as source:
        assert colour(source) == (0, 2, 0), "one frame at the beginning"
        came: list[tuple[int, ...]] = []
        reading = threading.Thread(target=lambda: came.extend(colour(source) for _ in range(3)))
        reading.start()
        stand_in.picture = Image.new("RGB", (64, 48), "red")
        # Other cameras, unsure objects and strangers' messages are no events of this camera.
        stand_in.event("new", camera="garden")
        stand_in.event("new", false_positive=True)
        for strange in (b"\xff", b"[]", b'{"type": "new"}', b'{"type": "new", "after": {"id": 1, "camera": []}}'):
            stand_in.publish("frigate/events", strange)
        time.sleep(0.2)
        assert came == []
        started = time.monotonic()
        stand_in.event("new")
        reading.join(10)
        assert came == [(4, 0, 0)] * 3
        assert time.monotonic() - started >= 0.2
        # An object that stands still, or whose event has ended, needs no more frames.
        stand_in.event("update", stationary=True)
        stand_in.event("new", "2.2-b")
        stand_in.event("end", "2.2-b")
        time.sleep(0.3)
        before = len(stand_in.requests)
        reading = threading.Thread(target=source.read)
        reading.start()
        time.sleep(0.5)
        assert len(stand_in.requests) - before <= 1, "at most the picture of the short event"
    reading.join(5)
    assert not reading.is_alive(), "closing ends a read that waits"


def test_a_login_is_made_and_made_again_when_it_has_expired(broker: Mosquitto) -> None:
    with frigate(broker.port, LOGIN) as stand_in:
        with pytest.raises(MediaError, match="needs a login; set its 'username' and 'password'"):
            opened(stand_in, broker)
        with pytest.raises(MediaError, match="refuses the login") as refused:
            opened(stand_in, broker, username="viewer", password="wrong")
        assert "wrong" not in str(refused.value)
        with closing(opened(stand_in, broker, username=LOGIN[0], password=LOGIN[1])) as source:
            assert colour(source) == (0, 2, 0)
            stand_in.tokens += 1  # the old cookie is no longer accepted
            stand_in.event("new")
            assert colour(source) == (0, 2, 0)
    assert stand_in.requests.count("POST /api/login") == 3


def test_what_is_wrong_is_said(stand_in: Frigate, broker: Mosquitto) -> None:
    with pytest.raises(MediaError, match="frigate:shed: Frigate has no such camera"):
        opened(stand_in, broker, "shed")
    with closing(opened(stand_in, broker)) as source:
        source.read()
        stand_in.offline = True
        stand_in.event("new")
        with pytest.raises(FrameDamaged, match="no new picture"):
            source.read()
        stand_in.offline = False
        assert colour(source) == (0, 2, 0)
        stand_in.publish("frigate/door/status/detect", b"offline")
        time.sleep(0.2)
        with pytest.raises(FrameDamaged, match="no new picture"):
            source.read()
        stand_in.publish("frigate/door/status/detect", b"online")
        time.sleep(0.2)
        stand_in.status = 500
        with pytest.raises(SourceLost, match="Frigate answers 500"):
            source.read()
        stand_in.status = 200
        source.open()
        source.read()
        stand_in.publish("frigate/available", b"stopped", retain=True)
        with pytest.raises(SourceLost, match="Frigate has stopped"):
            source.read()
        stand_in.publish("frigate/available", b"online", retain=True)
        source.open()
        source.read()
        broker.stop(signal.SIGKILL)
        with pytest.raises(SourceLost, match="the connection to the broker was lost"):
            source.read()
        with pytest.raises(MediaError, match=r"mqtt://127\.0\.0\.1:\d+: cannot be reached"):
            source.open()


def test_settings_come_from_the_environment() -> None:
    found = frigate_from_environment(
        {
            "EDGE_INTERLEAVE_FRIGATE_URL": "https://nvr:8971",
            "EDGE_INTERLEAVE_FRIGATE_USERNAME": "viewer",
            "EDGE_INTERLEAVE_FRIGATE_PASSWORD": "secret",
            "EDGE_INTERLEAVE_MQTT_HOST": "hub",
            "EDGE_INTERLEAVE_MQTT_PORT": "1884",
        }
    )
    assert (found.url, found.username, found.broker.name) == ("https://nvr:8971", "viewer", "mqtt://hub:1884")
    assert "secret" not in repr(found)
    for variables in ({}, {"EDGE_INTERLEAVE_FRIGATE_URL": "http://nvr:5000"}):
        with pytest.raises(UsageError, match="set EDGE_INTERLEAVE_FRIGATE_URL and EDGE_INTERLEAVE_MQTT_HOST"):
            frigate_from_environment(variables)
    for url in ("nvr:5000", "ftp://nvr", "http://me:secret@nvr:5000", "http://nvr:99999"):
        with pytest.raises(UsageError) as refused:
            FrigateSettings(url, Broker("hub"))
        assert "secret" not in str(refused.value)
    for camera in ("", "a/b", "#", "a b"):
        with pytest.raises(UsageError, match="not a camera's name"):
            open_source(f"frigate:{camera}", frigate=found)


def test_a_watch_of_a_frigate_camera_raises_an_alert(stand_in: Frigate, broker: Mosquitto, tmp_path: Path) -> None:
    red = Image.new("RGB", (112, 112), "white")
    ImageDraw.Draw(red).ellipse((20, 30, 60, 70), fill="red")
    stand_in.picture = Image.new("RGB", (112, 112), "white")
    env = environment(
        tmp_path,
        EDGE_INTERLEAVE_FRIGATE_URL=stand_in.url,
        EDGE_INTERLEAVE_MQTT_HOST="127.0.0.1",
        EDGE_INTERLEAVE_MQTT_PORT=str(broker.port),
    )
    command = [*PROGRAM, "watch", "frigate:door", "--when", "Is there a red circle?", "--for", "2", "--json"]
    process = subprocess.Popen(
        [*command, "--window", "2", "--threads", "1"],
        env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert (first["event"], first["raised"]) == ("check", False)
    stand_in.picture = red
    stand_in.event("new")
    kinds = []
    for line in process.stdout:
        kinds.append(json.loads(line)["event"])
        if kinds[-1] == "alert":
            break
    assert kinds == ["check", "check", "alert"]
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert len(os.listdir(tmp_path / "edge-interleave-events" / "frames")) == 2
