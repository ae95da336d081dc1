"""Work in the event loop of another thread: its result comes back, and nothing goes on that nobody waits for."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from threading import Event, Thread, get_ident

import pytest

from nexus_attest.routers.adapter import CallLimit
from nexus_attest.routers.background import Background
from nexus_attest.routers.errors import CallFailed, CallOutcome


@pytest.fixture
def background() -> Iterator[Background]:
    made = Background("test")
    yield made
    made.close()


def soon() -> CallLimit:
    return CallLimit(time.monotonic() + 30)


def unknown() -> CallOutcome:
    return CallOutcome.UNKNOWN


class Sleeper:
    """Work that never ends by itself, and knows what became of it."""

    def __init__(self) -> None:
        self.began, self.cancelled = Event(), Event()

    async def work(self) -> None:
        self.began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def test_the_result_comes_from_another_thread(background: Background) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return get_ident()

    found = {background.run(work(), soon(), unknown) for _ in range(3)}
    assert len(found) == 1
    assert get_ident() not in found


def test_what_the_work_raises_is_raised(background: Background) -> None:
    async def work() -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        background.run(work(), soon(), unknown)


@pytest.mark.parametrize("code", ["TIMEOUT", "CANCELLED"])
def test_work_beyond_its_limit_is_cancelled_with_the_outcome_that_holds_then(background: Background, code: str) -> None:
    sleeper = Sleeper()
    limit = soon() if code == "CANCELLED" else CallLimit(time.monotonic() + 0.2)

    def outcome() -> CallOutcome:
        return CallOutcome.UNKNOWN if sleeper.began.wait(20) else CallOutcome.NOT_SENT

    if code == "CANCELLED":
        limit.cancelled.set()
    with pytest.raises(CallFailed) as failed:
        background.run(sleeper.work(), limit, outcome)
    assert (failed.value.code, failed.value.outcome) == (code, CallOutcome.UNKNOWN)
    assert sleeper.cancelled.wait(20)


def test_an_interruption_of_the_waiting_thread_cancels_the_work(background: Background) -> None:
    sleeper = Sleeper()

    def interrupted() -> CallOutcome:
        sleeper.began.wait(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        background.run(sleeper.work(), soon(), interrupted)
    assert sleeper.cancelled.wait(20)


def test_work_that_is_cancelled_from_within_is_no_interruption(background: Background) -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):  # an Exception, unlike that of asyncio
        background.run(work(), soon(), unknown)


def test_the_end_cancels_what_another_thread_waits_for(background: Background) -> None:
    sleeper = Sleeper()
    ends: list[type[BaseException]] = []

    def wait() -> None:
        try:
            background.run(sleeper.work(), soon(), unknown)
        except BaseException as end:
            ends.append(type(end))

    waiting = Thread(target=wait)
    waiting.start()
    assert sleeper.began.wait(20)
    background.close()
    assert sleeper.cancelled.is_set()
    waiting.join(20)
    assert ends == [CancelledError]


def test_without_a_thread_nothing_was_sent_and_no_loop_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []
    new = asyncio.new_event_loop

    def noted() -> asyncio.AbstractEventLoop:
        made.append(new())
        return made[0]

    def no_thread(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "new_event_loop", noted)
    monkeypatch.setattr(Thread, "start", no_thread)
    with pytest.raises(CallFailed, match=r"^No thread for the calls: can't start new thread$") as failed:
        Background("test")
    assert (failed.value.code, failed.value.outcome) == ("OS_ERROR", CallOutcome.NOT_SENT)
    assert [loop.is_closed() for loop in made] == [True]


def test_after_the_end_nothing_is_begun(background: Background) -> None:
    background.close()
    begun = Event()

    async def work() -> None:
        begun.set()

    with pytest.raises(RuntimeError):
        background.run(work(), soon(), unknown)
    assert not begun.is_set()
