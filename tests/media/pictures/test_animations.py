"""Animations and multi-page files: each frame has the pixels that a browser shows, and the right time."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.media_files import ApngFrame, GifFrame, animated_webp, apng, bars, circle, gif, number_of

from edge_interleave.errors import MediaError
from edge_interleave.media.clip import sample_clip
from edge_interleave.media.pictures.image import open_image
from edge_interleave.media.sources.open import open_source

WIDTH, HEIGHT = 11, 7
PALETTE = np.array([(0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0)], np.uint8)


@st.composite
def gif_frames(draw: st.DrawFn) -> GifFrame:
    width, height = draw(st.integers(1, WIDTH)), draw(st.integers(1, HEIGHT))
    seed = draw(st.integers(0, 1000))
    return GifFrame(
        np.random.default_rng(seed).integers(0, 4, (height, width)),
        draw(st.integers(0, WIDTH - width)),
        draw(st.integers(0, HEIGHT - height)),
        draw(st.integers(0, 3)),
        draw(st.none() | st.integers(0, 3)),
        draw(st.integers(0, 20)),
    )


def over_white(canvas: np.ndarray) -> np.ndarray:
    return np.where(canvas[..., 3:] == 0, 255, canvas[..., :3])


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(gif_frames(), min_size=1, max_size=4), background=st.integers(0, 3))
def test_gif_frames_are_composed_on_a_transparent_canvas(frames: list[GifFrame], background: int) -> None:
    content = gif(WIDTH, HEIGHT, PALETTE.tobytes(), background, frames)
    canvas, time_s = np.zeros((HEIGHT, WIDTH, 4), np.uint8), 0.0
    shown = sample(content)
    assert len(shown) == len(frames)
    for frame, (pixels, at_s) in zip(frames, shown, strict=True):
        before = canvas.copy()
        height, width = frame.indices.shape
        place = canvas[frame.top : frame.top + height, frame.left : frame.left + width]
        painted = np.ones((height, width), bool) if frame.clear is None else frame.indices != frame.clear
        place[painted, :3] = PALETTE[frame.indices][painted]
        place[painted, 3] = 255
        assert (pixels == over_white(canvas)).all()
        assert at_s == pytest.approx(time_s)
        time_s += frame.hundredths / 100
        if frame.disposal == 2:
            place[...] = 0
        elif frame.disposal == 3:
            canvas = before
    assert (np.asarray(open_image(content)) == shown[0][0]).all()


def sample(content: bytes) -> list[tuple[np.ndarray, float]]:
    """All frames and their times, read from a file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return [(np.asarray(frame.image), frame.time_s) for frame in sample_clip(file.name, 100)]


def test_a_pillow_image_of_a_gif_is_read_from_its_file_unless_it_was_edited() -> None:
    frames = [GifFrame(np.full((3, 3), 1), 4, 2, disposal=2), GifFrame(np.full((3, 3), 2), 0, 0)]
    content = gif(WIDTH, HEIGHT, PALETTE.tobytes(), 3, frames)
    with Image.open(io.BytesIO(content)) as lazy:
        lazy.seek(1)
        shown = open_image(lazy)
        assert [shown.getpixel(place) for place in ((1, 1), (5, 3), (9, 5))] == [(0, 0, 255), *[(255, 255, 255)] * 2]
    with Image.open(io.BytesIO(content)) as edited:
        edited.paste(2, (0, 0, WIDTH, HEIGHT))
        assert set(open_image(edited).get_flattened_data()) == {(0, 0, 255)}


def test_a_gif_frame_larger_than_the_canvas_is_shown_whole() -> None:
    content = gif(1, 1, PALETTE.tobytes(), 0, [GifFrame(np.full((5, 4), 1), 2, 1)])
    assert open_image(content).size == (6, 6)
    assert sample(content)[0][0].shape == (6, 6, 3)


@st.composite
def apng_frames(draw: st.DrawFn) -> ApngFrame:
    width, height = draw(st.integers(1, WIDTH)), draw(st.integers(1, HEIGHT))
    pixels = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 256, (height, width, 4)).astype(np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] > 127, 255, 0)
    place = draw(st.integers(0, WIDTH - width)), draw(st.integers(0, HEIGHT - height))
    return ApngFrame(pixels, *place, draw(st.integers(0, 2)), draw(st.integers(0, 1)))


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(apng_frames(), min_size=1, max_size=4), has_default=st.booleans())
def test_png_frames_are_composed_on_a_transparent_canvas(frames: list[ApngFrame], has_default: bool) -> None:
    default = np.full((HEIGHT, WIDTH, 4), 77, np.uint8) if has_default else None
    if default is None:
        # Without a default picture, the first frame is the still picture, so it must fill the canvas.
        whole = np.random.default_rng(len(frames)).integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
        whole[..., 3] = 255
        frames = [ApngFrame(whole, 0, 0, frames[0].disposal, frames[0].blend), *frames[1:]]
    shown = sample(apng(WIDTH, HEIGHT, frames, default))
    assert [time_s for _, time_s in shown] == pytest.approx([index / 10 for index in range(len(frames))])
    canvas = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    for index, (frame, (pixels, _)) in enumerate(zip(frames, shown, strict=True)):
        before = canvas.copy()
        height, width = frame.pixels.shape[:2]
        place = canvas[frame.top : frame.top + height, frame.left : frame.left + width]
        painted = np.ones((height, width), bool) if frame.blend == 0 else frame.pixels[..., 3] > 0
        place[painted] = frame.pixels[painted]
        assert (pixels == over_white(canvas)).all()
        if frame.disposal == 1 or (frame.disposal == 2 and index == 0):
            place[...] = 0
        elif frame.disposal == 2:
            canvas = before


