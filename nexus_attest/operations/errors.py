"""What keeping a store can refuse, as errors with stable codes."""

from collections.abc import Sequence

from nexus_control.errors import CommandRefused, InputError, NexusError

__all__ = ["BackupExists", "BackupUnsound", "StoreExists", "StoreInUse"]


class BackupExists(InputError):
    """A file of this name exists; a backup never replaces one."""

    code = "BACKUP_EXISTS"


class BackupUnsound(NexusError):
    """A copy is not what was copied, or what it holds is not as it was written. `findings` are the reasons."""

    code = "BACKUP_UNSOUND"

    def __init__(self, message: str, findings: Sequence[str]) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class StoreExists(InputError):
    """A store stands where one is to be restored."""

    code = "STORE_EXISTS"


class StoreInUse(CommandRefused):
    """Another program has the store open, so it cannot be moved."""

    code = "STORE_IN_USE"
