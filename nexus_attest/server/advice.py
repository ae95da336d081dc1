"""What to do next, by error code: the last sentence of every error that a tool call answers, for the model that reads it.

Every code that a tool can answer is here, which a test holds against docs/errors.md; what is not comes from a run that failed.
"""

from collections.abc import Mapping

__all__ = ["ADVICE", "FAILED_RUN", "next_step"]

_ASK_FOR_SIGNATURE = "Ask the signer for a new signature of exactly this."
_OTHER_SIGNER = "Ask the operator which keys and people are trusted here; do not retry."
_TELL_OPERATOR = "Tell the operator; calling again does not help."
_EXPORT_AGAIN = "Have it exported again at its source; do not edit it."

FAILED_RUN = "The run is on record as failed and may have done a part: read inspect, tell the user, and run it again only by a new request."

ADVICE: Mapping[str, str] = {
    # what the call says
    "INVALID_ARGUMENTS": "Correct them and call again; nothing was done.",
    "INVALID_ARGUMENT": "Correct it and call again; nothing was done.",
    "INVALID_ACTOR": 'Give actor as {"type": "human" or "system", "id": a name}.',
    "INVALID_POLICY": "Correct the policy and call again; nothing was done.",
    "INVALID_TEMPLATE": "Correct the template and call again; nothing was stored.",
    "INVALID_EXPIRES_AT": "Give an ISO 8601 time with offset, such as 2030-01-31T18:00:00+01:00.",
    "MODE_NOT_ALLOWED": "Ask for another mode, or add this one to allowed_modes.",
    "PLAN_INVALID": 'Make a new request whose plan is a JSON list of {"tool", "method", "args"}.',
    "PLAN_NOT_EXECUTABLE": 'Make a new request whose plan is a JSON list of {"tool", "method", "args"}, or ask for another adapter.',
    "DECISION_NOT_FOUND": "Use the request_id that request returned.",
    "TEMPLATE_NOT_FOUND": "Call template.list for the names.",
    "TEMPLATE_ALREADY_EXISTS": "Templates never change: choose another name.",
    # what the decision allows
    "REFUSED": "Call status for what the decision allows.",
    "NO_POLICY": "Nothing can be done with it: make a new request.",
    "POLICY_VALIDATION_FAILED": "Call status: blocking_reasons names what is missing.",
    "ACTION_CHANGED": "Call approve again: what is there now has to be shown to people and approved anew.",
    "CANNOT_APPROVE": "Call status; for another run make a new request.",
    "ALREADY_APPROVED": "Somebody else has to approve; status tells how many are missing.",
    "LOOK_ALIKE_ACTOR": "Use the id as it is spelled in status, or let somebody else approve; do not invent a spelling.",
    "CANNOT_REVOKE": "It is too late for that; call status.",
    "NOT_APPROVED": "There is nothing to revoke; status tells the approvals.",
    "ALREADY_REVOKED": "There is nothing to revoke; approve again if that is wanted.",
    "ALREADY_EXECUTED": "Call export_audit_package for the evidence; a new run needs a new request.",
    "EXECUTION_IN_PROGRESS": "Call status later; do not call execute again.",
    "EXECUTION_FAILED": "Look at inspect, then make a new request, or ask the operator to retry it on the command line.",
    "EXECUTION_SUPERSEDED": "Look at inspect, and let somebody look at the record of the run, which alone has its outcome.",
    "EXECUTION_ABANDONED": "Whether it took effect is unknown: somebody has to look before a new request is made.",
    "NOTHING_TO_RECOVER": "Call status: no execution is under way.",
    "CONCURRENT_MODIFICATION": "Somebody else acted meanwhile: call status, then decide again.",
    # who acts
    "ACTOR_MISMATCH": "Leave actor out.",
    "NOT_AUTHENTICATED": "Ask the operator for a token of the issuer that this server trusts.",
    "SCOPE_MISSING": "Ask the operator for a token that allows it, or let somebody else do this.",
    "APPROVAL_PENDING": "Show the user that page; do not answer it yourself. When they have answered, call approve again.",
    "HUMAN_DECLINED": "Do not ask again; tell the user.",
    "HUMAN_REQUIRED": "Show the user that command; do not run it yourself. Then poll status.",
    "SELF_APPROVAL": "Somebody else has to approve, with a signature where it was imported.",
    "IMPORTED_APPROVAL": "Have it approved here, or by signed approvals.",
    "IDENTITY_REFUSED": "Let somebody whose identity is established do this.",
    "ACTOR_NOT_TRUSTED": "Somebody whom the trust policy allows has to do this.",
    "ASSURANCE_TOO_LOW": "Let the actor sign it (nexus-attest sign) and pass the envelope as signature.",
    "VERIFIER_MISSING": "Leave signature out, or ask the operator to start the server with --trust FILE.",
    "ENVELOPE_INVALID": "Pass the envelope as nexus-attest sign made it.",
    "SIGNATURE_MISSING": "Pass the signed envelope as signature.",
    "SIGNATURE_INVALID": _ASK_FOR_SIGNATURE,
    "SIGNATURE_FROM_FUTURE": "Have the signer's clock corrected, then ask for a new signature.",
    "SIGNATURE_FOR_OTHER_DECISION": _ASK_FOR_SIGNATURE,
    "SIGNATURE_FOR_OTHER_ACTION": "Show the signer the action as it is now (inspect), and ask for a new signature.",
    "SIGNATURE_FOR_OTHER_ACTOR": "Leave actor out, or name the signer.",
    "SIGNATURE_FOR_OTHER_COMMAND": "Call with what was signed, or ask the signer for a new signature.",
    "SIGNATURE_REPLAYED": _ASK_FOR_SIGNATURE,
    "KEY_INVALID": _OTHER_SIGNER,
    "KEY_UNKNOWN": _OTHER_SIGNER,
    "KEY_OF_OTHER_ACTOR": _OTHER_SIGNER,
    "KEY_NOT_YET_VALID": _OTHER_SIGNER,
    "KEY_EXPIRED": _OTHER_SIGNER,
    "KEY_RETIRED": _OTHER_SIGNER,
    # documents
    "BUNDLE_INVALID_SCHEMA": _EXPORT_AGAIN,
    "INTEGRITY_MISMATCH": _EXPORT_AGAIN,
    "REPLAY_INVALID": _EXPORT_AGAIN,
    "DECISION_EXISTS": 'It is here already: use it, or import with conflict_mode "new_decision_id".',
    "CONFLICT_MODE_INVALID": "Use reject_on_conflict, new_decision_id or overwrite.",
    "IMPORT_ATOMICITY_FAILED": "Nothing was imported: try again, then tell the operator.",
    "NO_ROUTER_LINK": "Only executed decisions have one: call execute first, or export_bundle instead.",
    "LINK_DIGEST_MISMATCH": _TELL_OPERATOR,
    "ROUTER_DIGEST_MISMATCH": "The router bundle is not that of this run: leave it out, or pass the right one.",
    "ROUTER_BUNDLE_INVALID": "Pass the router bundle as the router made it, or leave it out.",
    "RUN_NOT_FOUND": "Leave embed_router_bundle out, or ask the operator for the file of runs.",
    "RUN_NOT_FINISHED": "Call again when the run has ended; status tells.",
    # what runs
    "ROUTER_NOT_CONFIGURED": "Ask the operator to start the server with --adapters FILE.",
    "UNKNOWN_ADAPTER": "Use one of those ids; the operator says which fits.",
    "INVALID_ROUTER": _TELL_OPERATOR,
    "NEXUS_ROUTER_MISSING": _TELL_OPERATOR,
    "ROUTER_ERROR": FAILED_RUN,
    "ROUTER_RESPONSE_INVALID": FAILED_RUN,
    "EXECUTION_INTERRUPTED": FAILED_RUN,
    "OUTCOME_NOT_RECORDED": "Tell the operator; do not run it again.",
    # the store
    "STORE_BUSY": "Try again.",
    "STORE_CONFLICT": "Nothing was written: call status, then try again.",
    "STORE_UNREACHABLE": "Nothing was written: try again later, then tell the operator.",
    "COMMIT_UNKNOWN": "It may have been recorded: call status before you call again.",
    "STORE_ERROR": _TELL_OPERATOR,
    "STORE_FULL": _TELL_OPERATOR,
    "STORE_READ_ONLY": _TELL_OPERATOR,
    "STORE_UNREADABLE": _TELL_OPERATOR,
    "STORE_CLOSED": _TELL_OPERATOR,
    "SCHEMA_TOO_NEW": _TELL_OPERATOR,
    "SCHEMA_MISSING": _TELL_OPERATOR,
    "EVENT_UNREADABLE": _TELL_OPERATOR,
    "HISTORY_ALTERED": "Run nothing of it: tell the operator that its history was changed.",
    "NEXUS_ERROR": _TELL_OPERATOR,
}


def next_step(code: str) -> str:
    """What whoever made the call should do after an error with this code."""
    return ADVICE.get(code, FAILED_RUN)
