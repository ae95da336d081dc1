"""Keys, signatures and trust on the command line."""

import json
import os
import pty
import stat
import subprocess
import tomllib
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cli_testing import CommandLine

from nexus_attest.trust_file import parse_trust
from nexus_control.checkpoint import parse_note_key
from nexus_control.identity import parse_envelope
from nexus_control.store import DecisionStore


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    tmp_path.chmod(0o700)
    (tmp_path / "home").mkdir()
    return CommandLine(tmp_path)


@pytest.fixture
def trusted(cli: CommandLine) -> CommandLine:
    """With a key `laptop` that a trust policy knows as Alice's, and a rule that wants signatures for `prod`."""
    cli.json("keys", "new", "laptop")
    entry = cli.json("keys", "show", "laptop", "--actor", "alice")["trust"]
    rule = '[[rules]]\nlabels = ["prod"]\nassurance = "signed"\n'
    (cli.folder / "trust.toml").write_text(f'version = 1\n{entry}\n[[actors]]\nid = "bob"\n{rule}')
    cli.extra["NEXUS_ATTEST_TRUST"] = "trust.toml"
    return cli


def payloads(cli: CommandLine, request_id: str) -> list[dict[str, Any]]:
    with DecisionStore(cli.db) as store:
        return [event.payload for event in store.get_events(request_id)]


