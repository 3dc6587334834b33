"""Alerts, and a delivery that records them, for tests."""

import time
from collections.abc import Callable
from pathlib import Path

from edge_interleave.alerts.events import Alert

QUESTION = "Is there a red circle?"
ALERT = Alert("2025-01-02T03:04:05.678Z", QUESTION, 12, 3.5, 0.91, ("/x/a b.jpg", "/x/c.jpg"))


class RecordingDelivery:
    """A delivery that records its alerts and then calls `act`."""

    name = "test"

    def __init__(self, act: Callable[[Alert], object] = lambda alert: None) -> None:
        self.alerts: list[Alert] = []
        self.act = act

    def send(self, alert: Alert) -> None:
        self.alerts.append(alert)
        self.act(alert)

    def abort(self) -> None:
        pass


def numbered(number: int) -> Alert:
    return Alert(ALERT.time, QUESTION, number, float(number), 0.9)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_ended(pid: int) -> None:
    """Assert that the process has ended, or is a zombie."""

    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    if Path("/proc").is_dir():
        wait_for(ended)
