import json
import re
import tomllib
from base64 import b64decode
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_testing import ALICE, BOB

from nexus_attest import trust_file
from nexus_attest.key_errors import TrustInvalid
from nexus_attest.trust import TrustPolicy
from nexus_attest.trust_file import load_trust, parse_trust, pem_certificates
from nexus_control.events import Actor

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "schemas" / "nexus-attest.trust.v1.json").read_text(encoding="utf-8"))

KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
KEY_2 = "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="
LOG_KEY = "example.com/log+cc714670+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"

PEM = "-----BEGIN CERTIFICATE-----\\nMIIB" + "QUJD" * 20 + "\\n-----END CERTIFICATE-----"
A_CERTIFICATE = "one certificate in PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
AUTHORITY = 'version = 1\n[[authorities]]\nname = "a"\n'

FULL = f"""
version = 1
name = "production"

[[actors]]
id = "alice"
[[actors.keys]]
public_key = "{KEY}"
not_before = 2026-01-01T00:00:00Z
not_after = 2027-01-01T01:00:00+01:00
[[actors.keys]]
public_key = "{KEY_2}"
id = "old laptop"
retired_at = 2026-03-01T00:00:00Z

[[actors]]
id = "ci"
type = "system"

[groups]
release = ["human:alice", "system:ci"]
nobody = []

[[rules]]
labels = ["prod"]
templates = ["rotate-key"]
actions = ["approve"]
assurance = "signed"
groups = ["release"]
self_approval = false

[[rules]]
actions = ["execute"]
actors = ["system:ci"]
groups = ["nobody"]

[[rules]]

[[log_keys]]
key = "{LOG_KEY}"

[[attestors]]
id = "release-bot"
key_id = "k1"
public_key = "{KEY}"
not_after = 2027-01-01T00:00:00Z

[[ledgers]]
network = "xrpl.testnet"
accounts = ["rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe"]
publisher_keys = ["ED{"0A" * 32}"]
publishers = "all"
level = "tree"

[[authorities]]
name = "timestamps.example"
certificates = ["{PEM}"]
policies = ["1.3.6.1.4.1.4146.2.3", "2.16.840.1"]
"""


def parsed(text: str) -> TrustPolicy:
    return parse_trust(tomllib.loads(text))


def problems(text: str) -> list[str]:
    with pytest.raises(TrustInvalid) as caught:
        parsed(text)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return list(caught.value.problems)


