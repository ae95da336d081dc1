"""What has to be put away before a `fork`, and taken up again on both sides of it."""

import os
import threading
import weakref
from contextlib import ExitStack
from typing import Protocol

__all__ = ["Forkable", "register", "unregister"]


class Forkable(Protocol):
    """Something that must not be in the middle of its work, or keep what it holds, when the process is copied."""

    def before_fork(self) -> None:
        """Put everything away, and keep all threads off it."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """Take it up again: as much of it as was put away, for `before_fork` may have been interrupted."""
        ...


_members: weakref.WeakSet[Forkable] = weakref.WeakSet()
_registering = threading.Lock()
_waiting: list[Forkable] = []


def register(member: Forkable) -> None:
    """From now on, until it is garbage or unregistered, `member` is told of every fork."""
    with _registering:
        _members.add(member)


def unregister(member: Forkable) -> None:
    """`member` is told no more; nothing happens when it was not registered."""
    with _registering:
        _members.discard(member)


# Python forks whatever these raise, and tells only of the exception. So each member is told, also when another one failed; and what it has
# put away it takes up again, also when it failed while it did so.


def _before_fork() -> None:
    _registering.acquire()
    with ExitStack() as told:
        for member in list(_members):
            _waiting.append(member)
            told.callback(member.before_fork)


def _after_fork(*, in_child: bool) -> None:
    with ExitStack() as told:
        told.callback(_registering.release)
        while _waiting:
            told.callback(_waiting.pop().after_fork, in_child=in_child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
