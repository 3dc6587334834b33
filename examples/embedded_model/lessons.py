"""What a training step is about: groups of pictures of the pool, and questions about them.

Knows nothing about ids or weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from packing import Conversation, Packed, length, pack
from pool import Pool
from tokenizers import Tokenizer

from edge_interleave.world import group_questions as asked
from edge_interleave.world.cast import SEEN
from edge_interleave.world.questions import QA, SCENE_QUESTIONS, in_image, true_or_false, which_image
from edge_interleave.world.samples import blinking, lasting
from edge_interleave.world.scene import Scene

RECIPES = {
    "single": 0.09, "album": 0.08, "change": 0.10, "twins": 0.04, "motion": 0.02, "appearance": 0.06, "arrivals": 0.09,
    "story": 0.08, "quality": 0.03, "signs": 0.09, "puzzle": 0.07, "views": 0.08, "patches": 0.05, "live": 0.12,
}  # fmt: skip
LIVE_KINDS = {"still": 0.20, "change": 0.40, "appear": 0.30, "motion": 0.10}


class Packer:
    """Draws conversations from a pool and packs them."""

    def __init__(self, pool: Pool, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.pool, self.tokenizer, self.rng = pool, tokenizer, rng
        self.by_kind: dict[str, list[int]] = {}
        for index, group in enumerate(pool.groups):
            self.by_kind.setdefault(group.kind, []).append(index)
        self.small = [i for i in self.by_kind["single"] if len(pool.groups[i].scenes[0].items) <= 3]
        self.easy = [i for i in self.by_kind["single"] if len(pool.groups[i].scenes[0].items) <= 2]
        self.appeared = [i for i in self.by_kind["change"] if pool.groups[i].change == "appear"]

    def batch(self, positions: int, strides: Sequence[int] = (1, 2), easy: bool = False) -> Packed:
        """A batch of one recipe and one stride, of about so many positions in all.

        Short sequences come in large batches: a clip costs a third of a picture with twelve questions. Only scenes of
        one or two items where `easy`.
        """
        recipe = self.rng.choices(tuple(RECIPES), tuple(RECIPES.values()))[0]
        pictures = self.rng.choice((2, 2, 3, 3, 4, 5, 6))
        make: Callable[[], Conversation] = {
            "single": lambda: self._single(easy),
            "album": lambda: self._album(pictures, easy),
            "change": self._change,
            "twins": self._twins,
            "motion": self._motion,
            "appearance": self._appearance,
            "arrivals": self._arrivals,
            "story": self._story,
            "quality": self._quality,
            "signs": self._signs,
            "puzzle": self._puzzle,
            "views": self._views,
            "patches": self._patches,
            "live": self._live,
        }[recipe]
        stride = self.rng.choice(strides)
        conversations, room = [], positions
        while room > 0:
            conversations.append(make())
            room -= length(conversations[-1], self.tokenizer, stride)
        return pack(conversations, self.tokenizer, self.rng, stride, chain_share=0.12)

    def _single(self, easy: bool) -> Conversation:
        index = self.rng.choice(self.easy if easy else self.by_kind["single"])
        scene = self.pool.groups[index].scenes[0]
        kinds = [
            *["describe"] * 3,
            *["colour"] * 2,
            "shape",
            "place",
            "place",
            "at_place",
            *["count"] * 6,
            "is there",
            "is there",
        ]
        return self._conversation(index, [self._about(scene, kind) for kind in kinds])

    def _album(self, pictures: int, easy: bool) -> Conversation:
        rng = self.rng
        chosen = rng.sample(self.easy if easy else self.small, pictures)
        scenes = [self.pool.groups[index].scenes[0] for index in chosen]
        turns: list[QA | None] = [which_image(rng, scenes) for _ in range(4)]
        turns += [in_image(rng, scenes) for _ in range(4)]
        for kind in rng.choices(("describe", "colour", "place", "count", "is there"), k=3):
            number = rng.randrange(pictures)
            turns.append(self._about(scenes[number], kind, f" in image {number + 1}"))
        if pictures == 2:
            turns.append(true_or_false(rng, scenes, SEEN))
        images = tuple(self.pool.first_image[index] for index in chosen)
        return Conversation(images, _distinct(turns))

    def _change(self) -> Conversation:
        index = self.rng.choice(self.by_kind["change"])
        group = self.pool.groups[index]
        turns = [asked.changed(self.rng, group), asked.changed(self.rng, group), asked.edit(self.rng, group)]
        return self._conversation(index, [*turns, *self._about_two(group.scenes, 2)])

    def _twins(self) -> Conversation:
        index = self.rng.choice(self.by_kind["twins"])
        return self._conversation(index, self._about_two(self.pool.groups[index].scenes, 5))

    def _about_two(self, scenes: Sequence[Scene], statements: int) -> list[QA | None]:
        rng = self.rng
        turns: list[QA | None] = [true_or_false(rng, scenes, SEEN) for _ in range(statements)]
        return [*turns, which_image(rng, scenes), which_image(rng, scenes), in_image(rng, scenes)]

    def _motion(self) -> Conversation:
        index = self.rng.choice(self.by_kind["motion"])
        group = self.pool.groups[index]
        return self._conversation(index, [asked.direction(self.rng, group) for _ in range(2)])

    def _appearance(self) -> Conversation:
        rng = self.rng
        index = rng.choice(self.appeared)
        item = self.pool.groups[index].after
        assert item is not None
        frames = rng.randint(3, 6)
        frame = rng.randint(2, frames)
        first = self.pool.first_image[index]
        alone = item.name not in {other.name for other in self.pool.groups[index].scenes[0].items}
        if alone and rng.random() < 0.5:
            times = rng.randint(1, 3)
            states = blinking(rng, times, rng.randint(2 * times, 8))
            turns = [asked.events(rng, item, times) for _ in range(2)]
            return Conversation(tuple(first + state for state in states), _distinct(turns))
        images = (first,) * (frame - 1) + (first + 1,) * (frames - frame + 1)
        return Conversation(images, _distinct([asked.appearance(rng, item, frame) for _ in range(3)]))

    def _arrivals(self) -> Conversation:
        rng = self.rng
        index = rng.choice(self.by_kind["arrivals"])
        group, first = self.pool.groups[index], self.pool.first_image[index]
        states = lasting(rng, len(group.scenes), rng.randint(len(group.scenes), 8))
        turns = [asked.order(rng, group) for _ in range(2)]
        for number, change in enumerate(group.story):
            assert change.after is not None
            turns.append(asked.appearance(rng, change.after, states.index(number + 1) + 1))
        named = [turn for turn in turns if "something" not in turn[0]]
        return Conversation(tuple(first + state for state in states), _distinct(named))

    def _story(self) -> Conversation:
        rng = self.rng
        index = rng.choice(self.by_kind["story"])
        group = self.pool.groups[index]
        about = [in_image(rng, group.scenes), in_image(rng, group.scenes)]
        return self._conversation(index, [asked.story(rng, group), asked.story(rng, group), *about])

    def _quality(self) -> Conversation:
        index = self.rng.choice(self.by_kind["quality"])
        shown = self.rng.sample((-1, 0, 1, 2), self.rng.choice((2, 3, 3)))
        turns = [asked.quality(shown, effect) for effect in shown if effect >= 0]
        first = self.pool.first_image[index]
        return Conversation(tuple(first + 1 + effect for effect in shown), _distinct(turns))

    def _signs(self) -> Conversation:
        rng = self.rng
        chosen = rng.sample(self.by_kind["sign"], rng.choice((1, 1, 2, 3, 4)))
        scenes = [self.pool.groups[index].scenes[0] for index in chosen]
        turns: list[QA | None] = []
        for number, scene in enumerate(scenes):
            where = f" in image {number + 1}" if len(scenes) > 1 else ""
            turns += [asked.reading(rng, scene, where), asked.reading(rng, scene, where)]
            if scene.items:
                turns.append(self._about(scene, rng.choice(("place", "is there", "colour")), where))
        if len(scenes) > 1:
            turns += [asked.which_sign(rng, scenes), asked.which_sign(rng, scenes)]
        return Conversation(tuple(self.pool.first_image[index] for index in chosen), _distinct(turns))

    def _puzzle(self) -> Conversation:
        rng = self.rng
        index = rng.choice(self.by_kind["puzzle"])
        group = self.pool.groups[index]
        choices = [asked.puzzle_choices(rng, group)[:2] for _ in range(3)]
        kinds = ("at_place", "place", "colour")
        about = [self._about(group.scenes[0], rng.choice(kinds)) for _ in range(2)]
        return self._conversation(index, [asked.puzzle(group), *choices, *about])

    def _views(self) -> Conversation:
        rng = self.rng
        index = rng.choice(self.by_kind["views"])
        group = self.pool.groups[index]
        about = [asked.hidden(rng, group), asked.hidden(rng, group), asked.in_all(rng, group)]
        return self._conversation(index, [*about, asked.camera(rng, group), asked.camera(rng, group)])

    def _patches(self) -> Conversation:
        index = self.rng.choice(self.by_kind["patches"])
        group = self.pool.groups[index]
        return self._conversation(index, [asked.fine_print(self.rng, group.scenes[0]) for _ in range(6)])

    def _live(self) -> Conversation:
        """A window over a stream: what was before it has left, but what came later still knows of it.

        Questions that name no frame are about the latest one.
        """
        rng = self.rng
        window, number = rng.randint(2, 8), rng.randint(1, 92)
        kind = rng.choices(tuple(LIVE_KINDS), tuple(LIVE_KINDS.values()))[0]
        index = rng.choice(self.appeared if kind == "appear" else self.by_kind["single" if kind == "still" else kind])
        group, first = self.pool.groups[index], self.pool.first_image[index]
        turns: list[QA | None] = []
        if kind == "still":
            shown = [first] * rng.randint(1, window)
            about = [*["describe"] * 3, *["colour"] * 2, "shape", *["place"] * 2, "at_place", *["count"] * 3]
        elif kind != "motion":
            later = rng.randint(1, window - 1)
            shown = [first] * (window - later) + [first + 1] * later
            turns = [asked.changed(rng, group) for _ in range(3)]
            about = ["describe", "colour", "place", "count"]
        else:
            shown = list(range(first, first + len(group.scenes)))[-window:]
            turns = [asked.direction(rng, group) for _ in range(2)]
            about = ["place"]
        turns += [self._about(group.scenes[-1], kind) for kind in (*about, "is there", "is there")]
        # Of three windows, two have been running for a while.
        before = 0 if len(shown) > window or rng.random() < 0.33 else rng.randint(1, window + 2)
        if group.kind == "change" and rng.random() < 0.5:
            earlier = [first] * before
        else:
            earlier = [self.pool.first_image[i] for i in rng.sample(self.small, before)]
        if group.change == "appear":
            assert group.after is not None
            frame = number + len(earlier) + len(shown) - later
            turns += [asked.appearance(rng, group.after, frame) for _ in range(3)]
        return Conversation((*earlier, *shown), _distinct(turns), window, number)

    def _about(self, scene: Scene, kind: str, where: str = "") -> QA | None:
        more = {"cast": SEEN} if kind in ("count", "is there") else {}
        return SCENE_QUESTIONS[kind](self.rng, scene, where, **more)

    def _conversation(self, index: int, turns: Sequence[QA | None]) -> Conversation:
        first = self.pool.first_image[index]
        count = len(self.pool.groups[index].scenes)
        return Conversation(tuple(range(first, first + count)), _distinct(turns))


def _distinct(turns: Sequence[QA | None]) -> tuple[QA, ...]:
    return tuple(dict.fromkeys(turn for turn in turns if turn is not None)) or (("What is this?", "I do not know."),)
