"""Who may speak to the server, what it takes, and where it goes."""

import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from openai import AuthenticationError, OpenAI
from support.command_line import environment, error_line, run
from support.serving import DEMO, Server, serving, user

from edge_interleave.serve.errors import ApiError
from edge_interleave.serve.remote import fetch_public

KEY = "secret-of-the-house"


def test_listening_beyond_this_machine_needs_a_key_or_no_auth(tmp_path: Path) -> None:
    env = environment(tmp_path)
    assert "--api-key" in error_line(run("serve", "--host", "0.0.0.0", env=env), 2)
    assert "--api-key" in error_line(run("serve", "--host", "::", env=env), 2)
    assert "--api-key" in error_line(run("serve", "--host", "example.org", env=env), 2)


def test_a_wrong_start_is_one_line(tmp_path: Path, server: Server) -> None:
    env = environment(tmp_path)
    port = server.url.rpartition(":")[2]
    assert f"127.0.0.1:{port}" in error_line(run("serve", "--port", port, env=env), 4)
    assert "nowhere" in error_line(run("serve", "--model", "nowhere", env=env), 3)
    assert "belong together" in error_line(run("serve", "--tls-cert", __file__, env=env), 2)
    assert "certificate" in error_line(
        run("serve", "--port", 0, "--tls-cert", __file__, "--tls-key", __file__, env=env), 3
    )
    assert "too little" in error_line(run("serve", "--memory", "50MB", env=env), 4)
    (tmp_path / "keys").write_text("\n\n")
    assert "holds no key" in error_line(run("serve", "--api-key-file", tmp_path / "keys", env=env), 3)


def test_only_valid_keys_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"other\n{KEY}\n")
    with serving(tmp_path, "--api-key-file", tmp_path / "keys") as server:
        for given in ("none", KEY[:-1], f"{KEY}x", "other2"):
            with pytest.raises(AuthenticationError) as refused:
                server.client(api_key=given).models.list()
            assert refused.value.code == "invalid_api_key"
        assert server.client(api_key=KEY).models.list().data
        assert server.client(api_key="other").models.list().data
        for path in ("/props", "/metrics", "/openapi.json", "/v1/live/x"):
            assert server.get(path).status_code == 401
        assert server.get("/health").status_code == 200


def test_a_foreign_host_name_is_refused(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        answer = server.get("/v1/models", headers={"Host": host})
        assert answer.status_code == 403, host
        assert answer.json()["error"]["code"] == "unknown_host"
    for host in ("localhost", f"127.0.0.1:{port}", "[::1]", f"[::1]:{port}", "192.168.1.7:80", socket.gethostname()):
        assert server.get("/v1/models", headers={"Host": host}).status_code == 200, host


def test_only_allowed_web_pages_may_call(tmp_path: Path, server: Server) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = server.get("/v1/models", headers={"Origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert server.get("/v1/models", headers={"Origin": server.url}).status_code == 200
    with serving(tmp_path, "--allow-origin", "https://app.example", "--allow-host", "box.example") as named:
        answer = named.get("/v1/models", headers={"Origin": "https://app.example", "Host": "box.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{named.url}/v1/chat/completions", headers=asked)
        assert allowed.status_code == 204
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert named.get("/v1/models", headers={"Origin": "https://app.example.evil"}).status_code == 403


def test_bodies_are_counted_while_being_received(server: Server) -> None:
    def endless() -> object:
        for _ in range(65):
            yield b" " * (1 << 20)

    for content in (b" " * (65 << 20), endless()):
        try:
            answer = httpx.post(f"{server.url}/v1/chat/completions", content=content, timeout=60)
        except httpx.WriteError:  # the server closed the connection before all was sent
            continue
        assert answer.status_code == 413
    assert server.get("/health").status_code == 200


class _Redirecting(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/a.png",
        "http://localhost:{port}/a.png",
        "http://[::1]:{port}/a.png",
        "http://[::ffff:127.0.0.1]:{port}/a.png",
        "http://0.0.0.0:{port}/a.png",
        "http://2130706433:{port}/a.png",
        "http://0x7f000001:{port}/a.png",
        "http://127.1:{port}/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://224.0.0.1/",
        "http://user:password@93.184.215.14/",
        "ftp://93.184.215.14/",
    ],
)
def test_private_addresses_are_not_fetched(url: str) -> None:
    _Redirecting.asked = 0
    with HTTPServer(("127.0.0.1", 0), _Redirecting) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            with pytest.raises(ApiError) as refused:
                fetch_public(url.format(port=listening.server_port), 1000, "image")
        finally:
            listening.shutdown()
    assert refused.value.status == 400
    assert refused.value.code in ("fetch_refused", "fetch_failed")
    assert _Redirecting.asked == 0


def test_a_redirect_to_a_private_address_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own network is not at hand in a test, so one address of it counts as public here."""
    from edge_interleave.serve import remote

    class ToPrivate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/secret")
            self.end_headers()
            asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    plain = remote._is_public
    monkeypatch.setattr(remote, "_is_public", lambda address: str(address) == "127.0.0.2" or plain(address))
    with HTTPServer(("127.0.0.2", 0), ToPrivate) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            with pytest.raises(ApiError) as refused:
                fetch_public(f"http://127.0.0.2:{listening.server_port}/a.png", 1000, "image")
        finally:
            listening.shutdown()
    assert refused.value.code == "fetch_refused"
    assert asked == ["/a.png"]


def test_https_with_a_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    try:
        subprocess.run([*made, *map(str, names)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    with serving(tmp_path, "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusted = httpx.Client(verify=ssl.create_default_context(cafile=str(cert)))
        assert trusted.get(f"{server.url}/health").json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")


def test_no_request_reaches_a_file(server: Server) -> None:
    """A file that the server can read, asked for in every place that holds an address or a name."""
    secret = str(DEMO / "desk.png")
    client: OpenAI = server.client()
    for body in (
        {"messages": [user({"type": "image_url", "image_url": {"url": secret}})]},
        {"messages": [user({"type": "image_url", "image_url": {"url": f"file://{secret}"}})]},
        {"messages": [user({"type": "video_url", "video_url": {"url": f"file://{secret}"}})]},
        {"messages": [user({"type": "input_video", "input_video": {"url": secret}})]},
        {"messages": [user("Hello")], "model": str(DEMO.parent / "bundle")},
    ):
        answer = server.post("/v1/chat/completions", body)
        assert answer.status_code in (400, 404)
    assert server.get(f"/v1/models/{DEMO.parent / 'bundle'}").status_code == 404
    assert client.models.list().data
