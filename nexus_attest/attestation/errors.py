"""What can go wrong with attestations, each with a stable `code`.

NexusError
|-- InputError (ValueError)
|   `-- InvalidAttestationRecord
|       |-- InvalidIntent       what is to be witnessed cannot be said so
|       |-- InvalidReceipt      an attempt cannot be recorded so
|       |-- InvalidAttestation  a signed overlay cannot be made of this
|       `-- InvalidAnchor       a ledger transaction cannot be made of this
`-- SignerMissing (RuntimeError)  nobody said who signs for the ledger
"""

from nexus_control.errors import InputError, NexusError

__all__ = ["InvalidAnchor", "InvalidAttestation", "InvalidAttestationRecord", "InvalidIntent", "InvalidReceipt", "SignerMissing"]


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


class InvalidAnchor(InvalidAttestationRecord):
    """A memo or a transaction for the ledger cannot be made of these arguments."""

    code = "INVALID_ANCHOR"


class SignerMissing(NexusError, RuntimeError):
    """No signer was configured, so nothing can be submitted."""

    code = "SIGNER_MISSING"
