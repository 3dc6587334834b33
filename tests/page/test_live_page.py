"""The page in a real Chromium whose camera plays a file: what a person sees and does.

Screenshots are kept in the folder that EDGE_INTERLEAVE_SCREENSHOTS names, otherwise in pytest's temporary folder.
"""

import io
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from support.breakable_proxy import BreakableProxy
from support.browser import chromium
from support.fake_camera import scene, write_camera
from support.serving import DEMO, Server, serving

from edge_interleave.embedded import BUNDLE
from edge_interleave.serve.own_addresses import own_addresses

pytestmark = pytest.mark.slow

LONG_MS = 60_000
WIDTHS = {"phone": (360, 780), "tablet": (768, 1024), "desktop": (1280, 900)}
KEY = "the-key-of-the-house"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the embedded model and a source of its own."""
    home = tmp_path_factory.mktemp("home")
    frames = home / "frames"
    frames.mkdir()
    for number in range(4):
        scene(number / 3).save(frames / f"{number}.png")
    with serving(home, "--source", f"garden={frames}") as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser whose camera shows a red circle for some seconds, and not for some."""
    folder = tmp_path_factory.mktemp("browser")
    write_camera(folder / "camera.y4m")
    with chromium(folder / "profile", folder / "camera.y4m") as context:
        context.set_default_timeout(LONG_MS)
        yield context


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab. Its errors and refused loads fail the test."""
    tab = browser.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    yield tab
    tab.close()
    assert not wrong


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept."""
    named = os.environ.get("EDGE_INTERLEAVE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def watch_camera(page: Any, url: str) -> None:
    page.goto(url)
    page.click("#choose-camera")
    page.wait_for_selector("#window li")


def until(page: Any, condition: str, arg: Any = None) -> None:
    """Wait until a JavaScript expression, or a function of `arg`, is true.

    Playwright's own `wait_for_function` needs `eval`, which the page's policy forbids.
    """
    end = time.monotonic() + LONG_MS / 1000
    while not page.evaluate(condition, arg):
        assert time.monotonic() < end, f"never true: {condition}; the page shows: {page.inner_text('body')}"
        page.wait_for_timeout(50)


def text_of(page: Any, selector: str) -> str:
    return str(page.inner_text(selector))


def frame_number(page: Any) -> int:
    """The newest frame's number, from the line over the picture."""
    found = re.search(r"frame (\d+)", text_of(page, "#pill-text"))
    return int(found[1]) if found else 0


def wait_for_frame_after(page: Any, number: int) -> None:
    until(
        page,
        "after => Number(document.querySelector('#pill-text').textContent.match(/frame (\\d+)/)?.[1]) > after",
        arg=number,
    )


def test_the_red_circle_is_answered_and_the_meter_crosses_its_threshold(page: Any, server: Server, shots: Path) -> None:
    watch_camera(page, server.url)
    page.fill("#window-frames", "4")
    page.dispatch_event("#window-frames", "change")
    until(page, "document.querySelectorAll('#window li').length === 4")
    page.fill("#meter-question", "Is there a red circle?")
    page.locator("#meter-on").check()
    page.wait_for_selector("#meter-state[data-state=yes]")
    page.fill("#question", "Where is the red circle?")
    page.press("#question", "Enter")
    until(page, "document.querySelector('.answer:not(.running) .text')?.textContent.includes('red circle')")
    assert re.search(r"Frame \d+", text_of(page, ".answer .meta"))
    assert page.locator(".answer img").evaluate("image => image.naturalWidth") > 0
    assert "red circle" in text_of(page, "#spoken") or "Yes" in text_of(page, "#spoken")
    # The circle leaves, and comes back.
    page.wait_for_selector("#meter-state[data-state=no]")
    assert float(text_of(page, "#meter-value")) < 0.8
    page.wait_for_selector("#meter-state[data-state=yes]")
    assert len(page.get_attribute("#meter-path", "points").split()) > 5
    page.fill("#question", "Describe the image.")
    page.press("#question", "Enter")
    until(page, "document.querySelectorAll('.answer:not(.running)').length === 2")
    save_picture(page, shots / "readme.png")
    shown = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#figures div')].map(one =>"
        " [one.querySelector('dt').firstChild.textContent, one.querySelector('dd').textContent]))"
    )
    assert len(shown) == 10
    assert all(re.match(r"\d", value) for value in shown.values()), shown


