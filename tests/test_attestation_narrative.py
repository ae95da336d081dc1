"""Narratives: what they say of sound evidence, and which check names each thing that was tampered with."""

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from bytes_testing import leaves
from hypothesis import given
from hypothesis import strategies as st
from xrpl_testing import NOON, intent

from nexus_attest.attestation import AttestationReceipt, ReceiptError, ReceiptStatus
from nexus_attest.attestation.errors import InvalidNarrative
from nexus_attest.attestation.narrative import (
    CANONICALIZATION,
    NARRATIVE_SCHEMA,
    NARRATIVE_VERSION,
    AttemptDiff,
    CheckStatus,
    ExchangeEvidence,
    IntegrityCheck,
    NarrativeReport,
    ReceiptEntry,
    XrplWitness,
    build_narrative,
    diff_attempts,
    load_narrative,
    parse_narrative,
    render_narrative,
    show_intent,
    show_queue,
    verify_narrative,
    verify_narrative_digest,
)
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.storage import AttestationStorage
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.memo import MemoCodec
from nexus_attest.attestation.xrpl.transport import ExchangeRecord
from nexus_control import __version__
from nexus_control.errors import FileRefused, InputError
from nexus_control.integrity import content_digest, prefixed, sha256_digest
from nexus_control.merkle import leaf_hash, node_hash

REQUEST, RESPONSE = b'{"method":"tx"}', b'{"result":{}}'
SUBMIT = ExchangeRecord(prefixed("1" * 64), prefixed("2" * 64), NOON)
TX = ExchangeRecord(prefixed(sha256_digest(REQUEST)), prefixed(sha256_digest(RESPONSE)), NOON)
UNKNOWN = "sha256:" + "0" * 64
LATER = "2025-01-15T12:00:05+00:00"


def confirmed(queue_id: str, *, attempt: int = 2, time: str = LATER, **proof: Any) -> AttestationReceipt:
    evidence = {"memo_digest": MemoCodec.digest(INTENT), "xrpl.tx.exchange": TX.content_digest()}
    found = {"tx_hash": "AB", "ledger_index": 7, "engine_result": "tesSUCCESS", "ledger_close_time": NOON, "account": "rA", "key_id": "k1"}
    return AttestationReceipt(queue_id, "xrpl", attempt, ReceiptStatus.CONFIRMED, time, evidence, {**found, **proof})


INTENT = intent(env="prod", run_id="run_1", labels={"team": "ops"})


def witnessed(queue: AttestationQueue) -> str:
    """An intent that failed once and was then submitted and confirmed."""
    queue_id = queue.enqueue(INTENT, created_at=NOON)
    memo = {"memo_digest": MemoCodec.digest(INTENT)}
    queue.record_receipt(
        AttestationReceipt(
            queue_id, "xrpl", 1, ReceiptStatus.FAILED, NOON, memo, error=ReceiptError("TIMEOUT", "no answer from https://u:hunter2@node/")
        ),
        intent_status=ReceiptStatus.DEFERRED,
    )
    evidence = {**memo, "xrpl.submit.exchange": SUBMIT.content_digest()}
    proof = {"tx_hash": "AB", "engine_result": "tesSUCCESS", "key_id": "k1"}
    queue.record_receipt(AttestationReceipt(queue_id, "xrpl", 2, ReceiptStatus.SUBMITTED, NOON, evidence, proof))
    queue.record_receipt(confirmed(queue_id))
    return queue_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def queue(path: Path) -> Iterator[AttestationQueue]:
    with AttestationQueue(path) as found:
        yield found


@pytest.fixture
def exchanges(tmp_path: Path) -> Iterator[ExchangeStore]:
    with ExchangeStore(tmp_path / "exchanges.db", tmp_path / "bodies") as store:
        store.put(SUBMIT, request_body=b"\xff\x00", response_body=b"other bytes")
        store.put(TX, request_body=REQUEST, response_body=RESPONSE)
        yield store


def failed(report: NarrativeReport) -> list[str]:
    return [check.name for check in report.checks if check.status is CheckStatus.FAIL]


def outcomes(report: NarrativeReport) -> list[tuple[str, str]]:
    return [(check.name, check.status.value) for check in report.checks]


# -- sound evidence ----------------------------------------------------------------------------------------------------


def test_constants_are_the_published_ones() -> None:
    assert (NARRATIVE_VERSION, NARRATIVE_SCHEMA) == ("0.1", "nexus.attestation.narrative.v0.1")
    versions = {"nexus_control": __version__, "narrative": "0.1", "intent": "0.1", "receipt": "0.1", "memo": "0.1"}
    assert {
        "hash_algorithm": "sha256",
        "serialization": "JCS",
        "serialization_spec": "RFC 8785",
        "encoding": "utf-8",
        "attempt_semantics": "cycle:1-indexed",
        "versions": versions,
    } == CANONICALIZATION


def test_an_unknown_intent_is_one_failed_check_and_no_status(queue: AttestationQueue) -> None:
    report = show_intent(queue, UNKNOWN)
    assert outcomes(report) == [("intent_exists", "FAIL")]
    assert sorted(report.to_dict()) == [
        "canonicalization",
        "checks",
        "intent_digest",
        "intent_found",
        "narrative_digest",
        "narrative_version",
        "schema",
    ]
    assert report.narrative_digest is not None
    assert len(report.narrative_digest) == 71
    assert "NOT FOUND" in report.render()
    assert "INTEGRITY CHECKS" in report.render()


