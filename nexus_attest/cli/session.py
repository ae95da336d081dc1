"""What a command works with: the store and its tools, the actor, and a way to show what came out."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import typer

from nexus_attest.cli import settings
from nexus_attest.cli.errors import Failure, StoreMissing
from nexus_attest.cli.report import print_json
from nexus_control.errors import NexusError
from nexus_control.events import Actor
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

if TYPE_CHECKING:
    from nexus_attest.cli.observing import Observer
    from nexus_attest.cli.screen import Screen
    from nexus_attest.trust import TrustPolicy

__all__ = ["Session"]


class Session:
    """One command's run. Nothing is opened before it is needed, everything is closed at the end."""

    def __init__(self, *, db: Path | None, trust: Path | None = None, as_json: bool) -> None:
        self.as_json = as_json
        self._db = db
        self._trust = trust
        self._may_create = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    @cached_property
    def store_path(self) -> Path:
        """The file of the store, absolute: `:memory:` is a file name here too. Raises ConfigError."""
        return settings.store_path(self._db)[0].absolute()

    @property
    def existing_store_path(self) -> Path:
        """The same, of a file that is there. Raises StoreMissing."""
        if not self.store_path.exists():
            raise StoreMissing(f"there is no store at {self.store_path}")
        return self.store_path

    @cached_property
    def store(self) -> DecisionStore:
        """The store. Raises StoreMissing unless it exists or may be created, StoreError when it cannot be opened."""
        path = self.store_path if self._may_create else self.existing_store_path
        return self._open.enter_context(DecisionStore(path))

    @cached_property
    def tools(self) -> NexusControlTools:
        """The tools over the store, judging by the trust policy. Raises what `store` and `trust` raise."""
        watching = self.observer
        return NexusControlTools(self.store, trust=self.trust, around=None if watching is None else watching.around)

    @cached_property
    def observer(self) -> "Observer | None":
        """Who is told of calls and runs, None where nobody asked. Raises ConfigError, OpenTelemetryMissing."""
        if not os.environ.get("NEXUS_ATTEST_LOG") and not os.environ.get("NEXUS_ATTEST_OTEL"):
            return None
        from nexus_attest.cli.observing import observer  # which most processes do without

        found = observer()
        if found is not None:
            self._open.callback(found.close)
        return found

    @cached_property
    def trust(self) -> "TrustPolicy | None":
        """The trust policy, None when nobody named one. Raises TrustInvalid or ConfigError."""
        path = settings.trust_path(self._trust)
        if path is None:
            return None
        from nexus_attest.trust_file import load_trust  # which most commands do without

        return load_trust(path)

    def allow_new_store(self) -> None:
        """Let this command create the store when there is none. Only the default one gets its folder made, for this user alone."""
        path, is_default = settings.store_path(self._db)
        if is_default:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._may_create = True

    @property
    def same_store(self) -> str:
        """The options that lead another command to this store and trust policy; empty when none were given."""
        given = (("--db", self._db), ("--trust", self._trust))
        return "".join(f" {option} {shlex.quote(str(path))}" for option, path in given if path is not None)

    def store_options(self) -> list[str]:
        """The same for every folder and environment: absolute paths, also of what was not given. Raises ConfigError."""
        trust = settings.trust_path(self._trust)
        named = (("--db", self.store_path), ("--trust", None if trust is None else trust.absolute()))
        return [word for option, path in named if path is not None for word in (option, str(path))]

    def actor(self, option: str | None) -> Actor:
        """Who acts. Raises ActorMissing, InvalidActor or ConfigError."""
        return settings.actor(option)

    @staticmethod
    def data(result: ToolResult) -> dict[str, Any]:
        """What a tool returned. Raises Failure when it refused."""
        if result.success:
            return result.data
        raise Failure(result.code or NexusError.code, result.error or "")

    @staticmethod
    def say(text: str) -> None:
        """Lines for people on standard output. Text of users inside them must be escaped."""
        sys.stdout.write(text + "\n")

    def show(self, data: Mapping[str, Any], people: str | Callable[[], None]) -> None:
        """The result of the command: as the JSON document, or as lines or a function that prints for people."""
        if self.as_json:
            print_json({"success": True, **data})
        elif isinstance(people, str):
            self.say(people)
        else:
            people()

    def fail(self, code: str, text: str, data: Mapping[str, Any], people: Callable[[], None], *, exit_code: int = 2) -> NoReturn:
        """The result of a command that worked and found something wrong: shown like any other, and exit code 2."""
        if self.as_json:
            print_json({"success": False, "error": f"{code}: {text}", "code": code, **data})
        else:
            people()
        raise typer.Exit(exit_code)

    @cached_property
    def screen(self) -> "Screen":
        """Tables and timelines on standard output."""
        from nexus_attest.cli.screen import Screen  # rich, which programs and one-line answers do without

        return Screen(sys.stdout)
