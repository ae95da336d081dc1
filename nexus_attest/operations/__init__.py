"""Keeping a store alive: what is wrong with it and what to do next, copies that are known to be whole, and bringing one back.

    diagnose(Paths(...)) -> findings       what `nexus-attest doctor` prints
    back_up(source, target) -> Backup      while others write
    restore(backup, store) -> Restored     verified first; what was there is kept
    back_up_store, restore_store           the same for a store that is open, on a server for instance

Importing this needs the standard library and `nexus_control` only.
"""

from nexus_attest.operations.backup import Backup, Restored, back_up, back_up_store, restore, restore_store
from nexus_attest.operations.doctor import Finding, Paths, Severity, diagnose
from nexus_attest.operations.errors import BackupExists, BackupUnsound, StoreExists, StoreInUse

__all__ = [
    "Backup",
    "BackupExists",
    "BackupUnsound",
    "Finding",
    "Paths",
    "Restored",
    "Severity",
    "StoreExists",
    "StoreInUse",
    "back_up",
    "back_up_store",
    "diagnose",
    "restore",
    "restore_store",
]