def at_a_terminal(cli: CommandLine, typed: str, *arguments: str) -> tuple[bytes, bytes]:
    """What a command prints that asks for something, and is given it on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        cli.argv(*arguments),
        env=cli.env,
        cwd=cli.folder,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # without the terminal of whoever runs these tests
    ) as process:
        try:
            assert process.stderr is not None
            prompt = process.stderr.read(len("Passphrase: "))  # what is typed before it is thrown away
            os.write(ours, f"{typed}\n".encode())
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)
    return out, prompt + err


def test_a_key_is_made_listed_shown_and_retired(cli: CommandLine) -> None:
    made = cli.json("keys", "new", "laptop")
    path = cli.folder / "home" / ".config" / "nexus-attest" / "keys" / "laptop.key"
    assert made["file"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key["key_id"] for key in cli.json("keys", "list")["keys"]] == [made["key_id"]]
    assert cli.json("keys", "show", "laptop")["public_key"] == cli.json("keys", "show", str(path))["public_key"] == made["public_key"]
    refused = cli.run("keys", "retire", "laptop")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    retired = cli.json("keys", "retire", "laptop", "--yes")
    assert retired["retired_at"]
    assert f"retired {retired['retired_at']}" in cli.run("keys", "list").out
    assert cli.json("keys", "retire", "laptop", "--yes", code=2)["code"] == "KEY_RETIRED"
    assert cli.json("keys", "new", "laptop", code=2)["code"] == "KEY_EXISTS"
    assert cli.json("approve", "x", "--sign", "laptop", code=2)["code"] == "KEY_RETIRED"


def test_the_private_part_is_shown_nowhere(cli: CommandLine) -> None:
    shown = [cli.run(*words) for words in (["keys", "new", "k"], ["keys", "new", "j", "--json"], ["keys", "list"], ["keys", "show", "k"])]
    folder = cli.folder / "home" / ".config" / "nexus-attest" / "keys"
    seeds = [json.loads((folder / name).read_text())["secret"]["seed"] for name in ("k.key", "j.key")]
    (folder / "k.key").chmod(0o644)
    shown += [cli.run("keys", "list", "--debug"), cli.run("keys", "show", "k", "--debug")]
    assert not [seed for seed in seeds for ended in shown if seed[:12] in ended.out + ended.err]


def test_no_secret_reaches_a_store_or_what_is_exported_from_it(trusted: CommandLine) -> None:
    trusted.extra["NEXUS_ATTEST_PASSPHRASE"] = passphrase = "correct horse battery"
    trusted.json("keys", "new", "other", "--protect")
    asked = trusted.json("request", "Rotate", "--sign", "laptop")["request_id"]
    trusted.json("approve", asked, "--sign", "laptop")
    trusted.json("approve", asked, "--sign", "other", code=2)
    trusted.json("bundle", "export", asked, "-o", "decision.json")
    folder = trusted.folder / "home" / ".config" / "nexus-attest" / "keys"
    seed = json.loads((folder / "laptop.key").read_text())["secret"]["seed"]
    secrets = [seed.encode(), b64decode(seed), passphrase.encode()]
    written = [path for path in trusted.folder.iterdir() if path.is_file()]
    assert {"decisions.db", "decision.json"} <= {path.name for path in written}
    assert not [(path.name, secret) for path in written for secret in secrets if secret in path.read_bytes()]


def test_what_is_no_usable_key_is_listed_beside_the_others(cli: CommandLine) -> None:
    made = Path(cli.json("keys", "new", "good")["file"])
    (made.parent / "bad.key").write_text("{}")
    (made.parent / "bad.key").chmod(0o600)
    made.chmod(0o644)
    found = cli.json("keys", "list")
    assert (found["keys"], [problem["code"] for problem in found["refused"]]) == ([], ["KEY_INVALID", "KEY_FILE_REFUSED"])
    assert "KEY_FILE_REFUSED" in cli.run("keys", "list").out
    assert cli.run("keys", "list", "--keys", "nowhere").out == "No keys\n"


def test_the_entry_of_a_trust_policy_is_printed_ready_to_use(cli: CommandLine) -> None:
    made = cli.json("keys", "new", "laptop")
    policy = parse_trust(tomllib.loads("version = 1\n" + cli.run("keys", "show", "laptop", "--actor", 'system:ci "1"\u00fc').out))
    assert (policy.actors[0].actor, policy.actors[0].keys[0].key_id) == ({"type": "system", "id": 'ci "1"\u00fc'}, made["key_id"])
    log = cli.run("keys", "show", "laptop", "--log", "example.com/log").out.strip()
    assert parse_note_key(log).name == "example.com/log"
    both = cli.run("keys", "show", "laptop", "--log", "example.com/log", "--actor", "alice").out
    assert [key.text() for key in parse_trust(tomllib.loads("version = 1\n" + both)).log_keys] == [log]
    cli.run("keys", "retire", "laptop", "--yes")
    retired = parse_trust(tomllib.loads("version = 1\n" + cli.run("keys", "show", "laptop", "--actor", "alice").out))
    assert retired.actors[0].keys[0].retired_at is not None


def test_a_passphrase_comes_from_the_environment_or_the_terminal(cli: CommandLine) -> None:
    assert cli.json("keys", "new", "k", "--protect", code=2)["code"] == "PASSPHRASE_MISSING"
    cli.extra["NEXUS_ATTEST_PASSPHRASE"] = "correct horse"
    assert cli.json("keys", "new", "k", "--protect")["protected"] is True
    cli.extra["NEXUS_ATTEST_PASSPHRASE"] = "wrong horse"
    assert cli.json("approve", "x", "--sign", "k", code=2)["code"] == "PASSPHRASE_WRONG"
    del cli.extra["NEXUS_ATTEST_PASSPHRASE"]
    missing = cli.run("approve", "x", "--sign", "k")
    assert missing.err.endswith("Set NEXUS_ATTEST_PASSPHRASE, or call it from a terminal.\n")
    out, err = at_a_terminal(cli, "correct horse", "approve", "x", "--sign", "k", "--json")
    assert json.loads(out)["code"] == "STORE_NOT_FOUND", err
    assert b"correct horse" not in out + err


def test_a_signed_approval_opens_what_a_name_does_not(trusted: CommandLine) -> None:
    request_id = trusted.json("request", "Rotate", "--label", "prod", "--actor", "bob")["request_id"]
    assert trusted.json("approve", request_id, code=2)["code"] == "ASSURANCE_TOO_LOW"
    signed = ["--comment", "looks right", "--expires-at", "2999-01-01T01:00:00+01:00", "--sign", "laptop"]
    assert trusted.json("approve", request_id, "--actor", "bob", *signed, code=2)["code"] == "KEY_OF_OTHER_ACTOR"
    assert trusted.json("approve", request_id, *signed)["is_approved"] is True
    payload = payloads(trusted, request_id)[-1]
    assert (payload["assurance"], payload["channel"], payload["expires_at"]) == ("signed", "cli", "2999-01-01T00:00:00+00:00")
    assert parse_envelope(payload["signature"]).statement.comment == "looks right"
    assert trusted.json("status", request_id)["is_approved"] is True
    del trusted.extra["NEXUS_ATTEST_TRUST"]
    assert trusted.json("status", request_id)["is_approved"] is False
    assert trusted.json("status", request_id, "--trust", "trust.toml")["is_approved"] is True


def test_a_signature_without_a_trust_policy_is_refused_with_advice(trusted: CommandLine) -> None:
    request_id = trusted.json("request", "Rotate")["request_id"]
    del trusted.extra["NEXUS_ATTEST_TRUST"]
    ended = trusted.run("approve", request_id, "--sign", "laptop")
    assert (ended.code, "VERIFIER_MISSING" in ended.err, "--trust FILE" in ended.err) == (2, True, True)


def test_requests_revocations_and_executions_are_signed_as_well(trusted: CommandLine) -> None:
    asked = trusted.json("request", "Rotate", "--sign", "laptop", "--label", "prod")
    assert trusted.json("approve", asked["request_id"], "--sign", "laptop")["is_approved"] is True
    assert trusted.json("revoke", asked["request_id"], "--reason", "wait", "--sign", "laptop")["is_approved"] is False
    signed = [payload for payload in payloads(trusted, asked["request_id"]) if "signature" in payload]
    assert [parse_envelope(payload["signature"]).statement.action for payload in signed] == ["request", "approve", "revoke"]
    assert parse_envelope(signed[0]["signature"]).statement.decision_id == asked["request_id"]
    refused = trusted.json("execute", asked["request_id"], "a", "--adapters", "none.toml", "--sign", "laptop", code=2)
    assert refused["code"] == "ADAPTER_FILE_INVALID"


def test_an_approval_is_signed_on_one_machine_and_taken_in_on_another(trusted: CommandLine) -> None:
    request_id = trusted.json("request", "Rotate", "--label", "prod", "--actor", "bob", "--plan", "step \x1b[2J")["request_id"]
    trusted.json("bundle", "export", request_id, "-o", "decision.json")
    away = CommandLine(trusted.folder, extra={"NEXUS_ATTEST_DB": "nowhere.db"})
    signing = away.run("sign", "approve", "decision.json", "--key", "laptop", "--comment", "ok", "-o", "approval.json")
    assert signing.code == 0, signing
    for told in ("Signing: approve", request_id, "goal      Rotate", "plan      step \\x1b[2J", "labels    prod", "sha256:"):
        assert told in signing.err
    taken = trusted.json("approve", request_id, "--envelope", "approval.json", "--actor", "bob", code=2)
    assert taken["code"] == "SIGNATURE_FOR_OTHER_ACTOR"
    assert trusted.json("approve", request_id, "--envelope", "approval.json", "--comment", "never", code=2)["code"] == (
        "SIGNATURE_FOR_OTHER_COMMAND"
    )
    assert trusted.json("approve", request_id, "--envelope", "approval.json")["is_approved"] is True
    assert payloads(trusted, request_id)[-1]["comment"] == "ok"
    assert trusted.json("approve", request_id, "--envelope", "approval.json", code=2)["code"] == "SIGNATURE_REPLAYED"
    streamed = away.run("sign", "revoke", "decision.json", "--key", "laptop", "--reason", "no", "-o", "-")
    assert trusted.run("revoke", request_id, "--envelope", "-", stdin=streamed.out).code == 0


def test_nothing_is_signed_that_is_not_consistent_with_itself(trusted: CommandLine) -> None:
    request_id = trusted.json("request", "Rotate")["request_id"]
    trusted.json("bundle", "export", request_id, "-o", "decision.json")
    path = trusted.folder / "decision.json"
    path.write_text(path.read_text().replace("Rotate", "Delete"))
    refused = trusted.json("sign", "approve", "decision.json", "--key", "laptop", "-o", "approval.json", code=2)
    assert refused["code"] == "BUNDLE_INVALID_SCHEMA"
    assert "bundle_digest" in refused["error"]
    assert not (trusted.folder / "approval.json").exists()


def test_signing_and_an_envelope_are_not_given_together(trusted: CommandLine) -> None:
    assert trusted.json("approve", "x", "--sign", "laptop", "--envelope", "e.json", code=2)["code"] == "USAGE"
    (trusted.folder / "e.json").write_text("{")
    assert trusted.json("approve", "x", "--envelope", "e.json", code=2)["code"] == "ENVELOPE_INVALID"
    assert trusted.json("request", "x", "--envelope", "nothing.json", code=2)["code"] == "FILE_NOT_READABLE"


def test_a_trust_policy_is_checked_and_explained(trusted: CommandLine) -> None:
    checked = trusted.json("trust", "check", "trust.toml")
    assert checked["digest"].startswith("sha256:")
    assert checked["policy"]["rules"][0]["assurance"] == "signed"
    shown = trusted.run("trust", "check", "trust.toml").out
    assert f"digest {checked['digest']}" in shown
    assert "actor human:bob: no key" in shown
    assert "rule 1: to approve, revoke for label prod: signed, by everybody" in shown


def test_everything_in_a_trust_policy_is_explained(cli: CommandLine) -> None:
    key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    (cli.folder / "trust.toml").write_text(
        f'version = 1\nname = "p"\n[[actors]]\nid = "alice"\n[[actors.keys]]\npublic_key = "{key}"\nnot_after = 2030-01-01T00:00:00Z\n'
        '[[rules]]\ntemplates = ["t"]\nactors = []\nself_approval = false\n[[rules]]\nactors = ["alice"]\n'
        '[[log_keys]]\nkey = "example.com/log+cc714670+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"\n'
        f'[[attestors]]\nid = "bot"\nkey_id = "k1"\npublic_key = "{key}"\n'
        '[[ledgers]]\nnetwork = "xrpl.testnet"\naccounts = ["r1", "r2"]\n'
    )
    assert cli.run("trust", "check", "trust.toml").out.splitlines()[2:] == [
        "  actor human:alice: ed25519:21fe31dfa154a261 (not_after 2030-01-01T00:00:00+00:00)",
        "  rule 1: to approve, revoke for template t: asserted, by nobody, not their own requests",
        "  rule 2: to approve, revoke for every decision: asserted, by human:alice",
        "  log example.com/log+cc714670+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea",
        "  attestor bot: k1",
        "  ledger xrpl.testnet: r1, r2",
    ]


def test_every_mistake_of_a_trust_policy_is_told(cli: CommandLine) -> None:
    (cli.folder / "trust.toml").write_text("version = 2\nactor = 1\n")
    found = cli.json("trust", "check", "trust.toml", code=2)
    assert (found["code"], len(found["problems"])) == ("TRUST_INVALID", 2)
    ended = cli.run("trust", "check", "trust.toml")
    assert (ended.code, len(ended.out.splitlines())) == (2, 2)
    assert "trust.toml: version: must be 1" in ended.out
    assert cli.json("list", "--trust", "trust.toml", code=2)["code"] in ("TRUST_INVALID", "STORE_NOT_FOUND")


def test_the_configuration_names_the_trust_policy_and_the_keys(trusted: CommandLine) -> None:
    del trusted.extra["NEXUS_ATTEST_TRUST"]
    config = trusted.folder / "home" / ".config" / "nexus-attest"
    (config / "trust.toml").write_text((trusted.folder / "trust.toml").read_text())
    (config / "config.toml").write_text('trust = "trust.toml"\nkeys = "other"\n')
    assert trusted.json("keys", "list")["keys"] == []
    (config / "keys").rename(config / "other")
    request_id = trusted.json("request", "Rotate", "--label", "prod")["request_id"]
    assert trusted.json("approve", request_id, "--sign", "laptop")["is_approved"] is True
    trusted.extra["NEXUS_ATTEST_KEYS"] = str(config / "keys")
    assert trusted.json("keys", "list")["keys"] == []
