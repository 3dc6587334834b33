"""ImageEncoder with a tiny ONNX tower: order, tiles, pooling, cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.pictures import picture, vision_info

from edge_interleave.bundle.manifest import VISION_INPUT, VISION_OUTPUT
from edge_interleave.errors import MediaError, UsageError
from edge_interleave.vision.cache import EmbeddingCache
from edge_interleave.vision.image_encoder import ImageEncoder, PictureOptions
from edge_interleave.vision.pooling import pool
from edge_interleave.vision.preprocess import preprocess
from edge_interleave.vision.tiles import MAX_PARTS, split_tiles
from edge_interleave.vision.tower import VisionTower

SIZE, GRID, HIDDEN = 24, 6, 5
INFO = vision_info("squash", SIZE, grid=GRID)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> VisionTower:
    """A tower of a patch embedding with random weights, which is enough for these tests."""
    patch = SIZE // GRID
    weight = np.random.default_rng(0).standard_normal((HIDDEN, 3, patch, patch)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [VISION_INPUT, "weight"], ["cells"], strides=[patch, patch]),
            helper.make_node("Reshape", ["cells", "shape"], ["rows"]),
            helper.make_node("Transpose", ["rows"], [VISION_OUTPUT], perm=[0, 2, 1]),
        ],
        "patches",
        [helper.make_tensor_value_info(VISION_INPUT, TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(VISION_OUTPUT, TensorProto.FLOAT, ["n", GRID * GRID, HIDDEN])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([0, HIDDEN, GRID * GRID], np.int64), "shape"),
        ],
    )
    path: Path = tmp_path_factory.mktemp("tower") / "vision.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)
    return VisionTower(path, INFO, threads=1)


def encoder(tower: VisionTower, mode: str = "average", **options: object) -> ImageEncoder:
    return ImageEncoder(tower, INFO, mode, **options)  # type: ignore[arg-type]


def directly(tower: VisionTower, image: Image.Image, stride: int = 1, mode: str = "average") -> np.ndarray:
    return pool(tower.encode(preprocess(image, INFO)[np.newaxis]), GRID, stride, mode)[0]


def pictures(count: int) -> list[Image.Image]:
    return [picture(20 + 3 * number, 30) for number in range(count)]


@pytest.mark.parametrize("mode", ["average", "bilinear", "max"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_each_image_gives_its_pooled_tokens_in_order(tower: VisionTower, stride: int, mode: str) -> None:
    vision = encoder(tower, mode)
    images = pictures(11)
    tokens = vision.encode(images, stride=stride)
    assert len(tokens) == 11
    for image, rows in zip(images, tokens, strict=True):
        assert rows.dtype == np.float32
        assert rows.shape == (vision.tokens_for(image, stride), HIDDEN)
        np.testing.assert_allclose(rows, directly(tower, image, stride, mode), atol=1e-4)
    assert vision.images_encoded == 11
    assert vision.encode_seconds > 0


def test_no_images_give_no_tokens(tower: VisionTower) -> None:
    assert encoder(tower).encode([]) == []


def test_a_second_question_about_the_same_images_encodes_nothing(tower: VisionTower) -> None:
    vision = encoder(tower)
    first = vision.encode(pictures(5), stride=2)
    second = vision.encode(pictures(5), stride=2)
    assert vision.images_encoded == 5
    assert (vision.cache.hits, vision.cache.misses) == (5, 5)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_the_same_picture_twice_in_one_call_is_encoded_once(tower: VisionTower) -> None:
    vision = encoder(tower, cache=EmbeddingCache(0))
    one, other = pictures(2)
    tokens = vision.encode([one, other, one.copy(), one])
    assert vision.images_encoded == 2
    assert (tokens[0] == tokens[2]).all()
    assert (tokens[0] == tokens[3]).all()
    assert not (tokens[0] == tokens[1]).all()


def test_without_cache_capacity_every_call_encodes(tower: VisionTower) -> None:
    vision = encoder(tower, cache=EmbeddingCache(0))
    for _ in range(2):
        np.testing.assert_allclose(vision.encode([picture()])[0], directly(tower, picture()), atol=1e-4)
    assert vision.images_encoded == 2


def test_another_stride_is_pooled_from_a_cached_full_grid(tower: VisionTower) -> None:
    vision = encoder(tower)
    vision.encode([picture()])
    (rows,) = vision.encode([picture()], stride=2)
    assert vision.images_encoded == 1
    np.testing.assert_allclose(rows, directly(tower, picture(), 2), atol=1e-4)
    vision.encode([picture()], stride=3)
    assert vision.images_encoded == 1
    assert len(vision.cache) == 3


def test_tiles_are_the_overview_and_then_the_parts(tower: VisionTower) -> None:
    vision = encoder(tower)
    large = picture(100, 40)
    (rows,) = vision.encode([large], stride=2, options=PictureOptions(tiles=True))
    parts = split_tiles(large, SIZE)
    assert len(parts) == 4
    np.testing.assert_allclose(rows, np.concatenate([directly(tower, part, 2) for part in parts]), atol=1e-4)
    assert len(rows) == vision.tokens_for(large, 2, options=PictureOptions(tiles=True)) == 4 * 9
    assert vision.images_encoded == 4


def test_small_images_have_no_tiles(tower: VisionTower) -> None:
    vision = encoder(tower)
    small = picture(SIZE, SIZE - 4)
    assert (vision.encode([small], options=PictureOptions(tiles=True))[0] == vision.encode([small])[0]).all()
    assert vision.tokens_for(small, options=PictureOptions(tiles=True)) == GRID * GRID


def test_the_number_of_tokens_is_known_before_encoding(tower: VisionTower) -> None:
    vision = encoder(tower, "bilinear")
    assert [vision.tokens_for(None, stride) for stride in (1, 2, 4)] == [36, 9, 4]
    assert vision.tokens_for(None, 4, options=PictureOptions(tiles=True)) == 4 * MAX_PARTS


def test_a_shared_cache_tells_towers_apart(tower: VisionTower) -> None:
    cache = EmbeddingCache()
    encoder(tower, cache=cache).encode([picture()])
    stranger = encoder(tower, cache=cache)
    stranger.encode([picture()])
    assert stranger.images_encoded == 1
    encoder(tower, cache=cache, identity="abc").encode([picture()])
    friend = encoder(tower, cache=cache, identity="abc")
    friend.encode([picture()])
    assert friend.images_encoded == 0


def test_returned_tokens_are_read_only(tower: VisionTower) -> None:
    for rows in encoder(tower).encode([picture(), picture(100, 100)], options=PictureOptions(tiles=True)):
        with pytest.raises(ValueError, match="read-only"):
            rows[0, 0] = 1


def test_invalid_calls_are_usage_errors(tower: VisionTower, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pooling mode"):
        encoder(tower, "median")
    vision = encoder(tower)
    with pytest.raises(UsageError, match="leaves no token"):
        vision.encode([picture()], stride=GRID + 1)
    with pytest.raises(UsageError, match="leaves no token"):
        vision.tokens_for(None, GRID + 1)
    with pytest.raises(MediaError):
        vision.encode([Image.new("RGB", (0, 3))])
    assert vision.images_encoded == 0
