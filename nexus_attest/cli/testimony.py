"""The third act of the demonstration: the package is attested and witnessed with 999 others, proven offline, and a proof is forged.

The ledger is the local test ledger of this process, and every scene says so: real codec, real signatures, real trees, and validators that
nobody has to believe. With a public network everything else is the same.
"""

import asyncio
import json
import secrets
from base64 import b64encode
from pathlib import Path
from typing import Any

from nexus_attest.attestation import Attestor
from nexus_attest.attestation._signing import sign_attestation
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.proving import witness_proofs
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.witness import Level, Verdict, WitnessJudge, WitnessProof
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness
from nexus_attest.attestation.xrpl.collector import ProofCollector
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.attestation.xrpl.validators import PublishedList, Validation, ValidatorList
from nexus_attest.cli.files import write_file
from nexus_attest.cli.narrator import Narrator
from nexus_attest.cli.output import document_text
from nexus_attest.cli.screen import checks_table
from nexus_attest.cli.stage import Stage
from nexus_attest.cli.told import require
from nexus_attest.keys import LocalKey
from nexus_attest.testledger import Clock, ClosedLedger, Ledger, Node, NodeTransport, seed_of, since_2000
from nexus_attest.trust_file import load_trust
from nexus_control.events import utc_now
from nexus_control.integrity import content_digest, prefixed, sha256_digest
from nexus_control.markdown import escape

__all__ = ["NETWORK", "Testimony"]

NETWORK = "local-test-ledger"

_OTHERS = 999
_CLAIM = "The rotation was reviewed"
_DROPS = 100_000_000
_FIRST_LEDGER = 1000

_TRUST = """\
# Whom to believe about the demonstration. The publisher is that of the local test ledger: its key follows from a seed that everybody knows.
version = 1

[[attestors]]
id = "alice"
key_id = {key_id}
public_key = {public_key}

[[ledgers]]
network = "{network}"
accounts = ["{account}"]
publisher_keys = ["{publisher}"]
"""


