"""The receipts of a batch, and what a stranger recomputes from one: intent, statement, transaction, inclusion. Offline, and pure.

Where a transaction comes from (a server's word, or a proof down from a validator list) is judged elsewhere; here it is read once, and
every receipt that names it is checked against its bytes. Nothing in a receipt is believed that can be recomputed.

A receipt does not say what follows from the rest of it: the result of the transaction, which is tesSUCCESS where anything is confirmed; and
beside a proof file the hash of the ledger, which that recomputes. So one of a batch of 1,000 has less than 1,500 bytes; each doubling of
the batch adds 67.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from nexus_attest.attestation.batch_tree import HASH_NAME, STATEMENT_TYPE, BatchTree, Statement
from nexus_attest.attestation.errors import InvalidAnchor, WitnessMismatch
from nexus_attest.attestation.inclusion import require_included, require_members, require_same
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.xrpl.codec import decode_transaction, transaction_id
from nexus_attest.attestation.xrpl.memo import MEMO_TYPE, MemoCodec, memo_digest
from nexus_control.integrity import prefixed

__all__ = ["BATCH_PROOF_TYPE", "Anchor", "WitnessTransaction", "batch_receipt", "require_confirming"]

BATCH_PROOF_TYPE = "nexus.attest.batch/1"

_BACKEND = "xrpl"
_LEVELS = ("server", "tree", "quorum")
_OF_BATCH = frozenset(
    {"type", "account", "network", "tx_hash", "ledger_index", "ledger_hash", "close_time", "engine_result", "level", "merkle"}
)
_OF_ONE = frozenset({"tx_hash", "ledger_index", "engine_result", "ledger_close_time", "memo_verified", "account", "key_id"})
_EVIDENCE_OF_BATCH = frozenset({"memo_digest", "xrpl.batch.root", "xrpl.xpop"})
_EVIDENCE_OF_ONE = frozenset({"memo_digest", "xrpl.submit.exchange", "xrpl.tx.exchange"})
_TYPES = {MEMO_TYPE.encode().hex().upper(): MEMO_TYPE, STATEMENT_TYPE.encode().hex().upper(): STATEMENT_TYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Where the statement of a batch is, as far as it is known. `network` is a configured name; `level` is `server`, `tree` or `quorum`.

    `close_time` is UTC in ISO form; `xpop` is the prefixed digest of a proof file.
    """

    account: str
    network: str
    tx_hash: str
    ledger_index: int
    ledger_hash: str | None
    close_time: str | None
    engine_result: str
    level: str = "server"
    xpop: str | None = None


def batch_receipt(tree: BatchTree, index: int, anchor: Anchor, *, attempt: int, created_at: str) -> AttestationReceipt:
    """The CONFIRMED receipt of member `index`."""
    evidence = {"memo_digest": tree.statement.digest(), "xrpl.batch.root": prefixed(tree.statement.root.hex())}
    if anchor.xpop is not None:
        evidence["xrpl.xpop"] = anchor.xpop
    where = {
        "account": anchor.account,
        "network": anchor.network,
        "tx_hash": anchor.tx_hash,
        "ledger_index": anchor.ledger_index,
        "ledger_hash": anchor.ledger_hash if anchor.xpop is None else None,  # a proof file recomputes it
        "close_time": anchor.close_time,
        "level": anchor.level,
    }
    merkle = {"alg": HASH_NAME, "index": index, "size": len(tree.members), "path": [node.hex() for node in tree.path(index)]}
    proof = {"type": BATCH_PROOF_TYPE, **{key: value for key, value in where.items() if value is not None}, "merkle": merkle}
    return AttestationReceipt(tree.members[index], _BACKEND, attempt, ReceiptStatus.CONFIRMED, created_at, evidence, proof)


