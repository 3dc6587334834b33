"""Several threads use one model: answers stay right, `close` works at any time, and no engine crashes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.errors import BackendError, UsageError
from edge_interleave.util.engine_lock import EngineLock

ENOUGH_S = 20.0
PICTURES = [np.full((96, 96, 3), shade, np.uint8) for shade in (30, 120, 210)]
PRELUDE = """
import sys, threading, time
import numpy as np
import edge_interleave as ei
PICTURES = [np.full((96, 96, 3), shade, np.uint8) for shade in (30, 120, 210)]
model = ei.load(backend=sys.argv[1], threads=1)
def forever(work):
    begun = threading.Event()
    def run():
        while True:
            work()
            begun.set()
    threading.Thread(target=run, daemon=True).start()
    begun.wait(60)
"""


def program(code: str, backend: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the embedded model in a process of its own, since a crash would end this one."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, backend], capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture(scope="module")
def model() -> Iterator[ei.Model]:
    with ei.load(threads=1) as model:
        yield model


def eventually(condition: Callable[[], object]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < ENOUGH_S
        time.sleep(0.001)


class TestOneModel:
    def test_questions_of_many_threads_are_answered_one_by_one(self, backend: str) -> None:
        code = """
from concurrent.futures import ThreadPoolExecutor
chat, live = model.chat(), model.live(2, 3)
live.add(PICTURES[0])
def ask(number): return model.ask([PICTURES[number], "Describe the image."], max_tokens=6).token_ids
def probability(number): return round(live.probability("Is it dark?"), 4)
wanted = [ask(number) for number in range(3)]
likely = probability(0)
with ThreadPoolExecutor(6) as pool:
    found = pool.map(ask, [0, 1, 2, 0, 1, 2])
    said = pool.map(lambda number: chat.ask(f"Is it {number}?", max_tokens=2), range(3))
    shares = pool.map(probability, range(3))
    assert list(found) == wanted * 2
    assert set(shares) == {likely}
    assert len(list(said)) == 3
assert [message.role for message in chat.messages] == ["user", "assistant"] * 3
model.close()
print("done")
"""
        done = program(code, backend)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    @pytest.mark.parametrize("closed", ["model", "chat", "live"])
    def test_closing_from_another_thread_ends_the_answer_with_an_error(self, backend: str, closed: str) -> None:
        code = f"""
chat, live = model.chat(), model.live(2, 3)
live.add(PICTURES[0])
model.ask([PICTURES[0], "Describe the image."], max_tokens=2)
asked = {{"model": [model, chat, live], "chat": [chat], "live": [live]}}["{closed}"]
errors, threads = [], []
def ask(one):
    begun.release()
    try:
        while True: one.ask("Describe the image.", max_tokens=100)
    except ei.EdgeInterleaveError as error:
        errors.append((type(error).__name__, str(error).split(";")[0].split()[-1]))
begun = threading.Semaphore(0)
for one in asked * 2:
    threads.append(threading.Thread(target=ask, args=(one,)))
    threads[-1].start()
for thread in threads: begun.acquire()
time.sleep(0.02)
{closed}.close()
for thread in threads: thread.join(60)
assert not any(thread.is_alive() for thread in threads)
assert errors == [("UsageError", "closed")] * len(threads), errors
model.close()
print("done")
"""
        done = program(code, backend)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    @pytest.mark.parametrize(
        "rest",
        [
            "forever(lambda: model.ask([PICTURES[0], 'Describe the image.']))",
            "forever(lambda: live.ask('Describe the image.'))",
            "live.watch(PICTURES[number % 3] for number in range(10**9)); live.wait_frame(3, 60)",
            "with model.live(2, 3) as live:\n    stream = live.stream('Describe the image.'); next(stream)",
            "stream = model.stream('Hello'); next(stream); del model, live, chat",
        ],
        ids=["asking", "asking live", "watching", "left open", "dropped"],
    )
    def test_a_program_may_end_at_any_time(self, backend: str, rest: str) -> None:
        done = program(f"chat, live = model.chat(), model.live(2, 3)\n{rest}\n", backend)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_closing_from_a_signal_handler_frees_the_engine_after_its_call(self, backend: str) -> None:
        code = """
import signal
def handler(*_):
    model.close()
signal.signal(signal.SIGUSR1, handler)
threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGUSR1)).start()
try:
    while True: model.ask([PICTURES[0], "Describe the image."])
except ei.UsageError as error:
    print("closed" in str(error))
