"""The time instruction: what it says of a clip, and where it stands in a message."""

from __future__ import annotations

from typing import Any

import av
import pytest
from PIL import Image

import edge_interleave as ei
from edge_interleave.embedded import DEMO_CLIP
from edge_interleave.media.clip import sample_clip
from edge_interleave.media.frame import Frame
from edge_interleave.prompt.messages import Message
from edge_interleave.prompt.video_times import time_instruction, with_time_instructions

CLIP, PICTURE = ei.Video("a.mp4"), ei.Image(b"")


def frames(*times: tuple[int, float]) -> list[Frame]:
    return [Frame(Image.new("RGB", (1, 1)), time_s, index) for index, time_s in times]


def test_it_states_length_number_and_times() -> None:
    assert time_instruction(frames((0, 0.0), (24, 1.0), (49, 2.0416))) == (
        "The video lasts for 2.08 seconds, and 3 frames are uniformly sampled from it. These frames are located at "
        "0.00s,1.00s,2.04s.Please answer the following questions related to this video."
    )
    assert time_instruction(frames((0, 0.0))) == ""


def test_the_length_of_a_video_is_its_frames_by_their_mean_rate() -> None:
    """As in the original code: `total_frame_num / vr.get_avg_fps()`."""
    with av.open(str(DEMO_CLIP)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        seconds = float(stream.frames / stream.average_rate)
    said = time_instruction(sample_clip(DEMO_CLIP, 4))
    assert said.startswith(f"The video lasts for {seconds:.2f} seconds, and 4 frames are")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([CLIP, "Q"], [CLIP, "I\nQ"]),
        (["Q", CLIP], [CLIP, "I\nQ"]),
        ([CLIP], [CLIP, "I"]),
        ([CLIP, "<image>\nQ"], [CLIP, "<image>I\nQ"]),
        ([PICTURE, CLIP, "<image> and <image>?"], [PICTURE, CLIP, "<image> and <image>I\n?"]),
        ([CLIP, PICTURE, "Q"], [CLIP, "I", PICTURE, "Q"]),
        ([CLIP, CLIP, "Q"], [CLIP, "I", CLIP, "I\nQ"]),
        (["In", CLIP, "what?", PICTURE], ["In", CLIP, "I\nwhat?", PICTURE]),
        ([PICTURE, "Q"], [PICTURE, "Q"]),
        ([CLIP, "no marker too many <image><image>"], [CLIP, "no marker too many <image><image>"]),
    ],
)
def test_it_follows_its_video(parts: list[Any], expected: list[Any]) -> None:
    instructions = ["I" if part is CLIP else "" for part in parts if not isinstance(part, str)]
    before = Message("user", ("Before.",))
    changed = with_time_instructions([before, Message("user", tuple(parts))], instructions)
    assert changed[0] is before
    assert list(changed[1].parts) == expected


def test_without_instructions_messages_stay() -> None:
    messages = [Message("user", (CLIP, "Q"))]
    assert with_time_instructions(messages, ()) == messages
    assert with_time_instructions(messages, ("",)) == messages
