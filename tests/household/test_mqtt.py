"""A household's settings with `[mqtt]` and `[frigate]`, and what reaches the broker when it runs."""

import io
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from support.command_line import PROGRAM, environment
from support.frigate import frigate
from support.mjpeg_server import HEAD, part, serving
from support.mosquitto import mosquitto, needs_mosquitto, subscriber

from edge_interleave.errors import InputError
from edge_interleave.household.settings_file import read_settings

WHOLE = """\
[mqtt]
host = "hub"
username = "edge"
password = "${file:secret}"
outbox = "waiting"

[frigate]
url = "https://nvr:8971"
username = "viewer"
password = "${FRIGATE}"

[sources.door]
source = "frigate:front_door"
rules = [{ name = "person", when = "Is there a person?" }]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "secret").write_text("correct horse\n")
    path = folder / "cameras.toml"
    path.write_text(text)
    return path


def test_the_settings_of_broker_and_frigate_are_read(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, WHOLE), {"FRIGATE": "battery staple"})
    assert settings.mqtt is not None
    assert (settings.mqtt.broker.name, settings.mqtt.broker.password) == ("mqtt://hub:1883", "correct horse")
    assert (settings.mqtt.outbox, settings.mqtt.discovery) == (tmp_path / "waiting", "homeassistant")
    (door,) = settings.sources
    assert door.frigate is not None
    assert (door.source, door.frigate.password) == ("frigate:front_door", "battery staple")
    assert door.frigate.broker is settings.mqtt.broker
    assert "horse" not in repr(settings)
    assert "staple" not in repr(settings)


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ('"${file:secret}"', '"correct horse"', "4: write ${NAME}, a variable of the environment, or ${file:PATH}"),
        ("${FRIGATE}", "${GARAGE}", "10: the environment has no variable GARAGE"),
        ('host = "hub"\n', "", "1: 'host' is missing"),
        ('"hub"', '"mqtt://hub"', "2: 'host' must be a host name or an address alone"),
        ('"hub"', '"hub"\nport = 0', "3: 'port' must be a whole number from 1 to 65535"),
        ('"hub"', '"hub"\nca_file = "ca.pem"', "3: {folder}/ca.pem: holds no certificate in PEM form (No such file"),
        ('"hub"', '"hub"\nca_file = "secret"', "3: {folder}/secret: holds no certificate in PEM form"),
        ('"hub"', '"hub"\nprefix = "a/#"', "3: 'prefix' must be a topic without + and #"),
        ('"hub"', '"hub"\ndiscovery = true', "3: 'discovery' must be a text"),
        ('username = "edge"\n', "", "3: 'password' needs a 'username'"),
        ("https://nvr", "nvr", "8: 'url' must be Frigate's address"),
        ('username = "viewer"\n', "", "7: 'username' and 'password' of Frigate go together"),
        (WHOLE[: WHOLE.index("[frigate]")], "", "1: [frigate] needs [mqtt]"),
        ("frigate:front_door", "frigate:", "13: frigate:'': not a camera's name"),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, before: str, after: str, error: str) -> None:
    assert WHOLE.count(before) == 1
    path = written(tmp_path, WHOLE.replace(before, after))
    with pytest.raises(InputError) as refused:
        read_settings(path, {"FRIGATE": "battery staple"})
    assert str(refused.value).startswith(f"{path}:" + error.replace("{folder}", str(tmp_path)))
    assert "horse" not in str(refused.value)


@needs_mosquitto
def test_a_household_is_reported_and_steered(tmp_path: Path) -> None:
    white = Image.new("RGB", (112, 112), "white")
    red = white.copy()
    ImageDraw.Draw(red).ellipse((30, 30, 80, 80), fill="red")
    shown = [white]

    def camera(server: object, connection: object, number: int) -> None:
        connection.sendall(HEAD)  # type: ignore[attr-defined]
        while not server.stopping.wait(0.05):  # type: ignore[attr-defined]
            file = io.BytesIO()
            shown[0].save(file, "JPEG")
            connection.sendall(part(file.getvalue()))  # type: ignore[attr-defined]

    with mosquitto(tmp_path) as broker, serving(camera) as yard, frigate(broker.port) as nvr:
        nvr.picture = red
        settings = f"""
[model]
threads = 1

[mqtt]
host = "127.0.0.1"
port = {broker.port}

[frigate]
url = "{nvr.url}"

[sources.yard]
source = "{yard.url}"
window = 2
[[sources.yard.rules]]
name = "circle"
when = "Is there a red circle?"
for = 2
[[sources.yard.rules]]
name = "scene"
ask = "What is in the picture?"
every = "200ms"

[sources.door]
source = "frigate:door"
window = 2
rules = [{{ name = "circle", when = "Is there a red circle?", for = 2 }}]
"""
        path = written(tmp_path, settings)
        with subscriber(broker.port, "edge-interleave/#", "homeassistant/#") as client:
            process = subprocess.Popen(
                [*PROGRAM, "watch", "--config", str(path)],
                env=environment(tmp_path, EDGE_INTERLEAVE_HEARTBEAT=str(tmp_path / "heartbeat")),
                cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                client.wait_last("edge-interleave/status", b"online")
                client.wait_last("edge-interleave/yard/availability", b"online")
                client.wait_last("edge-interleave/door/availability", b"online")
                client.wait_for(lambda _: bool(client.of("edge-interleave/yard/scene/answer")))
                assert json.loads(client.of("edge-interleave/yard/scene/answer")[-1])["answer"]
                assert client.last("edge-interleave/yard/circle/state") == b"OFF"
                shown[0] = red
                client.wait_last("edge-interleave/yard/circle/state", b"ON")
                client.wait_for(lambda _: bool(client.of("edge-interleave/yard/circle/alert")))
                (alert,) = map(json.loads, client.of("edge-interleave/yard/circle/alert"))
                assert (alert["question"], len(alert["id"])) == ("Is there a red circle?", 32)
                assert Path(alert["frames"][-1]).exists(), "the alert is on disk"
                best = Image.open(io.BytesIO(client.of("edge-interleave/yard/circle/snapshot")[-1]))
                assert best.getpixel((55, 55))[0] > 200 > best.getpixel((55, 55))[1]
                nvr.event("new")
                client.wait_last("edge-interleave/door/circle/state", b"ON")
                client.publish("edge-interleave/yard/circle/question/set", b"Is there a blue square?")
                client.wait_last("edge-interleave/yard/circle/state", b"OFF")
                client.publish("edge-interleave/yard/paused/set", b"ON")
                client.wait_last("edge-interleave/yard/circle/state", b"None")
                path.write_text(settings.replace('name = "scene"', 'name = "view"'))
                process.send_signal(signal.SIGHUP)
                client.wait_last("edge-interleave/yard/scene/answer", b"")
                client.wait_last("edge-interleave/yard/view/question", b"What is in the picture?")
                assert client.last("edge-interleave/yard/circle/question") == b"Is there a blue square?"
                assert client.last("edge-interleave/yard/paused") == b"ON"
                assert 0 <= time.time() - (tmp_path / "heartbeat").stat().st_mtime < 10
                process.send_signal(signal.SIGTERM)
                client.wait_last("edge-interleave/status", b"offline")
                assert process.wait(10) == 0
                assert not (tmp_path / "heartbeat").exists()
            finally:
                process.kill()
                _, errors = process.communicate()
    assert "Traceback" not in errors