def test_the_question_is_repeated_and_edited_while_it_runs(page: Any, server: Server) -> None:
    watch_camera(page, server.url)
    page.fill("#question", "Describe the image.")
    page.locator("input[value=every]").check(force=True)
    page.fill("#seconds", "0.2")
    until(page, "document.querySelectorAll('.answer:not(.running)').length >= 2")
    page.fill("#question", "What is at the bottom left?")
    until(
        page,
        "[...document.querySelectorAll('.answer:not(.running)')].some(item => item.textContent.includes('dog')"
        " && item.textContent.includes('bottom left?'))",
    )
    # On change: the circle moves all the time, so another answer comes.
    page.locator("input[value=change]").check(force=True)
    count = page.locator(".answer").count()
    until(page, "count => document.querySelectorAll('.answer').length > count", arg=count)


def test_pooling_changes_what_a_frame_costs(page: Any, server: Server) -> None:
    watch_camera(page, server.url)
    until(page, "document.querySelector('#window li')?.textContent.includes('36 tokens')")
    page.select_option("#pool", "2")
    until(page, "document.querySelector('#window li')?.textContent.includes('9 tokens')")
    assert "allows" in text_of(page, "#allowed")


def test_two_tabs_have_a_window_each(page: Any, browser: Any, server: Server) -> None:
    watch_camera(page, server.url)
    other = browser.new_page()
    watch_camera(other, server.url)
    assert server.metric("live_windows") == 2
    for tab in (page, other):
        wait_for_frame_after(tab, frame_number(tab))
    other.close()
    until(page, "fetch('/metrics').then(r => r.text()).then(t => /live_windows 1/.test(t))")


def test_a_source_of_the_server_is_watched(page: Any, server: Server) -> None:
    page.goto(server.url)
    page.click("#server-sources button")
    until(page, "document.querySelectorAll('#window li').length === 4")
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 640
    page.fill("#question", "Where is the red circle?")
    page.press("#question", "Enter")
    page.wait_for_selector(".answer:not(.running)")
    assert "red circle" in text_of(page, ".answer .text")


def test_a_dropped_video_is_watched(page: Any, server: Server, tmp_path: Path) -> None:
    webm = tmp_path / "clip.webm"
    _write_webm(webm)
    page.goto(server.url)
    page.set_input_files("#file", str(webm))
    page.wait_for_selector("#window li")
    until(page, "document.querySelector('#pill-text').textContent.includes('The video is over')")
    page.fill("#question", "Describe the image.")
    page.press("#question", "Enter")
    page.wait_for_selector(".answer:not(.running)")
    assert "red circle" in text_of(page, ".answer .text")


def test_the_screen_is_watched(page: Any, server: Server) -> None:
    page.goto(server.url)
    page.click("#choose-screen")
    page.wait_for_selector("#window li")


def test_pictures_are_talked_about(page: Any, server: Server) -> None:
    page.goto(server.url)
    page.click("#tab-pictures")
    page.set_input_files("#picture-file", [str(DEMO / "before.png"), str(DEMO / "after.png")])
    until(page, "document.querySelectorAll('#attached li').length === 2")
    page.fill("#message", "What changed between the two images?")
    page.press("#message", "Enter")
    page.wait_for_selector(".turn.assistant:not(.running) .meta")
    assert "rabbit" in text_of(page, ".turn.assistant .text")
    page.set_input_files("#picture-file", [str(DEMO / "desk.png")])
    page.wait_for_selector("#attached li")
    page.fill("#message", "What is in image 3?")
    page.click("#send")
    until(page, "document.querySelectorAll('.turn.assistant:not(.running) .meta').length === 2")
    answer = page.locator(".turn.assistant .text").nth(1).inner_text()
    assert "dog" in answer or "heart" in answer
    # What the first turn computed is kept.
    assert re.search(r"[1-9]\d* of them kept", page.locator(".turn.assistant .meta").nth(1).inner_text())