def test_a_png_s_default_picture_is_the_still_and_not_a_frame(tmp_path: Path) -> None:
    moving = [circle(ink) for ink in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (99, 99, 99))]
    path = tmp_path / "default.png"
    circle((1, 2, 3)).save(path, save_all=True, default_image=True, append_images=moving, duration=100)
    frames = sample_clip(path, 9)
    assert [frame.image.getpixel((16, 16)) for frame in frames] == [image.getpixel((16, 16)) for image in moving]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert open_image(path).getpixel((16, 16)) == (1, 2, 3)


def test_a_png_frame_outside_of_the_picture_is_refused(tmp_path: Path) -> None:
    frame = ApngFrame(np.zeros((HEIGHT, WIDTH, 4), np.uint8), 0, 0, 0, 0)
    outside = ApngFrame(np.zeros((2, 2, 4), np.uint8), WIDTH, 0, 0, 0)
    path = tmp_path / "outside.png"
    path.write_bytes(apng(WIDTH, HEIGHT, [frame, outside], None))
    with pytest.raises(MediaError, match=r"outside\.png: a frame of the animation extends beyond"):
        sample_clip(path, 2)


def test_pixels_that_no_webp_frame_covers_are_white(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    content = animated_webp(12, 8, [(red, 4, 2), (blue, 0, 0), (red, 8, 4)])
    path = tmp_path / "offset.webp"
    path.write_bytes(content)
    places = ((5, 3), (1, 1), (9, 5), (11, 0))
    white = (255, 255, 255)
    shown = [[frame.image.getpixel(place) for place in places] for frame in sample_clip(path, 3)]
    assert shown == [
        [(255, 0, 0), white, white, white],
        [white, (0, 0, 255), white, white],
        [white, white, (255, 0, 0), white],
    ]
    assert open_image(content).getpixel((11, 0)) == white


@pytest.mark.parametrize("brand", [b"avis", b"msf1", b"miaf"])
def test_an_avif_sequence_is_recognised_by_any_of_its_brands(brand: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    stills = [Image.fromarray(bars(number)) for number in range(5)]
    stills[0].save(buffer, "AVIF", save_all=True, append_images=stills[1:], duration=100)
    path = tmp_path / "sequence"
    path.write_bytes(buffer.getvalue()[:8] + brand + buffer.getvalue()[12:])
    assert [number_of(frame.image) for frame in sample_clip(path, 9)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_tiff_pages_are_frames_of_one_second_each(compression: str, tmp_path: Path) -> None:
    pages = [Image.fromarray(bars(number)) for number in range(20)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:], compression=compression)
    frames = sample_clip(tmp_path / "pages.tif", 8)
    wanted = [0, 2, 5, 8, 10, 13, 16, 19]
    assert [number_of(frame.image) for frame in frames] == [frame.index for frame in frames] == wanted
    assert [frame.time_s for frame in frames] == wanted


def test_smaller_copies_of_a_tiff_page_are_not_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(bars(number)) for number in range(4)]
    for page, kind in zip(pages, (2, 1, 2, 1), strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    pages[0].save(tmp_path / "copies.tif", save_all=True, append_images=pages[1:], tiffinfo={254: 2})
    assert [number_of(frame.image) for frame in sample_clip(tmp_path / "copies.tif", 9)] == [0, 2]


def joined_jpegs(count: int, padding: bytes = b"", **options: object) -> bytes:
    content = b""
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(bars(number)).save(buffer, "JPEG", quality=85, **options)
        content += buffer.getvalue() + padding
    return content


@pytest.mark.parametrize("padding", [b"", b"\r\n", bytes(37)], ids=["close", "lines", "zeros"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_concatenated_jpegs_are_a_video(options: dict[str, object], padding: bytes, tmp_path: Path) -> None:
    path = tmp_path / "camera.mjpeg"
    path.write_bytes(joined_jpegs(20, padding, **options))
    assert [number_of(frame.image) for frame in sample_clip(path, 8)] == [0, 2, 5, 8, 10, 13, 16, 19]
    source = open_source(path)
    source.open()
    frames = list(iter(source.read, None))
    source.close()
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    assert number_of(open_image(path)) == 0


def test_a_jpeg_followed_by_a_preview_or_other_data_is_one_picture(tmp_path: Path) -> None:
    preview, views = io.BytesIO(), io.BytesIO()
    Image.fromarray(bars(7)).resize((64, 16)).save(preview, "JPEG")
    Image.fromarray(bars(5)).save(views, "MPO", save_all=True, append_images=[Image.fromarray(bars(6))])
    for content in (
        joined_jpegs(1) + preview.getvalue(),
        joined_jpegs(1) + b"a film in a photograph",
        views.getvalue(),
    ):
        path = tmp_path / "photograph.jpg"
        path.write_bytes(content)
        assert len(sample_clip(path, 8)) == 1
