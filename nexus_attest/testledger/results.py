"""Result codes of transactions and errors of requests, with the numbers and texts of real servers."""

import json
from importlib.resources import files

__all__ = ["MESSAGES", "RPC_ERRORS", "RpcError", "result_code", "result_message"]

MESSAGES = {
    "tesSUCCESS": "The transaction was applied. Only final in a validated ledger.",
    "tecDST_TAG_NEEDED": "A destination tag is required.",
    "tecNEED_MASTER_KEY": "The operation requires the use of the Master Key.",
    "tecNO_ALTERNATIVE_KEY": "The operation would remove the ability to sign transactions with the account.",
    "tecNO_DST_INSUF_XRP": "Destination does not exist. Too little XRP sent to create it.",
    "tecNO_PERMISSION": "No permission to perform requested operation.",
    "tecUNFUNDED_PAYMENT": "Insufficient XRP balance to send.",
    "tefALREADY": "The exact transaction was already in this ledger.",
    "tefBAD_AUTH": "Transaction's public key is not authorized.",
    "tefMASTER_DISABLED": "Master key is disabled.",
    "tefMAX_LEDGER": "Ledger sequence too high.",
    "tefNOT_MULTI_SIGNING": "Account has no appropriate list of multi-signers.",
    "tefNO_TICKET": "Ticket is not in ledger.",
    "tefPAST_SEQ": "This sequence number has already passed.",
    "tefWRONG_PRIOR": "This previous transaction does not match.",
    "telCAN_NOT_QUEUE": "Can not queue at this time.",
    "telCAN_NOT_QUEUE_BALANCE": "Can not queue at this time: insufficient balance to pay all queued fees.",
    "telCAN_NOT_QUEUE_BLOCKED": "Can not queue at this time: blocking transaction in queue.",
    "telCAN_NOT_QUEUE_BLOCKS": "Can not queue at this time: would block later queued transaction(s).",
    "telCAN_NOT_QUEUE_FEE": "Can not queue at this time: fee insufficient to replace queued transaction.",
    "telCAN_NOT_QUEUE_FULL": "Can not queue at this time: queue is full.",
    "telINSUF_FEE_P": "Fee insufficient.",
    "telNETWORK_ID_MAKES_TX_NON_CANONICAL": "Transactions submitted to this node/network must NOT include a NetworkID field.",
    "telREQUIRES_NETWORK_ID": "Transactions submitted to this node/network must include a correct NetworkID field.",
    "telWRONG_NETWORK": "Transaction specifies a Network ID that differs from that of the local node.",
    "temBAD_AMOUNT": "Malformed: Bad amount.",
    "temBAD_FEE": "Invalid fee, negative or not XRP.",
    "temBAD_REGKEY": "Malformed: Regular key cannot be same as master key.",
    "temBAD_SEND_XRP_LIMIT": "Malformed: Limit quality is not allowed for XRP to XRP.",
    "temBAD_SEND_XRP_MAX": "Malformed: Send max is not allowed for XRP to XRP.",
    "temBAD_SEND_XRP_NO_DIRECT": "Malformed: No Ripple direct is not allowed for XRP to XRP.",
    "temBAD_SEND_XRP_PARTIAL": "Malformed: Partial payment is not allowed for XRP to XRP.",
    "temBAD_SEND_XRP_PATHS": "Malformed: Paths are not allowed for XRP to XRP.",
    "temBAD_SIGNATURE": "Malformed: Bad signature.",
    "temINVALID_FLAG": "The transaction has an invalid flag.",
    "temREDUNDANT": "The transaction is redundant.",
    "temSEQ_AND_TICKET": "Transaction contains a TicketSequence and a non-zero Sequence.",
    "temUNKNOWN": "The transaction requires logic that is not implemented yet.",
    "terINSUF_FEE_B": "Account balance can't pay fee.",
    "terNO_ACCOUNT": "The source account does not exist.",
    "terPRE_SEQ": "Missing/inapplicable prior transaction.",
    "terPRE_TICKET": "Ticket is not yet in ledger.",
    "terQUEUED": "Held until escalated fee drops.",
}
"""The texts of the results that this ledger gives."""

RPC_ERRORS = {
    "tooBusy": (9, "The server is too busy to help you now."),
    "slowDown": (10, "You are placing too much load on the server."),
    "amendmentBlocked": (14, "Amendment blocked, need upgrade."),
    "noCurrent": (16, "Current ledger is unavailable."),
    "noNetwork": (17, "Not synced to the network."),
    "notSynced": (18, "Not synced to the network."),
    "actNotFound": (19, "Account not found."),
    "lgrNotFound": (21, "ledgerNotFound"),
    "txnNotFound": (29, "Transaction not found."),
    "invalidParams": (31, "Invalid parameters."),
    "unknownCmd": (32, "Unknown method."),
    "actMalformed": (35, "Account malformed."),
    "internal": (73, "Internal error."),
    "notImpl": (74, "Not implemented."),
    "notSupported": (75, "Operation not supported."),
    "excessiveLgrRange": (78, "Ledger range exceeds 1000."),
    "invalidLgrRange": (79, "Ledger range is invalid."),
}
"""Number and text of the errors of requests."""


class RpcError(Exception):
    """A request is answered with an error; `fields` stand beside it in the answer. `error` is a name of `RPC_ERRORS` or another."""

    def __init__(self, error: str, message: str | None = None, **fields: object) -> None:
        super().__init__(error)
        code, text = RPC_ERRORS.get(error, (None, error))
        self.answer: dict[str, object] = {"error": error}
        if code is not None:
            self.answer |= {"error_code": code, "error_message": message or text}
        self.answer |= fields


_CODES: dict[str, int] = json.loads((files("xrpl.core.binarycodec.definitions") / "definitions.json").read_text())["TRANSACTION_RESULTS"]


def result_code(name: str) -> int:
    """The number of an engine result. Raises KeyError for a name that no server knows."""
    return _CODES[name]


def result_message(name: str) -> str:
    """Its text; for a result that this ledger never gives itself, the name."""
    return MESSAGES.get(name, name)
