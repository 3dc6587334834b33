"""The embedded model's training data: packed conversations do not see each other, and picture labels are right."""

import random
from pathlib import Path

import numpy as np
import pytest
from support.paths import EXAMPLES

from edge_interleave.world.scene import Item, Look, Scene
from edge_interleave.world.vocabulary import COLOURS, KINDS

pytestmark = pytest.mark.oracle
TRAINER = EXAMPLES / "embedded_model"
WHITE = Look(160, "plain", (255, 255, 255), (255, 255, 255), 0.0, 0)


@pytest.fixture(autouse=True)
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(TRAINER))


def test_an_answer_sees_its_own_pictures_and_question_alone() -> None:
    from answering import Batch
    from build import load_tokenizer
    from packing import Conversation, Names, pack

    tokenizer = load_tokenizer()
    talks = [
        Conversation((number, number + 1)[: 1 + number % 2], ((f"What is {word}?", f"The {word} car is {word}."),) * 2)
        for number, word in enumerate(("red", "blue", "green", "pink"))
    ]
    packed = pack(talks, tokenizer, Names(tokenizer), random.Random(0), 2, gap_share=0.0)
    rows, t = packed.ids.shape
    assert rows < len(talks)
    assert sorted(packed.images.tolist()) == sorted(image for talk in talks for image in talk.images)
    mask = Batch.of(packed).mask.numpy()
    for place, answer in zip(packed.answer_at, packed.answers, strict=True):
        row, at = divmod(int(place), t)
        seen = tokenizer.decode(packed.ids[row][mask[row, at]].tolist(), skip_special_tokens=False)
        assert seen.count("<|im_start|>system") == 1
        assert seen.count("What is") == 1
        assert packed.ids[row, at + 1] == answer
        number = int(packed.talk[row, at])
        assert talks[number].turns[0][0] in seen
        assert seen.count("<image>") == 9 * len(talks[number].images)


@pytest.mark.parametrize("chained", [0.0, 0.5, 1.0])
def test_attention_in_groups_is_attention_under_the_mask(chained: float) -> None:
    import torch
    from answering import Batch
    from build import load_tokenizer
    from packing import Conversation, Names, pack

    tokenizer, rng = load_tokenizer(), random.Random(1)
    turns = tuple((f"What is {'very ' * n}red?", "The car is red." + " Yes." * (n % 3)) for n in range(6))
    talks = [Conversation(tuple(range(1 + n % 4)), turns[: 1 + n], 2 if n % 2 else None) for n in range(6)]
    packed = pack(talks, tokenizer, Names(tokenizer), rng, 2, chain_share=chained)
    batch = Batch.of(packed)
    n, t = batch.ids.shape
    torch.manual_seed(0)
    qkv = torch.randn(n * t, (8 + 4 + 4) * 8, requires_grad=True)
    real = batch.talk.flatten() >= 0
    mixed = batch.attend(qkv, 8, 4)[real]
    q, k, v = (part.unflatten(1, (-1, 8)).unflatten(0, (n, t)).transpose(1, 2) for part in qkv.split((64, 32, 32), 1))
    k, v = (each.repeat_interleave(2, 1) for each in (k, v))
    scores = (q @ k.transpose(2, 3)).masked_fill(~batch.mask[:, None], -1e9)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2).flatten(0, 1)[real]
    assert torch.allclose(mixed, expected, atol=1e-5)
    direction = torch.randn_like(expected)
    got, right = (torch.autograd.grad((each * direction).sum(), qkv)[0][real] for each in (mixed, expected))
    assert torch.allclose(got, right, atol=1e-4)


def test_patches_tell_kind_colour_and_middles() -> None:
    import pool

    items = (
        Item("circle", "red", 0.25, 0.25, 0.3, (255, 0, 0)),
        Item("star", "blue", 0.72, 0.75, 0.1, (0, 0, 255)),
        Item("star", "blue", 0.78, 0.78, 0.1, (0, 0, 255)),
    )
    scene = Scene(items, WHITE)
    labels = pool.patch_labels(scene)
    assert labels.shape == (pool.GRID, pool.GRID, 6)
    assert labels[1, 1].tolist() == [KINDS.index("circle"), COLOURS.index("red"), 1, 0, 0, round(1.8 * pool.FINE)]
    assert labels[0, 1, 3:5].tolist() == [0, pool.FINE]
    assert labels[4, 4, :2].tolist() == [KINDS.index("star"), COLOURS.index("blue")]
    assert labels[4, 4, 2] == 2
    assert labels[..., 2].sum() == len(items)
    listed = pool.listed_items(scene)
    assert listed[:3, 0].tolist() == [KINDS.index("circle"), KINDS.index("star"), KINDS.index("star")]
    assert (listed[3:] == -1).all()