def test_a_fresh_intent_has_its_header_and_a_skipped_check_of_receipts(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(INTENT, created_at=NOON)
    report = show_intent(queue, queue_id)
    assert outcomes(report) == [("intent_digest_valid", "PASS"), ("receipts_intent_consistent", "SKIP")]
    assert (report.checks[0].expected, report.checks[0].actual) == (queue_id, queue_id)
    data = report.to_dict()
    assert {key: data[key] for key in ("subject_type", "binding_digest", "env", "created_at", "current_status", "total_attempts")} == {
        "subject_type": "nexus.audit_package",
        "binding_digest": "sha256:" + "a" * 64,
        "env": "prod",
        "created_at": NOON,
        "current_status": "PENDING",
        "total_attempts": 0,
    }
    assert not {"receipts", "witness", "last_error_code", "bodies"} & set(data)


def test_sound_evidence_passes_every_check_in_the_published_order(queue: AttestationQueue, exchanges: ExchangeStore) -> None:
    report = show_intent(queue, witnessed(queue), exchange_store=exchanges, include_bodies=True)
    assert {check.status for check in report.checks} == {CheckStatus.PASS}
    assert [check.name for check in report.checks] == [
        "intent_digest_valid",
        "receipts_intent_consistent",
        "receipt_digest_valid",
        "witness_exchange_valid",
        "receipt_digest_valid",
        "witness_exchange_valid",
        "exchange_exists:xrpl.submit.exchange",
        "body_exists:xrpl.submit.exchange:request",
        "body_exists:xrpl.submit.exchange:response",
        "receipt_digest_valid",
        "witness_exchange_valid",
        "exchange_exists:xrpl.tx.exchange",
        "body_exists:xrpl.tx.exchange:request",
        "body_exists:xrpl.tx.exchange:response",
    ]
    assert "3 receipts" in report.checks[1].reason
    assert "Not applicable" in report.checks[3].reason
    assert [check.status for check in verify_narrative(report)] == [CheckStatus.PASS] * 6


def test_receipts_and_witness_tell_what_the_receipts_hold(queue: AttestationQueue, exchanges: ExchangeStore) -> None:
    queue_id = witnessed(queue)
    report = show_intent(queue, queue_id, exchange_store=exchanges)
    first, _, last = report.receipts
    assert first.to_dict() == {
        "attempt": 1,
        "status": "FAILED",
        "created_at": NOON,
        "backend": "xrpl",
        "receipt_digest": prefixed(queue.replay(queue_id)[0].receipt_digest()),
        "error_code": "TIMEOUT",
        "error_detail": "no answer from https://[redacted:url-password]@node/",
        "memo_digest": MemoCodec.digest(INTENT),
    }
    assert last.exchanges == (
        ExchangeEvidence("xrpl.tx.exchange", TX.content_digest(), True, TX.request_digest, TX.response_digest, NOON, True, True),
    )
    memo = {"bd": INTENT.binding_digest, "env": "prod", "id": queue_id, "rid": "run_1", "st": "nexus.audit_package"}
    assert report.witness == XrplWitness("AB", 7, NOON, "tesSUCCESS", "rA", "k1", {**memo, "t": "nexus.attest", "v": "0.1"})
    assert (report.current_status, report.total_attempts, report.last_error_code) == ("CONFIRMED", 2, None)


def test_the_same_data_give_the_same_text_under_all_three_names(queue: AttestationQueue, exchanges: ExchangeStore) -> None:
    queue_id = witnessed(queue)
    texts = {
        show_intent(queue, queue_id, exchange_store=exchanges).to_json(),
        show_queue(queue, queue_id, exchange_store=exchanges).to_json(),
        build_narrative(queue=queue, intent_digest=queue_id, exchange_store=exchanges).to_json(),
    }
    assert len(texts) == 1
    assert show_intent(queue, queue_id, exchange_store=exchanges).to_json(indent=None).count("\n") == 0


def test_without_an_exchange_store_evidence_is_skipped_and_never_passes(queue: AttestationQueue) -> None:
    report = show_intent(queue, witnessed(queue), include_bodies=True, verify_bodies=True)
    assert [name for name, status in outcomes(report) if status == "SKIP"] == [
        "exchange_exists:xrpl.submit.exchange",
        "witness_exchange_valid",
        "exchange_exists:xrpl.tx.exchange",
    ]
    assert report.receipts[2].exchanges == (ExchangeEvidence("xrpl.tx.exchange", TX.content_digest()),)
    assert failed(report) == []


@pytest.mark.parametrize("index", ["7", 7.5, True, 0, None, [7]])
def test_a_ledger_index_that_is_no_number_gives_no_witness(queue: AttestationQueue, index: object) -> None:
    queue_id = queue.enqueue(INTENT)
    queue.record_receipt(confirmed(queue_id, ledger_index=index))
    report = show_intent(queue, queue_id)
    assert report.witness is None
    assert parse_narrative(report.to_json()) == report


@pytest.mark.parametrize("proof", [{"tx_hash": 5}, {"tx_hash": ""}, {"engine_result": {}}, {"account": 1, "key_id": ["k"]}])
def test_a_proof_of_odd_types_is_told_as_far_as_it_fits(queue: AttestationQueue, proof: dict[str, Any]) -> None:
    queue_id = queue.enqueue(INTENT)
    queue.record_receipt(confirmed(queue_id, **proof))
    report = show_intent(queue, queue_id)
    assert (report.witness is None) is ("tx_hash" in proof)
    assert parse_narrative(report.to_json()) == report


def test_a_memo_that_is_not_the_one_of_the_receipt_is_not_shown(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(INTENT)
    queue.record_receipt(replace(confirmed(queue_id), evidence_digests={"memo_digest": UNKNOWN}))
    witness = show_intent(queue, queue_id).witness
    assert witness is not None
    assert witness.memo_payload is None


def test_a_narrative_digest_is_that_of_everything_else(queue: AttestationQueue) -> None:
    data = show_intent(queue, witnessed(queue)).to_dict()
    assert data.pop("narrative_digest") == prefixed(content_digest(data))


@pytest.mark.parametrize("value", [5, None, b"sha256:", ["x"]])
def test_what_is_no_text_is_no_digest(queue: AttestationQueue, value: Any) -> None:
    with pytest.raises(InputError, match="intent digest"):
        show_intent(queue, value)


@pytest.mark.parametrize("value", ["", "\ud800", "x" * 100_000, "sha256:" + "A" * 64, "\x00"])
def test_any_text_can_be_asked_for(queue: AttestationQueue, value: str) -> None:
    assert parse_narrative(show_intent(queue, value).to_json()).intent_found is False


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_bodies_are_compared_with_their_digests_when_asked(queue: AttestationQueue, exchanges: ExchangeStore) -> None:
    report = show_intent(queue, witnessed(queue), exchange_store=exchanges, verify_bodies=True)
    assert failed(report) == ["body_digest_valid:xrpl.submit.exchange:request", "body_digest_valid:xrpl.submit.exchange:response"]
    assert {name for name, status in outcomes(report) if status == "PASS" and name.startswith("body")} == {
        "body_digest_valid:xrpl.tx.exchange:request",
        "body_digest_valid:xrpl.tx.exchange:response",
    }


def test_a_body_that_is_gone_fails_both_checks(queue: AttestationQueue, exchanges: ExchangeStore, tmp_path: Path) -> None:
    queue_id, digest = witnessed(queue), TX.response_digest.removeprefix("sha256:")
    (tmp_path / "bodies" / "sha256" / digest[:2] / f"{digest}.blob").unlink()
    report = show_intent(queue, queue_id, exchange_store=exchanges, include_bodies=True, verify_bodies=True)
    assert [name for name in failed(report) if "tx" in name] == [
        "body_exists:xrpl.tx.exchange:response",
        "body_digest_valid:xrpl.tx.exchange:response",
    ]


def test_embedded_bodies_are_texts_by_digest_and_change_nothing_else(queue: AttestationQueue, exchanges: ExchangeStore) -> None:
    queue_id = witnessed(queue)
    plain = show_intent(queue, queue_id, exchange_store=exchanges)
    report = show_intent(queue, queue_id, exchange_store=exchanges, embed_bodies=True)
    assert report.to_dict()["bodies"] == {
        SUBMIT.request_digest: "\\xff\x00",
        SUBMIT.response_digest: "other bytes",
        TX.request_digest: REQUEST.decode(),
        TX.response_digest: RESPONSE.decode(),
    }
    assert replace(report, bodies=None, narrative_digest=None) == replace(plain, narrative_digest=None)
    assert parse_narrative(report.to_json()) == report
    bodies = {check.expected: check.status.value for check in verify_narrative(report)[6:]}
    assert bodies == {
        SUBMIT.request_digest: "FAIL",
        SUBMIT.response_digest: "FAIL",
        TX.request_digest: "PASS",
        TX.response_digest: "PASS",
    }


def test_secrets_in_bodies_and_error_texts_are_redacted_unless_not_wanted(queue: AttestationQueue, tmp_path: Path) -> None:
    seed = "sEdTM1uX8pu2do5XvTnutH6HsouMaM2"
    body = f'{{"secret":"{seed}"}}'.encode()
    record = ExchangeRecord(prefixed(sha256_digest(body)), prefixed("3" * 64), NOON)
    queue_id = queue.enqueue(INTENT)
    error = ReceiptError("REJECTED", f"bad seed {seed}")
    evidence = {"xrpl.submit.exchange": record.content_digest()}
    queue.record_receipt(AttestationReceipt(queue_id, "xrpl", 1, ReceiptStatus.FAILED, NOON, evidence, error=error))
    with ExchangeStore(":memory:", tmp_path / "b") as store:
        store.put(record, request_body=body)
        hidden = show_intent(queue, queue_id, exchange_store=store, embed_bodies=True)
        shown = show_intent(queue, queue_id, exchange_store=store, embed_bodies=True, redact=False)
    assert seed not in hidden.to_json() + hidden.render()
    assert hidden.to_json().count("[redacted:xrpl-seed]") == 2
    assert shown.to_json().count(seed) == 2
    assert [check.status.value for check in verify_narrative(hidden)][6:] == ["SKIP"]
    assert [check.status.value for check in verify_narrative(shown)][6:] == ["PASS"]


@pytest.mark.parametrize("kind", ["mkfifo", "mkdir"])
def test_what_is_no_file_in_the_place_of_a_body_is_none(tmp_path: Path, kind: str) -> None:
    if not hasattr(os, kind):
        pytest.skip("this system has no pipes with names")
    with ExchangeStore(tmp_path / "exchanges.db", tmp_path / "bodies") as store:
        store.put(TX, request_body=REQUEST, response_body=RESPONSE)
        (body,) = (path for path in (tmp_path / "bodies").rglob("*") if path.is_file() and path.read_bytes() == REQUEST)
        body.unlink()
        getattr(os, kind)(body)
        assert (store.get_body(TX.request_digest), store.body_exists(TX.request_digest)) == (None, False)
        assert store.get_body(TX.response_digest) == RESPONSE


def test_digests_under_which_no_body_can_be_are_no_errors(queue: AttestationQueue, tmp_path: Path) -> None:
    record = ExchangeRecord("../../etc/passwd", "sha256:../x", NOON)
    queue_id = queue.enqueue(INTENT)
    evidence = {"xrpl.tx.exchange": record.content_digest()}
    queue.record_receipt(replace(confirmed(queue_id), evidence_digests=evidence))
    with ExchangeStore(":memory:", tmp_path / "b") as store:
        store.put(record)
        report = show_intent(queue, queue_id, exchange_store=store, include_bodies=True, verify_bodies=True, embed_bodies=True)
    assert failed(report) == [
        f"body_{kind}:xrpl.tx.exchange:{part}" for kind in ("exists", "digest_valid") for part in ("request", "response")
    ]
    assert report.bodies == {}


# -- tampering with what is stored -------------------------------------------------------------------------------------


def unguarded(path: Path) -> sqlite3.Connection:
    """A connection for somebody who owns the file: what refuses changes to receipts is taken away first."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    return connection


def rewrite(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the queue's back."""
    with unguarded(path) as connection:
        assert connection.execute(statement, values).rowcount >= 1
    connection.close()


def stored_text(path: Path, table: str, column: str, where: str = "1") -> bytes:
    with sqlite3.connect(path) as connection:
        (text,) = connection.execute(f"SELECT CAST({column} AS BLOB) FROM {table} WHERE {where}").fetchone()
    connection.close()
    return text


def test_every_byte_of_a_stored_receipt_is_covered(queue: AttestationQueue, path: Path) -> None:
    queue_id = witnessed(queue)
    text = stored_text(path, "attestation_receipts", "receipt_json", "status = 'CONFIRMED'")
    connection = unguarded(path)
    for place in range(len(text)):
        for other in (text[place] ^ 1, 0xFF) if place % 10 == 0 else (text[place] ^ 1,):
            tampered = text[:place] + bytes([other]) + text[place + 1 :]
            connection.execute("UPDATE attestation_receipts SET receipt_json = CAST(? AS TEXT) WHERE status = 'CONFIRMED'", (tampered,))
            assert "receipt_digest_valid" in failed(show_intent(queue, queue_id)), tampered
    connection.close()


def test_every_byte_of_a_stored_intent_is_covered(queue: AttestationQueue, path: Path) -> None:
    queue_id = witnessed(queue)
    text = stored_text(path, "attestation_intents", "intent_json")
    connection = unguarded(path)
    for place in range(len(text)):
        for other in (text[place] ^ 1, 0xFF) if place % 10 == 0 else (text[place] ^ 1,):
            tampered = text[:place] + bytes([other]) + text[place + 1 :]
            connection.execute("UPDATE attestation_intents SET intent_json = CAST(? AS TEXT)", (tampered,))
            assert failed(show_intent(queue, queue_id)) == ["intent_digest_valid"], tampered
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("attempt", 9), ("status", "FAILED"), ("created_at", "2020-01-01T00:00:00Z"), ("backend", "other"), ("receipt_digest", "f" * 64)],
)
def test_every_column_of_a_receipt_is_covered(queue: AttestationQueue, path: Path, column: str, value: object) -> None:
    queue_id = witnessed(queue)
    rewrite(path, f"UPDATE attestation_receipts SET {column} = ? WHERE status = 'CONFIRMED'", value)
    assert failed(show_intent(queue, queue_id)) == ["receipt_digest_valid"]


