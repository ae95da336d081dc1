"""A local test ledger, not the XRP Ledger, with real codec, signatures, sequences, fees, queue, roots, headers and validators.

Its clock is told the time.

    ledger = Ledger({key.address: 100_000_000})       # accounts, taken from the genesis account
    node = Node(ledger, Faults())                      # one server of it; more may share the ledger
    ledger.close()                                     # four seconds pass, the next ledger is validated
    httpx.AsyncClient(transport=mock_transport(node))  # requests without a port
    with serving(node) as urls, closing(ledger): ...   # HTTP and WebSocket, closing by itself

What it says is worth nothing to anybody else: its validators' keys follow from a seed that everybody can read. Roots, hashes and signatures
are computed as on real networks, so that proofs made from it can be checked by the same rules, under the pin of its own publisher.

Only tests and the demonstration import it. It imports nothing else of this project, so that it cannot share a mistake with what it tests.
"""

from nexus_attest.testledger.chain import ALL_DROPS, ClosedLedger, Entry, Ledger, Submitted
from nexus_attest.testledger.clock import Clock, iso, since_2000
from nexus_attest.testledger.dump import dump, xpop
from nexus_attest.testledger.faults import KINDS, Fault, Faults
from nexus_attest.testledger.fronts import NodeTransport, Urls, closing, http_front, mock_transport, serving, websocket_front
from nexus_attest.testledger.hashing import Header
from nexus_attest.testledger.keys import GENESIS_SEED, Key, key_from_seed, seed_of
from nexus_attest.testledger.node import Lost, Node, Reply, Session
from nexus_attest.testledger.pool import Fees
from nexus_attest.testledger.state import AccountRoot
from nexus_attest.testledger.validators import REVOKED, Validation, Validator, Validators, manifest
from nexus_attest.testledger.wire import NotATransaction, Transaction, parse_transaction, sign_transaction

__all__ = [
    "ALL_DROPS",
    "GENESIS_SEED",
    "KINDS",
    "REVOKED",
    "AccountRoot",
    "Clock",
    "ClosedLedger",
    "Entry",
    "Fault",
    "Faults",
    "Fees",
    "Header",
    "Key",
    "Ledger",
    "Lost",
    "Node",
    "NodeTransport",
    "NotATransaction",
    "Reply",
    "Session",
    "Submitted",
    "Transaction",
    "Urls",
    "Validation",
    "Validator",
    "Validators",
    "closing",
    "dump",
    "http_front",
    "iso",
    "key_from_seed",
    "manifest",
    "mock_transport",
    "parse_transaction",
    "seed_of",
    "serving",
    "sign_transaction",
    "since_2000",
    "websocket_front",
    "xpop",
]
