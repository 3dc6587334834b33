"""In a child forked from a process with an open model, calls raise an error with a remedy; nothing hangs or breaks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PRELUDE = """
import gc, os, sys, time, threading
import numpy as np
import edge_interleave as ei
PICTURE = np.full((96, 96, 3), 90, np.uint8)
model = ei.load(backend=sys.argv[1], threads=2)  # more than one: the engines then have threads of their own
wanted = model.ask([PICTURE, "Describe the image."], max_tokens=3).text
chat, live = model.chat(), model.live(2, 3)
for _ in range(3): live.add(PICTURE)
live.wait_prefetched(20)

def child(work):
    '''How a child ended that did this: its exit code, minus a signal's number, or None where it hung.'''
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    for _ in range(1000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended: return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)

def refused(*uses):
    def work():
        for number, use in enumerate(uses):
            try:
                use()
            except ei.UsageError as error:
                if "forked" in str(error) and "spawn" in str(error): continue
            os._exit(100 + number)
    return work
"""
END = """
assert model.ask([PICTURE, "Describe the image."], max_tokens=3).text == wanted
live.add(PICTURE), chat.ask("Hello", max_tokens=1)
model.close()
print("the parent goes on")
"""


PATIENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}
"""Engines whose threads do not spin while they wait: there may be fewer cores than threads."""


def fork(code: str, backend: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + code + END, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=PATIENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the parent goes on\n", "")


def test_every_use_is_refused(backend: str) -> None:
    fork(
        """
stream = chat.stream("Hello", max_tokens=3)
next(stream)
uses = [
    lambda: model.ask("Hello"), lambda: model.stream("Hello"), lambda: model.choose("?", ["a", "b"]), model.chat,
    model.live, lambda: model.ask([PICTURE, "?"]), lambda: next(stream), stream.wait,
    lambda: chat.ask("Hello"), lambda: chat.choose("?", ["a", "b"]), chat.reset,
    lambda: live.add(PICTURE), lambda: live.watch([PICTURE]), lambda: live.ask("?"), lambda: live.stream("?"),
    lambda: live.choose("?", ["a", "b"]), lambda: live.probability("?"), lambda: live.frames, lambda: live.number,
    lambda: live.wait_frame(0, 1), lambda: live.wait_prefetched(1), live.stats,
    lambda: ei.load(backend=sys.argv[1]), ei.load,
]
code = child(refused(*uses))
assert code == 0, code
stream.close()
""",
        backend,
    )


@pytest.mark.parametrize(
    "work",
    ["pass", "[one.close() for one in (stream, live, chat, model)]", "globals().update(dropped), gc.collect()"],
    ids=["ends", "closes", "drops"],
)
def test_a_child_may_exit_and_close_and_drop_its_parents_models(backend: str, work: str) -> None:
    fork(
        f"""
stream = chat.stream("Hello", max_tokens=3)
next(stream)
dropped = dict.fromkeys(("stream", "live", "chat", "model"))
def work(): {work}
assert child(work) == 0
stream.close()
""",
        backend,
    )


def test_while_other_threads_use_the_model(backend: str) -> None:
    """They may hold any lock just then."""
    fork(
        """
through = threading.Event()
live.watch(PICTURE for _ in iter(through.is_set, True))
def ask(one):
    while not through.is_set(): one.ask("Describe the image.", max_tokens=3)
threads = [threading.Thread(target=ask, args=(one,)) for one in (model, chat, live)]
for thread in threads: thread.start()
def work():
    refused(lambda: model.ask("Hello"), live.stats, ei.load)()
    model.close()
for _ in range(8):
    time.sleep(0.02)
    assert child(work) == 0
through.set()
for thread in threads: thread.join()
while not live.ended: live.wait_frame(live.number, 1)
chat.reset()
""",
        backend,
    )


def test_a_model_may_be_loaded_in_a_child_of_a_process_that_loaded_none(backend: str) -> None:
    code = """
import os, sys
import edge_interleave as ei
pid = os.fork()
with ei.load(backend=sys.argv[1], threads=1) as model:
    assert model.ask("Hello", max_tokens=1).stats.answer_tokens == 1
if pid: assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code, backend], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
