"""Verification of documents of unknown kind, as a function and as a command."""

import copy
import io
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ROOT, CommandLine, Ended
from evidence_testing import (
    VECTORS,
    bundle_dict,
    completed,
    edited,
    embedded_package,
    new_store,
    nonsense,
    places,
    put,
    reference_package,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_control.__main__ import main
from nexus_control.audit_export import export_audit_package
from nexus_control.audit_package import verify_audit_package
from nexus_control.bundle import DecisionBundle
from nexus_control.bundle_checks import recompute
from nexus_control.case_file import CaseFile
from nexus_control.errors import InputError
from nexus_control.evidence import DocumentReport, EvidenceReport, Knowledge, LayerName, Outcome, examine, parse_layers, verify_document
from nexus_control.integrity import content_digest
from nexus_control.layers import LAYERS

BUNDLE_CHECKS = ["schema", "bundle_version", "bundle_digest", "event_digests", "event_sequence", "derived_sections", "header"]

GOOD = bundle_dict(store := new_store(), completed(store))


def failed(report: DocumentReport) -> list[str]:
    names = [check.name for check in report.result.checks if not check.ok]
    assert report.ok is not bool(names)
    return names


def resealed(data: dict[str, Any]) -> dict[str, Any]:
    """With the bundle digest recomputed around the content as it is."""
    data = copy.deepcopy(data)
    data["integrity"]["canonical_digest"] = "sha256:" + recompute(DecisionBundle.from_dict(data)).bundle_digest
    return data


# -- recognition


@pytest.mark.parametrize("make", [reference_package, embedded_package])
def test_an_audit_package_is_recognised_and_gets_its_own_checks(make: Any) -> None:
    data = make()
    for form in (data, json.dumps(data), json.dumps(data).encode()):
        report = verify_document(form, strict=True)
        assert report.kind == "audit_package"
        assert report.result == verify_audit_package(data, strict=True)
        assert report.ok


def test_a_bundle_is_recognised_and_gets_its_own_checks() -> None:
    for form in (GOOD, json.dumps(GOOD), json.dumps(GOOD).encode()):
        report = verify_document(form)
        assert report.kind == "decision_bundle"
        assert [check.name for check in report.result.checks] == BUNDLE_CHECKS
        assert report.ok


@pytest.mark.parametrize("document", [None, 1, [], {}, {"decision": {}}, {"events": []}, "", "[]", "{", b"\xff", '{"a":1,"a":1}'])
def test_an_unrecognised_document_fails_the_schema_check(document: Any) -> None:
    report = verify_document(document)
    assert report.kind == "unknown"
    assert [(check.name, check.ok) for check in report.result.checks] == [("schema", False)]


def test_options_reach_the_checks_of_a_package() -> None:
    opaque = {"run_id": "run-1", "integrity": {"canonical_digest": "sha256:" + "d" * 64}}
    store = new_store()
    completed(store)
    package = export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=opaque).to_dict()["package"]
    assert failed(verify_document(package)) == []
    assert failed(verify_document(package, strict=True)) == ["router_digest"]
    assert failed(verify_document(package, expected_binding_digest="sha256:0")) == ["expected_binding_digest"]
    assert failed(verify_document(package, expected_binding_digest=package["integrity"]["binding_digest"])) == []


def test_a_bundle_has_no_binding_digest_to_expect() -> None:
    report = verify_document(GOOD, expected_binding_digest="sha256:0")
    assert failed(report) == ["expected_binding_digest"]
    assert report.result.checks[-1].expected == "sha256:0"


def test_report_as_data() -> None:
    assert verify_document({}).to_dict() == {
        "kind": "unknown",
        "ok": False,
        "checks": [{"name": "schema", "ok": False, "detail": "neither a decision bundle nor an audit package nor a case file"}],
        "passed": 0,
        "failed": 1,
        "total": 1,
    }


