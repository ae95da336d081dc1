"""What makes a task outlive the server: handles that say everything themselves, and a folder beside the store for the rest.

A handle is what it stands for (kind, decision, arguments, time, a random number) with an HMAC over that and over whose it is, so no table
of tasks exists: one that was guessed, altered, given to somebody else or made for another store is none. In the folder are the key of these
codes, a file for each task that was ended without an event in the store, until its handle is not good any more, and a lock for each
execution under way. Whoever can read the folder can make handles; they say nothing that `status` does not, and nothing in it can change a
decision.
"""

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from hmac import compare_digest, digest
from pathlib import Path
from typing import Any, Literal, cast

from nexus_attest.routers.run_lock import RunLock
from nexus_control.errors import FileRefused, StoreError
from nexus_control.files import read_file, write_file

__all__ = ["LONGEST_HANDLE", "TTL", "Ending", "Handle", "TaskFolder", "TaskKind"]

TaskKind = Literal["approve", "execute"]

TTL = timedelta(days=7)
"""How long a handle is good for. What it stands for is told by the store for good."""

LONGEST_HANDLE = 4_096
"""Characters; it has to fit into a header."""

_CODE_BYTES = 16
_KEY_BYTES = 32
_MOST_ENDING_BYTES = 1024 * 1024
_TIDY_AFTER = timedelta(hours=1)
_NO_OWNER = b"\xff" * 8
"""Stands where codes have the length of an owner: no other code is over a text that begins with this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """What a task stands for. `facts` are JSON data that its kind needs; `number` is random, and unique to the task."""

    kind: TaskKind
    decision_id: str
    created_at: datetime
    number: str
    facts: Mapping[str, Any]

    @property
    def until(self) -> datetime:
        """When the handle stops being good."""
        return self.created_at + TTL


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a task ended that no event of the store ends: `result` is what the call comes to, None when it was cancelled."""

    at: datetime
    result: Mapping[str, Any] | None


class TaskFolder:
    """Made, for this user alone, when the first task is. Raises StoreError where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tidied = datetime.min.replace(tzinfo=UTC)

    # -- handles --------------------------------------------------------------------------------------------------------------

    def handle_text(self, handle: Handle, owner: str) -> str | None:
        """The handle for its owner; None for one that would be too long to be used."""
        milliseconds = round(handle.created_at.timestamp() * 1000)
        said = [handle.kind, handle.decision_id, milliseconds, handle.number, handle.facts]
        body = json.dumps(said, separators=(",", ":"), ensure_ascii=True).encode()
        text = urlsafe_b64encode(self._code(owner, body) + body).rstrip(b"=").decode()
        return text if len(text) <= LONGEST_HANDLE else None

    def read_handle(self, text: str, owner: str, now: datetime) -> Handle | None:
        """What a handle stands for; None unless this folder made it for this owner, not too long ago."""
        if len(text) > LONGEST_HANDLE or not text.isascii() or not self._has_key:
            return None
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return None
        code, body = raw[:_CODE_BYTES], raw[_CODE_BYTES:]
        if not compare_digest(self._code(owner, body), code) or urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
            return None
        kind, decision_id, milliseconds, number, facts = json.loads(body)
        created_at = datetime.fromtimestamp(milliseconds / 1000, UTC)
        found = Handle(kind=kind, decision_id=decision_id, created_at=created_at, number=number, facts=facts)
        return found if now < found.until else None

    def question_key(self, text: str, state: str) -> str:
        """The key of a question that a task asks, good for that question as it stands, and known only to whom it was shown."""
        return urlsafe_b64encode(self._code(text, state.encode())).rstrip(b"=").decode()

    def key_for(self, purpose: str) -> bytes:
        """A key for something else that servers of this store have to agree on; it tells nothing of other keys."""
        return digest(self._key, _NO_OWNER + purpose.encode(), sha256)

    def _code(self, owner: str, body: bytes) -> bytes:
        name = owner.encode("utf-8", "surrogatepass")
        return digest(self._key, len(name).to_bytes(8) + name + body, sha256)[:_CODE_BYTES]

    @cached_property
    def _key(self) -> bytes:
        if not self._has_key:
            try:
                self._path.mkdir(mode=0o700, exist_ok=True)
                write_file(self._key_path, secrets.token_bytes(_KEY_BYTES), replace=False, mode=0o600)
            except FileExistsError:
                pass  # another server of this store was quicker
            except OSError as problem:
                raise StoreError(f"{self._path}: tasks cannot be kept: {problem.strerror}") from None
        key = self._read(self._key_path, _KEY_BYTES)
        if len(key) != _KEY_BYTES:
            raise StoreError(f"{self._key_path} is no key of {_KEY_BYTES} bytes")
        return key

    @property
    def _has_key(self) -> bool:
        return "_key" in self.__dict__ or _is_there(self._key_path)

    @property
    def _key_path(self) -> Path:
        return self._path / "key"

    # -- what no event says ---------------------------------------------------------------------------------------------------

    def end(self, text: str, ending: Ending) -> bool:
        """Put on the disk how a task ended; whether this was the first ending of it."""
        data = {"at": ending.at.isoformat(), "result": ending.result}
        try:
            write_file(self._ending_path(text), json.dumps(data).encode(), replace=False, mode=0o600)
        except FileExistsError:
            return False
        except OSError as problem:
            raise StoreError(f"{self._path}: the end of a task cannot be kept: {problem.strerror}") from None
        return True

    def ending(self, text: str) -> Ending | None:
        """How a task ended, None when nothing but the store can say so."""
        path = self._ending_path(text)
        if not _is_there(path):
            return None
        try:
            data: Any = json.loads(self._read(path, _MOST_ENDING_BYTES))
            return Ending(at=datetime.fromisoformat(data["at"]), result=cast("dict[str, Any] | None", data["result"]))
        except (ValueError, TypeError, KeyError):
            raise StoreError(f"{path} does not say how a task ended") from None

    def _ending_path(self, text: str) -> Path:
        return self._path / f"{sha256(text.encode()).hexdigest()[:32]}.end"

    def tidy(self, now: datetime) -> None:
        """Remove, once an hour, what no handle that is still good can ask for, and what a process that was killed left here."""
        if now - self._tidied < _TIDY_AFTER:
            return
        self._tidied = now
        limit = (now - TTL).timestamp()
        for path in [*self._path.glob("*.end"), *self._path.glob("*.lock"), *self._path.glob(".*.tmp")]:
            with suppress(OSError):  # another server did the same
                if path.stat().st_mtime < limit:
                    self._remove(path)

    @staticmethod
    def _remove(path: Path) -> None:
        if path.suffix != ".lock":
            path.unlink()
        elif (lock := RunLock.at(path)).take_over():  # an execution may take longer than a week
            lock.release()

    @staticmethod
    def _read(path: Path, limit: int) -> bytes:
        try:
            return read_file(path, limit)
        except FileRefused as problem:
            raise StoreError(str(problem)) from None

    # -- executions under way -------------------------------------------------------------------------------------------------

    def lock(self, number: str) -> RunLock:
        """To be held while the execution of a task is under way. Raises StoreError on entering."""
        _ = self._key  # which makes the folder
        return RunLock(self._path / "execution", number)

    def is_under_way(self, number: str) -> bool:
        """Whether the process that executes may live: no only if that is certain, and nothing is where somebody removed the folder."""
        if not _is_there(self._key_path):
            return True
        lock = RunLock(self._path / "execution", number)
        if lock.take_over():
            lock.release()
            return False
        return True


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as problem:
        raise StoreError(f"{path} cannot be looked for: {problem.strerror}") from None
