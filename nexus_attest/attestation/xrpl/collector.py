"""Makes the proof of a transaction that was just validated: its place in the ledger from a server, the votes from what was recorded.

A server is believed for nothing: what it says must hash up to a header, and validators must have voted for that header, or for a later one
that it leads to. What was made is judged by the verifier itself, and its level is what the verifier says.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from nexus_attest.attestation.errors import LedgerUnavailable, ProofRefused
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.witness import Level
from nexus_attest.attestation.xrpl.batch import Proof
from nexus_attest.attestation.xrpl.batch_receipt import Anchor
from nexus_attest.attestation.xrpl.codec import node_key, transaction_id
from nexus_attest.attestation.xrpl.ledger_header import HEADER_BYTES, LedgerHeader
from nexus_attest.attestation.xrpl.ledger_tree import transaction_leaf, tree_path
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.proof import MAX_HEADERS, LedgerProof
from nexus_attest.attestation.xrpl.proof_check import check_proof, pruned
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.validators import Manifest, PublishedList, Validation, ValidatorList, hex_bytes, quorum_of
from nexus_attest.trust import Ledger
from nexus_control.events import Clock, in_utc, utc_now

__all__ = ["ProofCollector"]

_MAX_TRANSACTION_BYTES = 1024 * 1024


class ProofCollector:
    """Proofs for `BatchWitness(prove=...)`: calling it makes one, keeps it, and says where it is and what it shows.

    Votes may arrive a little later than the news that the ledger is validated: it tries again, `tries` times in all with `pause` seconds
    between. `reach`: when there are too few votes for the ledger itself, so many later ones are tried, with the headers up to them.
    Without `publisher_keys` the proof holds votes of whatever lists are known, and its level is `tree`.
    """

    def __init__(
        self,
        store: ProofStore,
        nodes: LedgerNodes,
        publisher_keys: Sequence[str],
        *,
        tries: int = 8,
        pause: float = 1.0,
        reach: int = 64,
        clock: Clock = utc_now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._publisher_keys = tuple(publisher_keys)
        self._tries = tries
        self._pause = pause
        self._reach = min(reach, MAX_HEADERS)
        self._clock = in_utc(clock)
        self._sleep = sleep

    async def __call__(self, anchor: Anchor) -> Proof | None:
        """The proof of this transaction, stored; None when servers show none that our own verifier takes. Raises LedgerUnavailable."""
        made: tuple[LedgerProof, Level] | None = None
        for left in reversed(range(self._tries)):
            try:
                made = await self.collect(anchor)
            except LedgerUnavailable:
                if not left and made is None:
                    raise
            if made is not None and made[1] is Level.QUORUM:
                break
            if left:
                await self._sleep(self._pause)
        if made is None:
            return None
        proof, level = made
        return Proof(self._store.add_proof(proof, anchor.tx_hash, level, compact_utc(self._clock)), level)

    async def collect(self, anchor: Anchor) -> tuple[LedgerProof, Level] | None:
        """The best proof that can be made now, and its level. Raises LedgerUnavailable when no server shows the transaction.

        A server that shows another ledger than the one that was agreed on when the transaction was validated shows nothing.
        """
        agreed = anchor.ledger_hash or self._store.ledger_hash(anchor.tx_hash, anchor.ledger_index)

        async def shown(node: LedgerNode) -> LedgerProof:
            result = await node.request("ledger", ledger_index=anchor.ledger_index, transactions=True, expand=True, binary=True)
            proof = _tree_proof(node, result, anchor)
            if agreed not in (None, proof.header.hash().hex().upper()):
                raise LedgerUnavailable(f"{node.url}: another ledger {anchor.ledger_index} than the one that was agreed on")
            return proof

        def enough(answers: list[LedgerProof]) -> bool:
            return self._with_votes(answers[-1]) is not None

        answers = await self._nodes.ask_each(shown, enough)
        if not answers:
            raise LedgerUnavailable(f"no server shows ledger {anchor.ledger_index} with transaction {anchor.tx_hash}")
        voted = self._with_votes(answers[-1])
        for answer in answers if voted is None else ():
            voted = voted or await self._through_later(answer)
        proof = answers[0] if voted is None else voted
        pin = Ledger(anchor.network, (anchor.account,), self._publisher_keys)
        level = check_proof(proof.to_dict(), [pin]).level
        return None if level is None else (proof, level)

    async def _through_later(self, proof: LedgerProof) -> LedgerProof | None:
        """The proof by votes for a later ledger, the nearest that has enough; None when there is none within reach."""
        lists = self._lists()
        least = min((quorum_of(len(known.manifests)) for _, known in lists), default=0)
        headers: list[LedgerHeader] = []
        first = proof.header.index + 1
        for count in self._store.counts(first, first + self._reach - 1, least=least) if least else ():
            while len(headers) < count.ledger_index - proof.header.index:
                headers.append(await self._header_after(headers[-1] if headers else proof.header))
            if headers[-1].hash().hex().upper() == count.ledger_hash:
                voted = self._with_votes(replace(proof, headers=tuple(headers)))
                if voted is not None:
                    return voted
        return None

    async def _header_after(self, header: LedgerHeader) -> LedgerHeader:
        """The header whose parent this is."""

        async def shown(node: LedgerNode) -> LedgerHeader:
            found = _header(node, await node.request("ledger", ledger_index=header.index + 1, binary=True))
            if found.index != header.index + 1 or found.parent_hash != header.hash():
                raise LedgerUnavailable(f"{node.url}: ledger {header.index + 1} does not follow ledger {header.index}")
            return found

        return await self._nodes.ask(shown)

    def _with_votes(self, proof: LedgerProof) -> LedgerProof | None:
        """The proof with what was recorded for its ledger, under each list of which enough voted; None when there is no such list."""
        voted = proof.voted
        recorded = self._store.votes(voted.index, voted.hash().hex().upper())
        in_force: dict[str, tuple[PublishedList, ValidatorList]] = {}
        for published, known in self._lists():
            if known.in_force(voted):
                in_force.setdefault(known.publisher, (published, known))  # the newest comes first
        votes = {vote.signing: data for data in recorded for vote in (Validation.from_bytes(data),)}
        labelled = {node_key(signing): data for signing, data in sorted(votes.items())}
        manifests = self._manifests_for(votes.keys(), [known for _, known in in_force.values()])
        filled = replace(proof, votes=labelled, manifests=manifests)
        reached = [
            published
            for published, known in in_force.values()
            if len(pruned(replace(filled, lists=(published,))).votes) >= quorum_of(len(known.manifests))
        ]
        return pruned(replace(filled, lists=tuple(reached))) if reached else None

    def _lists(self) -> list[tuple[PublishedList, ValidatorList]]:
        """The lists of the pinned publishers, or of all when none is pinned; each publisher's newest first."""
        lists = [(published, ValidatorList.from_published(published)) for published in self._store.lists()]
        return [one for one in lists if not self._publisher_keys or one[1].publisher in self._publisher_keys]

    def _manifests_for(self, signing_keys: Any, lists: Sequence[ValidatorList]) -> tuple[bytes, ...]:
        """Newer manifests of listed validators whose votes were signed with keys that the lists do not know yet."""
        found: list[bytes] = []
        for data in self._store.manifests():
            manifest = Manifest.from_bytes(data)
            if manifest.signing in signing_keys and any(known.manifests.get(manifest.master, data) != data for known in lists):
                found.append(data)
        return tuple(found)


