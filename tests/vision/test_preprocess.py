"""The tower's input equals that of transformers' image processors to 1/255, for every mode and size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from support import vision_oracle as oracle
from support.paths import GOLDEN_FOLDER
from support.pictures import PHOTOGRAPHS, SIZES, in_every_mode, photograph, picture, vision_info

from edge_interleave.errors import MediaError
from edge_interleave.media.pictures.image import open_image
from edge_interleave.vision.preprocess import WHOLE_PIXELS, preprocess

GOLDEN = np.load(GOLDEN_FOLDER / "vision.npz")
CASES = [name for name in GOLDEN if name.startswith("pixels/")]
PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def input_of(case: str) -> Image.Image:
    images = in_every_mode() | {f"{width}x{height}": picture(width, height) for width, height in SIZES}
    return images[case.split("/", 2)[2]]


def farthest(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The largest difference between two pictures, in levels of 256."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def test_there_are_cases_for_every_mode_and_size() -> None:
    assert len(CASES) == 2 * (len(in_every_mode()) + len(SIZES))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_transformers_as_stored(case: str) -> None:
    resize = case.split("/")[1]
    ours = preprocess(input_of(case), vision_info(resize, 24))
    assert ours.dtype == np.float32
    assert ours.shape == (3, 24, 24)
    assert ours.flags.c_contiguous
    assert farthest(oracle.levels(ours, resize), GOLDEN[case]) <= 1


def test_mean_and_std_are_applied() -> None:
    white = Image.new("RGB", (5, 9), "white")
    assert preprocess(white, vision_info("squash")).max() == pytest.approx(1.0)
    assert preprocess(white, vision_info("crop"))[:, 0, 0] == pytest.approx([1.9303361, 2.0748838, 2.1458888], abs=1e-5)


def test_crop_keeps_the_middle_and_squash_keeps_everything() -> None:
    three = np.zeros((20, 60, 3), np.uint8)
    three[:, :20, 0] = three[:, 20:40, 1] = three[:, 40:, 2] = 255
    cropped = oracle.levels(preprocess(Image.fromarray(three), vision_info("crop", 20)), "crop")
    assert cropped.mean(axis=(1, 2)).tolist() == [0, 255, 0]
    squashed = oracle.levels(preprocess(Image.fromarray(three), vision_info("squash", 21)), "squash")
    assert squashed.mean(axis=(1, 2)) == pytest.approx([85, 85, 85], abs=3)


@pytest.mark.parametrize("turned", [False, True])
def test_pad_keeps_the_shape_and_the_edges_between_bands_of_the_mean_colour(turned: bool) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20, 0] = wide[:, 20:40, 1] = wide[:, 40:, 2] = 255
    image = Image.fromarray(wide.swapaxes(0, 1) if turned else wide)
    seen = oracle.levels(preprocess(image, vision_info("pad", 30)), "pad")
    seen = seen.swapaxes(1, 2) if turned else seen
    assert [seen[:, 15, x].tolist() for x in (5, 15, 25)] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    bands = np.concatenate([seen[:, :8], seen[:, 22:]], axis=1)  # bicubic overshoots beside the edge
    assert (bands == np.array([122, 116, 104])[:, None, None]).all()  # CLIP's mean of 256 levels


def test_extreme_shapes_take_little_memory() -> None:
    # Resized whole, this would take 336 x 6,720,000 pixels, 6.8 GB; padded whole, 20,000 x 20,000.
    for resize in ("crop", "pad"):
        assert preprocess(picture(1, 20000), vision_info(resize, 336)).shape == (3, 336, 336)


def test_an_image_too_large_to_pad_whole_gives_the_same_result() -> None:
    small, large = picture(1000, 500), picture(1000, 500).resize((8000, 4000), Image.Resampling.BICUBIC)
    assert max(large.size) ** 2 > WHOLE_PIXELS > max(small.size) ** 2
    theirs, ours = (oracle.levels(preprocess(image, vision_info("pad", 48)), "pad") for image in (small, large))
    assert farthest(ours, theirs) <= 4


def test_an_undecodable_image_is_a_media_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    picture().save(path)
    path.write_bytes(path.read_bytes()[:900])
    with Image.open(path) as cut, pytest.raises(MediaError):
        preprocess(cut, vision_info())


@pytest.mark.oracle
@pytest.mark.parametrize("resample", PILLOW)
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_agrees_with_transformers_live(resize: str, resample: str) -> None:
    pytest.importorskip("transformers")
    images = in_every_mode() | {f"{width}x{height}": picture(width, height) for width, height in SIZES}
    for name, image in images.items():
        ours = oracle.levels(preprocess(image, vision_info(resize, 56, resample)), resize)
        assert farthest(ours, oracle.pixels(image, resize, 56, PILLOW[resample])) <= 1, name


def in_srgb(image: Image.Image) -> Image.Image:
    """The photograph in sRGB, because transformers ignores colour profiles."""
    if "icc_profile" not in image.info:
        return image
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")


@pytest.mark.oracle
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_agree_with_transformers_at_real_size(name: str) -> None:
    pytest.importorskip("transformers")
    for resize, size in (("squash", 384), ("crop", 336)):
        with Image.open(photograph(name)) as image:
            theirs = oracle.pixels(in_srgb(image), resize, size)
        ours = oracle.levels(preprocess(open_image(photograph(name)), vision_info(resize, size)), resize)
        assert farthest(ours, theirs) <= 1


@pytest.mark.oracle
def test_long_crops_agree_with_transformers_below_and_above_the_limit() -> None:
    pytest.importorskip("transformers")
    shapes = [(1, 7000), (1, 7500), (2, 15001), (23001, 3), (23003, 3), (15, 255), (290, 17), (101, 40000), (33, 500)]
    assert {48 * int(48 * max(shape) / min(shape)) > WHOLE_PIXELS for shape in shapes} == {True, False}
    for width, height in shapes:
        image = picture(width, height)
        ours = oracle.levels(preprocess(image, vision_info("crop", 48)), "crop")
        assert farthest(ours, oracle.pixels(image, "crop", 48)) <= 1, (width, height)
