"""A local XRP Ledger: real codec, signatures, sequences, fees, queue, roots, headers and validators, on a clock that is told the time.

    ledger = Ledger({key.address: 100_000_000})       # accounts, taken from the genesis account
    node = Node(ledger, Faults())                      # one server of it; more may share the ledger
    ledger.close()                                     # four seconds pass, the next ledger is validated
    httpx.AsyncClient(transport=mock_transport(node))  # requests without a port
    with serving(node) as urls, closing(ledger): ...   # HTTP and WebSocket, closing by itself

It is a test ledger: what it says is worth nothing to anybody else. Roots, hashes and signatures are computed as on the real ones, so
that proofs made from it can be checked by the same rules, under the pin of its own publisher.
"""

from ledger.chain import ALL_DROPS, ClosedLedger, Entry, Ledger, Submitted
from ledger.clock import Clock, iso, since_2000
from ledger.dump import dump, xpop
from ledger.faults import KINDS, Fault, Faults
from ledger.fronts import Urls, closing, http_front, mock_transport, serving, websocket_front
from ledger.hashing import Header
from ledger.keys import GENESIS_SEED, Key, key_from_seed, seed_of
from ledger.node import Lost, Node, Reply, Session
from ledger.pool import Fees
from ledger.state import AccountRoot
from ledger.validators import REVOKED, Validation, Validator, Validators, manifest
from ledger.wire import NotATransaction, Transaction, parse_transaction, sign_transaction

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
