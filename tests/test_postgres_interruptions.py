"""Threads whose appends are committed together, when one of them is interrupted: at each place where CPython looks at signals."""

import dis
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, cast

import pytest
from store_testing import in_child

from nexus_attest.postgres import appends
from nexus_attest.postgres.appends import AppendQueue
from nexus_attest.postgres.batch import Wanted
from nexus_control.errors import CommitUnknown, InputError, StoreBusy

_LOOKS = ("RESUME", "JUMP_BACKWARD", "CALL", "POP_JUMP_BACKWARD")
"""Instructions, by how they begin, after which an interruption may be raised."""

_ERRORS = {"fails": StoreBusy, "refuses": InputError}


def _interrupting(number: int) -> tuple[Callable[[FrameType, str, Any], Any], Callable[[], bool]]:
    """A trace function that raises KeyboardInterrupt at the place of this number, from 1, in the queue; and whether it did."""
    seen = 0
    before: dict[FrameType, str] = {}

    def inside(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if event == "opcode":
            name, before[frame] = before.get(frame, ""), dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if name.startswith(_LOOKS):
                seen += 1
                if seen == number:
                    raise KeyboardInterrupt
        return inside

    def outside(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code.co_filename != appends.__file__ or frame.f_code.co_name == "_locked":
            return None
        frame.f_trace_opcodes = True
        return inside

    return outside, lambda: seen >= number


class _Scene:
    """`asleep` is answered and not woken yet when `interrupted` begins to lead, `behind` is appended with it."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.committed: set[str] = set()
        self.told: dict[str, object] = {}
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = threading.Event()
        self.threads: list[threading.Thread] = []
        self.queue = AppendQueue("here", self.together, self.alone)

    def together(self, batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        names = [str(each.append) for each in batch]
        for each in batch:
            each.stored = [cast("Any", each.append)]
        if names[0] in ("first", "second"):
            self.begun.release()
            self.go_on.acquire(timeout=10)
        before_waiting()
        if "interrupted" in names and self.ending in _ERRORS:
            raise _ERRORS[self.ending]("nothing was written")
        self.committed.update(names)

    def alone(self, wanted: Any) -> list[Any]:
        self.committed.add(wanted)
        return [wanted]

    def append(self, name: str) -> None:
        try:
            self.told[name] = self.queue.append(cast("Any", name))
        except BaseException as error:
            self.told[name] = type(error)

    def start(self, name: str) -> None:
        self.threads.append(threading.Thread(target=self.append, args=(name,), daemon=True))
        self.threads[-1].start()

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.queue._waiting) < number and not self.is_over.is_set() and time.monotonic() < deadline:  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.0002)

    def play(self, number: int) -> bool:
        """Whether the interruption came."""
        trace, was_reached = _interrupting(number)
        self.start("first")
        assert self.begun.acquire(timeout=10)
        for count, name in enumerate(("second", "asleep"), 1):
            self.start(name)
            self.wait_for(count)
        self.go_on.release()
        assert self.begun.acquire(timeout=10)

        def help_on() -> None:
            self.wait_for(1)
            self.start("behind")
            self.wait_for(2)
            self.go_on.release()

        helper = threading.Thread(target=help_on)
        helper.start()
        traced = sys.gettrace()
        sys.settrace(trace)
        try:
            self.append("interrupted")
        finally:
            sys.settrace(traced)
        self.is_over.set()
        helper.join()
        self.start("afterwards")
        for thread in self.threads:
            thread.join(10)
        return was_reached()


@pytest.mark.parametrize("ending", ["succeeds", "fails", "refuses"])
def test_an_interruption_at_any_place_leaves_nobody_asleep_and_tells_nobody_what_is_not_so(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appends, "_LOOK_SECONDS", 0.01)
    number, came = 0, True
    while came:
        number += 1
        scene = _Scene(ending)
        came = scene.play(number)
        assert not [thread for thread in scene.threads if thread.is_alive()], number
        assert not came or scene.told["interrupted"] is KeyboardInterrupt
        for name in ("first", "second", "asleep", "behind", "afterwards"):
            told = scene.told[name]
            refusals = (CommitUnknown, StoreBusy) if ending == "fails" else (CommitUnknown,)
            assert told in refusals or (told == [name] and name in scene.committed), (number, name, told)
    assert number > 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_begins_anew_before_any_of_its_threads_appends() -> None:
    scene = _Scene("succeeds")
    scene.start("first")
    assert scene.begun.acquire(timeout=10)
    before = scene.queue._guard  # pyright: ignore[reportPrivateUsage]
    told = in_child(lambda: [scene.queue._guard is not before, scene.queue.append(cast("Any", "child"))])  # pyright: ignore[reportPrivateUsage]
    scene.go_on.release()
    scene.threads[0].join(10)
    assert told == [True, ["child"]]
    assert scene.told == {"first": ["first"]}