def test_a_lost_connection_resumes_with_its_window(page: Any, server: Server) -> None:
    proxy = BreakableProxy(int(server.url.rpartition(":")[2]))
    try:
        watch_camera(page, f"http://127.0.0.1:{proxy.port}")
        until(page, "document.querySelectorAll('#window li').length === 8")
        proxy.cut()
        page.wait_for_selector("#status[data-state=lost]")
        proxy.mend()
        page.wait_for_selector("#status[data-state=ready]")
        # The window is filled again from the pictures that the page kept, then goes on.
        until(page, "document.querySelectorAll('#window li').length === 8")
        wait_for_frame_after(page, 8)
    finally:
        proxy.close()


def test_a_window_that_the_server_closed_is_opened_again(page: Any, server: Server) -> None:
    opened: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on(
            "framereceived",
            lambda message: (
                opened.extend(re.findall(r'"id": ?"(live_[\w-]+)"', message)) if "live.opened" in message else 0
            ),
        ),
    )
    watch_camera(page, server.url)
    httpx.delete(f"{server.url}/v1/live/{opened[0]}")
    page.wait_for_selector("#status[data-state=lost]")
    page.wait_for_selector("#status[data-state=ready]")
    until(page, "document.querySelectorAll('#window li').length === 8")
    assert len(opened) == 2


def test_phones_reach_the_camera_over_https_only(page: Any, tmp_path: Path) -> None:
    addresses = own_addresses()
    if not addresses:
        pytest.skip("this machine has no address besides loopback")
    (address, *_), everywhere = addresses, ("--host", "0.0.0.0", "--no-auth")
    with serving(tmp_path, *everywhere) as plain:
        page.goto(f"http://{address}:{plain.url.rpartition(':')[2]}/")
        page.click("#choose-camera")
        page.wait_for_selector("#notice.shown")
        assert "--tls-self-signed" in text_of(page, "#notice")
        page.click("#choose-screen")
        page.wait_for_selector("#notice.shown")
    with serving(tmp_path, *everywhere, "--tls-self-signed", XDG_DATA_HOME=str(tmp_path / "data")) as secure:
        watch_camera(page, f"https://{address}:{secure.url.rpartition(':')[2]}/")
        page.fill("#question", "Where is the dog?")
        page.press("#question", "Enter")
        page.wait_for_selector(".answer:not(.running)")


