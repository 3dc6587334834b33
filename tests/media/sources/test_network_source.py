"""MJPEG over HTTP, video over HTTP and RTSP, from servers that work, fail, stall, lie and attack."""

from __future__ import annotations

import io
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.mjpeg_server import HEAD, Server, flood, jpeg, number_of, numbered, part, serving
from support.pictures import clip, photograph
from support.processes import child_processes
from support.rtsp_server import playing

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media import reader as reader_module
from edge_interleave.media.frame import Frame
from edge_interleave.media.http import multipart
from edge_interleave.media.http.multipart import MultipartParser, PartError
from edge_interleave.media.reader import FrameReader
from edge_interleave.media.sources import network
from edge_interleave.media.sources.base import FrameDamaged, Source, SourceLost
from edge_interleave.media.sources.open import open_source

Script = Callable[[Server, socket.socket, int], None]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a thread, a descriptor or a process behind."""
    threads, files, children = set(threading.enumerate()), len(os.listdir("/dev/fd")), child_processes()
    yield
    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/dev/fd")) <= files
    assert child_processes() <= children


@pytest.fixture
def opened() -> Iterator[Callable[[str], Source]]:
    sources: list[Source] = []

    def start(url: str, **options: bool) -> Source:
        source = open_source(url, **options)
        sources.append(source)
        source.open()
        return source

    yield start
    for source in sources:
        source.close()


def sending(data: bytes, *, wait: bool = True) -> Script:
    """Sends this after the request; then sends nothing, or closes."""

    def script(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(data)
        if wait:
            server.stopping.wait()

    return script


def take(source: Source, count: int) -> list[Frame]:
    frames = [source.read() for _ in range(count)]
    assert all(frames)
    return [frame for frame in frames if frame is not None]


def outcomes(source: Source, count: int) -> list[int | str]:
    """The number of the next frame, or whether it is damaged."""
    found: list[int | str] = []
    for _ in range(count):
        try:
            frame = source.read()
        except FrameDamaged as error:
            found.append("damaged" if source.name in str(error) and "\n" not in str(error) else str(error))
        else:
            assert frame is not None
            found.append(number_of(frame.image))
    return found


# What cameras send


def test_mjpeg_gives_pictures_in_order_with_arrival_times(opened: Callable[[str], Source]) -> None:
    def script(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        for index in range(5):
            connection.sendall(part(jpeg(index)))
            server.stopping.wait(0.1)
        server.stopping.wait()

    with serving(script) as server:
        source = opened(server.url)
        frames = take(source, 5)
        assert source.live
        assert [number_of(frame.image) for frame in frames] == [frame.index for frame in frames] == [0, 1, 2, 3, 4]
        assert {(frame.image.mode, frame.image.size) for frame in frames} == {("RGB", (64, 48))}
        assert 0.3 < frames[-1].time_s - frames[0].time_s < 3


def multipart_head(boundary: str) -> bytes:
    return f"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary={boundary}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("head", "between"),
    [
        pytest.param("frame", b"--frame", id="as the standard has it"),
        pytest.param('"frame"', b"--frame", id="quoted"),
        pytest.param("--frame", b"--frame", id="dashes in the header, too"),
        pytest.param("--frame", b"----frame", id="dashes in the header counted"),
        pytest.param("frame", b"frame--frame", id="rubbish before"),
    ],
)
@pytest.mark.parametrize("length", [pytest.param(-1, id="length"), pytest.param(None, id="no length")])
def test_nonstandard_boundaries_of_cameras_are_understood(
    head: str, between: bytes, length: int | None, opened: Callable[[str], Source]
) -> None:
    parts = b"".join(part(jpeg(number), length, between) for number in range(4))
    with serving(sending(multipart_head(head) + parts)) as server:
        assert [number_of(frame.image) for frame in take(opened(server.url), 3)] == [0, 1, 2]


def test_bare_lf_line_ends_and_chunked_bodies_are_understood(opened: Callable[[str], Source]) -> None:
    lines = b"".join(b"--frame\nContent-type: image/jpeg\n\n" + jpeg(number) + b"\n" for number in range(3))
    body = lines + b"--frame\n"
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[at : at + 100]), body[at : at + 100]) for at in range(0, len(body), 100)
    )
    head = HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    with serving(sending(head + chunks)) as server:
        assert [number_of(frame.image) for frame in take(opened(server.url), 3)] == [0, 1, 2]


def test_a_picture_with_a_length_does_not_wait_for_the_next_boundary(opened: Callable[[str], Source]) -> None:
    with serving(sending(HEAD + part(jpeg(7)))) as server:
        started = time.monotonic()
        assert number_of(take(opened(server.url), 1)[0].image) == 7
        assert time.monotonic() - started < 2


def test_a_photograph_arrives_unchanged(opened: Callable[[str], Source]) -> None:
    sent = photograph("hubble_deep_field.jpg").read_bytes()
    with serving(sending(HEAD + part(sent))) as server, Image.open(io.BytesIO(sent)) as expected:
        image = take(opened(server.url), 1)[0].image
        assert (np.asarray(image) == np.asarray(expected)).all()


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_a_password_is_sent_only_if_the_server_asks_for_it(scheme: str, opened: Callable[[str], Source]) -> None:
    challenge = b'Basic realm="cam"' if scheme == "Basic" else b'Digest realm="cam", nonce="abc", qop="auth"'

    def script(server: Server, connection: socket.socket, number: int) -> None:
        if b"\r\nAuthorization: " + scheme.encode() not in server.requests[number]:
            connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nWWW-Authenticate: " + challenge + b"\r\n\r\n")
        else:
            connection.sendall(HEAD + numbered(0, 1))
            server.stopping.wait()

    with serving(script) as server:
        source = opened(server.url.replace("//", "//user:s3cret@"))
        assert len(take(source, 1)) == 1
        assert b"Authorization" not in server.requests[0]
        assert "s3cret" not in source.name
        if scheme == "Digest":
            assert b"s3cret" not in server.requests[1]
            assert b'username="user"' in server.requests[1]
        with pytest.raises(MediaError, match="needs a name and a password") as caught:
            opened(server.url)
        assert "s3cret" not in str(caught.value)


# Failures


def test_a_closed_connection_is_lost_and_can_be_reopened(opened: Callable[[str], Source]) -> None:
    body = numbered(0, 2) + part(jpeg(2))[:-300]
    with serving(sending(HEAD + body, wait=False)) as server:
        source = opened(server.url)
        for indices in ([0, 1], [2, 3]):
            assert [frame.index for frame in take(source, 2)] == indices
            with pytest.raises(SourceLost, match=r"127\.0\.0\.1:\d+/stream: the stream is lost"):
                source.read()
            source.open()


def test_a_stalled_stream_is_lost_after_the_timeout(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "READ_TIMEOUT_S", 0.4)
    with serving(sending(HEAD + numbered(0, 1) + b"--frame\r\n")) as server:
        source = opened(server.url)
        take(source, 1)
        started = time.monotonic()
        with pytest.raises(SourceLost, match="no data in time"):
            source.read()
        assert 0.3 < time.monotonic() - started < 2


def test_bytes_that_complete_no_picture_do_not_extend_the_timeout(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD + b"--frame\r\n\r\n")
        while not server.stopping.wait(0.05):
            connection.sendall(b"x")

    monkeypatch.setattr(network, "READ_TIMEOUT_S", 0.5)
    with serving(script) as server:
        source = opened(server.url)
        with pytest.raises(SourceLost, match="no data in time"):
            source.read()


def corrupted() -> dict[str, bytes]:
    good = jpeg(9)
    # The frame header (SOF0) with other dimensions: ITU T.81, B.2.2.
    start = good.index(b"\xff\xc0") + 5
    bomb = good[:start] + struct.pack(">HH", 65500, 65500) + good[start + 4 :]
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    return {
        "cut": good[: len(good) // 2],
        "empty": b"",
        "text": b"<html>busy</html>",
        "png": png.getvalue(),
        "no tables": good[:2] + good[good.index(b"\xff\xc0") :],
        "bomb": bomb,
        "start only": b"\xff\xd8\xff",
        "zeros": bytes(1000),
    }


def test_corrupted_pictures_are_skipped_one_by_one(opened: Callable[[str], Source]) -> None:
    for name, body in corrupted().items():
        with serving(sending(HEAD + numbered(1, 2) + part(body) + numbered(2, 3))) as server:
            assert outcomes(opened(server.url), 3) == [1, "damaged", 2], name


def without_end(**options: object) -> tuple[bytes, Image.Image]:
    """A JPEG whose end marker is missing, and its picture."""
    noise = np.random.default_rng(5).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=85, **options)
    return buffer.getvalue()[:-2], Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


@pytest.mark.parametrize("length", [pytest.param(-1, id="length"), pytest.param(None, id="no length")])
@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 2}],
    ids=str,
)
def test_a_picture_without_end_marker_is_used_and_a_truncated_one_is_damaged(
    options: dict[str, object], length: int | None, opened: Callable[[str], Source]
) -> None:
    data, right = without_end(**options)
    cut = [3, 4, 10, 20, 21, 22, 100, 1000]
    parts = part(data, length) + b"".join(part(data[:-count], length) for count in cut) + part(data, length)
    with serving(sending(HEAD + parts + numbered(0, 1))) as server:
        source = opened(server.url)
        (first,) = take(source, 1)
        assert (np.asarray(first.image) == np.asarray(right)).all()
        for count in cut:
            with pytest.raises(FrameDamaged, match="cut off"):
                raise AssertionError(f"{count} bytes less: {source.read()}")
        (last,) = take(source, 1)
        assert (np.asarray(last.image) == np.asarray(right)).all()


def test_a_grey_picture_after_lost_data_is_damaged_although_it_has_an_end(opened: Callable[[str], Source]) -> None:
    data, right = without_end()
    end = b"\xff\xd9"
    lost = [data[: len(data) * tenths // 10] + end for tenths in (3, 5, 7, 9)]
    flat = io.BytesIO()
    Image.new("RGB", (72, 40), (128, 128, 128)).save(flat, "JPEG")  # whole, though grey
    parts = part(data + end) + b"".join(map(part, lost)) + part(flat.getvalue()) + part(data + end)
    with serving(sending(HEAD + parts + numbered(0, 1))) as server:
        source = opened(server.url)
        (first,) = take(source, 1)
        assert (np.asarray(first.image) == np.asarray(right)).all()
        for _ in lost:
            with pytest.raises(FrameDamaged, match="cut off"):
                source.read()
        grey, last = take(source, 2)
        assert grey.image.getpixel((70, 38)) == (128, 128, 128)
        assert (np.asarray(last.image) == np.asarray(right)).all()


@pytest.mark.parametrize("behind", [b"\xff", b"\0\0\0\0", b"\r\n", b"-", b"--"])
def test_bytes_in_place_of_the_end_marker_do_no_harm(behind: bytes, opened: Callable[[str], Source]) -> None:
    data, right = without_end()
    with serving(sending(HEAD + part(data + behind, None) + numbered(1, 3))) as server:
        (frame,) = take(opened(server.url), 1)
        assert (np.asarray(frame.image) == np.asarray(right)).all()


def test_a_source_of_truncated_pictures_only_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BROKEN_S", 0.2)
    said: list[str] = []

    def script(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        while not server.stopping.wait(0.02):
            connection.sendall(part(jpeg(1)[:-20]))

    with serving(script) as server:
        reader = FrameReader(open_source(server.url), on_status=lambda status: said.append(status.line))
        until = time.monotonic() + 10
        while not said and time.monotonic() < until:
            assert reader.next(0.05) is None
        reader.close()
    assert [line.startswith(f"{server.url}: a picture is cut off; every frame for") for line in said] == [True]


@pytest.mark.parametrize("claimed", [10**6, 10**12, 10**17], ids=["a megabyte", "a terabyte", "absurd"])
def test_a_length_that_is_too_large_is_ignored(claimed: int, opened: Callable[[str], Source]) -> None:
    parts = part(jpeg(1), claimed) + part(jpeg(2), claimed) + part(jpeg(3))
    with serving(sending(HEAD + parts)) as server:
        assert outcomes(opened(server.url), 3) == [1, 2, 3]


@pytest.mark.parametrize("claimed", [b"-5", b"9999999999999999999999999", b"many", b"", b"0x10"])
def test_a_malformed_length_is_ignored(claimed: bytes, opened: Callable[[str], Source]) -> None:
    one = part(jpeg(1), None).replace(b"image/jpeg\r\n", b"image/jpeg\r\nContent-Length: " + claimed + b"\r\n", 1)
    with serving(sending(HEAD + one + part(jpeg(2)))) as server:
        assert outcomes(opened(server.url), 2) == [1, 2]


def test_a_length_that_is_too_small_costs_one_picture(opened: Callable[[str], Source]) -> None:
    with serving(sending(HEAD + part(jpeg(1), 100) + part(jpeg(2)))) as server:
        assert outcomes(opened(server.url), 2) == ["damaged", 2]


# Attacks


def refused(url: str) -> str:
    """The error of a stream that cannot be opened, which must come within two seconds."""
    source = open_source(url)
    started = time.monotonic()
    with pytest.raises(MediaError) as caught:
        source.open()
    assert time.monotonic() - started < 2
    source.close()
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert source.name in message
    return message


def test_endless_headers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def many(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        flood(connection, server, b"X-More: and more\r\n" * 100)

    def long(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        flood(connection, server, b"x" * 10000)

    def again(server: Server, connection: socket.socket, number: int) -> None:
        flood(connection, server, b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    def slow(server: Server, connection: socket.socket, number: int) -> None:
        while not server.stopping.wait(0.02):
            connection.sendall(b"H")

    monkeypatch.setattr(network, "OPEN_TIMEOUT_S", 0.8)
    for script, said in ((many, "headers"), (long, "header line"), (again, "in time"), (slow, "in time")):
        with serving(script) as server:
            assert said in refused(server.url)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff" * 500 + b"\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Type: multipart/x-mixed-replace\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=---\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=" + b"x" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 404 Not \x1b[31m Found\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(1),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\r\n#EXTM3U\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
    ],
)
def test_responses_that_are_no_stream_give_one_line(answer: bytes) -> None:
    with serving(sending(answer, wait=False)) as server:
        refused(server.url)


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/x", "concat:/etc/passwd", "rtsp://127.0.0.1/"],
)
def test_redirects_are_followed_to_http_only(location: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(sending(answer)) as server:
        assert "redirects to an address that is not http" in refused(server.url)
        assert len(server.requests) == 1


def test_a_redirect_is_followed_without_the_password_and_without_reading_its_body(
    opened: Callable[[str], Source],
) -> None:
    with serving(sending(HEAD + numbered(3, 4))) as there:

        def script(server: Server, connection: socket.socket, number: int) -> None:
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {there.url}\r\n\r\n".encode())
            flood(connection, server, bytes(1 << 20))

        with serving(script) as server:
            source = opened(server.url.replace("//", "//user:s3cret@"))
            assert outcomes(source, 1) == [3]
            assert b"Authorization" not in there.requests[0]
            source.close()


def test_circular_redirects_end(opened: Callable[[str], Source]) -> None:
    with serving(sending(b"HTTP/1.1 302 Found\r\nLocation: /stream\r\nContent-Length: 0\r\n\r\n")) as server:
        assert "redirects more than" in refused(server.url)
        assert len(server.requests) < 10


def test_endless_bytes_without_a_picture_are_dropped_and_end_the_stream(
    opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "READ_TIMEOUT_S", 0.6)
    for beginning in (b"", b"--frame\r\n", b"--frame\r\n\r\n"):

        def script(server: Server, connection: socket.socket, number: int, beginning: bytes = beginning) -> None:
            connection.sendall(HEAD + beginning)
            flood(connection, server, b"rubbish " * 8000)

        with serving(script) as server:
            source = opened(server.url)

            def until_lost(source: Source = source) -> None:
                while True:
                    try:
                        source.read()
                    except FrameDamaged:
                        continue

            with pytest.raises(SourceLost):
                until_lost()


@pytest.mark.parametrize(
    "beginning", [b"", b"--frame\r\nX: ", b"--frame\r\n\r\n", b"--frame\r\nContent-Length: 99\r\n"]
)
def test_a_parser_keeps_no_more_than_its_limits(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "MAX_PART_BYTES", 1 << 20)
    parser = MultipartParser(b"frame")
    rubbish = b"rubbish!" * 8192
    failures = 0
    parser.feed(beginning)
    tracemalloc.start()
    for _ in range(160):
        parser.feed(rubbish)
        try:
            assert parser.next() is None
        except PartError:
            failures += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert failures >= 8
    parser.feed(part(b"picture", 7))
    assert parser.next() == b"picture"


def test_parts_are_found_however_the_body_is_split() -> None:
    body = part(b"one") + b"rubbish" + part(b"two", None) + part(b"three", 999) + part(b"four", 2) + part(b"five")
    for size in (1, 2, 3, 7, 50, 1000):
        parser, found = MultipartParser(b"frame"), []
        for at in range(0, len(body), size):
            parser.feed(body[at : at + size])
            while (picture := parser.next()) is not None:
                found.append(picture)
        assert found == [b"one", b"two", b"three", b"fo", b"five"]
    parser.feed(b"--frame--\r\n")
    assert parser.next() is None
    assert parser.ended


# Closing


def silent(server: Server, connection: socket.socket, number: int) -> None:
    server.stopping.wait()


def in_the_head(server: Server, connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multi")
    server.stopping.wait()


def in_a_video(server: Server, connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n" + clip("bikes.mp4").read_bytes()[:1000])
    server.stopping.wait()


@pytest.mark.parametrize("script", [silent, in_the_head, in_a_video])
def test_opening_is_aborted_within_a_second(script: Script) -> None:
    with serving(script) as server:
        break_off(server.url)


def break_off(url: str) -> None:
    source = open_source(url)
    errors: list[BaseException] = []

    def start() -> None:
        try:
            source.open()
        except MediaError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    time.sleep(0.4)
    assert thread.is_alive()
    started = time.monotonic()
    source.close()
    thread.join()
    assert time.monotonic() - started < 1
    assert len(errors) == 1


def test_a_connection_that_is_never_accepted_is_aborted_within_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        # The system accepts one or two connections itself; later ones get no answer.
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        for scheme in ("http", "rtsp"):
            break_off(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/")
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("end", [b"", b"--frame\r\nContent-Length: 10\r\n\r\nx"])
def test_a_reader_of_a_stalled_stream_closes_within_a_second(end: bytes) -> None:
    with serving(sending(HEAD + numbered(0, 1) + end)) as server:
        reader = FrameReader(open_source(server.url))
        assert reader.next(5) is not None
        assert reader.next(0.2) is None
        started = time.monotonic()
        reader.close()
        assert time.monotonic() - started < 1
        assert reader.ended
        assert reader.error is None


def test_a_reader_reconnects_to_a_server_that_dies_and_reports_it_once() -> None:
    said: list[str] = []
    # Two connections are accepted and send nothing, which does not count as "back".
    with serving(
        lambda server, connection, number: connection.sendall(
            HEAD if number in (1, 2) else HEAD + numbered(number, number + 1)
        )
    ) as server:
        reader = FrameReader(open_source(server.url), on_status=lambda status: said.append(status.line))
        first = reader.next(5)
        second = reader.next(15)
        reader.close()
        stats = reader.stats()
    assert first is not None
    assert second is not None
    assert (number_of(first.image), number_of(second.image)) == (0, 3)
    assert second.time_s > first.time_s
    assert stats.reconnects >= 1
    assert [line.split(": ", 1)[1].split()[0] for line in said[:2]] == ["the", "back"]
    assert all(server.url in line and "\n" not in line for line in said)


# Certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrusted certificate for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", *kind, *names, "-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def test_servers_need_a_trusted_certificate(
    certificate: Path, transport_stream: bytes, monkeypatch: pytest.MonkeyPatch, opened: Callable[[str], Source]
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    def secure(url: str) -> str:
        return url.replace("://127.0.0.1", "s://localhost")

    with (
        serving(sending(HEAD + numbered(5, 6)), tls) as pictures,
        serving(film(transport_stream), tls) as video,
        playing(transport_stream, then_silent=True, tls=tls) as rtsp,
    ):
        urls = [secure(url) for url in (pictures.url, video.url, rtsp)]
        for url in urls:
            with pytest.raises(MediaError, match="certificate"):
                opened(url)
        assert pictures.requests == video.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for url in urls:
            assert len(take(opened(url), 1)) == 1


def test_a_stalled_handshake_is_aborted_within_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        break_off(f"https://127.0.0.1:{listener.getsockname()[1]}/")


# Video over HTTP, RTSP


def film(content: bytes, kind: bytes = b"video/mp4", *, length: bool = True) -> Script:
    """Serves a file with range requests, which FFmpeg needs for an MP4."""

    def script(server: Server, connection: socket.socket, number: int) -> None:
        lines = server.requests[number].decode().splitlines()
        ranges = [line for line in lines if line.lower().startswith("range: bytes=")] if length else []
        start = int(ranges[0].split("=")[1].split("-")[0]) if ranges else 0
        head = [b"HTTP/1.1 206 Partial Content" if ranges else b"HTTP/1.1 200 OK", b"Connection: close"]
        head.append(b"Content-Type: " + kind)
        if length:
            head += [b"Accept-Ranges: bytes", b"Content-Length: %d" % (len(content) - start)]
            head.append(b"Content-Range: bytes %d-%d/%d" % (start, len(content) - 1, len(content)))
        connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + content[start:])

    return script


def test_a_recording_over_http_gives_every_frame_and_ends(opened: Callable[[str], Source]) -> None:
    with serving(film(clip("carphone_pristine.mp4").read_bytes())) as server:
        source = opened(server.url)
        frames = take(source, 120)
        assert source.read() is None
        assert not source.live
    capture = cv2.VideoCapture(str(clip("carphone_pristine.mp4")), cv2.CAP_FFMPEG)
    for frame in frames:
        _, pixels = capture.read()
        assert (np.asarray(frame.image) == pixels[..., ::-1]).all()
    capture.release()
    assert [frame.time_s for frame in frames] == pytest.approx([index * 1001 / 30000 for index in range(120)], abs=1e-3)


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds of noisy grey as an MPEG transport stream, a container without header and trailer."""
    path = tmp_path_factory.mktemp("stream") / "noise.ts"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (320, 240))
    assert writer.isOpened()
    noise = np.random.default_rng(0)
    for index in range(50):
        writer.write(noise.integers(index, index + 9, (240, 320, 3), dtype=np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_live_stream_over_http_is_lost_at_its_end(transport_stream: bytes, opened: Callable[[str], Source]) -> None:
    with serving(film(transport_stream, b"video/mp2t", length=False)) as server:
        source = opened(server.url)
        assert source.live
        assert len(take(source, 40)) == 40
        with pytest.raises(SourceLost):
            take(source, 40)


def test_playlists_over_http_open_neither_files_nor_other_addresses(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip("carphone_pristine.mp4").read_bytes())
    with serving(film(secret.read_bytes())) as other:
        for content in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other.url}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile file://{secret}\n",
            f"ffconcat version 1.0\nfile {other.url}\n",
            "ffconcat version 1.0\nfile neighbour\n",
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\na=control:{other.url}\nm=video 5004 RTP/AVP 96\n",
        ):
            with serving(film(content.encode())) as server:
                source = open_source(server.url)
                with pytest.raises(MediaError, match="no video that can be played"):
                    source.open()
                source.close()
                assert all(request.startswith(b"GET /stream ") for request in server.requests)
        assert other.requests == []
    # Without the restriction, FFmpeg does follow the playlist.
    with serving(film(b"ffconcat version 1.0\nfile neighbour\n")) as server:
        cv2.VideoCapture(server.url, cv2.CAP_FFMPEG, [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 700]).release()
        assert any(request.startswith(b"GET /neighbour ") for request in server.requests)