def test_another_queue_id_is_found(queue: AttestationQueue, path: Path) -> None:
    queue_id = witnessed(queue)
    rewrite(path, "UPDATE attestation_intents SET queue_id = ?", UNKNOWN)
    assert failed(show_intent(queue, queue_id)) == ["intent_digest_valid"]


def test_a_receipt_of_another_intent_is_found_also_when_its_digest_is_right(queue: AttestationQueue, path: Path) -> None:
    queue_id = witnessed(queue)
    foreign = confirmed(UNKNOWN)
    rewrite(
        path,
        "UPDATE attestation_receipts SET receipt_json = ?, receipt_digest = ? WHERE status = 'CONFIRMED'",
        json.dumps(foreign.to_dict()),
        foreign.receipt_digest(),
    )
    report = show_intent(queue, queue_id)
    assert failed(report) == ["receipts_intent_consistent"]
    assert report.checks[1].actual == UNKNOWN


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "[" * 100_000, '{"a":NaN}', '{"a":1,"a":2}', "1" * 5000, '{"proof":' * 2000, '"\\ud800"', "\x00"]
)
def test_stored_text_of_any_kind_is_a_failed_check_and_no_exception(queue: AttestationQueue, path: Path, text: str) -> None:
    queue_id = witnessed(queue)
    rewrite(path, "UPDATE attestation_receipts SET receipt_json = ? WHERE status = 'CONFIRMED'", text)
    report = show_intent(queue, queue_id)
    assert failed(report) == ["receipts_intent_consistent", "receipt_digest_valid", "witness_exchange_valid"]
    assert (report.witness, report.receipts[2].status, report.receipts[2].tx_hash) == (None, "CONFIRMED", None)
    rewrite(path, "UPDATE attestation_intents SET intent_json = ?", text)
    report = show_intent(queue, queue_id)
    assert failed(report)[0] == "intent_digest_valid"
    assert (report.subject_type, report.created_at) == (None, NOON)
    assert parse_narrative(report.to_json()) == report