# -- the checks of a bundle


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("bundle_version", "1.0", ["bundle_version"]),
        ("integrity.canonical_digest", "sha256:0", ["bundle_digest"]),
        ("integrity.alg", "md5", ["bundle_digest"]),
        ("events.0.digest", "0" * 64, ["event_digests"]),
        ("events.0.digest", "", ["event_digests"]),
        ("events.0.payload.plan", "x", ["event_digests"]),
        ("events.5.seq", 7, ["event_sequence"]),
        ("policy.labels", ["x"], ["derived_sections"]),
        ("approvals", [], ["derived_sections"]),
        ("decision.goal", "x", ["header"]),
        ("decision.mode", "x", ["header"]),
        ("decision.status", "x", ["header"]),
        ("events.4.ts", "x", ["header"]),
        ("meta", {}, []),
        ("provenance", {"records": []}, []),
        ("decision", {}, ["schema"]),
        ("events", {}, ["schema"]),
        ("meta", 1, ["schema"]),
        ("events.0.payload.x", "\ud800", ["schema"]),
        ("events.0.payload.x", float("nan"), ["schema"]),
    ],
)
def test_each_check_of_a_bundle_notices_its_part(path: str, value: object, names: list[str]) -> None:
    data = edited(GOOD, path, value)
    if names != ["schema"] and not path.startswith("integrity"):
        data = resealed(data)
    assert failed(verify_document(data)) == names


def test_reordered_events_are_noticed() -> None:
    data = copy.deepcopy(GOOD)
    data["events"].reverse()
    assert failed(verify_document(data)) == ["event_sequence"]


def test_a_bundle_that_was_rebuilt_consistently_passes() -> None:
    data = edited(GOOD, "events.2.payload.comment", "forged")
    data["approvals"][0]["comment"] = "forged"
    data["events"][2]["digest"] = content_digest({"event_type": "APPROVAL_GRANTED", "payload": data["events"][2]["payload"]})
    assert failed(verify_document(resealed(data))) == []


# -- the layers


def a_case(**parts: Any) -> dict[str, Any]:
    return CaseFile(package=embedded_package(), **parts).to_dict()


def gaps_of(report: EvidenceReport, name: LayerName) -> list[str]:
    return [gap.what for gap in report.layer(name).gaps]


def test_of_a_document_that_cannot_be_read_every_layer_says_so_and_there_is_no_story() -> None:
    report = examine(b"{")
    assert [layer.name for layer in report.layers] == ["integrity", "authorization", "signatures", "execution", "log", "witness"]
    assert [gaps_of(report, name) for name in LAYERS] == [[], *[["the document cannot be read"]] * 5]
    assert report.to_dict()["story"] is None
    assert report.failed == ["integrity"]


@pytest.mark.parametrize("document", [edited(GOOD, "decision", {}), edited(reference_package(), "control_bundle.decision", {})])
def test_a_part_that_cannot_be_read_is_the_whole_document(document: dict[str, Any]) -> None:
    report = examine(document)
    assert report.kind != "unknown"
    assert report.failed == ["integrity"]
    assert gaps_of(report, LayerName.AUTHORIZATION) == ["the document cannot be read"]


def test_a_history_that_cannot_be_replayed_fails_authorization_and_has_no_story() -> None:
    data = copy.deepcopy(GOOD)
    del data["events"][0]
    report = examine(resealed(data))
    assert LayerName.AUTHORIZATION in report.failed
    assert report.to_dict()["story"] is None


def test_the_story_is_part_of_the_report() -> None:
    assert examine(GOOD).to_dict()["story"]["decision_id"] == "dec-1"


def test_a_required_layer_that_passes_is_no_failure_and_one_that_is_incomplete_is() -> None:
    report = examine(GOOD, require=(LayerName.INTEGRITY, LayerName.LOG))
    assert report.layer(LayerName.INTEGRITY).outcome is Outcome.PASS
    assert report.failed == ["log"]


def test_a_reader_is_strict_only_when_asked() -> None:
    record = {"run_id": "run-1", "integrity": {"canonical_digest": "sha256:" + "d" * 64}}
    completed(store := new_store())
    package = export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=record).to_dict()["package"]
    assert examine(package, Knowledge()).ok
    assert examine(package, Knowledge(strict=True)).failed == ["integrity"]


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (None, "sha256:" + "a" * 64, []),
        ("sha256:" + "a" * 64, None, []),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64, [(True, None)]),
        (
            "sha256:" + "a" * 64,
            "sha256:" + "b" * 64,
            [(True, f"it was decided under the trust policy sha256:{'a' * 64}, and is read under sha256:{'b' * 64}")],
        ),
    ],
)
def test_another_trust_policy_than_the_one_it_was_decided_under_is_told_and_fails_nothing(
    theirs: str | None, ours: str | None, told: list[tuple[bool, str | None]]
) -> None:
    report = examine(a_case(trust_digest=theirs), Knowledge(trust_digest=ours))
    checks = report.layer(LayerName.SIGNATURES).checks
    assert [(check.ok, check.detail) for check in checks if check.name == "trust_policy"] == told


