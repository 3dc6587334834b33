"""Draws training conversations: groups of pictures of the pool, and questions about them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from packing import Conversation, Names, Packed, length, pack
from pool import Share
from tokenizers import Tokenizer

from edge_interleave.world import group_questions as asked
from edge_interleave.world.group_questions import in_image, true_or_false, which_image
from edge_interleave.world.phrases import NO_PICTURE, QA, UNKNOWN_PICTURE, UNKNOWN_QUESTION
from edge_interleave.world.samples import blinking, lasting
from edge_interleave.world.scene import Scene
from edge_interleave.world.scene_questions import ask, signed
from edge_interleave.world.unknown_questions import unknown_question
from edge_interleave.world.vocabulary import TRAIN
from edge_interleave.world.wordings import reworded

RECIPES = {
    "single": 0.08,
    "album": 0.06,
    "change": 0.08,
    "twins": 0.03,
    "motion": 0.015,
    "appearance": 0.045,
    "arrivals": 0.08,
    "story": 0.12,
    "quality": 0.02,
    "signs": 0.1,
    "puzzle": 0.035,
    "views": 0.055,
    "patches": 0.03,
    "live": 0.12,
    "free": 0.28,
    "sizes": 0.025,
    "unknown_picture": 0.055,
    "unknown_film": 0.02,
    "blank": 0.01,
    "unknown_question": 0.04,
}
LIVE_KINDS = {"still": 0.20, "change": 0.40, "appear": 0.30, "motion": 0.10}
REWORDED = 0.62
"""Share of the questions in wordings of training; the rest are in the world's own words."""
FREE_QUESTIONS = {
    "describe": 3,
    "colour": 1.5,
    "shape": 0.5,
    "place": 2,
    "at_place": 1.5,
    "count": 1,
    "is there": 2,
    "own colours": 0.4,
    "absent": 0.8,
    "nearly there": 1.5,
    "anything": 1,
    "what is": 1.2,
    "count of a kind": 6,
    "bigger": 0.6,
    "shapes": 1.3,
    "unwritten": 0.3,
    "colours": 1.2,
    "is coloured": 1.8,
    "is placed": 0.8,
}
"""Relative frequency of the questions about one picture."""