def test_a_confirmation_without_its_exchange_fails(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(INTENT)
    queue.record_receipt(replace(confirmed(queue_id), evidence_digests={}))
    report = show_intent(queue, queue_id)
    assert failed(report) == ["witness_exchange_valid"]
    assert "missing xrpl.tx.exchange" in report.checks[3].reason


def test_an_exchange_that_the_store_does_not_have_fails(queue: AttestationQueue) -> None:
    with ExchangeStore() as empty:
        report = show_intent(queue, witnessed(queue), exchange_store=empty, include_bodies=True, verify_bodies=True)
    assert failed(report) == ["exchange_exists:xrpl.submit.exchange", "witness_exchange_valid", "exchange_exists:xrpl.tx.exchange"]
    assert "not found in store" in next(
        check.reason for check in report.checks if check.name == "witness_exchange_valid" and check.expected
    )


@pytest.mark.parametrize("value", [b"sha256:changed", b"\xff"])
@pytest.mark.parametrize("column", ["request_digest", "response_digest"])
def test_a_record_that_was_changed_is_not_the_one_that_was_meant(
    queue: AttestationQueue, exchanges: ExchangeStore, tmp_path: Path, column: str, value: bytes
) -> None:
    queue_id = witnessed(queue)
    rewrite(
        tmp_path / "exchanges.db",
        f"UPDATE dcl_exchanges SET {column} = CAST(? AS TEXT) WHERE content_digest = ?",
        value,
        TX.content_digest(),
    )
    report = show_intent(queue, queue_id, exchange_store=exchanges)
    assert failed(report) == ["witness_exchange_valid", "exchange_exists:xrpl.tx.exchange"]
    assert report.receipts[2].exchanges[0].record_found is False


def test_a_removed_receipt_or_confirmation_shows_in_the_report_itself(queue: AttestationQueue, path: Path) -> None:
    queue_id = witnessed(queue)
    rewrite(path, "DELETE FROM attestation_receipts WHERE attempt = 2")
    report = show_intent(queue, queue_id)
    assert failed(report) == []
    assert [check.name for check in verify_narrative(report) if check.status is CheckStatus.FAIL] == ["status_consistent"]


# -- a report as a document --------------------------------------------------------------------------------------------


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return ("0" if value[-1:] != "0" else "1").join([value[:-1], ""]) if isinstance(value, str) else "x"


@pytest.fixture
def document(queue: AttestationQueue, exchanges: ExchangeStore) -> dict[str, Any]:
    report = show_intent(queue, witnessed(queue), exchange_store=exchanges, include_bodies=True, embed_bodies=True)
    return report.to_dict()


def judged(document: Any) -> str:
    """What becomes of a document: refused, or the outcome of the digest check."""
    try:
        return verify_narrative_digest(parse_narrative(json.dumps(document))).status.value
    except InvalidNarrative:
        return "refused"


def at(document: Any, place: tuple[str | int, ...]) -> tuple[Any, Any]:
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    return holder, place[-1]


def test_every_leaf_of_a_narrative_is_covered(document: dict[str, Any]) -> None:
    assert judged(document) == "PASS"
    for place in list(leaves(document)):
        holder, key = at(document, place)
        before = holder[key]
        holder[key] = changed(before)
        assert judged(document) in ("FAIL", "refused"), place
        for wrong in (None, 5.5, [], {}, [before], {"x": before}, "", 10**400):
            holder[key] = wrong
            assert judged(document) in ("FAIL", "refused"), (place, wrong)
        del holder[key]
        assert judged(document) in (("SKIP",) if key == "narrative_digest" else ("FAIL", "refused")), place
        if isinstance(holder, dict):
            holder[key] = before
        else:
            holder.insert(key, before)
    assert judged(document) == "PASS"


def test_every_object_of_a_narrative_refuses_another_member(document: dict[str, Any]) -> None:
    holders = [document, document["receipts"][2], document["receipts"][2]["exchanges"][0], document["witness"], document["checks"][0]]
    for holder in [*holders, document["canonicalization"], document["canonicalization"]["versions"]]:
        extras: tuple[Any, ...] = (1, None, "x", {}, [])
        for extra in extras:
            holder["extra"] = extra
            assert judged(document) == "refused"
            del holder["extra"]
    assert judged(document) == "PASS"


@pytest.mark.parametrize("name", ["schema", "canonicalization", "narrative_version", "intent_digest", "intent_found", "current_status"])
def test_a_document_without_a_member_that_is_always_written_is_refused(document: dict[str, Any], name: str) -> None:
    del document[name]
    assert judged(document) == "refused"


def test_every_byte_of_a_narrative_file_is_covered(document: dict[str, Any]) -> None:
    text = NarrativeReport.from_dict(document).to_json(indent=None).encode()
    passed: list[bytes] = []
    for place in range(len(text)):
        tampered = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
        try:
            outcome = verify_narrative_digest(parse_narrative(tampered)).status
        except InvalidNarrative:
            continue
        if outcome is CheckStatus.PASS:
            passed.append(tampered[max(0, place - 4) : place + 4])
    # A change that reads the same is none: the case of a hexadecimal digit in an escape.
    assert [found for found in passed if b"\\u" not in found] == []


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "1", "{", '{"schema":1,"schema":1}', "NaN", "[" * 100_000, '{"a":' * 100_000, "\ud800", '"x"']
)
def test_what_is_no_narrative_is_refused(text: str) -> None:
    with pytest.raises(InvalidNarrative):
        NarrativeReport.from_json(text)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(InvalidNarrative):
        parse_narrative(b"\xff\xfe{}")


