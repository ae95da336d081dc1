"""Every error of the engine: one class per decision that a caller can take, each with a stable `code`.

    NexusError
    |-- InputError (ValueError)              the caller's argument is wrong; nothing was written
    |   |-- InvalidActor  InvalidPolicy  InvalidTemplate  InvalidExpiresAt  ModeNotAllowed  InvalidRouter
    |   |-- InvalidEnvelope  SignatureMissing
    |   |-- DecisionNotFound  TemplateNotFound  FileRefused
    |   |-- InvalidPlan                      a plan names steps, but not ones that can be run
    |   |   `-- PlanNotExecutable            a plan names no steps, and the adapter has no default call
    |   `-- DecisionExists  TemplateExists  ConcurrencyError
    |-- MalformedEvent (ValueError)          a stored row cannot be read as an event
    |-- MalformedBundle (ValueError)         a bundle or package cannot be built from the data
    |-- MalformedNote (ValueError)           a text is no signed note, checkpoint or verifier key
    |-- CommandRefused                       well-formed, but the decision's state or policy forbids it
    |   |-- CannotApprove  AlreadyApproved  LookAlikeActor  CannotRevoke  NotApproved  AlreadyRevoked
    |   |-- PolicyViolation  NoPolicy  ActionChanged  HistoryAltered
    |   |-- AlreadyExecuted  ExecutionInProgress  ExecutionFailed  ExecutionSuperseded
    |   |-- NothingToRecover
    |   `-- IdentityRefused                  who said it is not established; a trust policy's refusals are children too
    |       |-- SignatureForOtherDecision  SignatureForOtherAction  SignatureForOtherActor  SignatureForOtherCommand
    |       `-- SignatureReplayed  VerifierMissing
    |-- CodedError                           its code comes from elsewhere, such as from a result
    |-- RunFailure                           the router's run failed; carries the router's own code
    |-- StoresDiffer                         a copy of a store is not, or would not be, the same
    |-- LogRewritten                         the log is not what its own checkpoint says
    `-- StoreError                           the database cannot do it now
        |-- StoreBusy  StoreFull  StoreConflict  StoreReadOnly  StoreUnreadable  StoreClosed  SchemaTooNew
        |-- CommitUnknown                    it broke off in a commit
        `-- StoreUnreachable  SchemaMissing  a database on a server

A text may change between releases, a code may not. The tool boundary (`nexus_control.tool`) turns these, and nothing else, into
results; any other exception is a bug and surfaces as one.
"""

__all__ = [
    "ActionChanged",
    "AlreadyApproved",
    "AlreadyExecuted",
    "AlreadyRevoked",
    "CannotApprove",
    "CannotRevoke",
    "CodedError",
    "CommandRefused",
    "CommitUnknown",
    "ConcurrencyError",
    "DecisionExists",
    "DecisionNotFound",
    "ExecutionFailed",
    "ExecutionInProgress",
    "ExecutionSuperseded",
    "FileRefused",
    "HistoryAltered",
    "IdentityRefused",
    "ImportedApproval",
    "InputError",
    "InvalidActor",
    "InvalidEnvelope",
    "InvalidExpiresAt",
    "InvalidPlan",
    "InvalidPolicy",
    "InvalidRouter",
    "InvalidTemplate",
    "LogRewritten",
    "LookAlikeActor",
    "MalformedBundle",
    "MalformedEvent",
    "MalformedNote",
    "ModeNotAllowed",
    "NexusError",
    "NoPolicy",
    "NotApproved",
    "NothingToRecover",
    "PlanNotExecutable",
    "PolicyViolation",
    "RunFailure",
    "SchemaMissing",
    "SchemaTooNew",
    "SignatureForOtherAction",
    "SignatureForOtherActor",
    "SignatureForOtherCommand",
    "SignatureForOtherDecision",
    "SignatureMissing",
    "SignatureReplayed",
    "StoreBusy",
    "StoreClosed",
    "StoreConflict",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnreachable",
    "StoreUnreadable",
    "StoresDiffer",
    "TemplateExists",
    "TemplateNotFound",
    "VerifierMissing",
]


def brief(value: object) -> str:
    """A wrong value as an error text shows it: the beginning of a text, anything else by its type (some integers cannot be written)."""
    return f"{value!r:.100}" if isinstance(value, str) else type(value).__name__


class NexusError(Exception):
    """Base of everything that the engine raises on purpose."""

    code: str = "NEXUS_ERROR"
    """Stable and machine readable; published in docs/errors.md."""

    def describe(self) -> str:
        """The line that a tool result shows: the code, then the text for people."""
        return f"{self.code}: {self}"


