"""States, alerts and commands through a real broker that is killed, restarted, or refuses the login."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.alerts import ALERT, wait_for
from support.mosquitto import Mosquitto, Subscriber, mosquitto, needs_mosquitto, relay, subscriber

from edge_interleave.errors import InputError, UsageError
from edge_interleave.mqtt.alert_queue import AlertQueue
from edge_interleave.mqtt.bridge import Bridge
from edge_interleave.mqtt.discovery import AnnouncedSource
from edge_interleave.mqtt.settings import Broker, MqttSettings

pytestmark = needs_mosquitto

DOOR = AnnouncedSource("door", {"person": "Is there a person?"}, {"scene": "What is happening?"})
RULE = "edge-interleave/door/person"
ASK = "edge-interleave/door/scene"
JPEG = b"\xff\xd8\xffpicture\xff\xd9"


class Household:
    """Records commands; refuses questions about the weather."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def ask_instead(self, source: str, rule: str, question: str) -> None:
        self.commands.append((source, rule, question))
        if "weather" in question:
            raise UsageError("ask about what the camera sees")

    def pause(self, source: str) -> None:
        self.commands.append((source, "pause"))

    def resume(self, source: str) -> None:
        self.commands.append((source, "resume"))


class House:
    """A bridge with what it told."""

    def __init__(self, port: int, folder: Path, *sources: AnnouncedSource, **broker: Any) -> None:
        self.notes: list[str] = []
        self.household = Household()
        self._sources = sources or (DOOR,)
        settings = MqttSettings(Broker("127.0.0.1", port, **broker), folder)
        self.bridge = Bridge(settings, self.notes.append, first_retry_s=0.05)

    def __enter__(self) -> "House":
        self.bridge.begin(self._sources, self.household)
        return self

    def __exit__(self, *error: object) -> None:
        self.bridge.close()

    def alert(self, number: int, picture: bytes = JPEG) -> None:
        self.bridge.alert("door", "person", {**ALERT.event(), "id": f"a{number}"}, picture)

    def wait_sent(self) -> None:
        wait_for(lambda: not self.bridge.waiting)


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


def ids(client: Subscriber) -> list[str]:
    return [json.loads(payload)["id"] for payload in client.of(f"{RULE}/alert")]


def test_states_and_alerts_arrive_as_the_documentation_says(broker: Mosquitto, tmp_path: Path) -> None:
    with subscriber(broker.port, "edge-interleave/#") as client, House(broker.port, tmp_path) as house:
        client.wait_last("edge-interleave/status", b"online")
        client.wait_last("edge-interleave/door/availability", b"offline")
        client.wait_last(f"{RULE}/question", b"Is there a person?")
        house.bridge.set_available("door", True)
        client.wait_last("edge-interleave/door/availability", b"online")
        house.bridge.checked("door", "person", False, {"probability": 0.1})
        house.bridge.checked("door", "person", True, {"probability": 0.9})
        client.wait_last(f"{RULE}/state", b"ON")
        assert json.loads(client.of(f"{RULE}/attributes")[-1]) == {"probability": 0.9}
        house.bridge.answered("door", "scene", {"answer": "A cat sleeps — 🐈."})
        client.wait_for(lambda _: client.of(f"{ASK}/answer") != [])
        assert json.loads(client.of(f"{ASK}/answer")[-1])["answer"] == "A cat sleeps — 🐈."
        house.alert(1)
        client.wait_for(lambda _: ids(client) == ["a1"])
        house.wait_sent()
        topics = [topic for topic, _, _ in client.messages]
        assert topics.index(f"{RULE}/snapshot") < topics.index(f"{RULE}/alert"), "the picture is there before the alert"
        event = json.loads(client.of(f"{RULE}/alert")[0])
        assert (event["event"], event["source"], event["rule"]) == ("alert", "door", "person")
    # What a client that comes later gets, with the program ended: no alert, and that the program is offline.
    with subscriber(broker.port, "edge-interleave/#") as late:
        late.wait_last(f"{RULE}/snapshot", JPEG)
        late.wait_last("edge-interleave/status", b"offline")
        late.wait_last(f"{RULE}/state", b"ON")
        assert all(retained for _, _, retained in late.messages)
        assert late.of(f"{RULE}/alert") == []
    assert house.notes == []