def _tree_proof(node: LedgerNode, result: dict[str, Any], anchor: Anchor) -> LedgerProof:
    """What a server shows of a ledger, as a proof without votes. Raises LedgerUnavailable unless it hashes up to the header."""
    header = _header(node, result)
    listed: Any = cast("dict[str, Any]", result["ledger"]).get("transactions")
    if header.index != anchor.ledger_index or result.get("validated") is not True or not isinstance(listed, list):
        raise LedgerUnavailable(f"{node.url}: not ledger {anchor.ledger_index} with its transactions")
    shown: dict[bytes, tuple[bytes, bytes]] = {}
    try:
        for entry in cast("list[dict[str, Any]]", listed):
            blob = hex_bytes(entry["tx_blob"], _MAX_TRANSACTION_BYTES, "tx_blob")
            metadata = hex_bytes(entry.get("meta_blob", entry.get("meta")), _MAX_TRANSACTION_BYTES, "meta_blob")
            shown[bytes.fromhex(transaction_id(blob))] = blob, metadata
        key = bytes.fromhex(anchor.tx_hash)
        blob, metadata = shown[key]
        root, path = tree_path({name: transaction_leaf(*both, name) for name, both in shown.items()}, key)
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise LedgerUnavailable(f"{node.url}: ledger {header.index}: {type(problem).__name__}") from None
    if root != header.transaction_root:
        raise LedgerUnavailable(f"{node.url}: the transactions of ledger {header.index} are not those of its header")
    return LedgerProof(header=header, blob=blob, metadata=metadata, path=tuple(path))


def _header(node: LedgerNode, result: dict[str, Any]) -> LedgerHeader:
    ledger: object = result.get("ledger")
    data = cast("dict[str, Any]", ledger).get("ledger_data") if isinstance(ledger, dict) else None
    try:
        return LedgerHeader.from_bytes(hex_bytes(data, HEADER_BYTES, "ledger_data"))
    except ProofRefused as problem:
        raise LedgerUnavailable(f"{node.url}: {problem}") from None