class Packer:
    """Draws conversations from a share of the pool and packs them."""

    def __init__(self, share: Share, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.pool, self.tokenizer, self.rng, self.names = share, tokenizer, rng, Names(tokenizer)
        self.by_kind: dict[str, list[int]] = {}
        for index, group in enumerate(share.groups):
            self.by_kind.setdefault(group.kind, []).append(index)
        self.small = [i for i in self.by_kind["single"] if len(share.groups[i].scenes[0].items) <= 3]
        self.appeared = [i for i in self.by_kind["change"] if share.groups[i].change == "appear"]

    def batch(self, positions: int, strides: Sequence[int] = (1, 2)) -> Packed:
        """A batch of one recipe and one pooling stride, of about `positions` positions in all.

        Short sequences make large batches: a clip costs a third of a picture with twelve questions.
        """
        recipe = self.rng.choices(tuple(RECIPES), tuple(RECIPES.values()))[0]
        make: Callable[[], Conversation] = getattr(self, f"_{recipe}")
        stride = self.rng.choice(strides)
        conversations, room = [], positions
        # Keep one picture in every batch: the first conversation has one.
        while room > 0:
            conversations.append(self._single() if recipe == "unknown_question" and not conversations else make())
            room -= length(conversations[-1], self.tokenizer, stride)
        return pack(conversations, self.tokenizer, self.names, self.rng, stride, chain_share=0.12)

    def _single(self) -> Conversation:
        index = self.rng.choice(self.by_kind["single"])
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
        turns = [self._about(scene, kind) for kind in kinds]
        turns += [self._about(scene, kind) for kind in self._kinds(5)]
        return self._conversation(index, turns)

    def _free(self) -> Conversation:
        """One to three pictures with things anywhere."""
        pictures = self.rng.choices((1, 2, 3), (70, 18, 12))[0]
        chosen = self.rng.sample(self.by_kind["free"], pictures)
        turns: list[QA | None] = []
        for number, index in enumerate(chosen):
            where = f" in image {number + 1}" if pictures > 1 else ""
            scene = self.pool.groups[index].scenes[0]
            turns += [self._about(scene, kind, where) for kind in self._kinds(16 // pictures)]
        return Conversation(tuple(self.pool.first_image[index] for index in chosen), self._distinct(turns))

    def _sizes(self) -> Conversation:
        index = self.rng.choice(self.by_kind["sizes"])
        scene = self.pool.groups[index].scenes[0]
        return self._conversation(index, [self._about(scene, kind) for kind in ("bigger",) * 8 + tuple(self._kinds(3))])

    def _blank(self) -> Conversation:
        index = self.rng.choice(self.by_kind["blank"])
        scene = self.pool.groups[index].scenes[0]
        kinds = ("describe", "describe", "describe", *self._kinds(9))
        return self._conversation(index, [self._about(scene, kind) for kind in kinds])

    def _unknown_picture(self) -> Conversation:
        """An unknown picture, alone or among pictures of the world, and any question about it."""
        rng = self.rng
        unknown = rng.choice(self.by_kind["strange"])
        others = rng.sample(self.small, rng.choices((0, 1, 2), (75, 15, 10))[0])
        chosen = [*others, unknown]
        rng.shuffle(chosen)
        turns: list[QA | None] = []
        for number, index in enumerate(chosen):
            where = f" in image {number + 1}" if others else ""
            if index != unknown:
                turns += [self._about(self.pool.groups[index].scenes[0], kind, where) for kind in self._kinds(3)]
                continue
            example = self.pool.groups[rng.choice(self.by_kind["free"])].scenes[0]
            questions = [self._about(example, kind, where) for kind in self._kinds(7)]
            if others:
                questions.append((f"What is in image {number + 1}?", ""))
            else:
                questions += [asked.reading(rng, self.pool.groups[rng.choice(self.by_kind["sign"])].scenes[0])]
            turns += [(qa[0], UNKNOWN_PICTURE) for qa in questions if qa is not None]
        return Conversation(tuple(self.pool.first_image[index] for index in chosen), self._distinct(turns))

    def _unknown_film(self) -> Conversation:
        """Several unknown pictures, or one that stays; half of the time the frames of a live window."""
        rng = self.rng
        count = rng.randint(2, 8)
        distinct = count if rng.random() < 0.5 else 1
        chosen = [rng.choice(self.by_kind["strange"]) for _ in range(distinct)] * (count // distinct)
        example = self.pool.groups[rng.choice(self.by_kind["free"])].scenes[0]
        live = rng.random() < 0.5
        questions = [self._about(example, kind) for kind in self._kinds(5)]
        if not live:
            questions += [self._about(example, kind, f" in image {rng.randint(1, count)}") for kind in self._kinds(2)]
        index = rng.choice(self.by_kind["motion"])
        questions.append(asked.direction(rng, self.pool.groups[index]))
        questions.append((rng.choice(("What changed?", "What happens?", "What happens in the video?")), ""))
        turns = self._distinct([(qa[0], UNKNOWN_PICTURE) for qa in questions if qa is not None])
        images = tuple(self.pool.first_image[index] for index in chosen)
        return Conversation(images, turns, count if live else None, rng.randint(1, 92) if live else 1)

    def _unknown_question(self) -> Conversation:
        """Unknown questions, with or without pictures; without pictures also questions about pictures."""
        rng = self.rng
        turns: list[QA | None] = [(unknown_question(rng), UNKNOWN_QUESTION) for _ in range(8)]
        if rng.random() < 0.5:
            kind = rng.choice(("free", "single", "sign", "strange", "blank"))
            return self._conversation(rng.choice(self.by_kind[kind]), turns)
        scene = self.pool.groups[rng.choice(self.by_kind["free"])].scenes[0]
        questions = [self._about(scene, kind) for kind in self._kinds(6)]
        turns += [(qa[0], NO_PICTURE) for qa in questions if qa is not None]
        return Conversation((), self._distinct(turns))

    def _kinds(self, count: int) -> list[str]:
        return self.rng.choices(tuple(FREE_QUESTIONS), tuple(FREE_QUESTIONS.values()), k=count)

    def _album(self) -> Conversation:
        rng = self.rng
        pictures = rng.choice((2, 2, 3, 3, 4, 5, 6))
        chosen = rng.sample(self.small, pictures)
        scenes = [self.pool.groups[index].scenes[0] for index in chosen]
        turns: list[QA | None] = [which_image(rng, scenes) for _ in range(4)]
        turns += [in_image(rng, scenes) for _ in range(4)]
        for kind in ("describe", *self._kinds(4)):
            number = rng.randrange(pictures)
            turns.append(self._about(scenes[number], kind, f" in image {number + 1}"))
        if pictures == 2:
            turns.append(true_or_false(rng, scenes, TRAIN))
            compared = asked.compare(rng, scenes)
            if "contains" in compared[1]:
                question = rng.choice(
                    ("What changed between the two images?", "What is different in the second image?")
                )
                turns += [compared, (question, compared[1]), asked.same(rng, different=True)]
        images = tuple(self.pool.first_image[index] for index in chosen)
        return Conversation(images, self._distinct(turns))

    def _change(self) -> Conversation:
        index = self.rng.choice(self.by_kind["change"])
        group = self.pool.groups[index]
        rng = self.rng
        if rng.random() < 0.15:
            # The same picture twice.
            scene, first = group.scenes[0], self.pool.first_image[index]
            turns: list[QA | None] = [asked.compare(rng, (scene, scene)), asked.same(rng, different=False)]
            turns += [asked.same(rng, different=False), asked.compare(rng, (scene, scene))]
            turns += [(rng.choice(("What changed between the two images?", "What changed?")), "Nothing changed.")] * 2
            where = rng.choice((" in image 1", " in image 2"))
            turns += [self._about(scene, kind, where) for kind in self._kinds(3)]
            return Conversation((first, first), self._distinct(turns))
        turns = [
            asked.changed(rng, group),
            asked.changed(rng, group),
            asked.changed(rng, group),
            asked.edit(rng, group),
        ]
        turns += [asked.edit(rng, group), asked.compare(rng, group.scenes, group)]
        turns += [asked.same(rng, different=True)] * (rng.random() < 0.3)
        return self._conversation(index, [*turns, *self._about_two(group.scenes, 2)])

    def _twins(self) -> Conversation:
        index = self.rng.choice(self.by_kind["twins"])
        return self._conversation(index, self._about_two(self.pool.groups[index].scenes, 5))

    def _about_two(self, scenes: Sequence[Scene], statements: int) -> list[QA | None]:
        rng = self.rng
        turns: list[QA | None] = [true_or_false(rng, scenes, TRAIN) for _ in range(statements)]
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
            return Conversation(tuple(first + state for state in states), self._distinct(turns))
        images = (first,) * (frame - 1) + (first + 1,) * (frames - frame + 1)
        return Conversation(images, self._distinct([asked.appearance(rng, item, frame) for _ in range(3)]))

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
        return Conversation(tuple(first + state for state in states), self._distinct(named))

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
        return Conversation(tuple(first + 1 + effect for effect in shown), self._distinct(turns))

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
        if len(scenes) == 1:
            turns += [signed(scenes[0])] * 2
        if len(scenes) > 1:
            turns += [asked.which_sign(rng, scenes), asked.which_sign(rng, scenes)]
        return Conversation(tuple(self.pool.first_image[index] for index in chosen), self._distinct(turns))

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
        """A live window: earlier frames are evicted, but later frames still carry traces of them.

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
        # Two of three windows have evicted frames.
        before = 0 if len(shown) > window or rng.random() < 0.33 else rng.randint(1, window + 2)
        if group.kind == "change" and rng.random() < 0.5:
            earlier = [first] * before
        else:
            earlier = [self.pool.first_image[i] for i in rng.sample(self.small, before)]
        if group.change == "appear":
            assert group.after is not None
            frame = number + len(earlier) + len(shown) - later
            turns += [asked.appearance(rng, group.after, frame) for _ in range(3)]
        return Conversation((*earlier, *shown), self._distinct(turns), window, number)

    def _about(self, scene: Scene, kind: str, where: str = "") -> QA | None:
        if not scene.items and kind in ("colour", "shape", "place", "own colours"):
            kind = "absent"
        return ask(kind, self.rng, scene, where, TRAIN)

    def _conversation(self, index: int, turns: Sequence[QA | None]) -> Conversation:
        first = self.pool.first_image[index]
        count = len(self.pool.groups[index].scenes)
        return Conversation(tuple(range(first, first + count)), self._distinct(turns))

    def _distinct(self, turns: Sequence[QA | None]) -> tuple[QA, ...]:
        """The questions, each once, most of them reworded; sometimes an unknown question is added."""
        rng = self.rng
        worded = [
            (reworded(rng, turn[0]) if rng.random() < REWORDED else turn[0], turn[1])
            for turn in turns
            if turn is not None
        ]
        if not worded or rng.random() < 0.1:
            worded.append((unknown_question(rng), UNKNOWN_QUESTION))
        return tuple(dict(worded).items())