def test_a_killed_program_is_reported_offline_by_the_broker(broker: Mosquitto, tmp_path: Path) -> None:
    program = (
        "import sys, time; sys.path[:0] = ['tests']\n"
        "from pathlib import Path\n"
        "from mqtt.test_bridge import House\n"
        f"house = House({broker.port}, Path({str(tmp_path)!r}))\n"
        "house.__enter__()\n"
        "time.sleep(60)\n"
    )
    with subscriber(broker.port, "edge-interleave/status") as client:
        process = subprocess.Popen([sys.executable, "-c", program])
        client.wait_last("edge-interleave/status", b"online")
        process.kill()
        process.wait()
        client.wait_last("edge-interleave/status", b"offline")


def test_a_killed_broker_gets_everything_once_it_is_back(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker, ExitStack() as stack:
        client = stack.enter_context(subscriber(broker.port, "edge-interleave/#"))
        network = stack.enter_context(relay(broker.port))
        house = stack.enter_context(House(network.port, tmp_path / "outbox"))
        house.alert(1)
        client.wait_for(lambda _: ids(client) == ["a1"])
        house.wait_sent()
        broker.stop(signal.SIGKILL)
        network.cut()
        wait_for(lambda: any("trying again" in note for note in house.notes))
        for number in range(2, 22):
            house.alert(number)
        house.bridge.checked("door", "person", True, {})
        assert house.bridge.waiting == 20
        broker.start()
        client.wait_subscribed()
        network.mend()
        client.wait_for(lambda _: len(ids(client)) >= 21)
        client.wait_last(f"{RULE}/state", b"ON")
        client.wait_last("edge-interleave/status", b"online")
        house.wait_sent()
        assert ids(client) == [f"a{number}" for number in range(1, 22)], "in order, none lost, none twice"
        assert house.bridge.sent == 21
    assert list((tmp_path / "outbox").glob("*.alert")) == []
    # One line when it was lost, or two if the reason changed, and one when it was back.
    assert 2 <= len(house.notes) <= 4
    assert house.notes[-1].endswith("connected; 20 alerts waiting")


def test_only_the_alert_on_its_way_can_arrive_twice_and_with_the_same_id(broker: Mosquitto, tmp_path: Path) -> None:
    with subscriber(broker.port, f"{RULE}/alert") as client, relay(broker.port) as network:
        with House(network.port, tmp_path) as house:
            assert house.bridge.wait_connected(10)
            network.loses_answers = True
            for number in range(3):
                house.alert(number)
            client.wait_for(lambda _: ids(client) == ["a0"])
            network.cut()
            network.loses_answers = False
            network.mend()
            house.wait_sent()
        client.wait_for(lambda _: len(ids(client)) == 4)
        assert ids(client) == ["a0", "a0", "a1", "a2"]


def test_alerts_outlive_the_program(broker: Mosquitto, tmp_path: Path) -> None:
    with mosquitto(tmp_path) as dead:
        dead.stop(signal.SIGKILL)
        with House(dead.port, tmp_path / "outbox") as house:
            for number in range(5):
                house.alert(number)
        assert len(list((tmp_path / "outbox").glob("*.alert"))) == 5
        # A file that a power loss cut off, and one that is not ours, are neither sent nor deleted.
        cut = sorted((tmp_path / "outbox").glob("*.alert"))[2]
        cut.write_bytes(cut.read_bytes()[:-3])
        (tmp_path / "outbox" / "notes.txt").write_text("mine")
        dead.start()
        with subscriber(dead.port, f"{RULE}/#") as client, House(dead.port, tmp_path / "outbox") as house:
            client.wait_for(lambda _: len(ids(client)) == 4)
            house.wait_sent()
        assert ids(client) == ["a0", "a1", "a3", "a4"]
    assert any("damaged" in note for note in house.notes)
    assert sorted(path.suffix for path in (tmp_path / "outbox").iterdir()) == [".damaged", ".json", ".txt"]


def test_a_wrong_password_is_named_and_alerts_wait(tmp_path: Path) -> None:
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "edge", "right"], check=True, capture_output=True)
    users.chmod(0o600)
    with mosquitto(tmp_path, f"allow_anonymous false\npassword_file {users}") as broker:
        outbox = tmp_path / "outbox"
        with House(broker.port, outbox, username="edge", password="wrong") as house:
            house.alert(1)
            wait_for(lambda: bool(house.notes))
            assert "refuses the user name or the password" in house.notes[0]
            assert "wrong" not in "".join(house.notes)
            assert house.bridge.waiting == 1
        with House(broker.port, outbox, username="edge", password="right") as house:
            house.wait_sent()
            assert house.bridge.sent == 1


