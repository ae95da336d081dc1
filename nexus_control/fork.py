"""What has to be put away before a `fork`, and taken up again on both sides of it."""

import os
import threading
import weakref
from typing import Protocol

__all__ = ["Forkable", "register", "unregister"]


class Forkable(Protocol):
    """Something that must not be in the middle of its work, or keep what it holds, when the process is copied."""

    def before_fork(self) -> None:
        """Put everything away, and keep all threads off it."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """Take it up again."""
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


def _before_fork() -> None:
    _registering.acquire()
    for member in list(_members):
        member.before_fork()
        _waiting.append(member)


def _after_fork(*, in_child: bool) -> None:
    try:
        while _waiting:
            _waiting.pop().after_fork(in_child=in_child)
    finally:
        _registering.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
