"""What only a command line can be told wrong, as errors with stable codes, and how a code becomes an exit code.

| Exit code | Meaning |
|---|---|
| 0 | done; for verifications: every check passed |
| 1 | unexpected: a bug, or a file, a disk or the store that cannot do its work |
| 2 | invalid input, a refused command, a run that failed, or a verification that failed |
| 130 | interrupted from the keyboard |
"""

from pathlib import Path

from nexus_control.errors import InputError, NexusError, StoreError

__all__ = [
    "ActorMissing",
    "AdaptersMissing",
    "ConfigError",
    "Failure",
    "FileExists",
    "RunsMissing",
    "StoreMissing",
    "StoreMovedAside",
    "StoreNotAFile",
    "WitnessMissing",
    "exit_code",
    "require_file_or_nothing",
]


class ConfigError(InputError):
    """The configuration file cannot be read, holds a key or value that is unknown or wrong, or there is no home folder for it."""

    code = "CONFIG_INVALID"


class ActorMissing(InputError):
    """Nobody said who is acting."""

    code = "ACTOR_MISSING"


class StoreMissing(InputError):
    """There is no store at this path, and the command would not create one."""

    code = "STORE_NOT_FOUND"


class StoreMovedAside(StoreMissing):
    """There is no store at this path, but one that `restore --replace` moved aside from there; none is begun in its place."""

    code = "STORE_MOVED_ASIDE"


class StoreNotAFile(InputError):
    """What was named as the store is a folder, or a device or pipe; or it is on a server, and the command works on files."""

    code = "STORE_NOT_A_FILE"


def require_file_or_nothing(store: Path) -> None:
    """Raises StoreNotAFile where a store is looked for and something else stands."""
    if store.is_dir():
        raise StoreNotAFile(f"{store} is a folder, a store is a file: name one in it, for example {store / 'decisions.db'}")
    if store.exists() and not store.is_file():
        raise StoreNotAFile(f"{store} is a device, a pipe or a socket, a store is a file: name another path")


class RunsMissing(InputError):
    """There is no file of run records at this path, so no run can be embedded."""

    code = "RUNS_NOT_FOUND"


class FileExists(InputError):
    """A file of this name exists, and replacing it was not asked for."""

    code = "FILE_EXISTS"


class AdaptersMissing(InputError):
    """Nobody said which adapter file holds."""

    code = "ADAPTERS_MISSING"


class WitnessMissing(InputError):
    """Nobody said which witness file holds."""

    code = "WITNESS_MISSING"


class Failure(NexusError):
    """An error that arrived as a code and a text; the text is printed as it is."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code

    def describe(self) -> str:
        """The text, which names its code already where it should."""
        return str(self)


def exit_code(code: str) -> int:
    """1 for what the store or a disk could not do, 2 for everything else that was foreseen."""
    return 1 if code in _UNEXPECTED else 2


_UNEXPECTED = {
    StoreError.code,
    *(error.code for error in StoreError.__subclasses__()),
    "OUTCOME_NOT_RECORDED",
    "IMPORT_ATOMICITY_FAILED",  # whose text is the store's own
    "IO_ERROR",
    "INTERNAL",
    "DEMO_FAILED",
}