def test_a_narrative_of_another_release_keeps_its_digest(document: dict[str, Any]) -> None:
    document["canonicalization"]["versions"]["nexus_control"] = "0.9.0"
    del document["narrative_digest"]
    document["narrative_digest"] = prefixed(content_digest(document))
    report = parse_narrative(json.dumps(document))
    assert report.package_version == "0.9.0"
    assert verify_narrative_digest(report).status is CheckStatus.PASS
    assert report.to_dict() == document


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), "nexus.attestation.narrative.v0.2"),
        (("narrative_version",), "0.2"),
        (("canonicalization", "serialization"), "json"),
        (("canonicalization", "versions", "receipt"), "0.2"),
        (("canonicalization", "versions", "nexus_control"), 1),
        (("canonicalization", "versions"), []),
        (("canonicalization",), {}),
    ],
)
def test_a_form_that_is_not_known_is_refused_also_with_a_right_digest(
    document: dict[str, Any], place: tuple[str, ...], value: object
) -> None:
    holder, key = at(document, place)
    holder[key] = value
    document.pop("narrative_digest")
    document["narrative_digest"] = prefixed(content_digest(document))
    assert judged(document) == "refused"


def test_absent_members_take_their_defaults() -> None:
    report = NarrativeReport.from_dict({"narrative_version": "0.1", "intent_digest": "x"})
    assert report == NarrativeReport("0.1", "x")
    assert NarrativeReport.from_dict(report.to_dict()) == report
    found = NarrativeReport("0.1", "x", intent_found=True)
    assert found.to_dict()["current_status"] is None
    assert NarrativeReport.from_dict(found.to_dict()) == found


