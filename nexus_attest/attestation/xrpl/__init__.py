"""The witness on the XRP Ledger: a memo per intent, in a transaction that pays nothing but its fee."""

from nexus_attest.attestation.xrpl.adapter import XRPL_BACKEND, AnchorPlan, XRPLAdapter, confirm, plan, submit
from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult, XRPLClient
from nexus_attest.attestation.xrpl.errors import classify_connection_error, classify_engine_result, classify_timeout
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.jsonrpc_client import JsonRpcClient
from nexus_attest.attestation.xrpl.memo import (
    MAX_MEMO_BYTES,
    MEMO_TYPE,
    MEMO_TYPE_HEX,
    MEMO_VERSION,
    MemoCodec,
    build_memo_payload,
    encode_memo_hex,
    memo_digest,
    serialize_memo,
    validate_memo_size,
)
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner, SignResult, XRPLSigner
from nexus_attest.attestation.xrpl.transport import DclTransport, ExchangeRecord, HttpxTransport, JsonRpcTransport
from nexus_attest.attestation.xrpl.tx import plan_account_set_memo, plan_payment_to_self

__all__ = [
    "MAX_MEMO_BYTES",
    "MEMO_TYPE",
    "MEMO_TYPE_HEX",
    "MEMO_VERSION",
    "XRPL_BACKEND",
    "AnchorPlan",
    "DclTransport",
    "ExchangeRecord",
    "ExchangeStore",
    "HttpxTransport",
    "JsonRpcClient",
    "JsonRpcTransport",
    "LocalWalletSigner",
    "MemoCodec",
    "SignResult",
    "SubmitResult",
    "TxStatusResult",
    "XRPLAdapter",
    "XRPLClient",
    "XRPLSigner",
    "build_memo_payload",
    "classify_connection_error",
    "classify_engine_result",
    "classify_timeout",
    "confirm",
    "encode_memo_hex",
    "memo_digest",
    "plan",
    "plan_account_set_memo",
    "plan_payment_to_self",
    "serialize_memo",
    "submit",
    "validate_memo_size",
]