def as_json(value: Any) -> Any:
    """TOML data as the schema sees it."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [as_json(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value.isoformat() if isinstance(value, datetime) else value


def is_valid(text: str) -> bool:
    validator: Any = jsonschema.Draft202012Validator(SCHEMA)
    return validator.is_valid(as_json(tomllib.loads(text)))


def test_a_file_is_read_completely() -> None:
    trust = parsed(FULL)
    assert trust.name == "production"
    alice, ci = trust.actors
    assert (alice.actor, ci.actor, ci.keys) == (ALICE, Actor(type="system", id="ci"), ())
    assert [key.key_id for key in alice.keys] == ["ed25519:21fe31dfa154a261", "old laptop"]
    assert alice.keys[0].not_before == datetime(2026, 1, 1, tzinfo=UTC)
    assert alice.keys[0].not_after == datetime(2027, 1, 1, tzinfo=UTC)
    assert alice.keys[1].retired_at == datetime(2026, 3, 1, tzinfo=UTC)
    first, second, third = trust.rules
    assert (first.labels, first.templates, first.actions) == ({"prod"}, {"rotate-key"}, {"approve"})
    assert (first.assurance, first.self_approval, first.actors) == ("signed", False, {("human", "alice"), ("system", "ci")})
    assert (second.actors, second.assurance, second.self_approval) == ({("system", "ci")}, "asserted", True)
    assert (third.actions, third.actors, third.labels) == ({"approve", "revoke"}, None, frozenset())
    assert [key.text() for key in trust.log_keys] == [LOG_KEY]
    assert [(one.attestor_id, one.key.key_id) for one in trust.attestors] == [("release-bot", "k1")]
    (authority,) = trust.authorities
    assert (authority.name, authority.policies) == ("timestamps.example", ("1.3.6.1.4.1.4146.2.3", "2.16.840.1"))
    assert authority.certificates == (b64decode("MIIB" + "QUJD" * 20),)
    assert [(ledger.network, len(ledger.accounts), len(ledger.publisher_keys)) for ledger in trust.ledgers] == [("xrpl.testnet", 1, 1)]
    assert [(ledger.all_publishers, ledger.level) for ledger in trust.ledgers] == [(True, "tree")]
    assert trust.to_dict()["ledgers"][0].keys() == {"network", "accounts", "publisher_keys", "publishers", "level"}
    assert is_valid(FULL)


def test_a_file_that_only_has_a_version_trusts_nobody() -> None:
    assert parsed("version = 1") == TrustPolicy()


def test_the_documented_file_is_one() -> None:
    text = re.sub(r"ED\.\.\.", "ED" + "0A" * 32, (trust_file.__doc__ or "").split("\n\n", 1)[1].rpartition("\n\n")[0])
    text = text.replace("-----BEGIN CERTIFICATE-----...", PEM)
    text = re.sub(r"(?m)^    ", "", text)
    text = re.sub(r'(?m)^((?:[a-z_]+ = .*?["\]\d]|[a-z_]+ = \S+?Z|[a-z_]+ = (?:true|false))) {2,}\S.*$', r"\1", text)
    text = re.sub(r"(?m)^(\[\[?[a-z_.]+\]\]?) .*$", r"\1", text)
    text = text.replace('["bob"]', '["alice"]').replace("[groups]", '[[actors]]\nid = "ci"\ntype = "system"\n[groups]')
    assert parsed(text).name == "production"


def test_certificates_are_found_in_a_text_wherever_they_stand() -> None:
    pem = PEM.replace("\\n", "\n")
    der = b64decode("MIIB" + "QUJD" * 20)
    assert pem_certificates(f"subject=/CN=x\n{pem}\nissuer=/CN=y\r\n{pem}\n") == [der, der]
    assert pem_certificates("no certificate") == pem_certificates("") == []
    with pytest.raises(TrustInvalid, match="must be one certificate in PEM"):
        pem_certificates(pem + pem.replace("MIIB", "MI!B"))


def test_the_file_of_the_documentation_is_one() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "trust.md").read_text(encoding="utf-8"), re.DOTALL)
    trust = parsed(text)
    assert (len(trust.actors), len(trust.rules), len(trust.ledgers)) == (3, 3, 1)
    assert is_valid(text)


def test_the_digest_does_not_depend_on_how_the_file_is_written() -> None:
    other = FULL.replace('"human:alice", "system:ci"', '"system:ci", "alice"').replace("2027-01-01T01:00:00+01:00", "2027-01-01T00:00:00Z")
    assert parsed(other + "# a comment\n").digest == parsed(FULL).digest
    assert parsed(FULL.replace('"signed"', '"authenticated"')).digest != parsed(FULL).digest


ACTOR = 'version = 1\n[[actors]]\nid = "alice"\n'
ACTOR_KEY = ACTOR + "[[actors.keys]]\n"

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "no version": ("", ["version: is missing"]),
    "a version as text": ('version = "1"', ["version: must be 1, the version that this release reads"]),
    "a boolean version": ("version = true", ["version: must be 1, the version that this release reads"]),
    "a version of the future": ("version = 2", ["version: must be 1, the version that this release reads"]),
    "an unknown key": (
        "version = 1\nlog_key = 1",
        ["unknown key 'log_key'; known: version, name, actors, groups, rules, log_keys, attestors, ledgers, authorities"],
    ),
    "an empty name": ('version = 1\nname = ""', ["name: must be text of 1 to 256 printable characters without spaces around it"]),
    "actors that are no array": ("version = 1\nactors = 1", ["actors: must be an array"]),
    "an actor that is a name": ('version = 1\nactors = ["alice"]', ["actors[0]: must be a table", "actors[0].id: is missing"]),
    "an actor without id": ("version = 1\n[[actors]]", ["actors[0].id: is missing"]),
    "an actor with spaces": (
        'version = 1\n[[actors]]\nid = "alice "',
        ["actors[0].id: must be text of 1 to 256 printable characters without spaces around it"],
    ),
    "an actor with a control character": (
        'version = 1\n[[actors]]\nid = "a\\u0007"',
        ["actors[0].id: must be text of 1 to 256 printable characters without spaces around it"],
    ),
    "an actor of another type": (ACTOR + 'type = "robot"', ["actors[0].type: must be one of human, system"]),
    "an actor twice": (ACTOR + '[[actors]]\nid = "alice"', ["actors: human:alice is listed twice"]),
    "a key without its public key": (ACTOR_KEY, ["actors[0].keys[0].public_key: is missing"]),
    "a key in hex": (
        ACTOR_KEY + f'public_key = "{"a" * 64}"',
        ["actors[0].keys[0].public_key: must be the 32 bytes of an Ed25519 public key in base64"],
    ),
    "a key that is no text": (
        ACTOR_KEY + "public_key = 1",
        ["actors[0].keys[0].public_key: must be the 32 bytes of an Ed25519 public key in base64"],
    ),
    "a key that is no base64": (
        ACTOR_KEY + 'public_key = "?"',
        ["actors[0].keys[0].public_key: must be the 32 bytes of an Ed25519 public key in base64"],
    ),
    "a key in another spelling": (
        ACTOR_KEY + f'public_key = "{KEY[:-2]}p="',
        ["actors[0].keys[0].public_key: must be the 32 bytes of an Ed25519 public key in base64"],
    ),
    "a key of small order": (
        ACTOR_KEY + 'public_key = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="',
        ["actors[0].keys[0].public_key: must be the 32 bytes of an Ed25519 public key in base64"],
    ),
    "a time without offset": (
        ACTOR_KEY + f'public_key = "{KEY}"\nnot_after = 2026-01-01T00:00:00',
        ["actors[0].keys[0].not_after: must be a date and time with offset, such as 2026-01-01T00:00:00Z"],
    ),
    "a date": (
        ACTOR_KEY + f'public_key = "{KEY}"\nretired_at = 2026-01-01',
        ["actors[0].keys[0].retired_at: must be a date and time with offset, such as 2026-01-01T00:00:00Z"],
    ),
    "a time before all time": (
        ACTOR_KEY + f'public_key = "{KEY}"\nnot_before = 0001-01-01T00:00:00+01:00',
        ["actors[0].keys[0].not_before: must be a time in the calendar of UTC"],
    ),
    "a key that ends before it begins": (
        ACTOR_KEY + f'public_key = "{KEY}"\nnot_before = 2026-01-02T00:00:00Z\nnot_after = 2026-01-02T00:00:00Z',
        ["actors[0].keys[0].not_after: must be later than not_before"],
    ),
    "a key id twice": (
        ACTOR_KEY + f'public_key = "{KEY}"\nid = "k"\n[[actors.keys]]\npublic_key = "{KEY_2}"\nid = "k"',
        ["actors: key id k is there twice"],
    ),
    "a public key in two hands": (
        ACTOR_KEY + f'public_key = "{KEY}"\n[[actors]]\nid = "bob"\n[[actors.keys]]\nid = "k"\npublic_key = "{KEY}"',
        ["actors: the public key of k is there twice"],
    ),
    "groups as an array": ("version = 1\ngroups = []", ["groups: must be a table of groups"]),
    "a group that is a name": (ACTOR + '[groups]\nrelease = "alice"', ["groups.release: must be an array"]),
    "a stranger in a group": (
        ACTOR + '[groups]\nrelease = ["alice", "bob"]',
        ["groups.release[1]: must be an actor of this file; 'bob' is not listed"],
    ),
    "a name of another type in a group": (
        ACTOR + '[groups]\nrelease = ["system:alice"]',
        ["groups.release[0]: must be an actor of this file; 'system:alice' is not listed"],
    ),
    "nonsense in a group": (
        ACTOR + '[groups]\nrelease = ["robot:alice", 7]',
        [
            "groups.release[0]: must be an actor: NAME, human:NAME or system:NAME",
            "groups.release[1]: must be text of 1 to 256 printable characters without spaces around it",
        ],
    ),
    "somebody twice in a group": (ACTOR + '[groups]\nrelease = ["alice", "human:alice"]', ["groups.release[1]: must be there once"]),
    "an unknown group": (ACTOR + '[[rules]]\ngroups = ["x"]', ["rules[0].groups[0]: must be a group of this file; there is no 'x'"]),
    "rules without labels": (ACTOR + "[[rules]]\nlabels = []", ["rules[0].labels: must not be empty"]),
    "rules without templates": (ACTOR + "[[rules]]\ntemplates = []", ["rules[0].templates: must not be empty"]),
    "rules without actions": (ACTOR + "[[rules]]\nactions = []", ["rules[0].actions: must not be empty"]),
    "an unknown action": (
        ACTOR + '[[rules]]\nactions = ["approve", "reject"]',
        ["rules[0].actions[1]: must be one of request, approve, revoke, execute"],
    ),
    "an unknown assurance": (
        ACTOR + '[[rules]]\nassurance = "Signed"',
        ["rules[0].assurance: must be one of asserted, authenticated, signed"],
    ),
    "a flag as text": (ACTOR + '[[rules]]\nself_approval = "no"', ["rules[0].self_approval: must be true or false"]),
    "a log without key": ("version = 1\n[[log_keys]]", ["log_keys[0].key: is missing"]),
    "an attestor without anything": (
        "version = 1\n[[attestors]]",
        ["attestors[0].id: is missing", "attestors[0].public_key: is missing", "attestors[0].key_id: is missing"],
    ),
    "a ledger without accounts": (
        'version = 1\n[[ledgers]]\nnetwork = "x"\naccounts = []',
        ["ledgers[0].accounts: must name at least one account"],
    ),
    "a ledger without anything": (
        "version = 1\n[[ledgers]]",
        ["ledgers[0].network: is missing", "ledgers[0].accounts: must name at least one account"],
    ),
    "a level that is none": (
        'version = 1\n[[ledgers]]\nnetwork = "x"\naccounts = ["r"]\nlevel = "quorums"\npublishers = 1',
        ["ledgers[0].publishers: must be one of any, all", "ledgers[0].level: must be one of server, tree, quorum"],
    ),
    "an authority without anything": (
        "version = 1\n[[authorities]]",
        ["authorities[0].name: is missing", "authorities[0].certificates: must hold at least one certificate"],
    ),
    "an authority with certificates that are none": (
        AUTHORITY + f'certificates = ["{PEM}{PEM}", "{PEM[:-6]}", 1, "{PEM.replace("MIIB", "AIIB")}", "{PEM.replace("MIIB", "MIIB=")}"]',
        [
            *(f"authorities[0].certificates[{place}]: must be {A_CERTIFICATE}" for place in range(5)),
            "authorities[0].certificates: must hold at least one certificate",
        ],
    ),
    "an authority with odd policies": (
        AUTHORITY + f'certificates = ["{PEM}"]\npolicies = ["1", "3.1", "1.02", "1.2.", 1, "1.2", "1.2"]',
        [
            *(f"authorities[0].policies[{n}]: must be an object identifier such as 1.3.6.1.4.1.4146.2.3" for n in range(5)),
            "authorities[0].policies[6]: must be there once",
        ],
    ),
    "an authority for no policy": (AUTHORITY + f'certificates = ["{PEM}"]\npolicies = []', ["authorities[0].policies: must not be empty"]),
    "an authority that comes twice": (
        f'version = 1\n[[authorities]]\nname = "a"\ncertificates = ["{PEM}"]\n[[authorities]]\nname = "a"\ncertificates = ["{PEM}"]',
        ["authorities: a is there twice"],
    ),
    "a publisher key in small letters": (
        f'version = 1\n[[ledgers]]\nnetwork = "x"\naccounts = ["r"]\npublisher_keys = ["ed{"0a" * 32}"]',
        ["ledgers[0].publisher_keys[0]: must be a public key of 33 bytes in uppercase hex"],
    ),
}

BEYOND_THE_SCHEMA = {
    "an authority that comes twice",
    "an actor with spaces",
    "an actor with a control character",
    "an actor twice",
    "a key in another spelling",
    "a key of small order",
    "a time without offset",
    "a time before all time",
    "a key that ends before it begins",
    "a key id twice",
    "a public key in two hands",
    "a stranger in a group",
    "a name of another type in a group",
    "somebody twice in a group",
    "an unknown group",
}
"""Mistakes that a JSON Schema cannot express, or that the lists of a file only show together."""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_place(name: str) -> None:
    text, expected = MISTAKES[name]
    assert problems(text) == expected


@pytest.mark.parametrize("name", MISTAKES)
def test_the_schema_and_the_reader_agree(name: str) -> None:
    assert is_valid(MISTAKES[name][0]) == (name in BEYOND_THE_SCHEMA)


def test_a_private_key_in_a_policy_is_refused_and_not_repeated() -> None:
    (problem,) = problems(ACTOR_KEY + f'public_key = "{KEY}"\nprivate_key = "c2VjcmV0"')
    assert problem.startswith("actors[0].keys[0]: unknown key 'private_key'; known: ")
    assert "c2VjcmV0" not in problem


def test_a_broken_log_key_is_named() -> None:
    (problem,) = problems('version = 1\n[[log_keys]]\nkey = "example.com/log+00000000+' + LOG_KEY.rpartition("+")[2] + '"')
    assert problem.startswith("log_keys[0].key: must be a verifier key of a log or witness: ")


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems('version = 2\nnames = 1\n[[actors]]\ntype = "x"\n[[rules]]\nassurance = 1\n[[ledgers]]')) == 7


def test_a_hundred_mistakes_are_enough() -> None:
    found = problems("version = 1\n" + "[[actors]]\n" * 150)
    assert (len(found), found[-1]) == (101, "and 50 more")


def test_many_values_cost_no_more_than_their_number() -> None:
    names = ", ".join(f'"{number}"' for number in range(50_000))
    assert len(parsed(f"{ACTOR}[[rules]]\nlabels = [{names}]").rules[0].labels) == 50_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_data_is_understood_or_refused_by_name(value: Any) -> None:
    for place in ("version", "name", "actors", "groups", "rules", "log_keys", "attestors", "ledgers", "authorities"):
        with suppress(TrustInvalid):
            assert parse_trust({"version": 1, place: value})
    with pytest.raises(TrustInvalid):
        parse_trust(value)


def test_a_file_is_loaded_and_its_name_is_in_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "trust.toml"
    path.write_text(FULL)
    assert load_trust(path) == load_trust(str(path)) == parsed(FULL)
    path.write_text("version = 2\nx = 1")
    with pytest.raises(TrustInvalid) as caught:
        load_trust(path)
    assert [problem.startswith(f"{path}: ") for problem in caught.value.problems] == [True, True]


UNREADABLE: dict[str, bytes | None] = {
    "no file": None,
    "no TOML": b"version = ",
    "no UTF-8": b"version = 1\nname = '\xff'",
    "too deep": b"x = " + b"[" * 10_000,
    "a key of 500,000 names": b"a" + b".a" * 500_000 + b" = 1",
    "a key of 300,000 names after a string": b'x = ["""\n""", {a' + b".a" * 300_000 + b" = 1}]",
    "too large": b"#" * (1024 * 1024 + 1),
    "a key twice": b"version = 1\nversion = 1",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trust.toml"
    if (content := UNREADABLE[name]) is not None:
        path.write_bytes(content)
    with pytest.raises(TrustInvalid, match=re.escape(str(path))):
        load_trust(path)


def test_the_schema_is_valid_and_its_example_too() -> None:
    check: Any = jsonschema.Draft202012Validator
    check.check_schema(SCHEMA)
    (example,) = SCHEMA["examples"]
    assert check(SCHEMA).is_valid(example)
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    example["actors"][0]["keys"][0]["not_after"] = moment
    trust = parse_trust(example)
    assert [trusted.actor for trusted in trust.actors] == [ALICE, BOB]
    assert trust.rules[0].actors == {("human", "alice"), ("human", "bob")}


@pytest.mark.parametrize("other", ["Alice", "\u0430lice", "\uff41lice", "al\u0131ce"])
@pytest.mark.parametrize("kind", ["human", "system"])
def test_actors_that_look_the_same_are_refused(other: str, kind: str) -> None:
    with pytest.raises(TrustInvalid) as refused:
        parse_trust({"version": 1, "actors": [{"id": "alice"}, {"id": "bob"}, {"id": other, "type": kind}]})
    assert list(refused.value.problems) == [f"actors: 'alice', {other!a} look the same, so that one would pass for the other"]


def test_a_person_and_a_system_may_have_one_name() -> None:
    assert len(parse_trust({"version": 1, "actors": [{"id": "ci"}, {"id": "ci", "type": "system"}]}).actors) == 2
