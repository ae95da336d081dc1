"""What can go wrong with attestations, each with a stable `code`.

NexusError
|-- InputError (ValueError)
|   |-- NetworkUnknown          the witness file has no such network, or none was named
|   |-- NotWitnessed            no witness has confirmed it, so there is no proof
|   |-- AuthorityUnknown        the same of time-stamp authorities
|   |-- WitnessFileError        the witness file says something that is unknown, wrong or not supported
|   `-- InvalidAttestationRecord
|       |-- InvalidIntent       what is to be witnessed cannot be said so
|       |-- InvalidReceipt      an attempt cannot be recorded so
|       |-- InvalidAttestation  a signed overlay cannot be made of this
|       |-- InvalidNarrative    a report is not one, or not in its form
|       |-- InvalidAnchor       a ledger transaction cannot be made of this
|       |-- NotATransaction     bytes or fields are no transaction of the ledger
|       |-- ProofRefused        a proof does not show what it should
|       |-- NotATimestamp       bytes are no time-stamp token, or none in its one form
|       |-- SigningRefused      a signer does not sign this transaction
|       `-- WitnessMismatch     a receipt and what is on the ledger do not fit together
|-- WitnessUnavailable            no answer that can be relied on; ask again later
|   |-- LedgerUnavailable         no server told anything; nothing was changed
|   `-- AuthorityUnavailable      a time-stamp authority did not answer
|-- WitnessRefused                a witness does not witness this, and will not when asked again
|-- ExtraMissing                  an optional part of the package is not installed
|-- WrongNetwork                  the server belongs to another network than the queue
`-- SignerMissing (RuntimeError)  nobody said who signs for the ledger
"""

from collections.abc import Sequence

from nexus_control.errors import InputError, NexusError

__all__ = [
    "AuthorityUnavailable",
    "AuthorityUnknown",
    "ExtraMissing",
    "InvalidAnchor",
    "InvalidAttestation",
    "InvalidAttestationRecord",
    "InvalidIntent",
    "InvalidNarrative",
    "InvalidReceipt",
    "LedgerUnavailable",
    "NetworkUnknown",
    "NotATimestamp",
    "NotATransaction",
    "NotWitnessed",
    "ProofRefused",
    "SignerMissing",
    "SigningRefused",
    "WitnessFileError",
    "WitnessMismatch",
    "WitnessRefused",
    "WitnessUnavailable",
    "WrongNetwork",
]


class InvalidAttestationRecord(InputError):
    """A record of the attestation side has a member that is missing, unknown or wrong."""

    code = "INVALID_ATTESTATION_RECORD"


class InvalidIntent(InvalidAttestationRecord):
    """An intent has a member that is missing, unknown or wrong."""

    code = "INVALID_INTENT"


class InvalidReceipt(InvalidAttestationRecord):
    """A receipt has a member that is missing, unknown or wrong."""

    code = "INVALID_RECEIPT"


class InvalidAttestation(InvalidAttestationRecord):
    """A signed attestation has a member that is missing or of the wrong type."""

    code = "INVALID_ATTESTATION"


class InvalidNarrative(InvalidAttestationRecord):
    """A document is no narrative of a known form, or has a member that is missing, unknown or wrong."""

    code = "INVALID_NARRATIVE"


class InvalidAnchor(InvalidAttestationRecord):
    """A memo or a transaction for the ledger cannot be made of these arguments."""

    code = "INVALID_ANCHOR"


class NotATransaction(InvalidAttestationRecord):
    """Bytes or fields are no transaction that the ledger could take."""

    code = "NOT_A_TRANSACTION"


class ProofRefused(InvalidAttestationRecord):
    """A proof of a witness cannot be read, or does not show what it should."""

    code = "PROOF_REFUSED"


class NotATimestamp(InvalidAttestationRecord):
    """Bytes are no time-stamp token that this release reads, or not in their one form."""

    code = "NOT_A_TIMESTAMP"


class SigningRefused(InvalidAttestationRecord):
    """The signer does not sign this transaction: it is incomplete, or another account's."""

    code = "SIGNING_REFUSED"


class WitnessMismatch(InvalidAttestationRecord):
    """A receipt, its intent and what is on the ledger do not fit together."""

    code = "WITNESS_MISMATCH"


class NetworkUnknown(InputError):
    """The witness file has no network of this name, or nobody named one."""

    code = "NETWORK_UNKNOWN"


class NotWitnessed(InputError):
    """No witness has confirmed this intent, so there is no proof of it."""

    code = "NOT_WITNESSED"


class AuthorityUnknown(InputError):
    """The witness file has no time-stamp authority of this name, or nobody named one of several."""

    code = "AUTHORITY_UNKNOWN"


class WitnessFileError(InputError):
    """A witness file cannot be read, or holds a key or value that is unknown, wrong or not supported.

    `problems` lists every mistake, each with its path in the file.
    """

    code = "WITNESS_FILE_INVALID"

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class WitnessUnavailable(NexusError):
    """A witness gave no answer that can be relied on. Nothing was changed; ask again later."""

    code = "WITNESS_UNAVAILABLE"


class AuthorityUnavailable(WitnessUnavailable):
    """A time-stamp authority cannot be reached, or did not answer as one; ask again later."""

    code = "AUTHORITY_UNAVAILABLE"


class WitnessRefused(NexusError):
    """A witness does not witness this, or gave what its own reader would not believe; asking again will not help."""

    code = "WITNESS_REFUSED"


class ExtraMissing(NexusError):
    """An optional part of the package is needed here and not installed; the text says how to install it."""

    code = "EXTRA_MISSING"


class LedgerUnavailable(WitnessUnavailable):
    """No server of the ledger told anything that can be relied on. Nothing was changed; ask again later."""

    code = "LEDGER_UNAVAILABLE"


class WrongNetwork(NexusError):
    """The server belongs to another network than the one that this queue is witnessed on."""

    code = "WRONG_NETWORK"


class SignerMissing(NexusError, RuntimeError):
    """No signer was configured, so nothing can be submitted."""

    code = "SIGNER_MISSING"
