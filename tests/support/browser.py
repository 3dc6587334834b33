"""Chromium, driven by Playwright, with a camera that plays a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--auto-accept-this-tab-capture",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium(profile: Path, camera: Path | None = None) -> Iterator[Any]:
    """A browser context with an empty profile (`playwright.sync_api.BrowserContext`); skips the test without Chromium.

    `camera`: the fake camera's video; None: its moving test picture.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'edge-interleave[browser]'")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(_NAMES)} is in PATH (Debian: apt-get install chromium)")
    flags = [*_FLAGS, *([] if camera is None else [f"--use-file-for-fake-video-capture={camera}"])]
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(profile),
            executable_path=program,
            args=flags,
            viewport={"width": 1280, "height": 900},
            ignore_https_errors=True,  # self-signed certificates
        )
        try:
            yield context
        finally:
            context.close()