def test_a_small_thing_across_a_corner_has_a_label_in_one_patch() -> None:
    import pool

    scene = Scene((Item("circle", "red", 0.336, 0.336, 1 / 12, (255, 0, 0)),), WHITE)
    labels = pool.patch_labels(scene)
    assert labels[2, 2, :2].tolist() == [KINDS.index("circle"), COLOURS.index("red")]
    assert (labels[1:3, 1:3, 0] == pool.DOUBT).sum() == 3


def test_an_unknown_picture_has_no_labels() -> None:
    import pool

    scene = Scene((), WHITE, unknown="held-out noise")
    assert (pool.patch_labels(scene)[..., :2] == pool.DOUBT).all()
    assert pool.effects_of(scene)[-1] == 1
    assert pool.picture(scene).shape == (pool.IMAGE_SIDE, pool.IMAGE_SIDE, 3)


def test_pooled_labels_add_middles_up() -> None:
    import torch
    from teach_tower import pooled_labels

    labels = torch.from_numpy(np.full((1, 6, 6, 3), (-1, -1, 0), np.int64))
    labels[0, 0, 0] = torch.tensor([3, 1, 1])
    labels[0, 0, 1] = torch.tensor([3, 1, 1])
    pooled = pooled_labels(labels)
    assert pooled.shape == (1, 3, 3, 3)
    assert pooled[0, 0, 0].tolist() == [3, 1, 2]
    assert pooled[0, 1, 1].tolist() == [-1, -1, 0]


def test_a_patch_tells_how_many_things_are_like_its_own() -> None:
    import torch
    from pool import DOUBT, EMPTY
    from teach_tower import alike

    circle, star, dog = (KINDS.index(kind) for kind in ("circle", "star", "dog"))
    red, blue = COLOURS.index("red"), COLOURS.index("blue")
    items = torch.tensor([[[circle, red], [circle, red], [circle, blue], [star, red], [dog, -1], [dog, -1], [-1, -1]]])
    labels = torch.tensor(
        [[[[circle, red, 1], [circle, blue, 1], [star, red, 1]], [[dog, DOUBT, 1], [EMPTY] * 3, [DOUBT] * 3]]]
    )
    same_kind, same_colour, both = (count[0].tolist() for count in alike(labels, items))
    assert same_kind == [[3, 3, 1], [2, 0, 0]]
    assert same_colour == [[3, 1, 3], [0, 0, 0]]
    assert both == [[2, 1, 1], [2, 0, 0]]


def test_things_outside_a_tile_are_not_listed() -> None:
    import pool

    items = (
        Item("circle", "red", 0.25, 0.25, 0.2, (255, 0, 0)),
        Item("star", "blue", 0.75, 0.75, 0.2, (0, 0, 255)),
    )
    listed = pool.listed_items(Scene(items, WHITE, crop=(0.5, 0.5, 1.0, 1.0)))
    assert listed[0].tolist() == [KINDS.index("star"), COLOURS.index("blue")]
    assert (listed[1:] == -1).all()


def test_every_recipe_makes_conversations() -> None:
    import pool
    from build import load_tokenizer
    from lessons import RECIPES, Packer

    kinds = "single change twins motion arrivals story quality sign puzzle views patches free sizes blank strange"
    share = pool.share_of(dict.fromkeys(kinds.split(), 12), 5, 0, 1)
    packer = Packer(share, load_tokenizer(), random.Random(0))
    for recipe in RECIPES:
        for _ in range(4):
            conversation = getattr(packer, f"_{recipe}")()
            assert conversation.turns, recipe
            assert all(question and answer for question, answer in conversation.turns), recipe
            assert all(0 <= image < share.images for image in conversation.images), recipe