def test_tls_with_a_certificate_authority_of_ones_own(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    listener = f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key"
    with mosquitto(tmp_path, listener=listener) as broker:
        with House(broker.port, tmp_path / "outbox", tls=True, ca_file=tmp_path / "ca.pem") as house:
            house.alert(1, JPEG * 50_000)
            house.wait_sent()
            assert house.bridge.sent == 1
        with House(broker.port, tmp_path / "outbox", tls=True) as house:
            wait_for(lambda: bool(house.notes))
            assert "certificate is not trusted" in house.notes[0]
        with House(broker.port, tmp_path / "outbox") as house:
            wait_for(lambda: bool(house.notes))


def test_a_question_and_a_pause_come_from_home_assistant(broker: Mosquitto, tmp_path: Path) -> None:
    with subscriber(broker.port, "edge-interleave/#") as client, House(broker.port, tmp_path) as house:
        client.wait_last("edge-interleave/status", b"online")
        client.publish(f"{RULE}/question/set", "Is there a cät?".encode())
        client.wait_last(f"{RULE}/question", "Is there a cät?".encode())
        client.publish("edge-interleave/door/paused/set", b"ON")
        client.wait_last("edge-interleave/door/paused", b"ON")
        client.wait_last(f"{RULE}/state", b"None")
        house.bridge.checked("door", "person", True, {})  # it ran when the source was paused
        client.publish("edge-interleave/door/paused/set", b"OFF")
        client.wait_last(f"{RULE}/state", b"OFF")
        client.publish(f"{ASK}/question/set", b"Who is there?")
        client.wait_last(f"{ASK}/question", b"Who is there?")
    assert house.household.commands == [
        ("door", "person", "Is there a cät?"),
        ("door", "pause"),
        ("door", "resume"),
        ("door", "scene", "Who is there?"),
    ]
    assert house.notes == []


@pytest.mark.parametrize(
    ("topic", "payload", "said"),
    [
        (f"{RULE}/question", b"x" * 256, "256 characters are too long"),
        (f"{RULE}/question", b"x" * 100_000, "100000 bytes are too long"),
        (f"{RULE}/question", b"\xff\xfe", "not UTF-8"),
        (f"{RULE}/question", b"  ", "the question is empty"),
        (f"{RULE}/question", b"a\nb", "control characters"),
        (f"{RULE}/question", b"How is the weather?", "ask about what the camera sees"),
        ("edge-interleave/door/paused", b"maybe", "must be ON or OFF"),
    ],
)
def test_bad_commands_are_refused_with_a_note(
    broker: Mosquitto, tmp_path: Path, topic: str, payload: bytes, said: str
) -> None:
    value = b"OFF" if topic.endswith("paused") else b"Is there a person?"
    with subscriber(broker.port, topic, "edge-interleave/status") as client, House(broker.port, tmp_path) as house:
        client.wait_last("edge-interleave/status", b"online")
        client.wait_last(topic, value)
        before = len(client.messages)
        for _ in range(5):
            client.publish(f"{topic}/set", payload)
        # The value that stays is published again, because the sender may show its own.
        client.wait_for(lambda messages: len(messages) > before)
        assert client.of(topic)[-1] == value
        wait_for(lambda: len(house.notes) == 3)
    assert said in house.notes[0]
    assert len(house.notes) == 3, "a flood of bad commands is no flood of lines"
    assert all(command[-1] == payload.decode() for command in house.household.commands)


def test_commands_that_are_retained_or_too_large_for_memory_never_arrive(broker: Mosquitto, tmp_path: Path) -> None:
    topic = f"{RULE}/question/set"
    with subscriber(broker.port, "edge-interleave/#") as client:
        client.publish(topic, b"An old question?", retain=True)
        with House(broker.port, tmp_path) as house:
            wait_for(lambda: bool(house.notes))
            assert "retained" in house.notes[0]
            client.publish(topic, b"x" * (2 << 20))
            client.publish(topic, b"A new one?")
            client.wait_last(f"{RULE}/question", b"A new one?")
        client.publish(topic, b"", retain=True)
    assert house.household.commands == [("door", "person", "A new one?")]


def test_a_flood_of_commands_is_cut_off(broker: Mosquitto, tmp_path: Path) -> None:
    with subscriber(broker.port, f"{RULE}/question") as client, House(broker.port, tmp_path) as house:
        client.wait_last(f"{RULE}/question", b"Is there a person?")
        for number in range(30):
            client.publish(f"{RULE}/question/set", f"Question {number}?".encode())
        wait_for(lambda: len(house.notes) == 3)
    assert "more than 20 commands in 10 s" in house.notes[0]
    assert [command[-1] for command in house.household.commands] == [f"Question {number}?" for number in range(20)]


def test_home_assistants_birth_message_gets_everything_again(broker: Mosquitto, tmp_path: Path) -> None:
    with subscriber(broker.port, "homeassistant/device/#") as client, House(broker.port, tmp_path):
        topic = "homeassistant/device/edge-interleave_door/config"
        client.wait_for(lambda _: len(client.of(topic)) == 1)
        client.publish("homeassistant/status", b"online")
        client.wait_for(lambda _: len(client.of(topic)) == 2)


@pytest.mark.parametrize("restarted", [True, False])
def test_what_the_settings_no_longer_have_is_removed(broker: Mosquitto, tmp_path: Path, restarted: bool) -> None:
    garden = AnnouncedSource("garden", {"cat": "Is there a cat?"}, {})
    two_rules = AnnouncedSource("door", {**DOOR.rules, "parcel": "Is there a parcel?"}, DOOR.asks)
    topic = "homeassistant/device/edge-interleave_door/config"
    with ExitStack() as stack:
        client = stack.enter_context(subscriber(broker.port, "edge-interleave/#", "homeassistant/#"))
        house = stack.enter_context(House(broker.port, tmp_path, garden, two_rules))
        client.wait_last("edge-interleave/status", b"online")
        if restarted:
            house.bridge.close()
            stack.enter_context(House(broker.port, tmp_path, DOOR))
        else:
            house.bridge.begin((DOOR,), house.household)
        client.wait_last("homeassistant/device/edge-interleave_garden/config", b"")
        client.wait_last("edge-interleave/door/parcel/state", b"")
        client.wait_last("edge-interleave/status", b"online")
        client.wait_for(lambda _: len(client.of(topic)) == 3)
        configs = [json.loads(payload)["components"] for payload in client.of(topic)]
        # First the entity with its platform alone, which removes it, then the device without it.
        assert configs[-2]["parcel_state"] == {"platform": "binary_sensor"}
        assert "parcel_state" not in configs[-1]
        assert "person_state" in configs[-1]
        with subscriber(broker.port, "edge-interleave/#", "edge-interleave/end") as late:
            client.publish("edge-interleave/end", b"")
            late.wait_last("edge-interleave/end", b"")
            assert not [topic for topic, _, _ in late.messages if "garden" in topic or "parcel" in topic]


def test_a_forbidden_topic_keeps_back_its_own_alerts_only(tmp_path: Path) -> None:
    rules = AnnouncedSource("door", {**DOOR.rules, "parcel": "Is there a parcel?"}, {})
    access = tmp_path / "access"
    access.write_text("topic readwrite #\ntopic deny edge-interleave/door/person/alert\n")
    access.chmod(0o600)
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(tmp_path, f"allow_anonymous true\nacl_file {access}"))
        client = stack.enter_context(subscriber(broker.port, "edge-interleave/door/parcel/alert"))
        house = stack.enter_context(House(broker.port, tmp_path / "outbox", rules))
        house.alert(1)
        house.alert(2)
        house.bridge.alert("door", "parcel", {**ALERT.event(), "id": "a3"})
        client.wait_for(lambda _: client.of("edge-interleave/door/parcel/alert") != [])
        wait_for(lambda: house.bridge.waiting == 2)
        assert "Not authorized" in house.notes[0]
        assert "edge-interleave/#" in house.notes[0]
        assert len(house.notes) <= 3, "mosquitto 2.0.11 ends the connection after a refusal: lost and back, once"


