"""Sources of the server's own: read once for all watchers, kept open while one of them watches."""

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.mjpeg_server import HEAD, Server, jpeg, number_of, part, serving

from edge_interleave.media.frame import Frame
from edge_interleave.serve.errors import ApiError
from edge_interleave.serve.shared_sources import SharedSources, Watcher


@pytest.fixture
def camera() -> Iterator[Server]:
    """A network camera of 50 frames a second that ends with the test."""

    def film(server: Server, connection: socket.socket, number: int) -> None:
        connection.sendall(HEAD)
        shown = 0
        with suppress(OSError):
            while not server.stopping.wait(0.02):
                connection.sendall(part(jpeg(shown % 256)))
                shown += 1

    with serving(film) as server:
        yield server


def next_frame(watcher: Watcher) -> Frame:
    while not isinstance(found := watcher.next(), Frame):
        pass
    return found


def test_two_watchers_share_one_connection_and_each_takes_the_newest_frame(camera: Server) -> None:
    sources = SharedSources({"door": camera.url})
    quick, slow = sources.watch("door"), sources.watch("door")
    first = number_of(next_frame(slow).image)
    seen = [number_of(next_frame(quick).image) for _ in range(8)]
    assert seen == sorted(set(seen))
    later = number_of(next_frame(slow).image)
    assert later >= seen[-1] > first
    assert slow.missed > quick.missed
    assert len(camera.requests) == 1
    # One leaves, the other goes on.
    slow.close()
    slow.close()
    assert number_of(next_frame(quick).image) > seen[-1]
    assert len(camera.requests) == 1
    quick.close()
    again = sources.watch("door")
    next_frame(again)
    assert len(camera.requests) == 2
    sources.close()
    while not again.ended:
        again.next()


def test_what_cannot_be_watched_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sources = SharedSources({"door": f"http://someone:secret@127.0.0.1:{port}/stream"})
    for name, status in (("garden", 404), ("door", 502)):
        with pytest.raises(ApiError) as refused:
            sources.watch(name)
        assert refused.value.status == status
        assert "secret" not in refused.value.message