def test_a_report_shares_nothing_with_its_dict_form(document: dict[str, Any]) -> None:
    report = NarrativeReport.from_dict(document)
    data = report.to_dict()
    data["canonicalization"]["versions"]["intent"] = "changed"
    data["witness"]["memo_payload"]["v"] = "changed"
    data["bodies"].clear()
    assert report.to_dict() == document
    assert CANONICALIZATION["versions"]["intent"] == "0.1"


def test_a_file_is_loaded_as_it_was_written(document: dict[str, Any], tmp_path: Path) -> None:
    report = NarrativeReport.from_dict(document)
    (tmp_path / "n.json").write_text(report.to_json(), encoding="utf-8")
    assert load_narrative(tmp_path / "n.json") == load_narrative(str(tmp_path / "n.json")) == report
    for path in (tmp_path, tmp_path / "absent.json", "/dev/null"):
        with pytest.raises(FileRefused):
            load_narrative(path)


# -- what a report shows by itself -------------------------------------------------------------------------------------


def test_a_report_without_a_digest_is_skipped_and_one_with_another_fails(document: dict[str, Any]) -> None:
    report = NarrativeReport.from_dict(document)
    check = verify_narrative_digest(replace(report, narrative_digest=None))
    assert (check.name, check.status) == ("narrative_digest_valid", CheckStatus.SKIP)
    assert "No narrative_digest" in check.reason
    check = verify_narrative_digest(replace(report, env="other"))
    assert check.status is CheckStatus.FAIL
    assert "mismatch" in check.reason
    assert check.expected == report.narrative_digest
    assert check.actual == replace(report, env="other").computed_digest()
    check = verify_narrative_digest(replace(report, env="\ud800"))
    assert (check.status, check.actual) == (CheckStatus.FAIL, None)


@pytest.mark.parametrize(
    ("check", "members"),
    [
        ("checks_complete", {"checks": ()}),
        ("checks_consistent", {"checks": (IntegrityCheck("intent_digest_valid", CheckStatus.PASS, "r", "a", "b"),)}),
        ("status_consistent", {"total_attempts": 3}),
        ("status_consistent", {"current_status": "DEFERRED"}),
        ("witness_consistent", {"witness": None}),
        ("witness_consistent", {"witness": XrplWitness("CD", 7, NOON, "tesSUCCESS")}),
        ("witness_consistent", {"witness": XrplWitness("AB", 8, NOON, "tesSUCCESS")}),
        ("witness_consistent", {"receipts": ()}),
        ("exchanges_consistent", {"receipts": (ReceiptEntry(1, "FAILED", NOON, "x", "d", exchanges=(ExchangeEvidence("k", "d", True),)),)}),
    ],
)
def test_a_report_made_up_with_a_right_digest_contradicts_itself(document: dict[str, Any], check: str, members: dict[str, Any]) -> None:
    report = replace(NarrativeReport.from_dict(document), **members)
    found = {found.name: found.status for found in verify_narrative(replace(report, narrative_digest=report.computed_digest()))}
    assert found["narrative_digest_valid"] is CheckStatus.PASS
    assert found[check] is CheckStatus.FAIL


def test_a_record_that_a_check_denies_is_a_contradiction(document: dict[str, Any]) -> None:
    report = NarrativeReport.from_dict(document)
    checks = tuple(
        replace(check, status=CheckStatus.FAIL) if check.name.startswith("exchange_exists") else check for check in report.checks
    )
    assert {check.name: check.status for check in verify_narrative(replace(report, checks=checks))}["checks_consistent"] is CheckStatus.FAIL


