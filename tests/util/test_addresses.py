"""Addresses with passwords: ambiguous ones are refused, and no message shows a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import environment, error_line, run

from edge_interleave.alerts.webhook import Webhook
from edge_interleave.errors import UsageError
from edge_interleave.media.sources.open import open_source
from edge_interleave.util.addresses import check_login, without_secrets

UNCLEAR = [
    "{scheme}://admin:12/geheim@127.0.0.1:9/s",
    "{scheme}://admin:12?geheim@127.0.0.1:9/s",
    "{scheme}://admin:12#geheim@127.0.0.1:9/s",
    "{scheme}://admin:12@geheim@127.0.0.1:9/s",
    "{scheme}://admin:geheim/12@127.0.0.1:9/s",
    "{scheme}://cam/admin:geheim@127.0.0.1:9/s",
    "{scheme}://cam?u=admin:geheim@127.0.0.1",
    "{scheme}://gehe#im@127.0.0.1/",
]


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtsps", "HTTP"])
@pytest.mark.parametrize("address", UNCLEAR)
def test_an_ambiguous_login_is_refused_and_not_shown(address: str, scheme: str) -> None:
    with pytest.raises(UsageError, match="percent-encode") as caught:
        open_source(address.format(scheme=scheme))
    assert "gehe" not in str(caught.value)
    assert "admin" not in str(caught.value)
    assert "%2F" in str(caught.value)


@pytest.mark.parametrize("address", UNCLEAR)
def test_a_webhook_with_an_ambiguous_host_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(UsageError, match="percent-encode") as caught:
        Webhook(address.format(scheme="https"))
    assert "gehe" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["http://admin:geheim", "rtsp://admin:geheim/x", "http://admin:geheim@host:port/", "ftp://admin:geheim@host/x"],
)
def test_an_unparsable_address_is_not_shown(address: str) -> None:
    for use in (open_source, Webhook):
        with pytest.raises(UsageError) as caught:
            use(address)
        assert "geheim" not in str(caught.value)


def test_watch_refuses_an_ambiguous_login_in_one_line(tmp_path: Path) -> None:
    address = "rtsp://admin:12/geheim@127.0.0.1:9/s"
    done = run("watch", address, "--ask", "x", env=environment(tmp_path))
    assert "percent-encode" in error_line(done, 2)
    assert "geheim" not in done.stdout + done.stderr
    done = run(
        "watch", "clip.mp4", "--when", "x", "--webhook", "http://a:ge#heim@h/", "--json", env=environment(tmp_path)
    )
    assert "percent-encode" in error_line(done, 2)
    assert "heim" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host:80/stream", "http://host:80/stream"),
        ("http://user:pass@host/stream", "http://host/stream"),
        ("http://us%2Fer:p%40ss%23@host/", "http://host/"),
        ("rtsp://user@[::1]:554/live", "rtsp://[::1]:554/live"),
        ("http://host/video.cgi?user=me&pwd=geheim#t", "http://host/video.cgi?..."),
        ("rtsp://host/user=me&password=geheim&channel=1", "rtsp://host/user=...&password=...&channel=..."),
    ],
)
def test_messages_show_the_address_without_secrets(address: str, shown: str) -> None:
    check_login(address)
    assert without_secrets(address) == shown
    assert open_source(address).name == shown