def test_what_witnesses_gave_is_not_taken_for_checked_without_somebody_who_can() -> None:
    assert gaps_of(examine(a_case()), LayerName.WITNESS) == ["no witness has seen the binding digest"]
    assert gaps_of(examine(a_case(witness=({"a": 1},))), LayerName.WITNESS) == ["the witness proofs were not checked"]


def test_an_unknown_layer_is_refused_with_the_known_ones() -> None:
    assert parse_layers(["log", "witness"]) == {LayerName.LOG, LayerName.WITNESS}
    with pytest.raises(InputError, match="unknown layer 'logs'; there are integrity, authorization, signatures, execution, log, witness"):
        parse_layers(["log", "logs"])


@pytest.mark.parametrize(("value", "member"), [(Knowledge(), "strict"), (examine(GOOD), "story")])
def test_what_a_reader_brings_along_and_what_was_found_are_values(value: Knowledge | EvidenceReport, member: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, member, None)
    assert not hasattr(value, "__dict__")
    make: Any = type(value)
    with pytest.raises(TypeError):
        make("audit_package", (), None)


def test_required_layers_are_named_by_their_keyword() -> None:
    anyhow: Any = examine
    with pytest.raises(TypeError):
        anyhow(GOOD, None, ())


# -- nothing escapes

_DOCUMENTS = [GOOD, reference_package(), embedded_package()]


@settings(max_examples=600, deadline=None)
@given(st.data(), st.sampled_from(_DOCUMENTS), st.booleans())
def test_no_malformed_document_raises(data: st.DataObject, document: dict[str, Any], strict: bool) -> None:
    document = copy.deepcopy(document)
    for place, value in data.draw(st.lists(st.tuples(st.sampled_from(places(document)), nonsense()), min_size=1, max_size=3)):
        put(document, place, value)
    report = verify_document(document, strict=strict)
    assert report.result.checks
    failed(report)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([json.dumps(document) for document in _DOCUMENTS]), st.binary(max_size=20), st.integers(0, 6000))
def test_no_text_raises(text: str, noise: bytes, at: int) -> None:
    for form in (noise, text.encode()[:at] + noise + text.encode()[at:]):
        failed(verify_document(form))


# -- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["verify", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def written(folder: Path, document: dict[str, Any]) -> str:
    path = folder / "document.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


def test_command_passes_a_good_package_and_says_what_that_does_not_prove(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(VECTORS / "router-audit-package-embedded.json"))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("router-audit-package-embedded.json: audit package")
    assert "What was asked\n  decision   9121c903-33e3-4d2e-85d4-a85c89db3137, completed\n  goal       Rotate staging keys " in out
    assert "  mode       apply\n  requested  2026-11-21T01:50:01.421311+00:00 by alice\n" in out
    assert "Who allowed it (1 of 1 needed)\n  bob, asserted, 2026-11-21T01:50:01.426178+00:00\n" in out
    assert "  2026-11-21T01:50:01.429102+00:00 apply through subprocess:keytool, asked for by carol\n" in out
    assert "  run e9fe8a8a-2f42-4cfd-b3c1-f596af848037: completed, 2 steps\n" in out
    outcomes = [line.split()[:2] for line in lines if line.split()[:1] in (["PASS"], ["FAIL"], ["INCOMPLETE"])]
    assert outcomes == [
        ["PASS", "integrity"],
        ["PASS", "authorization"],
        ["INCOMPLETE", "signatures"],
        ["PASS", "execution"],
        ["INCOMPLETE", "log"],
        ["INCOMPLETE", "witness"],
    ]
    assert "                ok router_digest\n" in out
    assert "                ok provenance\n" in out
    assert "  signatures: 0 of 1 needed approvals are signed; without a signature: bob (asserted)\n      needed: " in out
    assert "Whoever can change a file can recompute every digest in it" in lines[-1]


def test_command_fails_a_tampered_package_and_names_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(VECTORS / "router-audit-package-embedded-tampered.json"))
    assert code == 2
    assert "  FAILED router_digest: router.bundle.digests.sha256 is not the digest of run and events" in out
    assert "        expected e94d15a091d209f2e0151c4eae50dd7e5d57f55eaf7872c1ee7b71c028741008\n" in out
    assert "        actual " in out
    assert out.endswith("\nFAILED: integrity, execution. Do not rely on this file.\n")


def test_command_prints_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, written(tmp_path, GOOD), "--json")
    assert code == 0
    assert json.loads(out) == examine(GOOD).to_dict()


