"""Who signs for the ledger. Secrets never leave a signer.

env:NEXUS_XRPL_SEED            the seed of an account in an environment variable
/etc/nexus/seed                a file of mode 0600 that holds the seed
program:kms-sign --key 7       a program in front of a hardware key or a key service, see `ProgramKey`
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from nexus_attest.attestation.errors import SigningRefused
from nexus_attest.attestation.xrpl.codec import address_of, encode_transaction, require_memos_fit, signing_payload, transaction_id
from nexus_attest.attestation.xrpl.ledger_keys import LedgerKey, ProgramKey, key_of_environment, key_of_file
from nexus_attest.key_errors import KeyInvalid

__all__ = ["LocalWalletSigner", "SignResult", "XRPLSigner"]

_COMPLETED = ("Sequence", "Fee", "LastLedgerSequence")


@dataclass(frozen=True)
class SignResult:
    """A signed transaction, ready to be submitted; `key_id` says which key signed."""

    signed_tx_blob_hex: str
    tx_hash: str
    key_id: str


@runtime_checkable
class XRPLSigner(Protocol):
    """Completes a planned transaction (Sequence, Fee, LastLedgerSequence, SigningPubKey) and signs it."""

    @property
    def account(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def sign(self, tx_dict: dict[str, Any]) -> SignResult: ...


class LocalWalletSigner:
    """Signs with one key for one account: its own, or another whose regular key this is.

    `complete` gives the members `Sequence`, `Fee` and `LastLedgerSequence` (and `NetworkID` where the network wants it) of an account's
    next transaction; it is asked when one of the first three is absent, and what the transaction has stays. Without `complete` such a
    transaction is refused. The key's public half is its `key_id`.
    """

    __slots__ = ("_complete", "_key", "account")

    def __init__(self, key: LedgerKey, *, account: str | None = None, complete: Callable[[str], Mapping[str, Any]] | None = None) -> None:
        self._key = key
        self.account = address_of(key.public_key) if account is None else account
        self._complete = complete

    @classmethod
    def open(
        cls, source: str, *, account: str | None = None, complete: Callable[[str], Mapping[str, Any]] | None = None
    ) -> "LocalWalletSigner":
        """The signer that `source` names, in one of the forms above. Raises KeyNotFound, KeyFileRefused, KeyInvalid or SignerFailed."""
        kind, colon, rest = source.partition(":")
        if colon and kind == "env":
            return cls.from_environment(rest, account=account, complete=complete)
        if colon and kind == "program":
            try:
                command = shlex.split(rest)
            except ValueError as problem:
                raise KeyInvalid(f"the command of the signer cannot be split into words: {problem}") from None
            if not command:
                raise KeyInvalid("program: must be followed by a command")
            return cls(ProgramKey(command), account=account, complete=complete)
        return cls.from_file(source, account=account, complete=complete)

    @classmethod
    def from_environment(
        cls, name: str, *, account: str | None = None, complete: Callable[[str], Mapping[str, Any]] | None = None
    ) -> "LocalWalletSigner":
        """With the seed in the environment variable `name`. Raises KeyNotFound, KeyInvalid."""
        return cls(key_of_environment(name), account=account, complete=complete)

    @classmethod
    def from_file(
        cls, path: str | Path, *, account: str | None = None, complete: Callable[[str], Mapping[str, Any]] | None = None
    ) -> "LocalWalletSigner":
        """With the seed in a file, whose mode must be 0600. Raises KeyNotFound, KeyFileRefused, KeyInvalid."""
        return cls(key_of_file(Path(path)), account=account, complete=complete)

    @property
    def key_id(self) -> str:
        """The public key: 33 bytes in capital hex digits."""
        return self._key.public_key

    def sign(self, tx_dict: dict[str, Any]) -> SignResult:
        """Sign a copy of the transaction, completed. The same transaction gives the same bytes.

        Raises SigningRefused for one that is incomplete or another account's, NotATransaction for one that the ledger's format cannot
        express or whose memos no server takes, SignerFailed when a program does not sign, and what `complete` raises.
        """
        if tx_dict.get("Account") != self.account:
            raise SigningRefused(f"this signer signs for {self.account} alone, not for {tx_dict.get('Account')!r:.100}")
        if tx_dict.keys() & {"TxnSignature", "Signers"}:
            raise SigningRefused("the transaction is signed already")
        fields = self._completed(tx_dict)
        require_memos_fit(fields)
        fields["SigningPubKey"] = self._key.public_key
        fields["TxnSignature"] = self._key.sign(signing_payload(fields)).hex().upper()
        blob = encode_transaction(fields)
        return SignResult(blob.hex().upper(), transaction_id(blob), self.key_id)

    def _completed(self, tx: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(tx)
        if any(fields.get(name) is None for name in _COMPLETED) and self._complete is not None:
            fields = {**self._complete(self.account), **{name: value for name, value in fields.items() if value is not None}}
        if missing := [name for name in _COMPLETED if fields.get(name) is None]:
            raise SigningRefused(f"the transaction has no {', '.join(missing)}")
        return fields

    def __repr__(self) -> str:
        return f"<LocalWalletSigner {self.account} {self.key_id}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a signer is not pickled or copied")
