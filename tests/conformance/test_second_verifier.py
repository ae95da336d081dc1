"""The second verifier, three hundred lines from docs/verification.md, against ours, on every file that the full one is held against.

Layer by layer, of each file:

* it fails no layer that ours does not fail, so that it refuses nothing that ours accepts;
* it fails every layer that ours fails, but where each check that failed there is one that it leaves out. `rules_of` says by which rule,
  and shows where it can that it is the reason; how often each is needed is counted;
* it never says PASS, which it would not have earned.

A file that has not the form of one (`schema`) has no layers for ours to judge, and a history that cannot be read no signatures. There the
second verifier, which asks for no forms, may find something in another layer than ours, or nothing.
"""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conformance import test_full_verifier as full

from nexus_control.canonical_json import canonical_json_bytes

PROGRAM = full.ROOT / "examples" / "second_verifier.py"
LAYERS = ("integrity", "authorization", "signatures", "log")
File = tuple[str, str | None, bool]
"""Text of a file, trust policy, and whether the reader kept a checkpoint."""
OUTSIDE: dict[str, str] = {
    "allowed_events": "allowed_events",
    "told_by_events": "told_by_events",
    "run_of_the_link": "run_of_the_link",
    "history": "forms of payloads",
    "attestation": "attestations",
    "extends_checkpoint": "consistency with a checkpoint of another size",
}
"""The checks of ours that it leaves out, whole or in part, and by which rule."""
SECTIONS = "header, policy and approvals as the events tell them"
POLICIES = "policies that are not written as commands write them"
TRUST_RULES = "rules of the trust policy"
MEMBERS = "unknown members"
RULES = [*OUTSIDE.values(), SECTIONS, POLICIES, TRUST_RULES, MEMBERS]