def test_command_takes_the_options_of_verification(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    package = reference_package()
    path = written(tmp_path, package)
    assert run(capsys, path, "--strict", "--expect-binding-digest", package["integrity"]["binding_digest"])[0] == 0
    code, out, _ = run(capsys, path, "--expect-binding-digest", "sha256:0")
    assert code == 2
    assert "        expected sha256:0\n" in out


def test_command_shows_what_could_not_be_judged_in_a_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = {"run_id": "run-1", "integrity": {"canonical_digest": "sha256:" + "d" * 64}}
    store = new_store()
    completed(store)
    package = export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=record).to_dict()["package"]
    code, out, _ = run(capsys, written(tmp_path, package))
    assert code == 0
    assert "  ok router_digest: the embedded record has no form whose content can be checked against its digest\n" in out
    assert "  execution: run_digest: " in out
    assert run(capsys, written(tmp_path, package), "--require", "execution")[0] == 2


def test_command_reports_a_file_that_is_no_document_as_a_failed_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\x00")
    code, out, _ = run(capsys, str(path))
    assert code == 2
    assert "FAILED schema: not readable JSON" in out


def test_command_reports_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, str(tmp_path / "nowhere.json"))
    assert (code, out) == (2, "")
    assert err.startswith("FILE_NOT_READABLE: there is no file ")
    assert err.endswith("nowhere.json\n")


def test_command_does_not_wait_for_a_pipe_that_nobody_writes_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, out, err = run(capsys, str(tmp_path / "pipe"))
    assert (code, out) == (2, "")
    assert err.endswith("pipe is no regular file\n")


@pytest.mark.parametrize("arguments", [[], ["verify"], ["verify", "a", "b"], ["unknown"]])
def test_wrong_arguments_exit_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_command_never_prints_what_a_document_could_do_to_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = edited(GOOD, "decision.goal", "\x1b[2J\nPASS \u202e é")
    code, out, _ = run(capsys, written(tmp_path, resealed(data)))
    assert code == 2
    assert out.isascii()
    assert "\x1b" not in out
    assert "        actual \\x1b[2J\\x0aPASS \\u202e \\xe9\n" in out


def test_command_runs_as_a_module_in_an_isolated_interpreter(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-S", "-m", "nexus_control", "verify", written(tmp_path, GOOD)]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "ok header" in finished.stdout


def test_command_reads_standard_input_as_the_large_command_line_does(tmp_path: Path) -> None:
    file, cli = Path(written(tmp_path, GOOD)), CommandLine(tmp_path)
    read = cli.without(f"<{file}", "verify", "-", program="nexus_control")
    assert (read.code, read.err) == (0, "")
    assert read.out == cli.without("", "verify", str(file), program="nexus_control").out.replace(str(file), "-", 1)
    assert cli.without("<&-", "verify", "-", program="nexus_control") == Ended(2, "", "FILE_NOT_READABLE: standard input is closed\n")


def test_command_within_a_program_reads_text_that_stands_in_for_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(GOOD)))
    code, out, err = run(capsys, "-")
    assert (code, err) == (0, "")
    assert "ok bundle_digest" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"goal": "\ud800"}'))
    code, out, _ = run(capsys, "-")
    assert code == 2
    assert "can't decode byte 0xed" in out


@pytest.mark.parametrize(
    ("streams", "arguments", "ended"),
    [
        (">/dev/full", ["verify", "FILE"], Ended(1, "", "IO_ERROR: No space left on device\n")),
        (">/dev/full", ["verify", "FILE", "--json"], Ended(1, "", "IO_ERROR: No space left on device\n")),
        (">/dev/full", ["--help"], Ended(1, "", "IO_ERROR: No space left on device\n")),
        (">&-", ["verify", "FILE"], Ended(0, "", "")),
        (">&-", ["--help"], Ended(0, "", "")),
        (">&- 2>&-", ["verify", "FILE"], Ended(0, "", "")),
        ("2>&-", ["verify", "nothing"], Ended(2, "", "")),
        ("2>/dev/full", ["verify", "nothing"], Ended(2, "", "")),
        ("2>&-", ["nonsense"], Ended(2, "", "")),
        ("2>/dev/full", ["nonsense"], Ended(2, "", "")),
    ],
    ids=str,
)
def test_command_ends_as_it_should_when_it_cannot_print(tmp_path: Path, streams: str, arguments: list[str], ended: Ended) -> None:
    arguments = [word.replace("FILE", written(tmp_path, GOOD)) for word in arguments]
    assert CommandLine(tmp_path).without(streams, *arguments, program="nexus_control") == ended


def test_command_is_quiet_about_a_reader_that_leaves_early(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "nexus_control", "verify", written(tmp_path, GOOD)]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