# -- differences and dict forms ----------------------------------------------------------------------------------------


def test_the_last_receipts_of_two_attempts_are_compared(queue: AttestationQueue) -> None:
    report = show_intent(queue, witnessed(queue))
    found = diff_attempts(report, 1, 2)
    assert found == AttemptDiff(
        1, 2, True, "FAILED", "CONFIRMED", True, None, "AB", added_evidence=("xrpl.tx.exchange",), from_error="TIMEOUT"
    )
    assert found is not None
    assert found.to_dict() == {
        "from_attempt": 1,
        "to_attempt": 2,
        "status_changed": True,
        "from_status": "FAILED",
        "to_status": "CONFIRMED",
        "tx_hash_changed": True,
        "to_tx_hash": "AB",
        "added_evidence": ["xrpl.tx.exchange"],
        "from_error": "TIMEOUT",
    }
    back = diff_attempts(report, 2, 1)
    assert back is not None
    assert back.removed_evidence == ("xrpl.tx.exchange",)
    same = diff_attempts(report, 2, 2)
    assert same is not None
    assert len(same.to_dict()) == 5
    assert diff_attempts(report, 1, 3) is diff_attempts(report, 0, 1) is None


def test_optional_members_are_left_out_and_required_ones_never() -> None:
    assert IntegrityCheck("n", CheckStatus.SKIP, "r").to_dict() == {"name": "n", "status": "SKIP", "reason": "r"}
    flags = {"record_found": False, "request_body_available": False, "response_body_available": False}
    assert ExchangeEvidence("k", "d").to_dict() == {"key": "k", "content_digest": "d", **flags}
    entry = ReceiptEntry(0, "", "", "", "", tx_hash="", ledger_index=0)
    assert entry.to_dict() == {"attempt": 0, "status": "", "created_at": "", "backend": "", "receipt_digest": ""}
    assert XrplWitness("", 0, account="").to_dict() == {"tx_hash": "", "ledger_index": 0}


@pytest.mark.parametrize(
    "record", [IntegrityCheck("n", CheckStatus.PASS, "r"), ExchangeEvidence("k", "d"), NarrativeReport("0.1", "x"), XrplWitness("h", 1)]
)
def test_records_are_frozen(record: object) -> None:
    with pytest.raises(FrozenInstanceError):
        record.name = "other"  # pyright: ignore[reportAttributeAccessIssue] - which is the point


# -- text for people ---------------------------------------------------------------------------------------------------


def test_the_text_has_every_part(queue: AttestationQueue, exchanges: ExchangeStore) -> None:
    queue_id = witnessed(queue)
    report = show_intent(queue, queue_id, exchange_store=exchanges)
    text = render_narrative(report, sources={"queue": "/tmp/q.db", "exchanges": "/tmp/e.db"})
    wanted = ["=" * 72, "ATTESTATION NARRATIVE", "0.1", f"Schema:        {NARRATIVE_SCHEMA}", f"Report Digest: {report.narrative_digest}"]
    wanted += ["Sources:", "  exchanges: /tmp/e.db", "  queue: /tmp/q.db", "INTENT", queue_id, "nexus.audit_package", "prod", "STATUS"]
    wanted += ["XRPL WITNESS", "To verify externally:", "TIMELINE", "#1 [X] FAILED", "#2 [>] SUBMITTED", "#2 [+] CONFIRMED", "TIMEOUT"]
    wanted += ["Evidence:", "[stored]", TX.content_digest(), "stored bodies: request, response", "Memo digest:", "INTEGRITY CHECKS"]
    wanted += ["Summary: 10 PASS, 0 FAIL, 0 SKIP", "tesSUCCESS", "rA", "k1"]
    assert [part for part in wanted if part not in text] == []
    assert text.index("  exchanges:") < text.index("  queue:")
    assert "[digest only]" in show_intent(queue, queue_id).render()
    assert text == report.render(sources={"queue": "/tmp/q.db", "exchanges": "/tmp/e.db"})


@pytest.mark.parametrize(
    ("status", "icon"),
    [("PENDING", "[ ]"), ("SUBMITTED", "[>]"), ("CONFIRMED", "[+]"), ("DEFERRED", "[~]"), ("FAILED", "[X]"), ("ODD", "[?]")],
)
def test_every_status_has_its_icon(status: str, icon: str) -> None:
    entry = ReceiptEntry(1, status, NOON, "xrpl", "d")
    assert f"{icon} {status}" in NarrativeReport("0.1", "x", intent_found=True, receipts=(entry,)).render()


HOSTILE = "x\x1b[2J\nPASS  forged: everything\r\u202e"