def test_rtsp_plays_and_is_lost_when_the_server_falls_silent(
    transport_stream: bytes, opened: Callable[[str], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "READ_TIMEOUT_S", 1.5)
    with playing(transport_stream, then_silent=True) as url:
        source = opened(url.replace("//", "//user:s3cret@"))
        frames = take(source, 40)
        assert "s3cret" not in source.name
        assert source.live
        assert {frame.image.size for frame in frames} == {(320, 240)}
        assert np.asarray(frames[30].image).mean() - np.asarray(frames[0].image).mean() == pytest.approx(30, abs=3)
        with pytest.raises(SourceLost):
            take(source, 20)


def test_a_reader_of_silent_rtsp_closes_within_a_second(transport_stream: bytes) -> None:
    with playing(transport_stream, then_silent=True) as url:
        reader = FrameReader(open_source(url))
        assert reader.next(10) is not None
        while reader.next(1.0) is not None:
            pass
        started = time.monotonic()
        reader.close()
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "rtsp://host:99999/", "http://a b\n/", "http://[::1/", "http://h:0/"]
)
def test_invalid_addresses_are_usage_errors(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(url)
    assert "\n" not in str(caught.value)


def test_an_unreachable_server_gives_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for scheme in ("http", "https", "rtsp"):
        assert "cannot be reached" in refused(f"{scheme}://user:s3cret@127.0.0.1:{port}/x")