def test_a_checkpoint_enlarged_says_what_it_said(tmp_path: Path) -> None:
    import torch
    from build import build_model, load_checkpoint, load_tokenizer, save_checkpoint
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = load_tokenizer()
    told = build_model(tokenizer).config.to_dict()
    told["vision_config"]["num_hidden_layers"] = 4
    told["text_config"] |= {"num_hidden_layers": 6, "layer_types": ["full_attention"] * 6}
    config = LlavaConfig(**told)
    small = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    save_checkpoint(small, tokenizer, tmp_path)
    small = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    large = load_checkpoint(tmp_path, tokenizer)
    assert len(large.model.language_model.layers) == 8
    ids = torch.tensor([tokenizer.encode("What is red?").ids])
    with torch.no_grad():
        assert torch.allclose(small(ids).logits, large(ids).logits, atol=1e-3)
        pixels = torch.rand(1, 3, 144, 144)
        before, after = (
            m.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1] for m in (small, large)
        )
        assert torch.allclose(before, after, atol=1e-3)


def test_composed_pictures_show_what_their_labels_say() -> None:
    import torch
    from composed import Composer
    from pool import CENTRES, FINE, GRID

    from edge_interleave.world.vocabulary import HELD_OUT_PAIRS

    torch.manual_seed(0)
    shown = Composer().draw(48)
    assert shown.pixels.shape == (48, 144, 144, 3)
    centres = 0
    for pixels, labels, items in zip(shown.pixels.numpy(), shown.labels.numpy(), shown.items.numpy(), strict=True):
        listed = [(KINDS[kind], COLOURS[colour] if colour >= 0 else "") for kind, colour in items if kind >= 0]
        assert not {(colour, kind) for kind, colour in listed} & HELD_OUT_PAIRS
        assert min(len(listed), CENTRES - 1) <= labels[..., 2].sum() <= len(listed)
        for row, column in np.ndindex(GRID, GRID):
            kind, colour, _, right, below, size = labels[row, column].tolist()
            if kind < 0:
                continue
            assert (kind, colour) in {(k, c if c >= 0 else -2) for k, c in items.tolist()}
            if max(abs(right), abs(below)) < FINE / 2 - 1:
                centres += labels[row, column, 2] > 0
                assert labels[row, column, 2] > 0
            x, y = (column + 0.5 + right / FINE) * 24, (row + 0.5 + below / FINE) * 24
            half = size / FINE * 12
            box = pixels[max(int(y - half), 0) : int(y + half) + 1, max(int(x - half), 0) : int(x + half) + 1]
            # Something stands out from the box's surroundings.
            assert np.abs(box.astype(int) - np.median(pixels.reshape(-1, 3), 0)).sum(-1).max() > 60
    assert centres > 100


def test_muon_of_many_matrices_is_muon_of_each() -> None:
    import torch
    from optimizers import Muon
    from precision import HALF

    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 16), (8, 16), (16, 8), (12, 12))]
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in ours]
    start = [each.detach().clone() for each in ours]
    one = Muon([{"params": ours}], lr=0.01, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        one.step()
        other.step()
    for mine, its, before in zip(ours, theirs, start, strict=True):
        # PyTorch's iteration is in bf16 everywhere.
        assert (mine - its).abs().max() < 0.02 * (its - before).abs().max(), HALF


def test_a_wider_tower_starts_where_the_narrower_one_ended(tmp_path: Path) -> None:
    import torch
    from build import build_model, load_checkpoint, load_tokenizer, save_checkpoint
    from teach_tower import fresh_pictures, prepare
    from transformers import LlavaForConditionalGeneration, SiglipVisionConfig

    tokenizer = load_tokenizer()
    config = build_model(tokenizer).config
    small = {**config.vision_config.to_dict(), "hidden_size": 192, "intermediate_size": 640, "num_attention_heads": 6}
    config.vision_config = SiglipVisionConfig(**small)
    torch.manual_seed(0)
    narrow = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    save_checkpoint(narrow, tokenizer, tmp_path / "narrow")
    wide = load_checkpoint(tmp_path / "narrow", tokenizer)
    assert wide.config.vision_config.hidden_size == 256
    pixels = prepare(fresh_pictures(4).pixels)
    with torch.no_grad():
        before, after = (
            model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1] for model in (narrow, wide)
        )
    assert torch.nn.functional.cosine_similarity(before, after[..., :192], dim=-1).min() > 0.97


def test_half_of_the_things_are_varied_and_alike_wherever_they_recur() -> None:
    import pool

    share = pool.share_of({"motion": 40}, 3, 0, 1)
    varied = 0
    for group in share.groups:
        mover = group.before
        assert mover is not None
        variants = {
            item.variant for scene in group.scenes for item in pool.varied(scene).items if item.name == mover.name
        }
        assert len(variants) == 1
        varied += variants != {0}
    things = sum(group.before.shape in pool.THINGS for group in share.groups if group.before)
    assert 0.2 * things < varied < 0.8 * things
