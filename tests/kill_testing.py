"""Commands of the command line that are killed at their steps, each time in a fresh copy of one folder."""

import gc
import os
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from fault_testing import Ended, State, in_process, snapshots, state_of, steps_of
from typer.main import get_command

import nexus_attest
from nexus_attest.cli import app as app_module
from nexus_attest.cli.app import run

__all__ = ["EVERY_STEP", "Steps", "Words", "again", "command_line", "deaths", "environment", "of_messages", "prepared", "undisturbed"]

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else only one of those steps that leave the same bytes behind; `make faults` dies at all of them."""

_MESSAGES = 8
"""So many of the messages to a server, evenly; `make faults` dies at all of them."""

Words = dict[str, str]
Steps = tuple[tuple[str, bool], ...]
"""The name of each step, and whether it leaves something else behind than the one before."""


@contextmanager
def prepared() -> Generator[None]:
    """What costs time is done once, before the processes are forked: imports, and the making of the command line."""
    for module in walk_packages(nexus_attest.__path__, "nexus_attest."):
        if not module.name.endswith("__main__") and ".server" not in module.name:
            import_module(module.name)
    for name in ("psycopg", "psycopg_pool"):  # which takes steps of its own, in the first process that connects
        import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "app", get_command(app_module.app))
        gc.freeze()
        yield
        gc.unfreeze()


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "NEXUS_ATTEST_DB": str(folder / "decisions.db"),
        "NEXUS_ATTEST_KEYS": str(folder / "keys"),
        "NEXUS_ATTEST_ACTOR": "alice",
        "COLUMNS": "100",
    }


def command_line(*arguments: str) -> Callable[[Words], Callable[[], object]]:
    return lambda words: partial(run, [*(argument.format(**words) for argument in arguments), "--json"])


def again(folder: Path, words: Words, *arguments: str) -> Ended:
    """A command of a person, to the end."""
    return in_process(folder, partial(run, [argument.format(**words) for argument in arguments]), environment(folder))


def undisturbed(folder: Path, work: Callable[[], object]) -> tuple[Steps, State]:
    """The steps of the work, and the state that it leaves when nobody stops it."""
    with closing(snapshots(folder)) as copies:
        copy = next(copies)
        whole = steps_of(copy, work, environment(copy))
        assert whole.acknowledged, whole
        return whole.steps, state_of(copy / "decisions.db")


def deaths(
    folder: Path,
    work: Callable[[], object],
    steps: Steps,
    *,
    chosen: Collection[int] | None = None,
    ready: Callable[[], object] = tuple,
) -> Iterator[tuple[Path, Ended, str]]:
    """The work in a fresh copy of the folder, killed at each step in turn: the copy, how the process ended, and where.

    `chosen` are the steps to die at, by default those that leave something new. `ready` is done before each process.
    """
    numbers = [number for number, (_, is_new) in enumerate(steps) if EVERY_STEP or (is_new if chosen is None else number in chosen)]
    for number, copy in zip(numbers, snapshots(folder), strict=False):
        ready()
        died = in_process(copy, work, environment(copy), kill_at=number)
        if died.was_killed:  # else it took fewer steps this time: a run looks at its programs now and then, until they have ended
            yield copy, died, f"killed at step {number} of {len(steps)}, {steps[number][0]}"


def of_messages(steps: Steps) -> set[int]:
    """Some of the steps that are messages to PostgreSQL, of which nothing is seen in the folder, and the very last step."""
    numbers = [number for number, (name, _) in enumerate(steps) if name.endswith((":wait", ":_answers"))]
    assert numbers, "no message to the server was seen"
    return {*numbers[:: max(1, len(numbers) // _MESSAGES)], *numbers[-2:], len(steps) - 1}