class InputError(NexusError, ValueError):
    """An argument has the wrong type, shape or value."""

    code = "INVALID_ARGUMENT"


class InvalidActor(InputError):
    """An actor is not `{"type": "human" | "system", "id": <non-empty string>}`."""

    code = "INVALID_ACTOR"


class InvalidPolicy(InputError):
    """A policy value is out of range, of the wrong type or incomplete."""

    code = "INVALID_POLICY"


class InvalidTemplate(InputError):
    """A template value is out of range, of the wrong type or incomplete."""

    code = "INVALID_TEMPLATE"


class InvalidExpiresAt(InputError):
    """An expiry is no ISO 8601 time with an offset."""

    code = "INVALID_EXPIRES_AT"


class ModeNotAllowed(InputError):
    """The requested mode is not among the modes of the effective policy."""

    code = "MODE_NOT_ALLOWED"


class InvalidRouter(InputError):
    """The object given as router lacks `run` or `get_adapter_capabilities`."""

    code = "INVALID_ROUTER"


class InvalidEnvelope(InputError):
    """A signature is no DSSE envelope with one Ed25519 signature over the canonical bytes of a statement."""

    code = "ENVELOPE_INVALID"


class SignatureMissing(InputError):
    """An actor is called signed, and there is no signature."""

    code = "SIGNATURE_MISSING"


class DecisionNotFound(InputError):
    """No decision has this id (or its newest generation is a tombstone)."""

    code = "DECISION_NOT_FOUND"

    def __init__(self, decision_id: object) -> None:
        super().__init__(f"Decision not found: {decision_id!s:.200}")


class TemplateNotFound(InputError):
    """No template has this name."""

    code = "TEMPLATE_NOT_FOUND"


class FileRefused(InputError):
    """A file that was given is missing, no regular file, unreadable, too large or not text."""

    code = "FILE_NOT_READABLE"


class DecisionExists(InputError):
    """A decision with this id exists already."""

    code = "DECISION_EXISTS"


class TemplateExists(InputError):
    """A template with this name exists already; templates are immutable."""

    code = "TEMPLATE_ALREADY_EXISTS"


class InvalidPlan(InputError):
    """A plan is a JSON list or object, but not one of well-formed steps."""

    code = "PLAN_INVALID"


class PlanNotExecutable(InvalidPlan):
    """A plan holds no steps: it is prose, empty or absent, and the adapter declares no default call."""

    code = "PLAN_NOT_EXECUTABLE"


class ConcurrencyError(InputError):
    """Somebody else appended first: the expected `seq` is taken. Read again, then decide again."""

    code = "CONCURRENT_MODIFICATION"


class MalformedEvent(NexusError, ValueError):
    """A stored row cannot be read as an event (unknown type, unreadable time or payload)."""

    code = "EVENT_UNREADABLE"


class MalformedBundle(NexusError, ValueError):
    """A bundle or audit package cannot be built from the given data."""

    code = "BUNDLE_INVALID_SCHEMA"


class MalformedNote(NexusError, ValueError):
    """A text is no signed note, no checkpoint or no verifier key; or a value cannot be written as one."""

    code = "NOTE_INVALID"


class CommandRefused(NexusError):
    """The command is well-formed, but the decision as it stands does not allow it."""

    code = "REFUSED"


class CannotApprove(CommandRefused):
    """Approvals are taken only before an execution."""

    code = "CANNOT_APPROVE"


class AlreadyApproved(CommandRefused):
    """This actor has an approval that still counts."""

    code = "ALREADY_APPROVED"


class LookAlikeActor(CommandRefused):
    """The actor's id looks like that of the requester, or of somebody whose approval counts, and is not the same."""

    code = "LOOK_ALIKE_ACTOR"


class CannotRevoke(CommandRefused):
    """An execution is running or done; its approvals are history."""

    code = "CANNOT_REVOKE"


class NotApproved(CommandRefused):
    """This actor never approved the decision."""

    code = "NOT_APPROVED"


class AlreadyRevoked(CommandRefused):
    """This actor's approval is revoked already."""

    code = "ALREADY_REVOKED"


class NoPolicy(CommandRefused):
    """The decision has no policy; nothing can be judged against it."""

    code = "NO_POLICY"

    def __init__(self) -> None:
        super().__init__("The decision has no policy; nothing can be executed")


class PolicyViolation(CommandRefused):
    """The execution request does not satisfy the policy."""

    code = "POLICY_VALIDATION_FAILED"

    def describe(self) -> str:
        """The published text of this refusal starts with the sentence, not with the code."""
        return str(self)


