"""What has to be put away before a `fork`, and taken up again on both sides of it."""

import os
import threading
import weakref
from contextlib import ExitStack
from itertools import compress
from operator import methodcaller
from typing import Protocol

__all__ = ["Forkable", "register", "unregister"]


class Forkable(Protocol):
    """Something that must not be in the middle of its work, or keep what it holds, when the process is copied."""

    def before_fork(self) -> None:
        """Put everything away, and keep all threads off it."""
        ...

    def after_fork(self, *, in_child: bool) -> None:
        """Take it up again: as much of it as was put away, for `before_fork` may have been interrupted, or not been called at all.

        Where this is interrupted, it is called again; in the child it is in any case.
        """
        ...


_members: weakref.WeakSet[Forkable] = weakref.WeakSet()
_registering = threading.RLock()  # held over a fork as well; taken again by a finalizer that closes a store where another one is opened
_forking: list[int] = []
"""The thread whose fork holds it."""
_waiting: list[Forkable] = []
"""Whom this fork has still to tell that it is over."""


def register(member: Forkable) -> None:
    """From now on, until it is garbage or unregistered, `member` is told of every fork."""
    with _registering:
        _members.add(member)


def unregister(member: Forkable) -> None:
    """`member` is told no more; nothing happens when it was not registered."""
    with _registering:
        _members.discard(member)


# Python forks whatever these raise, and tells only of the exception. So each member is told, also when another one failed; and what it has
# put away it takes up again, also when it failed while it did so. An interruption (Ctrl-C) may come as a function begins, or after a call.


def _before_fork() -> None:
    # One call, made in C, so that whoever holds the lock is noted.
    _forking.extend(compress([threading.get_ident()], map(methodcaller("acquire"), [_registering])))
    _waiting[:] = _members
    with ExitStack() as told:
        for member in _waiting:
            told.callback(member.before_fork)


def _after_in_parent() -> None:
    if threading.get_ident() not in _forking:  # it was interrupted before it told anybody, or all is done
        return
    problem = _tell_all(in_child=False)
    try:
        _forking.clear()
    finally:
        _registering.release()
    if problem is not None:
        raise problem


def _after_in_child() -> None:
    global _registering
    _registering = threading.RLock()  # the thread that holds the other one may not be here
    _forking.clear()
    _waiting[:] = _members  # also those whom nobody told before
    problem = _tell_all(in_child=True)
    if problem is not None:
        raise problem


def _tell_all(*, in_child: bool) -> Exception | None:
    problem: Exception | None = None
    while _waiting:
        try:
            _waiting[-1].after_fork(in_child=in_child)
        except Exception as error:
            problem = error
        _waiting.pop()  # not before: one who was interrupted is told again
    return problem


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
    for _ in range(2):  # what is interrupted the first time is done the second time; who interrupts both leaves the locks held
        os.register_at_fork(after_in_parent=_after_in_parent, after_in_child=_after_in_child)