class Testimony:
    """Plays on the stage that the first two acts left."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._tell = narrator
        self._key = LocalKey(secrets.token_bytes(32))
        self._signer = LocalWalletSigner(key_of_seed(seed_of("nexus-attest demo")))
        self._ledger = Ledger({self._signer.account: _DROPS}, clock=Clock(utc_now()), first_index=_FIRST_LEDGER)

    def play(self, binding_digest: str) -> dict[str, Any]:
        """Four scenes; what happened, as JSON data."""
        self._tell.act("The witness (local test ledger)")
        attested = self._attested(binding_digest)
        intent = AttestationIntent("nexus.audit_package", binding_digest, labels={"attestation": attested})
        proof = self._witnessed(intent)
        receipt = proof.receipt
        self._stage.witness_trust.write_text(self._trust(), encoding="utf-8")
        verdict = self._proven(proof)
        failed = self._forged(binding_digest)
        return {
            "witness_ledger": NETWORK,
            "intent_digest": receipt.intent_digest,
            "witness_tx": receipt.proof["tx_hash"],
            "witness_level": verdict.level,
            "witness_checks": [check.name for check in verdict.checks],
            "witness_forgery_failed": failed,
        }

    def _attested(self, binding_digest: str) -> str:
        tell = self._tell
        tell.scene("The attestation", "Alice signs what she says about the package, with a key of her own. The package stays as it is.")
        made = sign_attestation(binding_digest, [_CLAIM], Attestor("alice", self._key.key_id), self._key)
        write_file(self._stage.attestation, document_text(made.to_dict()).encode(), force=False)
        digest = prefixed(content_digest(made.to_dict()))
        tell.facts(("file", escape(self._stage.attestation)), ("claims", _CLAIM), ("by", f"alice, {self._key.key_id}"), ("digest", digest))
        tell.why("A signature says who, never when: whoever has the key can write any date. For that somebody else must have seen it.")
        return digest

    def _witnessed(self, intent: AttestationIntent) -> WitnessProof:
        tell = self._tell
        tell.scene(
            "The witness, on a local test ledger",
            "Package and attestation are witnessed, in one batch with 999 others. THIS IS A LOCAL TEST LEDGER in this process, not the XRP "
            "Ledger: transactions, trees and signatures are real, its validators are not.",
        )
        others = [AttestationIntent("demo.other", prefixed(sha256_digest(str(number).encode()))) for number in range(_OTHERS)]
        with AttestationQueue(self._stage.store, clock=self._ledger.clock) as queue:
            mine, *_ = queue.enqueue_many([intent, *others])
            asyncio.run(self._worker(queue).run(interval=0, until_empty=True, max_cycles=50, watch=lambda _: self._ledger.close()))
            found = witness_proofs(queue, mine)
            counts = {row["status"]: row["intents"] for row in queue.storage.count_by_status()}
        require(counts == {"CONFIRMED": 1 + _OTHERS} and len(found) == 1, f"the batch was not witnessed: {counts}")
        (witnessed,), (transaction,) = found, self._ledger.history(self._signer.account)
        proof = witnessed.receipt.proof
        require(proof["tx_hash"] == transaction[1].transaction.hash, "the receipt names another transaction")
        memo = bytes.fromhex(transaction[1].transaction.fields["Memos"][0]["Memo"]["MemoData"]).decode()
        tell.good("witnessed", f"1,000 intents in one transaction, for {transaction[1].transaction.fee} drops (0.00001 XRP)")
        tell.facts(
            ("ledger", f"{NETWORK} {proof['ledger_index']}, closed {proof['close_time']}"),
            ("tx", proof["tx_hash"]),
            ("published", escape(memo)),
        )
        tell.why("That is all that is published: a root and a number. Each of the thousand has a receipt with its own path to that root.")
        return witnessed

    def _worker(self, queue: AttestationQueue) -> BatchWitness:
        """As `witness run` has it, with the votes of the validators handed over instead of streamed."""
        ledger, proofs = self._ledger, ProofStore(queue.storage)
        published = PublishedList.from_dict(ledger.validators.published(since_2000(ledger.clock())))
        proofs.add_list(published, ValidatorList.from_published(published), now=ledger.clock().timestamp())

        def record(closed: ClosedLedger) -> None:
            votes = [(Validation.from_bytes(vote.data), vote.data) for vote in ledger.validations(closed.index)]
            now = ledger.clock().timestamp()
            proofs.add_votes(votes, url=NETWORK, since=now, now=now)

        ledger.listen(record)
        nodes = LedgerNodes([LedgerNode(NETWORK, NodeTransport(Node(ledger)))], clock=ledger.clock)
        prove = ProofCollector(proofs, nodes, [ledger.validators.pin], tries=1, clock=ledger.clock)
        settings = BatchSettings(network=NETWORK, max_age=0)
        return BatchWitness(queue, nodes, self._signer, settings, prove=prove, clock=ledger.clock)

    def _trust(self) -> str:
        return _TRUST.format(
            key_id=json.dumps(self._key.key_id),
            public_key=json.dumps(b64encode(self._key.public_key).decode()),
            network=NETWORK,
            account=self._signer.account,
            publisher=self._ledger.validators.pin,
        )

    def _proven(self, proof: WitnessProof) -> Verdict:
        tell = self._tell
        tell.scene(
            "The proof, offline (local test ledger)",
            "With one more file, whoever pins the publisher of the validators needs no server.",
        )
        write_file(self._stage.witness_proof, document_text(proof.to_dict()).encode(), force=False)
        verdict = self._judged(self._stage.witness_proof, proof.intent.binding_digest)
        require(verdict.level is Level.QUORUM and not verdict.failed and not verdict.gaps, f"the proof fails {verdict.failed}")
        tell.facts(("file", escape(self._stage.witness_proof)), ("level", f"{verdict.level}, existed by {verdict.not_after}"))
        tell.show(checks_table(list(verdict.checks)))
        tell.why("From the pinned key over list, votes, ledger, transaction and memo down to the package: each step is recomputed.")
        return verdict

    def _forged(self, binding_digest: str) -> list[str]:
        tell = self._tell
        tell.scene("The forged proof (local test ledger)", "Somebody changes one byte of the transaction that the proof shows.")
        proof = json.loads(self._stage.witness_proof.read_text(encoding="utf-8"))
        transaction = proof["evidence"]["xpop"]["transaction"]
        transaction["blob"] = _flipped(transaction["blob"])
        write_file(self._stage.witness_forgery, document_text(proof).encode(), force=False)
        verdict = self._judged(self._stage.witness_forgery, binding_digest)
        require(verdict.level is None and verdict.failed == ["path"], f"the forged proof fails {verdict.failed}")
        tell.facts(("file", escape(self._stage.witness_forgery)))
        tell.show(checks_table(list(verdict.checks)))
        tell.why("Whatever byte it is, a check fails by name. Believed is only what hashes up to a ledger that the validators signed.")
        return verdict.failed

    def _judged(self, path: Path, binding_digest: str) -> Verdict:
        return WitnessJudge(load_trust(self._stage.witness_trust)).judge(
            json.loads(path.read_text(encoding="utf-8")), binding_digest=binding_digest
        )


def _flipped(blob: str) -> str:
    """A transaction with one byte of its memo changed, which leaves it readable."""
    memo = b'"t":"nexus.attest.batch"'.hex().upper()
    return blob.replace(memo, b'"t":"nexus.attest.batcH"'.hex().upper())
