"""Keeping a store alive: what is wrong with it and what to do next, copies that are known to be whole, and bringing one back.

    diagnose(Paths(...)) -> findings       what `nexus-attest doctor` prints
    back_up(source, target) -> Backup      while others write
    restore(backup, store) -> Restored     verified first; what was there is kept

Importing this needs the standard library and `nexus_control` only.
"""

from nexus_attest.operations.backup import Backup, Restored, back_up, restore
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
    "diagnose",
    "restore",
]