class ActionChanged(CommandRefused):
    """Goal, plan, mode, labels or policy changed after the approvals were given."""

    code = "ACTION_CHANGED"


class HistoryAltered(CommandRefused):
    """The stored events of a decision do not follow from each other: rows were changed, added or removed. Nothing may be run on them."""

    code = "HISTORY_ALTERED"


class AlreadyExecuted(CommandRefused):
    """The approved run has happened; an authorization is good for one."""

    code = "ALREADY_EXECUTED"


class ExecutionInProgress(CommandRefused):
    """Another caller holds the execution, or died holding it."""

    code = "EXECUTION_IN_PROGRESS"


class ExecutionFailed(CommandRefused):
    """The last execution failed; a new one needs an explicit retry."""

    code = "EXECUTION_FAILED"


class ExecutionSuperseded(CommandRefused):
    """The run ended after another execution had begun, or its decision was replaced: only the record of the run has its outcome."""

    code = "EXECUTION_SUPERSEDED"


class NothingToRecover(CommandRefused):
    """The decision is not stuck in an execution."""

    code = "NOTHING_TO_RECOVER"


class IdentityRefused(CommandRefused):
    """It is not established, or not strongly enough, that this actor said this."""

    code = "IDENTITY_REFUSED"


class SignatureForOtherDecision(IdentityRefused):
    """The signed statement names another decision."""

    code = "SIGNATURE_FOR_OTHER_DECISION"


class SignatureForOtherAction(IdentityRefused):
    """The signed statement is about this decision, but its action was another one when it was signed."""

    code = "SIGNATURE_FOR_OTHER_ACTION"


class SignatureForOtherActor(IdentityRefused):
    """The signed statement is in the name of somebody else."""

    code = "SIGNATURE_FOR_OTHER_ACTOR"


class SignatureForOtherCommand(IdentityRefused):
    """The signed statement says something else than the command: another action, comment or expiry."""

    code = "SIGNATURE_FOR_OTHER_COMMAND"


class SignatureReplayed(IdentityRefused):
    """The signed statement was used already, or was signed before its signer revoked."""

    code = "SIGNATURE_REPLAYED"


class ImportedApproval(IdentityRefused):
    """The approval came with an import and is not signed: it is what another system says, and makes nothing executable here."""

    code = "IMPORTED_APPROVAL"


class VerifierMissing(IdentityRefused):
    """There is a signature, and no trust policy to check it with."""

    code = "VERIFIER_MISSING"


class CodedError(NexusError):
    """An error whose code comes from elsewhere, such as from the result of an export or import."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RunFailure(NexusError):
    """The router's run failed after the claim; an EXECUTION_FAILED event is stored under the same code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoreError(NexusError):
    """The database cannot do what was asked; the transaction was rolled back."""

    code = "STORE_ERROR"


class StoreBusy(StoreError):
    """Another process held the write lock for longer than the busy timeout."""

    code = "STORE_BUSY"


class StoreConflict(StoreError):
    """A row stands already where this one belongs, or contradicts it. Nothing was written."""

    code = "STORE_CONFLICT"


class StoreFull(StoreError):
    """The disk or the database file's size limit is exhausted."""

    code = "STORE_FULL"


class StoreReadOnly(StoreError):
    """The database file, or its folder, cannot be written."""

    code = "STORE_READ_ONLY"


class StoreUnreadable(StoreError):
    """The file is no database, or is damaged."""

    code = "STORE_UNREADABLE"


class StoreClosed(StoreError):
    """The store was closed; open a new one."""

    code = "STORE_CLOSED"


class SchemaTooNew(StoreError):
    """The file was written by a newer release, whose schema this one does not know."""

    code = "SCHEMA_TOO_NEW"


class StoreUnreachable(StoreError):
    """The database server cannot be reached, or the connection was lost before the commit. Nothing was written."""

    code = "STORE_UNREACHABLE"


class CommitUnknown(StoreError):
    """A lost connection or a failing disk ended a commit, and whether it happened could not be learned. Read again before repeating it."""

    code = "COMMIT_UNKNOWN"


class SchemaMissing(StoreError):
    """The database has no store, or one of an older release, and it may not be made or migrated here; or this role has no rights in it."""

    code = "SCHEMA_MISSING"


class StoresDiffer(NexusError):
    """A store is not what it should be a copy of: another log, a later state, or a row that is not the same."""

    code = "STORES_DIFFER"


class LogRewritten(NexusError):
    """The log is not what one of its own checkpoints says: it was cut off or rewritten, and nothing of it may be signed."""

    code = "LOG_REWRITTEN"