def test_a_server_that_restarts_is_found_again_and_may_want_a_key_now(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        watch_camera(page, first.url)
        port = first.url.rpartition(":")[2]
        first.process.send_signal(signal.SIGTERM)
        page.wait_for_selector("#status[data-state=lost]")
        first.process.wait(30)
    with serving(tmp_path, "--port", port, "--api-key", KEY):
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#status[data-state=ready]")
        wait_for_frame_after(page, frame_number(page))


def test_the_key_is_asked_once_and_stays_in_the_tab(page: Any, browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path, "--api-key", KEY) as server:
        page.goto(server.url)
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        until(page, "document.querySelector('#key-error').textContent !== ''")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#key-dialog", state="hidden")
        page.click("#choose-camera")
        page.wait_for_selector("#window li")
        assert KEY not in page.url
        page.reload()
        page.wait_for_selector("#status[data-state=ready]")
        assert page.locator("#key-dialog").is_hidden()
        other = browser.new_page()
        other.goto(server.url)
        other.wait_for_selector("#key-dialog", state="visible")
        assert not browser.cookies()
        other.close()


def test_another_model_is_chosen(page: Any, tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path / "other")
    with serving(tmp_path, "--model", "embedded", "--model", tmp_path / "other") as server:
        watch_camera(page, server.url)
        assert page.locator("#knows").is_visible()
        page.select_option("#model", "other")
        until(page, "document.querySelector('#status-text').textContent === 'Connected to other'")
        assert page.locator("#knows").is_hidden()
        page.wait_for_selector("#window li")


def test_errors_say_what_to_do(page: Any, server: Server) -> None:
    # Chromium's switch that stands for the user would grant the camera, so the refusal is the page's own.
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError') }"
    )
    page.goto(server.url)
    page.click("#choose-camera")
    until(page, "document.querySelector('#notice').textContent.includes('Allow the camera')")
    page.click("#notice button")
    assert page.locator("#notice").is_hidden()
    for name, kind, said in (
        ("notes.txt", "text/plain", "neither a video nor a picture"),
        ("broken.mp4", "video/mp4", "cannot play broken.mp4"),
        ("broken.png", "image/png", "not a picture that this browser can read"),
    ):
        page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": b"x"})
        until(page, "said => document.querySelector('#notice').textContent.includes(said)", said)


def test_the_page_works_by_keyboard(page: Any, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#status[data-state=ready]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("#pictures").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose-camera"
    page.keyboard.press("Enter")
    page.wait_for_selector("#window li")
    page.keyboard.press("Escape")
    page.focus("#stop-source")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "choose-camera"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_overflows(page: Any, server: Server, shots: Path, colours: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    watch_camera(page, server.url)
    page.fill("#meter-question", "Is there a red circle?")
    page.locator("#meter-on").check()
    page.wait_for_selector("#meter-state[data-state=yes]")
    for question in ("Describe the image.", "Where is the dog?", "Where is the red circle?"):
        page.fill("#question", question)
        page.press("#question", "Enter")
        page.wait_for_selector("#stop-answer", state="hidden")
    until(page, "document.querySelectorAll('#window li').length === 8")
    for width, (x, y) in WIDTHS.items():
        page.set_viewport_size({"width": x, "height": y})
        _inspect(page, axe, shots / f"live-{width}-{colours}.png")
    page.goto(server.url)
    page.wait_for_selector("#status[data-state=ready]")
    for width, (x, y) in WIDTHS.items():
        page.set_viewport_size({"width": x, "height": y})
        _inspect(page, axe, shots / f"start-{width}-{colours}.png")
    page.click("#tab-pictures")
    page.set_input_files("#picture-file", [str(DEMO / "before.png"), str(DEMO / "after.png")])
    until(page, "document.querySelectorAll('#attached li').length === 2")
    page.fill("#message", "What changed between the two images?")
    page.press("#message", "Enter")
    page.wait_for_selector(".turn.assistant:not(.running) .meta")
    page.set_input_files("#picture-file", [str(DEMO / "desk.png")])
    page.wait_for_selector("#attached li")
    for width, (x, y) in WIDTHS.items():
        page.set_viewport_size({"width": x, "height": y})
        _inspect(page, axe, shots / f"pictures-{width}-{colours}.png")


def save_picture(page: Any, path: Path) -> None:
    """The upper part of the page in few colours, as the documentation shows it."""
    content = io.BytesIO(page.screenshot(clip={"x": 0, "y": 0, "width": 1280, "height": 1000}, full_page=True))
    Image.open(content).convert("RGB").quantize(128).save(path, optimize=True)
    assert path.stat().st_size < 150_000


def _inspect(page: Any, axe: Any, shot: Path) -> None:
    page.screenshot(path=str(shot), full_page=True)
    found = axe.run(page).response["violations"]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), shot.name


def _write_webm(path: Path) -> None:
    pictures = [scene(number / 19) for number in range(20)]
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx", rate=10)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
