"""Videos of requests, in the two ways that clients write them, and as frames."""

import base64
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError
from support.lineage import VIDEO, bundle_of, write_original
from support.serving import DEMO, Server, data_uri, serving, user

from edge_interleave import Video, load

CLIP = DEMO / "clip.mp4"
CONTENT = base64.b64encode(CLIP.read_bytes()).decode()


def visual_tokens(server: Server, part: dict[str, Any], **more: Any) -> int:
    found = server.client().chat.completions.create(
        model="embedded", messages=[user(part, "What happens?")], max_tokens=4, extra_body=more or None
    )
    return int(found.usage.prompt_tokens_details.visual_tokens)


def test_a_video_becomes_frames(server: Server) -> None:
    url = {"type": "video_url", "video_url": {"url": data_uri(CLIP)}}
    assert visual_tokens(server, url) == 8 * 36
    assert visual_tokens(server, url, frames=3) == 3 * 36
    assert visual_tokens(server, {"type": "video_url", "video_url": data_uri(CLIP)}, frames=2, pool=2) == 2 * 9


def test_llama_servers_way_of_writing_a_video(server: Server) -> None:
    for video in (
        {"data": CONTENT, "frames": 4},
        {"url": data_uri(CLIP), "frames": 4},
        {"data": CONTENT, "frames": 4, "format": "mp4"},
    ):
        assert visual_tokens(server, {"type": "input_video", "input_video": video}) == 4 * 36
    assert visual_tokens(server, {"type": "input_video", "input_video": CONTENT}, frames=2) == 2 * 36


def test_fps_sets_the_number_of_frames_by_the_clips_length(server: Server) -> None:
    def frames(fps: float) -> int:
        part = {"type": "video_url", "video_url": {"url": data_uri(CLIP), "fps": fps}}
        return visual_tokens(server, part) // 36

    slow, fast = frames(0.5), frames(2)
    assert 1 <= slow < fast
    assert fast == pytest.approx(4 * slow, abs=3)


def test_frames_that_the_client_sampled_are_a_video(server: Server) -> None:
    pictures = [base64.b64encode((DEMO / f"{name}.png").read_bytes()).decode() for name in ("before", "after", "desk")]
    url = "data:video/jpeg;base64," + ",".join(pictures)
    assert visual_tokens(server, {"type": "video_url", "video_url": {"url": url}}) == 3 * 36
    assert visual_tokens(server, {"type": "video_url", "video_url": {"url": url, "frames": 2}}) == 2 * 36


def test_a_model_that_was_trained_with_frames_times_gets_them(tmp_path: Path) -> None:
    bundle = bundle_of(write_original(tmp_path / "checkpoint", "onevision", **VIDEO))
    with load(bundle.folder, threads=1) as model:
        wanted = model.ask([Video(CLIP, 3), "What happens?"], max_tokens=1).stats
        assert wanted.prompt_tokens > wanted.visual_tokens + 100  # the time instruction, in a tiny vocabulary
    url = {"type": "video_url", "video_url": {"url": data_uri(CLIP), "frames": 3}}
    with serving(tmp_path, "--model", bundle.folder) as running:
        found = running.client().chat.completions.create(
            model=running.client().models.list().data[0].id, messages=[user(url, "What happens?")], max_tokens=1
        )
    assert found.usage is not None
    assert found.usage.prompt_tokens == wanted.prompt_tokens


@pytest.mark.parametrize(
    ("video", "said"),
    [
        ({"url": "data:video/mp4;base64,AAAA"}, "video"),
        ({"url": data_uri(CLIP), "frames": 2, "fps": 1}, "frames or fps"),
        ({"url": data_uri(CLIP), "frames": 65}, "more than 64"),
        ({"url": data_uri(CLIP), "fps": 200}, "more than 64"),
    ],
)
def test_an_unreadable_video_is_named(server: Server, video: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequestError, match=said) as refused:
        visual_tokens(server, {"type": "video_url", "video_url": video})
    assert refused.value.param.startswith("messages")
    assert "/tmp" not in refused.value.message
