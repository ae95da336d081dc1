"""What an import tells is shown, and makes nothing executable; what was used or revoked before an import stays so."""

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from evidence_testing import new_store
from identity_testing import SIGNED_AT, Seal, statement

from nexus_control.decision import Decision, Past
from nexus_control.errors import DecisionNotFound, SignatureReplayed
from nexus_control.events import EventType
from nexus_control.export import export_decision
from nexus_control.past import past_of
from nexus_control.store import DecisionStore, EventStore
from nexus_control.tool import NexusControlTools, ToolResult

ALICE, BOB, CAROL = ({"type": "human", "id": name} for name in ("alice", "bob", "carol"))


class Router:
    """Runs everything; `runs` counts."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, **_: object) -> dict[str, Any]:
        self.runs += 1
        return {"run_id": f"run-{self.runs}", "steps_executed": 1}

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:  # noqa: ARG002 - the protocol's name
        return None


def tools_of(trust: Seal | None = None) -> NexusControlTools:
    return NexusControlTools(new_store(), trust=trust)


def requested(tools: NexusControlTools, needed: int = 1) -> str:
    result = tools.request("rotate", ALICE, mode="apply", min_approvals=needed, allowed_modes=["dry_run", "apply"])
    assert result.success
    return str(result.data["request_id"])


def exported(tools: NexusControlTools, decision_id: str) -> dict[str, Any]:
    return export_decision(tools.store, decision_id).to_dict()["bundle"]


def execute(tools: NexusControlTools, decision_id: str, *, retry: bool = False) -> ToolResult:
    return tools.execute(decision_id, "a", CAROL, Router(), retry=retry)


def signed(tools: NexusControlTools, seal: Seal, decision_id: str, *, minutes: int = 0, who: dict[str, str] = BOB) -> dict[str, Any]:
    decision = Decision.load(tools.store, decision_id)
    return seal.sign(statement(decision, who, signed_at=(SIGNED_AT + timedelta(minutes=minutes)).isoformat()))


def overwritten(tools: NexusControlTools, bundle: dict[str, Any]) -> None:
    assert tools.import_bundle(bundle, conflict_mode="overwrite").success


# -- what an import brings


@pytest.mark.parametrize("members", [{}, {"assurance": "asserted"}, {"assurance": "authenticated", "channel": "mcp-http"}])
@pytest.mark.parametrize("trust", [None, Seal()])
def test_an_imported_approval_that_nobody_signed_is_shown_and_makes_nothing_executable(members: dict[str, Any], trust: Seal | None) -> None:
    theirs, ours = tools_of(), tools_of(trust)
    decision_id = requested(theirs)
    theirs.store.append_event(decision_id, EventType.APPROVAL_GRANTED, BOB, {"expires_at": None, **members})
    told = theirs.status(decision_id).data
    assert ours.import_bundle(exported(theirs, decision_id)).success
    assert ours.status(decision_id).data == told
    assert (told["state"], told["active_approvals"], told["blocking_reasons"]) == ("approved", 1, [])
    result = execute(ours, decision_id)
    assert result.code == "POLICY_VALIDATION_FAILED"
    assert str(result.error).endswith(
        "Insufficient approvals: 0 of 1; the approval of bob does not count: IMPORTED_APPROVAL: it was imported, and nobody signed it"
    )
    assert len(ours.store.get_events(decision_id)) == 3, "a refusal writes nothing"


def test_the_same_actor_may_approve_here_what_an_import_says_that_it_approved() -> None:
    theirs, ours = tools_of(), tools_of()
    decision_id = requested(theirs)
    assert theirs.approve(decision_id, BOB).success
    assert ours.import_bundle(exported(theirs, decision_id)).success
    assert ours.approve(decision_id, BOB).success
    assert ours.approve(decision_id, BOB).code == "ALREADY_APPROVED"
    assert execute(ours, decision_id).success


def test_local_approvals_must_reach_the_threshold_without_the_imported_ones() -> None:
    theirs, ours = tools_of(), tools_of()
    decision_id = requested(theirs, needed=2)
    for who in (ALICE, BOB):
        assert theirs.approve(decision_id, who).success
    assert ours.import_bundle(exported(theirs, decision_id)).success
    assert ours.approve(decision_id, CAROL).data["current_approvals"] == 3, "told as `status` tells it"
    assert "1 of 2" in str(execute(ours, decision_id).error)
    assert ours.approve(decision_id, BOB).success
    assert execute(ours, decision_id).success


@pytest.mark.parametrize("mode", ["new_decision_id", "overwrite"])
def test_no_way_of_importing_makes_local_approvals_out_of_told_ones(mode: str) -> None:
    tools = tools_of()
    decision_id = requested(tools)
    assert tools.approve(decision_id, BOB).success
    result = tools.import_bundle(exported(tools, decision_id), conflict_mode=mode)
    assert execute(tools, result.data["imported"]["decision_id"]).code == "POLICY_VALIDATION_FAILED"


def test_an_import_without_an_origin_is_one_as_well() -> None:
    tools = tools_of()
    event = {"event_type": "APPROVAL_GRANTED", "ts": "2030-01-01T00:00:00+00:00", "actor_type": "human", "actor_id": "bob", "payload": "{}"}
    assert tools.store.import_decision_atomic("d", "2030-01-01T00:00:00+00:00", [{**event, "seq": 0, "digest": ""}]) == (True, None)
    assert tools.store.origin("d") == (1, 1)


def later(tools: NexusControlTools) -> NexusControlTools:
    """The same, at a time when what the other system did has passed here too."""
    while tools.store.clock().minute == 0:
        pass
    return tools


def test_a_signed_approval_that_is_believed_here_counts_wherever_it_was_given() -> None:
    seal = Seal()
    theirs, ours = tools_of(seal), tools_of(seal)
    decision_id = requested(theirs)
    assert theirs.approve(decision_id, BOB, signature=signed(theirs, seal, decision_id)).success
    bundle = exported(theirs, decision_id)
    assert ours.import_bundle(bundle).success
    assert execute(later(ours), decision_id).success
    blind = later(tools_of())
    assert blind.import_bundle(bundle).success
    assert "VERIFIER_MISSING" in str(execute(blind, decision_id).error)
    doubting = later(tools_of(Seal(b"another")))
    assert doubting.import_bundle(bundle).success
    assert "NOT_SEALED" in str(execute(doubting, decision_id).error)


# -- what an import cannot undo


def test_an_older_export_does_not_bring_back_a_signed_approval_that_was_used() -> None:
    seal = Seal()
    tools = tools_of(seal)
    decision_id = requested(tools)
    assert tools.approve(decision_id, BOB, signature=signed(tools, seal, decision_id)).success
    older = exported(tools, decision_id)
    assert execute(tools, decision_id).success
    overwritten(tools, older)
    result = execute(tools, decision_id)
    assert "the approval of bob does not count: SIGNATURE_REPLAYED: this signed statement was used already" in str(result.error)
    assert tools.approve(decision_id, BOB, signature=signed(tools, seal, decision_id, minutes=1)).success
    assert execute(tools, decision_id).success, "who signs anew means it"


def test_an_older_export_does_not_bring_back_a_signed_approval_that_was_revoked() -> None:
    seal = Seal()
    tools = tools_of(seal)
    decision_id = requested(tools)
    envelope = signed(tools, seal, decision_id)
    empty = exported(tools, decision_id)
    assert tools.approve(decision_id, BOB, signature=envelope).success
    older = exported(tools, decision_id)
    assert tools.revoke_approval(decision_id, BOB, "no").success
    overwritten(tools, older)
    assert "SIGNATURE_REPLAYED" in str(execute(tools, decision_id).error)
    overwritten(tools, empty)
    assert tools.approve(decision_id, BOB, signature=envelope).code == "SIGNATURE_REPLAYED", "nor can it be handed in again"


def test_a_deleted_decision_is_not_forgotten() -> None:
    seal = Seal()
    tools = tools_of(seal)
    decision_id = requested(tools)
    assert tools.approve(decision_id, BOB, signature=signed(tools, seal, decision_id)).success
    older = exported(tools, decision_id)
    assert execute(tools, decision_id).success
    assert tools.store.delete_decision(decision_id)
    assert tools.import_bundle(older).success
    assert execute(tools, decision_id).code == "POLICY_VALIDATION_FAILED"


def test_an_approval_that_was_never_used_survives_an_overwriting_import() -> None:
    seal = Seal()
    tools = tools_of(seal)
    decision_id = requested(tools)
    assert tools.approve(decision_id, BOB, signature=signed(tools, seal, decision_id)).success
    overwritten(tools, exported(tools, decision_id))
    assert execute(tools, decision_id).success


def test_of_a_decision_without_a_past_nothing_is_imported_used_or_revoked() -> None:
    past = Past()
    assert (past.imported, past.used, past.revocations) == (0, set(), {})


def test_the_latest_revocation_of_an_actor_is_the_one_that_counts() -> None:
    seal = Seal()
    tools = tools_of(seal)
    decision_id = requested(tools)
    decision = Decision.load(tools.store, decision_id)
    late = (SIGNED_AT + timedelta(hours=1)).isoformat()
    revoked = seal.sign(statement(decision, BOB, action="revoke", signed_at=late))
    tools.store.append_event(decision_id, EventType.APPROVAL_REVOKED, BOB, {"assurance": "signed", "signature": revoked})
    early = seal.sign(statement(decision, BOB, action="revoke"))
    tools.store.append_event(decision_id, EventType.APPROVAL_REVOKED, BOB, {"assurance": "signed", "signature": early})
    overwritten(tools, exported(tools, decision_id))
    past = past_of(tools.store, decision_id)
    assert (past.imported, past.used, past.revocations) == (4, set(), {"bob": datetime.fromisoformat(late)})


# -- where it is kept


def test_the_origin_of_a_decision_that_was_not_imported_is_nothing() -> None:
    store: EventStore = new_store()
    store.create_decision("d")
    assert store.origin("d") == (1, 0)
    with pytest.raises(DecisionNotFound):
        store.origin("other")
    assert store.delete_decision("d")
    with pytest.raises(DecisionNotFound):
        store.origin("d")
    store.create_decision("d")
    assert store.origin("d") == (3, 0)


@pytest.mark.parametrize(
    "statement_of", ["UPDATE imports SET events = 0", "DELETE FROM imports", "INSERT OR REPLACE INTO imports VALUES ('d', 1, 0)"]
)
def test_the_record_of_an_import_is_append_only(tmp_path: Path, statement_of: str) -> None:
    with new_store(tmp_path / "s.db") as store:
        assert store.import_decision_atomic("d", "2026-01-01T00:00:00+00:00", [])[0]
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection, pytest.raises(sqlite3.IntegrityError, match="imports is append-only"):
        connection.execute(statement_of)


def test_everything_that_an_earlier_release_imported_counts_as_imported(tmp_path: Path) -> None:
    tools = tools_of()
    decision_id = requested(tools)
    assert tools.approve(decision_id, BOB).success
    bundle = exported(tools, decision_id)
    with new_store(tmp_path / "s.db") as store:
        ours = NexusControlTools(store)
        own = requested(ours)
        assert ours.import_bundle(bundle, conflict_mode="new_decision_id").success
        imported = str(next(row[0] for row in store.decision_page(9, 0) if row[0] != own))
        assert ours.approve(imported, CAROL).success
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("DROP TABLE imports")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        assert version & 0xFF == 3
        connection.execute(f"PRAGMA user_version = {version - 1}")
        connection.commit()
    with DecisionStore(tmp_path / "s.db") as store:
        assert (store.origin(imported), store.origin(own)) == ((1, 4), (1, 0))
        assert execute(NexusControlTools(store), imported).code == "POLICY_VALIDATION_FAILED"
        assert store.verify_log().errors == []


def test_an_import_whose_record_is_missing_brought_everything(tmp_path: Path) -> None:
    with new_store(tmp_path / "s.db") as store:
        tools = NexusControlTools(store)
        decision_id = requested(tools)
        assert tools.approve(decision_id, BOB).success
        copy = str(tools.import_bundle(exported(tools, decision_id), conflict_mode="new_decision_id").data["imported"]["decision_id"])
        assert tools.approve(copy, CAROL).success
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.executescript("DROP TRIGGER imports_refuse_delete; DELETE FROM imports")
    with DecisionStore(tmp_path / "s.db") as store:
        assert store.origin(copy) == (1, 4)


@pytest.mark.parametrize("action", ["execute", "reject", "revoke"])
def test_only_an_approval_must_have_been_signed_after_its_signers_last_revocation(action: Any) -> None:
    seal = Seal()
    decision = Decision("d", goal="rotate")
    past = Past(revocations={"bob": SIGNED_AT})
    past.judge(seal.envelope(statement(decision, BOB, action, signed_at=SIGNED_AT.isoformat()).payload()))
    with pytest.raises(SignatureReplayed):
        past.judge(seal.envelope(statement(decision, BOB, signed_at=SIGNED_AT.isoformat()).payload()))
