"""Attestation: signatures over audit packages, intents to have them witnessed, and the receipts of those who did.

The witness on the XRP Ledger is `nexus_attest.attestation.xrpl`, imported by whoever wants it.
"""

from nexus_attest.attestation._signing import (
    ATTESTATION_ERROR_CLAIMS_EMPTY,
    ATTESTATION_ERROR_DIGEST_FORMAT,
    ATTESTATION_ERROR_SIGNATURE_INVALID,
    ATTESTATION_ERROR_VERSION_UNKNOWN,
    ATTESTATION_VERSION,
    VERIFY_ATTESTATION_VERSION,
    VERIFY_CLAIMS_NON_EMPTY,
    VERIFY_DIGEST_FORMAT,
    VERIFY_SIGNATURE,
    Attestation,
    AttestationPayload,
    AttestationVerificationResult,
    Attestor,
    create_attestation,
    generate_signing_key,
    get_public_key_hex,
    public_key_from_hex,
    verify_attestation_signature,
)
from nexus_attest.attestation.intent import INTENT_VERSION, AttestationIntent
from nexus_attest.attestation.receipt import RECEIPT_VERSION, AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus

__all__ = [
    "ATTESTATION_ERROR_CLAIMS_EMPTY",
    "ATTESTATION_ERROR_DIGEST_FORMAT",
    "ATTESTATION_ERROR_SIGNATURE_INVALID",
    "ATTESTATION_ERROR_VERSION_UNKNOWN",
    "ATTESTATION_VERSION",
    "INTENT_VERSION",
    "RECEIPT_VERSION",
    "VERIFY_ATTESTATION_VERSION",
    "VERIFY_CLAIMS_NON_EMPTY",
    "VERIFY_DIGEST_FORMAT",
    "VERIFY_SIGNATURE",
    "Attestation",
    "AttestationIntent",
    "AttestationPayload",
    "AttestationReceipt",
    "AttestationVerificationResult",
    "Attestor",
    "ReceiptError",
    "ReceiptErrorCode",
    "ReceiptStatus",
    "create_attestation",
    "generate_signing_key",
    "get_public_key_hex",
    "public_key_from_hex",
    "verify_attestation_signature",
]