def test_hostile_text_stays_on_its_line() -> None:
    exchange = ExchangeEvidence(HOSTILE, HOSTILE, True, HOSTILE, HOSTILE, HOSTILE)
    entry = ReceiptEntry(1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 7, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (exchange,))
    witness = XrplWitness(HOSTILE, 7, HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    check = IntegrityCheck(HOSTILE, CheckStatus.FAIL, HOSTILE, HOSTILE, HOSTILE)
    header = (HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE)
    report = NarrativeReport(HOSTILE, HOSTILE, True, *header, (entry,), witness, (check,), HOSTILE)
    text = report.render(sources={HOSTILE: HOSTILE})
    assert not any(line.lstrip().startswith("PASS") for line in text.split("\n"))
    assert {character for character in text if not character.isprintable()} == {"\n"}


# -- any report --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
MAYBE = st.none() | TEXT.filter(bool)
EXCHANGES = st.builds(ExchangeEvidence, TEXT, TEXT, st.booleans(), MAYBE, MAYBE, MAYBE, st.booleans(), st.booleans())
ENTRIES = st.builds(
    ReceiptEntry,
    *(st.integers(), TEXT, TEXT, TEXT, TEXT, MAYBE, st.none() | st.integers(1), MAYBE, MAYBE, MAYBE, MAYBE, MAYBE),
    st.lists(EXCHANGES, max_size=2).map(tuple),
)
MEMOS = st.none() | st.dictionaries(TEXT, TEXT | st.integers(), min_size=1, max_size=2)
WITNESSES = st.builds(XrplWitness, TEXT, st.integers(), MAYBE, MAYBE, MAYBE, MAYBE, MEMOS)
CHECKS = st.builds(IntegrityCheck, TEXT, st.sampled_from(CheckStatus), TEXT, st.none() | TEXT, st.none() | TEXT)
REPORTS = st.builds(
    NarrativeReport,
    *(st.just("0.1"), TEXT, st.just(True), MAYBE, MAYBE, MAYBE, MAYBE, st.none() | TEXT, st.integers(), MAYBE),
    st.lists(ENTRIES, max_size=2).map(tuple),
    st.none() | WITNESSES,
    st.lists(CHECKS, max_size=2).map(tuple),
    st.none() | TEXT,
    st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
)


@given(REPORTS)
def test_any_report_survives_its_dict_form_and_its_text(report: NarrativeReport) -> None:
    assert NarrativeReport.from_dict(report.to_dict()) == report
    assert parse_narrative(report.to_json()) == report
    sealed = replace(report, narrative_digest=report.computed_digest())
    assert verify_narrative_digest(parse_narrative(sealed.to_json())).status is CheckStatus.PASS
    assert "\x1b" not in report.render()


def test_a_storage_of_its_own_can_be_inspected_without_a_write(tmp_path: Path) -> None:
    with AttestationStorage(tmp_path / "a.db") as storage, storage.inspection():
        assert storage.get_intent_by_digest(UNKNOWN) is None


# -- batches ----------------------------------------------------------------------------------------------------------------


def of_batch(queue_id: str, **changes: Any) -> AttestationReceipt:
    """A receipt of the second of three intents that were witnessed together."""
    leaves = [leaf_hash(bytes.fromhex(digest)) for digest in ("0" * 64, queue_id.removeprefix("sha256:"), "f" * 64)]
    root = node_hash(node_hash(leaves[0], leaves[1]), leaves[2]).hex()
    memo = f'{{"h":"rfc6962-sha256","n":3,"r":"{root}","t":"nexus.attest.batch","v":"1"}}'.encode()
    evidence: dict[str, str] = {"memo_digest": prefixed(sha256_digest(memo)), "xrpl.batch.root": prefixed(root)}
    merkle = {"alg": "rfc6962-sha256", "index": 1, "size": 3, "path": [leaves[0].hex(), leaves[2].hex()]}
    where = {"tx_hash": "AB", "ledger_index": 7, "close_time": NOON}
    proof = {"type": "nexus.attest.batch/1", **where, "merkle": {**merkle, **changes}}
    return AttestationReceipt(queue_id, "xrpl", 1, ReceiptStatus.CONFIRMED, NOON, evidence, proof)


def test_a_receipt_of_a_batch_proves_that_the_intent_is_in_it(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(INTENT)
    queue.record_receipt(of_batch(queue_id))
    report = show_intent(queue, queue_id)
    assert {check.status for check in [*report.checks, *verify_narrative(report)]} == {CheckStatus.PASS}
    assert report.witness is not None
    assert (report.witness.ledger_close_time, report.witness.engine_result, report.witness.memo_payload) == (
        NOON,
        "tesSUCCESS",
        {
            "h": "rfc6962-sha256",
            "n": 3,
            "r": of_batch(queue_id).evidence_digests["xrpl.batch.root"][7:],
            "t": "nexus.attest.batch",
            "v": "1",
        },
    )
    assert parse_narrative(report.to_json()) == report


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "sha256"},
        {"index": 0},
        {"index": 2},
        {"index": 3},
        {"index": -1},
        {"index": True},
        {"index": "1"},
        {"size": 2},
        {"size": 4},
        {"size": 10**400},
        {"size": 0},
        {"size": None},
        {"path": []},
        {"path": ["0" * 64, "f" * 64]},
        {"path": [5]},
        {"path": ["x"]},
        {"path": "ab"},
        {"extra": 1},
    ],
)
def test_a_proof_of_inclusion_that_proves_nothing_fails(queue: AttestationQueue, changes: dict[str, Any]) -> None:
    queue_id = queue.enqueue(INTENT)
    queue.record_receipt(of_batch(queue_id, **changes))
    assert failed(show_intent(queue, queue_id)) == ["witness_exchange_valid"]


@pytest.mark.parametrize("key", ["memo_digest", "xrpl.batch.root"])
def test_a_batch_of_another_root_or_memo_fails(queue: AttestationQueue, key: str) -> None:
    queue_id = queue.enqueue(INTENT)
    receipt = of_batch(queue_id)
    queue.record_receipt(replace(receipt, evidence_digests={**receipt.evidence_digests, key: UNKNOWN}))
    report = show_intent(queue, queue_id)
    assert failed(report) == ["witness_exchange_valid"]
    assert report.witness is not None
    assert report.witness.memo_payload is None
