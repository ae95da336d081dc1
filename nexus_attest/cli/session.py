"""What a command works with: the store and its tools, the actor, and a way to show what came out."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import typer

from nexus_attest.cli import settings
from nexus_attest.cli.errors import Failure, StoreMissing, StoreMovedAside, StoreNotAFile, require_file_or_nothing
from nexus_attest.cli.report import print_json
from nexus_attest.postgres.address import is_address, shown
from nexus_control.errors import NexusError
from nexus_control.events import Actor
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

if TYPE_CHECKING:
    from nexus_attest.cli.observing import Observer
    from nexus_attest.cli.screen import Screen
    from nexus_attest.trust import TrustPolicy

__all__ = ["Session"]


class Session:
    """One command's run. Nothing is opened before it is needed, everything is closed at the end."""

    def __init__(self, *, db: str | Path | None, trust: Path | None = None, as_json: bool) -> None:
        self.as_json = as_json
        self._db = db
        self._trust = trust
        self._may_create = False
        self._only_reads = False
        self._stays_open = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    @cached_property
    def store_path(self) -> Path:
        """The file of the store, absolute: `:memory:` is a file name here too. The queue of attestations is in it, runs are beside it.

        For a store on a server, a file in the data folder that is named after its address: what stays on this machine. Raises ConfigError,
        StoreNotAFile for a folder.
        """
        place = settings.store_place(self._db)[0]
        if isinstance(place, str):
            return settings.data_folder() / f"postgresql-{sha256(shown(place).encode()).hexdigest()[:16]}.db"
        require_file_or_nothing(place)
        return place.absolute()

    @cached_property
    def store_address(self) -> str | None:
        """The address of a store on a server, None for one in a file. Raises ConfigError."""
        place = settings.store_place(self._db)[0]
        return place if isinstance(place, str) else None

    @property
    def store_file(self) -> Path:
        """The file of the store, for what works on files alone. Raises StoreNotAFile, ConfigError."""
        if self.store_address is not None:
            raise StoreNotAFile(
                f"{shown(self.store_address)} is a database on a server, this command works on files: "
                "`nexus-attest migrate` makes one of it, verified; its server has its own backups"
            )
        return self.store_path

    @property
    def existing_store_path(self) -> Path:
        """The same, of a file that is there. Raises StoreMissing."""
        if not self.store_file.exists():
            if (aside := _moved_aside(self.store_file)) is not None:
                raise StoreMovedAside(
                    f"there is no store at {self.store_file}; a restore moved the one before aside as {aside}, and was interrupted, "
                    "or what it brought was removed since"
                )
            raise StoreMissing(f"there is no store at {self.store_file}")
        return self.store_file

    @cached_property
    def store(self) -> SqlStore:
        """The store. Raises StoreMissing or SchemaMissing unless it exists or may be created, StoreError when it cannot be opened."""
        if self.store_address is not None:
            from nexus_attest.postgres import PostgresStore  # which most stores do without

            return self._open.enter_context(PostgresStore(self.store_address, create=self._may_create))
        may_create = self._may_create and (self.store_file.exists() or _moved_aside(self.store_file) is None)
        path = self.store_file if may_create else self.existing_store_path
        return self._open.enter_context(DecisionStore(path, read_only=self._only_reads, first_commit=self._stays_open))

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
        if settings.store_place(self._db)[1]:
            self.store_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._may_create = True

    def never_write(self) -> None:
        """Have the store opened for reading only: what would write to it is refused."""
        self._only_reads = True

    def keep_open(self) -> None:
        """Have the store opened for many calls."""
        self._stays_open = True

    def make_local_folder(self) -> None:
        """Before something is kept at or beside `store_path`: for a store on a server its folder is made, for this user alone."""
        if self.store_address is not None:
            self.store_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def same_store(self) -> str:
        """The options that lead another command to this store and trust policy; empty when none were given."""
        db = self._db if self._db is None or not is_address(self._db) else shown(str(self._db))
        given = (("--db", db), ("--trust", self._trust))
        return "".join(f" {option} {shlex.quote(str(path))}" for option, path in given if path is not None)

    def store_options(self) -> list[str]:
        """The same for every folder and environment: absolute paths, also of what was not given, no password. Raises ConfigError."""
        trust = settings.trust_path(self._trust)
        store = self.store_path if self.store_address is None else shown(self.store_address)
        named = (("--db", store), ("--trust", None if trust is None else trust.absolute()))
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


def _moved_aside(store: Path) -> str | None:
    """The name of the newest store that `restore --replace` moved aside from here."""
    try:
        names = [path.name for path in store.parent.iterdir()]
    except OSError:  # whoever opens the store says what is wrong with its folder
        return None
    return max((name for name in names if name.startswith(f"{store.name}.") and name.endswith(".replaced")), default=None)
