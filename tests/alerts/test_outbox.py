"""Deliveries run in the background: queued, counted, and never in the way of the watch."""

import sys
import threading
import time

from support.alerts import RecordingDelivery, numbered

from edge_interleave.alerts.command import Command
from edge_interleave.alerts.events import Alert
from edge_interleave.alerts.outbox import Delivery, DeliveryError, Outbox
from edge_interleave.alerts.webhook import Webhook


def test_offering_never_blocks_and_a_full_queue_drops_alerts() -> None:
    go = threading.Event()
    kept = RecordingDelivery(lambda alert: go.wait(10))
    outbox = Outbox(kept, print, queue_length=5)
    outbox.offer(numbered(0))
    while not kept.alerts:
        time.sleep(0.001)
    started = time.monotonic()
    for number in range(1, 1001):
        outbox.offer(numbered(number))
    assert time.monotonic() - started < 1
    go.set()
    outbox.close(10)
    assert [alert.frame for alert in kept.alerts] == [0, 1, 2, 3, 4, 5]
    stats = outbox.stats()
    assert (stats.sent, stats.failed, stats.dropped) == (6, 0, 995)


def test_failures_are_reported_when_they_begin_and_counted() -> None:
    def act(alert: Alert) -> None:
        if alert.frame != 3:
            raise DeliveryError(f"no luck with {alert.frame}")

    said: list[str] = []
    outbox = Outbox(RecordingDelivery(act), said.append)
    for number in range(6):
        outbox.offer(numbered(number))
    outbox.close(10)
    assert [line.split(";")[0] for line in said] == ["test: no luck with 0", "test: no luck with 4"]
    assert (outbox.stats().sent, outbox.stats().failed) == (1, 5)


def test_commands_and_webhooks_are_deliveries() -> None:
    deliveries: list[Delivery] = [Command(sys.executable), Webhook("http://localhost/")]
    assert [delivery.name.split()[0] for delivery in deliveries] == ["command", "webhook"]
