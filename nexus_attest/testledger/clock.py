"""A clock that moves only when it is told to, and the ledger's way of counting seconds."""

from datetime import UTC, datetime, timedelta

__all__ = ["Clock", "iso", "since_2000"]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Clock:
    """Shows `now` to whoever calls it, until `advance`: the ledger and the program under test can share one."""

    def __init__(self, now: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def since_2000(moment: datetime) -> int:
    """Whole seconds since 2000-01-01 UTC, as ledgers count."""
    return int((moment - _EPOCH).total_seconds())


def iso(seconds: int) -> str:
    """A ledger's time as servers spell it in `close_time_iso`."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