"""
        done = program(code, backend)
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


class TestStreams:
    """An open answer holds its turn. Waiting for it without end raises an error."""

    @pytest.fixture(params=["model", "chat", "live"])
    def asked(self, request: pytest.FixtureRequest, model: ei.Model) -> Iterator[object]:
        if request.param == "model":
            yield model
            return
        with model.chat() if request.param == "chat" else model.live(2, 3) as one:
            yield one

    def test_a_question_of_the_thread_that_reads_an_answer_is_an_error(self, asked: ei.Chat) -> None:
        stream = asked.stream("Describe the image.", max_tokens=3)
        first = next(stream)
        with pytest.raises(UsageError, match="close it first"):
            asked.ask("And?")
        assert first + "".join(stream) == stream.answer.text
        assert stream.answer.finish_reason != "cancelled"
        asked.ask("And?", max_tokens=1)

    def test_other_threads_wait_until_the_answer_ends(self, asked: ei.Chat) -> None:
        stream = asked.stream("Describe the image.", max_tokens=3)
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(asked.ask, "And?", max_tokens=1)
            list(stream)
            assert stream.answer.finish_reason != "cancelled"
            assert other.result(ENOUGH_S).stats.answer_tokens == 1

    def test_a_dropped_or_closed_answer_lets_others_continue(self, asked: ei.Chat) -> None:
        stream = asked.stream("Describe the image.")
        next(stream)
        del stream
        with asked.stream("Describe the image.") as stream:
            next(stream)
        assert asked.ask("And?", max_tokens=1).stats.answer_tokens == 1

    def test_an_answer_may_be_closed_by_another_thread_while_a_piece_is_computed(self, asked: ei.Chat) -> None:
        stream = asked.stream("Describe the image.", max_tokens=10**6)
        pieces: list[str] = []
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(lambda: pieces.extend(stream))
            eventually(lambda: pieces)
            stream.close()
            read.result(ENOUGH_S)
        assert asked.ask("And?", max_tokens=1).stats.answer_tokens == 1

    def test_a_waiting_question_can_be_cancelled(self, asked: ei.Chat) -> None:
        cancel = threading.Event()
        with asked.stream("Describe the image.") as stream, ThreadPoolExecutor(1) as pool:
            next(stream)
            other = pool.submit(asked.ask, "And?", cancel=cancel)
            cancel.set()
            assert other.result(ENOUGH_S).finish_reason == "cancelled"

    def test_a_frame_of_the_thread_that_reads_an_answer_is_an_error(self, model: ei.Model) -> None:
        with model.live(2, 3) as live:
            live.add(PICTURES[0])
            with live.stream("Describe the image.") as stream:
                next(stream)
                with pytest.raises(UsageError, match="close it first"):
                    live.add(PICTURES[1])
            assert live.add(PICTURES[1]) == 2

    def test_a_chat_includes_a_turn_of_another_thread(self, model: ei.Model) -> None:
        with model.chat() as chat:
            one, two = (chat.stream(f"Is it {name}?", max_tokens=2) for name in ("one", "two"))
            list(one)
            list(two)
            assert [message.parts[0] for message in chat.messages[::2]] == ["Is it one?", "Is it two?"]


class TestLive:
    def test_a_loop_of_questions_does_not_starve_the_frames(self, model: ei.Model) -> None:
        with model.live(2, 3) as live:
            live.watch(PICTURES[number % 3] for number in range(6))
            live.wait_frame(0, ENOUGH_S)
            asked = 0
            while live.number < 6 and asked < 1000:
                live.probability("Is it dark?")
                asked += 1
            assert live.number == 6

    def test_frames_may_be_added_by_many_threads(self, model: ei.Model) -> None:
        with model.live(3, (1, 3)) as live:
            with ThreadPoolExecutor(4) as pool:
                numbers = list(pool.map(lambda number: live.add(PICTURES[number % 3]), range(8)))
            assert sorted(numbers) == list(range(1, 9))
            tokens = [frame.tokens for frame in live.frames]
            assert [frame.number for frame in live.frames] == [6, 7, 8]
            assert tokens == [4, 36, 4]

    def test_frames_are_added_by_many_threads_while_others_ask(self, model: ei.Model) -> None:
        strides, tokens = (1, 3, 2), (36, 4, 9)
        with model.live(4, strides) as live:
            live.add(PICTURES[0])
            stop = threading.Event()

            def ask() -> int:
                asked = 0
                while not stop.is_set():
                    assert 0 <= live.probability("Is it dark?") <= 1
                    assert len(live.frames) <= 4
                    asked += 1
                return asked

            with ThreadPoolExecutor(6) as pool:
                asking = [pool.submit(ask) for _ in range(2)]
                numbers = list(pool.map(lambda number: live.add(PICTURES[number % 3]), range(24)))
                stop.set()
                assert all(future.result(ENOUGH_S) for future in asking)
            assert sorted(numbers) == list(range(2, 26))
            assert [(frame.number, frame.tokens) for frame in live.frames] == [
                (number, tokens[(number - 1) % 3]) for number in range(22, 26)
            ]

    def test_a_frame_of_the_thread_that_reads_an_answer_is_an_error_while_another_threads_frame_waits(
        self, model: ei.Model
    ) -> None:
        with model.live(2, 3) as live, ThreadPoolExecutor(1) as pool:
            live.add(PICTURES[0])
            with live.stream("Describe the image.") as stream:
                next(stream)
                other = pool.submit(live.add, PICTURES[1])
                eventually(lambda: live._scheduler._frames)
                for use in (lambda: live.add(PICTURES[2]), lambda: live.watch([PICTURES[2]])):
                    with pytest.raises(UsageError, match="close it first"):
                        use()
                assert not other.done()
            assert other.result(ENOUGH_S) == 2

    @pytest.mark.parametrize("failure", [RuntimeError, SystemExit])
    def test_an_exception_in_a_callback_ends_the_watch_and_is_kept(
        self, model: ei.Model, failure: type[BaseException]
    ) -> None:
        def fail(number: int) -> None:
            raise failure("in the callback")

        with model.live(2, 3) as live:
            live.watch([PICTURES[0]] * 3, on_frame=fail)
            eventually(lambda: live.ended)
            assert "in the callback" in str(live.error)
            assert live.ask("Describe the image.", max_tokens=1).stats.answer_tokens == 1

    def test_a_callback_that_leaves_an_answer_open_ends_the_watch(self, model: ei.Model) -> None:
        kept = []

        def leave_open(number: int) -> None:
            kept.append(live.stream("Describe the image."))
            next(kept[-1])

        with model.live(2, 3) as live:
            live.watch([PICTURES[0]] * 3, on_frame=leave_open)
            eventually(lambda: live.ended)
            assert "answer open" in str(live.error)


class Engine:
    """An engine that asserts that only one thread uses it."""

    def __init__(self) -> None:
        self.used, self.freed, self.interrupted = 0, 0, threading.Event()
        self.lock = EngineLock(self.interrupt)

    def interrupt(self) -> None:
        self.interrupted.set()

    def compute(self, until: threading.Event) -> None:
        with self.lock:
            self.used += 1
            assert self.used == 1
            until.wait(ENOUGH_S)
            self.used -= 1
            if self.interrupted.is_set():
                raise BackendError("interrupted")

    def free(self) -> None:
        assert not self.used
        self.freed += 1


class TestEngineLock:
    def test_one_thread_at_a_time_has_the_engine(self) -> None:
        engine, go_on = Engine(), threading.Event()
        go_on.set()
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(engine.compute, go_on) for _ in range(40)]:
                future.result(ENOUGH_S)

    def test_closing_interrupts_waits_and_frees_once(self) -> None:
        engine = Engine()
        with ThreadPoolExecutor(1) as pool:
            computing = pool.submit(engine.compute, engine.interrupted)
            eventually(lambda: engine.used)
            engine.lock.close("it is closed", engine.free)
            with pytest.raises(UsageError, match="it is closed"):
                computing.result(ENOUGH_S)
        assert engine.freed == 1
        with pytest.raises(UsageError, match="it is closed"):
            engine.compute(engine.interrupted)

    def test_a_thread_may_take_it_twice_and_close_it_inside(self) -> None:
        engine = Engine()
        with engine.lock, engine.lock:
            engine.lock.close("it is closed", engine.free)
            assert engine.freed == 0
        assert engine.freed == 1


def test_the_decoder_of_a_dropped_model_is_freed(tiny: Bundle) -> None:
    from edge_interleave.backends.llama_cpp import weights as llama_cpp_weights

    before = len(llama_cpp_weights._shared)
    model = ei.load(tiny.folder, context=64, threads=1, backend="llama-cpp")
    chat = model.chat()
    chat.ask("Hello", max_tokens=1)
    assert len(llama_cpp_weights._shared) == before + 1
    del model, chat
    eventually(lambda: len(llama_cpp_weights._shared) == before)
