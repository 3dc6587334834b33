"""The live page over HTTP: its files, their headers, and that it loads nothing from elsewhere."""

import re
from pathlib import Path

import httpx
import pytest
from support.serving import Server

from edge_interleave.serve.page_files import FOLDER

FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
MOST_BYTES = 150_000


def test_the_page_and_its_files_are_served_with_a_strict_policy(server: Server) -> None:
    pages = {"/": "text/html", **{f"/page/{name}": TYPES[Path(name).suffix] for name in FILES}}
    for path, kind in pages.items():
        answer = server.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kind), path
        policy = answer.headers["content-security-policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert not re.search(r"unsafe|https?:|\*", answer.headers["content-security-policy"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        # A browser that has the file is told so.
        again = server.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    assert server.get("/").text == (FOLDER / "index.html").read_text("utf-8")


def test_nothing_else_is_served(server: Server) -> None:
    for path in ("/page", "/page/", "/page/none.js", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/index.html"):
        answer = server.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    assert server.post("/", {}).status_code == 405


def test_the_page_needs_no_key_and_the_rest_does(keyed: Server) -> None:
    for path in ("/", "/page/main.js"):
        assert keyed.get(path).status_code == 200
    for path in ("/v1/models", "/v1/live/sources", "/metrics"):
        assert keyed.get(path).status_code == 401, path
    for path in ("/page%2f..%2fmetrics", "/page/../metrics", "/page/%2e%2e/metrics"):
        assert keyed.get(path).status_code in (401, 404), path
    # A page of another host name gets nothing, as everywhere.
    assert keyed.get("/", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("name", FILES)
def test_no_file_refers_to_another_host_or_holds_inline_code(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8")
    # The namespace of SVG and the example in an error's sentence are no loads.
    text = text.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1", "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)
    if name.endswith(".html"):
        assert not re.search(r"\son[a-z]+=|\sstyle=|<style|<script(?![^>]*src=)|javascript:", text)
    if name.endswith(".js"):
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        for module in re.findall(r'from "(.+?)"', text):
            assert module.removeprefix("./") in FILES


def test_every_element_that_a_module_looks_up_is_on_the_page() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    ids = set(re.findall(r'\sid="([\w-]+)"', page))
    assert len(ids) == len(re.findall(r'\sid="', page))
    for path in FOLDER.glob("*.js"):
        assert set(re.findall(r'byId\("([\w-]+)"\)', path.read_text("utf-8"))) <= ids, path.name
    for name in re.findall(r'\s(?:for|aria-controls|aria-labelledby)="([\w-]+)"', page):
        assert name in ids


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES


def test_the_page_is_part_of_the_package() -> None:
    import tomllib

    from support.paths import ROOT

    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert data["edge_interleave.serve"] == ["page/*"]
    assert all(path.is_file() for path in FOLDER.iterdir()), "package-data names files of the folder itself only"


def test_cached_files_of_another_version_are_not_used(server: Server) -> None:
    assert httpx.get(f"{server.url}/page/main.js").headers["cache-control"] == "no-cache"