class WitnessTransaction:
    """A transaction that witnesses, read from its bytes; what it says is `statement`, or `memo` for an intent of its own.

    `engine_result` is that of its metadata, `account` the one that is expected. Raises NotATransaction, and WitnessMismatch for another
    account, a result other than tesSUCCESS, and unless exactly one of its memos is ours and of a form that is known.
    """

    def __init__(self, blob: bytes, engine_result: str, *, account: str) -> None:
        fields = decode_transaction(blob)
        self.tx_hash = transaction_id(blob)
        self.account = account
        if fields.get("Account") != account:
            raise WitnessMismatch(f"the transaction is one of {fields.get('Account')}, not of {account}")
        if engine_result != "tesSUCCESS":
            raise WitnessMismatch(f"the transaction ended with {engine_result}, which witnesses nothing")
        kind, data = _memo_of(fields)
        self.memo_digest = memo_digest(data)
        self.statement: Statement | None = None
        self.memo: dict[str, str] | None = None
        try:
            if kind == STATEMENT_TYPE:
                self.statement = Statement.from_bytes(data)
            else:
                self.memo = MemoCodec.decode(data.hex())
        except InvalidAnchor as problem:
            raise WitnessMismatch(f"its memo cannot be read: {problem}") from None
        self._root = None if self.statement is None else prefixed(self.statement.root.hex())

    def check(self, receipt: AttestationReceipt, intent: AttestationIntent) -> None:
        """Raises WitnessMismatch unless this transaction witnesses this intent, and the receipt says just that."""
        digest = prefixed(intent.intent_digest())
        proof = receipt.proof
        require_confirming(receipt, batch=self.statement is not None)
        require_same("intent_digest", receipt.intent_digest, digest)
        require_same("tx_hash", proof.get("tx_hash"), self.tx_hash)
        require_same("memo_digest", receipt.evidence_digests.get("memo_digest"), self.memo_digest)
        if self.statement is None:
            require_same("account", proof.get("account", self.account), self.account)
            require_same("the intent of the memo", cast("dict[str, str]", self.memo)["id"], digest)
            require_same("the memo of the intent", self.memo_digest, MemoCodec.digest(intent))
            return
        require_same("account", proof.get("account"), self.account)
        require_same("xrpl.batch.root", receipt.evidence_digests.get("xrpl.batch.root"), self._root)
        require_included(self.statement, digest, proof)


def require_confirming(receipt: AttestationReceipt, *, batch: bool) -> None:
    """Raises WitnessMismatch unless a receipt, of a batch or of an intent of its own, says what a good one says, and nothing besides."""
    proof = receipt.proof
    require_same("status", receipt.status, ReceiptStatus.CONFIRMED)
    require_same("backend", receipt.backend, _BACKEND)
    require_same("error", receipt.error, None)
    require_same("engine_result", proof.get("engine_result", "tesSUCCESS"), "tesSUCCESS")
    require_members("proof", proof, _OF_BATCH if batch else _OF_ONE)
    require_members("evidence_digests", receipt.evidence_digests, _EVIDENCE_OF_BATCH if batch else _EVIDENCE_OF_ONE)
    if not batch:
        if proof.get("memo_verified", True) is not True:  # 1 is equal to it
            raise WitnessMismatch(f"memo_verified is {proof['memo_verified']!r:.100}, not True")
        return
    require_same("type", proof.get("type"), BATCH_PROOF_TYPE)
    if proof.get("level") not in _LEVELS:
        raise WitnessMismatch(f"level is {proof.get('level')!r:.100}, which is none")


def _memo_of(fields: Mapping[str, Any]) -> tuple[str, bytes]:
    memos = [entry.get("Memo", {}) for entry in fields.get("Memos", ())]  # the array may hold objects of other kinds
    ours = [memo for memo in memos if memo.get("MemoType", "").upper() in _TYPES]
    if len(ours) != 1:
        raise WitnessMismatch(f"a witness carries exactly one memo of ours, this transaction {len(ours)}")
    return _TYPES[ours[0]["MemoType"].upper()], bytes.fromhex(ours[0].get("MemoData", ""))
