"""The header of a ledger: 118 bytes, whose hash is what validators sign and what the next header names as its parent."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from nexus_attest.attestation.errors import ProofRefused
from nexus_attest.attestation.xrpl.codec import sha512_half

__all__ = ["HEADER_BYTES", "LedgerHeader", "ledger_time"]

HEADER_BYTES = 118

_PREFIX = b"LWR\0"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NO_CONSENSUS_TIME = 0x01


def ledger_time(seconds: int) -> datetime:
    """A time of the ledger, 32 bits of seconds since 2000."""
    return _EPOCH + timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerHeader:
    """A header; hashes have 32 bytes, times are seconds since 2000 rounded to `resolution`. Raises ProofRefused for what has no place."""

    index: int
    coins: int
    parent_hash: bytes
    transaction_root: bytes
    state_root: bytes
    parent_close_time: int
    close_time: int
    resolution: int
    flags: int

    def __post_init__(self) -> None:
        for name, size in (("index", 4), ("coins", 8), ("parent_close_time", 4), ("close_time", 4), ("resolution", 1), ("flags", 1)):
            value: object = getattr(self, name)
            if type(value) is not int or not 0 <= value < 1 << 8 * size:
                raise ProofRefused(f"{name} of a ledger must be a number of {size} bytes, got {value!r:.100}")
        for name in ("parent_hash", "transaction_root", "state_root"):
            if len(getattr(self, name)) != 32:
                raise ProofRefused(f"{name} of a ledger must have 32 bytes")

    def to_bytes(self) -> bytes:
        """The header as it is hashed: big endian, without anything between."""
        numbers = self.index.to_bytes(4) + self.coins.to_bytes(8)
        times = self.parent_close_time.to_bytes(4) + self.close_time.to_bytes(4)
        return numbers + self.parent_hash + self.transaction_root + self.state_root + times + bytes((self.resolution, self.flags))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises ProofRefused for another number of bytes."""
        if len(data) != HEADER_BYTES:
            raise ProofRefused(f"the header of a ledger has {HEADER_BYTES} bytes, not {len(data)}")
        return cls(
            index=int.from_bytes(data[:4]),
            coins=int.from_bytes(data[4:12]),
            parent_hash=data[12:44],
            transaction_root=data[44:76],
            state_root=data[76:108],
            parent_close_time=int.from_bytes(data[108:112]),
            close_time=int.from_bytes(data[112:116]),
            resolution=data[116],
            flags=data[117],
        )

    def hash(self) -> bytes:
        """The hash of the ledger."""
        return sha512_half(_PREFIX + self.to_bytes())

    @property
    def closed_at(self) -> datetime:
        """When the ledger closed, as its validators agreed; see `agreed`."""
        return ledger_time(self.close_time)

    @property
    def agreed(self) -> bool:
        """Whether the validators agreed on the close time; when not, it is only approximate."""
        return not self.flags & _NO_CONSENSUS_TIME