@cache
def second() -> ModuleType:
    spec = importlib.util.spec_from_file_location("second_verifier", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(file: File) -> dict[str, list[tuple[str, bool | str]]]:
    text, trust, kept = file
    notes = [second().Note(full.whole()[1].render())] if kept else []
    return second().judge(text.encode(errors="surrogatepass"), policy(trust), notes)


@cache
def policy(trust: str | None) -> Any:
    return None if trust is None else second().Trust(trust)


@cache
def ours(file: File) -> full.Judgement:
    text, trust, kept = file
    return full.ours(text, trust, kept=kept)


def failed(file: File) -> dict[str, set[str]]:
    """Of each layer of ours that failed, which checks did."""
    return {layer: set(checks) for layer, (outcome, checks) in ours(file).items() if outcome == "FAIL"}


def corpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[File]:
    """Every file over which the tests of the full verifier go, with the trust policies that they take: they run, and tell."""
    files: list[File] = []

    def note(document: Any, what: object, trusts: tuple[str, ...] = ("full",)) -> dict[str, str]:
        del what
        text = document if isinstance(document, str) else json.dumps(document)
        files.extend((text, full.TRUSTS[trust], trust != "none") for trust in trusts)
        return {layer: outcome for layer, (outcome, _) in ours(files[-1]).items()}

    def note_under(trust: str, document: dict[str, Any]) -> None:
        files.append((json.dumps(document), trust, True))

    monkeypatch.setattr(full, "require_agreement", note)
    monkeypatch.setattr(full, "judged_under", note_under)
    for name in [name for name in vars(full) if name.startswith("test_") and callable(vars(full)[name])]:
        test = getattr(full, name)
        marks = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for values in product(*(list(given) for _, given in marks)):
            arguments: dict[str, Any] = {}
            for (names, _), value in zip(marks, values, strict=True):
                arguments |= {names: value} if isinstance(names, str) else dict(zip(names, value, strict=True))
            test(**arguments)
    yield from dict.fromkeys(files)
    packages = [json.loads(text) for text, _, _ in files if text.startswith('{"package_version"')]
    yield from dict.fromkeys((json.dumps(package.get("control_bundle")), None, False) for package in packages)


def without_rules(trust: str | None) -> str | None:
    return None if trust is None else re.sub(r"(?ms)^\[\[rules\]\]\n.*?(?=^\[|\Z)", "", trust)


def without_notes(text: str) -> str:
    """Without the member that the corpus adds to objects."""
    return json.dumps(json.loads(text, object_hook=lambda members: {name: each for name, each in members.items() if name != "note"}))


def rules_of(layer: str, checks: set[str], file: File, told: dict[str, list[tuple[str, bool | str]]]) -> set[str | None]:
    """The rules by which the second verifier need not fail this layer; None among them where there is none."""
    text, trust, kept = file
    if layer == "integrity":
        document = json.loads(text)
        package = document.get("package", document)
        bundle = failed((json.dumps(package.get("control_bundle", package)), None, False)).get("integrity", set())
        if bundle and bundle <= {"derived_sections", "header"}:
            return {SECTIONS}
        return {None if "integrity" in failed((without_notes(text), trust, kept)) else MEMBERS}
    if layer == "signatures" and ("statements", "a history that can be read") in told[layer]:
        return {POLICIES if False in dict(told["authorization"]).values() else None}
    if layer == "signatures" and checks <= {"acts", "believed_approvals"} and layer not in failed((text, without_rules(trust), kept)):
        return {TRUST_RULES}
    return {OUTSIDE.get(check) for check in checks}


def test_it_agrees_with_ours_in_all_that_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    tally: Counter[str] = Counter()
    for file in corpus(monkeypatch):
        told, refused = found(file), failed(file)
        theirs = {layer for layer, findings in told.items() if second().outcome(findings) == "FAIL"}
        assert "PASS" not in map(second().outcome, told.values())
        if "schema" in refused.get("integrity", ()):
            tally["forms: refused" if theirs else "forms: not noticed"] += 1
            continue
        unjudged = {"signatures"} if "history" in refused.get("authorization", ()) else set[str]()
        assert theirs <= refused.keys() | unjudged, (file, told, refused)
        missed = [layer for layer in LAYERS if layer in refused and layer not in theirs]
        rules = [rule for layer in missed for rule in rules_of(layer, refused[layer], file, told)]
        assert None not in rules, (file, told, refused)
        tally.update(f"rule: {rule}" for rule in rules)
        if not rules:
            tally["refused" if theirs else "refused for its execution alone" if refused else "accepted"] += 1
        else:
            tally["refused, in less layers" if theirs else "refused by ours alone"] += 1
    rules = {name: tally.pop(f"rule: {name}") for name in RULES}
    assert all(rules.values()), rules
    assert not [name for name in tally if name.startswith("rule")], tally
    print(tally.total(), tally, rules)
    assert tally.total() >= 3000
    assert tally["accepted"] >= 250
    assert tally["refused"] >= 1000
    assert tally["refused by ours alone"] < tally.total() / 6


def test_it_says_what_it_found_and_what_it_leaves_out(tmp_path: Path) -> None:
    for name, text in (
        ("case.json", full.whole()[0]),
        ("forged.json", full.whole()[0].replace('"min_approvals": 2', '"min_approvals": 1')),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "trust.toml").write_text(full.TRUST, encoding="utf-8")
    (tmp_path / "kept.txt").write_text(full.whole()[1].render(), encoding="utf-8")

    def run(*arguments: str) -> tuple[int, list[str]]:
        command = [sys.executable, str(PROGRAM), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=200)
        assert not done.stderr
        return done.returncode, done.stdout.splitlines()

    code, lines = run("case.json", "--trust", "trust.toml", "--checkpoint", "kept.txt")
    assert code == 0
    assert [line.rpartition(" not judged: ")[2] for line in lines] == [*second().LEFT_OUT.values()]
    assert {line[:11] for line in lines} == {"NOT CHECKED"}
    assert lines[1].startswith("NOT CHECKED authorization holds: policy_satisfied, approved_action; not judged: forms of payloads")
    code, lines = run("case.json")
    assert code == 0
    assert lines[2].startswith("INCOMPLETE  signatures    without a trust policy; holds: statements; not judged: ")
    code, lines = run("forged.json", "--trust", "trust.toml")
    assert code == 2
    assert lines[0] == "FAIL        integrity     bundle_digest, event_digests"


@pytest.mark.parametrize("value", full.ODD)
def test_values_of_any_spelling_are_hashed_alike(value: object) -> None:
    document = {"b": value, "a": [value]}
    assert second().canonical(document).encode() == canonical_json_bytes(document)


def test_of_very_many_runs_the_last_are_judged() -> None:
    kinds = ["DECISION_CREATED", *["EXECUTION_REQUESTED", "EXECUTION_STARTED", "EXECUTION_COMPLETED"] * 700]
    same = {"decision_id": "d", "payload": {}, "ts": "2026-01-01T00:00:00Z", "actor": {"type": "human", "id": "alice"}}
    events = [{**same, "event_id": f"evt_d_{seq}", "seq": seq, "type": kind} for seq, kind in enumerate(kinds)]
    evidence = second().Evidence({"decision": {"decision_id": "d"}, "events": events}, None, [])
    requests = [place for place, kind in enumerate(kinds) if kind == "EXECUTION_REQUESTED"]
    assert [event.place for event in evidence.judged(evidence.history())] == requests[-(2_000_000 // len(kinds)) :]
    evidence.events = events[:400]
    assert [event.place for event in evidence.judged(evidence.history())] == requests[:133]


@pytest.mark.parametrize("member", ["schema", "payloadType"])
def test_narratives_and_envelopes_are_neither_accepted_nor_refused(member: str) -> None:
    with pytest.raises(NotImplementedError, match="not read by this program"):
        second().judge(json.dumps({member: "x"}).encode())


def test_two_roots_at_one_size_are_a_split_view() -> None:
    document = full.case()
    told = full.parse_note(document["log"]["checkpoint"])
    other = told.render().replace(told.text.split("\n")[2], full.base64.b64encode(bytes(32)).decode())
    for kept, verdict in ((told.render(), "NOT CHECKED"), (other, "FAIL")):
        judged = second().judge(json.dumps(document).encode(), policy(full.TRUST), [second().Note(kept)])
        assert second().outcome(judged["log"]) == verdict


def test_it_is_short_and_imports_nothing_of_ours() -> None:
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 410
    assert sum(bool(line.strip()) for line in lines) <= 345
    assert not [line for line in lines if re.match(r"\s*(from|import) nexus", line)]