def test_a_waiting_alert_of_a_rule_that_is_gone_leaves_nothing_at_the_broker(broker: Mosquitto, tmp_path: Path) -> None:
    with closing(AlertQueue(tmp_path, print)) as queue:
        queue.add("edge-interleave/old/rule/alert", {"id": "1"}, "edge-interleave/old/rule/snapshot", JPEG)
    with subscriber(broker.port, "edge-interleave/old/#") as client, House(broker.port, tmp_path) as house:
        client.wait_last("edge-interleave/old/rule/snapshot", JPEG)
        house.wait_sent()
    with subscriber(broker.port, "edge-interleave/#") as late:
        late.wait_last("edge-interleave/status", b"offline")
        assert late.of("edge-interleave/old/rule/snapshot") == []


def test_a_picture_above_the_brokers_limit_is_left_out_with_a_line(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 20000"))
        client = stack.enter_context(subscriber(broker.port, "edge-interleave/#"))
        house = stack.enter_context(House(broker.port, tmp_path / "outbox"))
        house.alert(1, b"x" * 30_000)
        house.alert(2, b"x" * 30_000)
        house.alert(3)
        client.wait_for(lambda _: ids(client) == ["a1", "a2", "a3"])
        assert set(client.of(f"{RULE}/snapshot")) == {JPEG}
    (note,) = house.notes
    assert "30000" in note
    assert "max_packet_size" in note


def test_an_outbox_that_is_deleted_while_it_is_used_takes_the_next_alert(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = tmp_path / "outbox"
    with closing(AlertQueue(folder, notes.append)) as queue:
        queue.add("t/alert", {"id": "1"}, "t/snapshot", JPEG)
        shutil.rmtree(folder)
        queue.add("t/alert", {"id": "2"}, "t/snapshot", JPEG)
        found = queue.first()
        assert found is not None
        assert found.event == {"id": "2"}
        assert len(queue) == len(list(folder.iterdir())) == 1
    (note,) = notes
    assert "cannot be read (No such file or directory), so this alert is not sent" in note


def test_an_outbox_has_one_owner(tmp_path: Path) -> None:
    with closing(House(1, tmp_path).bridge), pytest.raises(InputError, match="another process uses this outbox"):
        House(1, tmp_path)


def test_a_full_outbox_drops_the_oldest_and_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    queue = AlertQueue(tmp_path, notes.append, max_alerts=3)
    for number in range(5):
        queue.add("t/alert", {"id": str(number)}, "t/snapshot", JPEG)
    queue.close()
    reopened = AlertQueue(tmp_path, notes.append, max_bytes=1000)
    first = reopened.first()
    assert first is not None
    assert (first.event, first.picture, len(reopened), queue.dropped) == ({"id": "2"}, JPEG, 3, 2)
    reopened.add("t/alert", {"id": "large"}, "t/snapshot", b"x" * 2000)
    assert len(reopened) == 1, "the newest is kept, however large"
    reopened.close()
    assert len(notes) == 2
    assert "the oldest are dropped" in notes[0]


@pytest.mark.slow
def test_a_broker_that_is_killed_again_and_again_for_minutes(tmp_path: Path) -> None:
    """Alerts come all the time while the broker is killed, once for a minute; none is lost, few arrive twice."""
    kills = [60.0, 1.0, 1.0, 5.0, 1.0, 1.0]
    with mosquitto(tmp_path) as broker, ExitStack() as stack:
        client = stack.enter_context(subscriber(broker.port, f"{RULE}/alert"))
        network = stack.enter_context(relay(broker.port))
        house = stack.enter_context(House(network.port, tmp_path / "outbox"))
        ended = threading.Event()
        count = 0

        def raise_alerts() -> None:
            nonlocal count
            while not ended.wait(0.1):
                house.alert(count, JPEG * 1000)
                count += 1

        alerts = threading.Thread(target=raise_alerts)
        alerts.start()
        for seconds in kills:
            broker.stop(signal.SIGKILL)
            network.cut()
            time.sleep(seconds)
            broker.start()
            client.wait_subscribed()
            network.mend()
            client.wait_for(lambda _: not house.bridge.waiting, 120)
            time.sleep(1)
        ended.set()
        alerts.join()
        client.wait_for(lambda _: len(set(ids(client))) == count, 60)
        came = ids(client)
    print(f"{count} alerts, {len(kills)} kills, {len(came) - count} arrived twice")
    assert sorted(set(came), key=lambda name: int(name[1:])) == [f"a{number}" for number in range(count)]
    assert len(came) - count <= len(kills)


def make_certificates(folder: Path) -> None:
    """A certificate authority of one's own, and a certificate for 127.0.0.1 that it signed."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-out", "server.pem", "-days", "2", "-extfile", "names"),
    )
    (folder / "server.key").chmod(0o644)
