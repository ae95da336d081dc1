"""The witness file: what is read from it, and that everything else is refused by its path, without repeating it."""

import asyncio
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from witness_testing import World, intent

from nexus_attest.attestation.errors import AuthorityUnknown, NetworkUnknown, SignerMissing, WitnessFileError, WrongNetwork
from nexus_attest.attestation.witness_file import (
    AUTHORITY_KEYS,
    NETWORK_KEYS,
    load_witness_file,
    parse_witness_file,
    witness_file_schema,
)
from nexus_attest.attestation.xrpl.submission import SubmissionSettings
from nexus_attest.key_errors import KeyFileRefused, KeyNotFound
from nexus_attest.testledger import Ledger, Node, http_front
from nexus_attest.urls import same_server
from scripts.key_tables import filled

ROOT = Path(__file__).resolve().parent.parent
SEED = "sEdSJHS4oiAdz7w2X2ni1gFiqtbJHqE"
ACCOUNT = "r9zRhGr7b6xPekLvT6wP4qNdWMryaumZS7"
LEAST: dict[str, Any] = {"network_id": 1, "urls": ["https://a.example"]}
LEAST_AUTHORITY: dict[str, Any] = {"url": "http://a.example/tsr", "certificates": ["root.pem"]}


def problems(networks: object, **top: Any) -> list[str]:
    with pytest.raises(WitnessFileError) as refused:
        parse_witness_file({"networks": networks, **top}, base_dir=Path("/"))
    assert str(refused.value) == "; ".join(refused.value.problems)
    return list(refused.value.problems)


def test_the_file_that_comes_with_the_package_has_the_published_pins() -> None:
    found = load_witness_file(str(files("nexus_attest.attestation") / "witness.toml"))
    assert (list(found.networks), found.default) == (["mainnet", "testnet", "private"], "testnet")
    assert [network.network_id for network in found.networks.values()] == [0, 1, 31337]
    assert found.networks["mainnet"].publisher_keys == (
        "ED2677ABFFD1B33AC6FBC3062B71F1E8397C1505E1C42C64D11AD1B28FF73F4734",
        "ED42AEC58B701EEBB77356FFFEC26F83C1F0407263530F068C7C73D392C7E06FD1",
    )
    assert found.networks["testnet"].publisher_keys == ("ED264807102805220DA0F312E71FC2C69E1552C9C5790F6C25E3729DEB573D5860",)
    for name in ("mainnet", "testnet"):
        assert len({same_server(url) for url in found.networks[name].urls}) == 3
    assert all(network.signer is not None and network.signer.startswith("env:") for network in found.networks.values())


@pytest.mark.parametrize("down", range(3))
@pytest.mark.parametrize("name", ["mainnet", "testnet"])
def test_each_of_the_three_servers_of_a_public_network_may_be_down(name: str, down: int) -> None:
    """As many servers, asked as the file says, of a ledger with the number that it says."""
    network = load_witness_file(str(files("nexus_attest.attestation") / "witness.toml")).network(name)
    world = World(nodes=len(network.urls), network_id=network.network_id, submission=network.submission)
    world.nodes[down].faults.add("*", *["http503"] * 1000)
    world.queue.enqueue(intent(0))
    world.run(most=40)
    world.require_exactly_once([intent(0)])


def test_what_is_absent_has_its_default() -> None:
    network = parse_witness_file({"networks": {"x": LEAST}}, base_dir=Path("/")).network("x")
    assert (network.account, network.signer, network.streams, network.lists, network.publisher_keys) == (None, None, (), (), ())
    assert (network.batching.network, network.batching.max_members, network.batching.max_age) == ("x", 4096, 10)
    assert network.submission == SubmissionSettings()
    with pytest.raises(SignerMissing, match="x"):
        network.open_signer()


def test_every_key_reaches_what_it_is_for() -> None:
    given = {"window": 7, "max_fee_drops": 99, "expiry_answers": 3, "confirm_answers": 2, "max_members": 5, "max_age_s": 0, "timeout_s": 3}
    network = parse_witness_file({"networks": {"x": {**LEAST, **given, "account": ACCOUNT}}}, base_dir=Path("/")).network("x")
    assert network.submission == SubmissionSettings(window=7, max_fee_drops=99, expiry_answers=3, confirm_answers=2)
    assert (network.batching.max_members, network.batching.max_age, network.timeout_s, network.account) == (5, 0, 3, ACCOUNT)
    assert {key.name for key in NETWORK_KEYS} >= set(given)


def test_the_name_of_a_network_is_short_for_every_receipt_repeats_it() -> None:
    text = "networks.{}: must be a name of at most 14 letters, digits, '.', '_' and '-'"
    text += " (another name changes nothing but what later receipts repeat)"
    assert parse_witness_file({"networks": {"n" * 14: LEAST}}, base_dir=Path("/")).network("n" * 14).batching.network == "n" * 14
    assert problems({"n" * 15: LEAST}) == [text.format("n" * 15)]


def test_the_network_is_named_or_has_a_default_and_is_never_guessed() -> None:
    one = parse_witness_file({"networks": {"x": LEAST}}, base_dir=Path("/"))
    with pytest.raises(NetworkUnknown, match="which network"):
        one.network()
    with pytest.raises(NetworkUnknown, match="it has x"):
        one.network("mainnet")
    assert parse_witness_file({"network": "x", "networks": {"x": LEAST}}, base_dir=Path("/")).network().name == "x"
    assert problems({"x": LEAST}, network="y") == ["network: must be a network of this file"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"urls": []}, "networks.x.urls: must be a list of JSON-RPC URLs, at least one"),
        ({"urls": "https://a.example"}, "networks.x.urls: must be a list"),
        ({"urls": ["ftp://a.example"]}, "networks.x.urls[0]"),
        ({"urls": ["https://user:hunter2@a.example"]}, "networks.x.urls[0]"),
        ({"urls": ["https://a.example/?key=hunter2"]}, "networks.x.urls[0]"),
        ({"urls": ["https://a.example:x"]}, "networks.x.urls[0]"),
        ({"urls": ["https:///x"]}, "networks.x.urls[0]"),
        (
            {"urls": ["https://a.example", "https://b.example", "https://a.example"]},
            "networks.x.urls[2]: is the same server as networks.x.urls[0]",
        ),
        ({"urls": ["https://a.example", "https://a.example/"]}, "networks.x.urls[1]: is the same server"),
        ({"urls": ["https://a.example/x", "https://A.Example./x//"]}, "networks.x.urls[1]: is the same server"),
        ({"urls": ["https://a.example", "https://a.example:443"]}, "networks.x.urls[1]: is the same server"),
        ({"streams": ["wss://a.example", "wss://a.example:443/"]}, "networks.x.streams[1]: is the same server"),
        ({"urls": ["http://a.example"]}, "networks.x.urls[0]: must use TLS, unless allow_plain = true"),
        ({"streams": ["ws://10.0.0.1"]}, "networks.x.streams[0]: must use TLS"),
        ({"lists": ["http://a.example"]}, "networks.x.lists[0]: must use TLS"),
        ({"network_id": -1}, "networks.x.network_id"),
        ({"network_id": True}, "networks.x.network_id"),
        ({"network_id": 2**32}, "networks.x.network_id"),
        ({"signer": SEED}, "networks.x.signer: must be where the seed is"),
        ({"signer": f"env:{SEED}"}, "networks.x.signer: must be where the seed is"),
        ({"signer": "hunter2"}, "networks.x.signer"),
        ({"account": "hunter2"}, "networks.x.account"),
        ({"max_fee_drops": 0}, "networks.x.max_fee_drops"),
        ({"max_fee_drops": 2_000_001}, "networks.x.max_fee_drops"),
        ({"max_members": 65_537}, "networks.x.max_members"),
        ({"max_age_s": 601}, "networks.x.max_age_s"),
        ({"window": 4}, "networks.x.window"),
        ({"expiry_answers": 0}, "networks.x.expiry_answers"),
        ({"timeout_s": float("nan")}, "networks.x.timeout_s"),
        ({"publisher_keys": ["ED" + "a" * 64]}, "networks.x.publisher_keys[0]"),
        ({"allow_plain": 1}, "networks.x.allow_plain"),
        ({"max_fee": 10}, "networks.x.max_fee: unknown key"),
    ],
)
def test_what_is_wrong_is_named_by_its_path_and_not_repeated(change: dict[str, Any], named: str) -> None:
    (found,) = problems({"x": {**LEAST, **change}})
    assert found.startswith(named)
    assert not any(secret in found for secret in ("hunter2", SEED))


def test_all_mistakes_are_told_at_once() -> None:
    found = problems({"x": {"network_id": "1"}, "y y": LEAST, "z": 5}, other=1)
    assert [problem.partition(":")[0] for problem in found] == [
        "other",
        "networks.'y y'",
        "networks.x.urls",
        "networks.x.network_id",
        "networks.z",
    ]
    nothings: list[object] = [{}, [], None, 5]
    for nothing in nothings:
        assert problems(nothing) == ["networks: must be a table of at least one network, [networks.NAME]"]
    with pytest.raises(WitnessFileError, match="is missing"):
        parse_witness_file({}, base_dir=Path("/"))


def test_a_network_of_ones_own_may_do_without_tls() -> None:
    plain = {"network_id": 31337, "urls": ["http://rippled:5005"], "streams": ["ws://rippled:6006"], "allow_plain": True}
    assert parse_witness_file({"networks": {"x": plain}}, base_dir=Path("/")).network("x").urls == ("http://rippled:5005",)
    here = {"network_id": 31337, "urls": ["http://127.0.0.1:5005", "http://localhost:5005", "http://[::1]:5005"]}
    assert len(parse_witness_file({"networks": {"x": here}}, base_dir=Path("/")).network("x").urls) == 3
    others = {"network_id": 1, "urls": ["https://a.example", "https://a.example:51234", "https://a.example/x", "https://a.example/X"]}
    assert len(parse_witness_file({"networks": {"x": others}}, base_dir=Path("/")).network("x").urls) == 4


UNREADABLE = {
    "no UTF-8": b"\xff",
    "no TOML": b"x = ",
    "no table": b"networks = 1",
    "an empty network": b"[networks.x]",
    "too deep": b"[" * 100_000,
    "a key of 500,000 names": b"a" + b".a" * 500_000 + b" = 1",
    "too large": b"#" * (1024 * 1024 + 1),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_file_that_cannot_be_understood_is_refused_with_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "witness.toml"
    path.write_bytes(content)
    with pytest.raises(WitnessFileError, match=r"witness\.toml") as refused:
        load_witness_file(path)
    assert refused.value.code == "WITNESS_FILE_INVALID"
    with pytest.raises(WitnessFileError):
        load_witness_file(tmp_path / "absent")
    with pytest.raises(WitnessFileError):
        load_witness_file(tmp_path)


# -- authorities ----------------------------------------------------------------------------------------------------------


def test_an_authority_is_named_or_is_the_only_one() -> None:
    one = parse_witness_file({"authorities": {"a": LEAST_AUTHORITY}}, base_dir=Path("/x"))
    found = one.authority()
    assert (found.name, found.url, found.certificates, found.policies) == ("a", "http://a.example/tsr", ("root.pem",), ())
    assert (found.timeout_s, found.clock_skew_s, found.batching.max_members, found.batching.network) == (15.0, 300.0, 4096, "a")
    assert one.authority("a") == found
    with pytest.raises(NetworkUnknown, match="has none"):
        one.network()
    two = parse_witness_file({"authorities": {"a": LEAST_AUTHORITY, "b": LEAST_AUTHORITY}}, base_dir=Path("/"))
    for name in (None, "c"):
        with pytest.raises(AuthorityUnknown, match="a, b"):
            two.authority(name)
    with pytest.raises(AuthorityUnknown, match="none"):
        parse_witness_file({"networks": {"x": LEAST}}, base_dir=Path("/")).authority()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"url": "https://user:hunter2@a.example"}, "authorities.a.url: must be a URL of HTTP"),
        ({"url": "ldap://a.example"}, "authorities.a.url"),
        ({"certificates": []}, "authorities.a.certificates: must be a list of files"),
        ({"certificates": [""]}, "authorities.a.certificates[0]"),
        ({"policies": ["1.02"]}, "authorities.a.policies[0]: must be an object identifier"),
        ({"max_members": 0}, "authorities.a.max_members"),
        ({"timeout_s": 0}, "authorities.a.timeout_s"),
        ({"clock_skew_s": 86_401}, "authorities.a.clock_skew_s"),
        ({"pins": []}, "authorities.a.pins: unknown key"),
    ],
)
def test_what_is_wrong_with_an_authority_is_named_by_its_path(change: dict[str, Any], named: str) -> None:
    with pytest.raises(WitnessFileError) as refused:
        parse_witness_file({"authorities": {"a": {**LEAST_AUTHORITY, **change}}}, base_dir=Path("/"))
    (found,) = refused.value.problems
    assert found.startswith(named)
    assert "hunter2" not in found


def test_a_second_witness_must_be_in_the_file() -> None:
    both = {"networks": {"x": {**LEAST, "authorities": ["a"]}}, "authorities": {"a": LEAST_AUTHORITY}}
    assert parse_witness_file(both, base_dir=Path("/")).network("x").authorities == ("a",)
    assert problems({"x": {**LEAST, "authorities": ["a", "b"]}}, authorities={"a": LEAST_AUTHORITY}) == [
        "networks.x.authorities[1]: must be an authority of this file"
    ]


# -- signers ----------------------------------------------------------------------------------------------------------------


def test_the_signer_is_a_variable_a_private_file_beside_it_or_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network(source: str) -> Any:
        return parse_witness_file({"networks": {"x": {**LEAST, "signer": source}}}, base_dir=tmp_path).network("x")

    with pytest.raises(KeyNotFound):
        network("env:LEDGER_SEED").open_signer()
    monkeypatch.setenv("LEDGER_SEED", SEED)
    assert network("env:LEDGER_SEED").open_signer().account == ACCOUNT
    (tmp_path / "seed").write_text(SEED)
    (tmp_path / "seed").chmod(0o644)
    with pytest.raises(KeyFileRefused):
        network("file:seed").open_signer()
    (tmp_path / "seed").chmod(0o600)
    assert network("file:seed").open_signer().account == ACCOUNT
    assert network(f"file:{tmp_path / 'seed'}").open_signer().account == ACCOUNT
    regular = parse_witness_file(
        {"networks": {"x": {**LEAST, "signer": "file:seed", "account": "rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh"}}}, base_dir=tmp_path
    ).network("x")
    assert regular.open_signer().account == "rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh"
    assert SEED not in repr(regular)


def test_servers_of_another_network_than_the_file_says_are_refused() -> None:
    with http_front(Node(Ledger(network_id=31337))) as url:
        own = {"network_id": 31337, "urls": [url]}
        both = parse_witness_file({"networks": {"own": own, "other": {**own, "network_id": 0}}}, base_dir=Path("/"))
        assert asyncio.run(both.network("own").nodes().network_id()) == 31337
        with pytest.raises(WrongNetwork, match="belongs to network 31337, not to network 0"):
            asyncio.run(both.network("other").nodes().network_id())


# -- documents --------------------------------------------------------------------------------------------------------------


def test_the_published_schema_is_the_one_of_the_code() -> None:
    published = json.loads((ROOT / "schemas" / "nexus-attest.witness.v1.json").read_text(encoding="utf-8"))
    assert published == json.loads(json.dumps(witness_file_schema())), "run `make docs`"
    jsonschema.Draft202012Validator.check_schema(published)
    shipped = (files("nexus_attest.attestation") / "witness.toml").read_text(encoding="utf-8")
    jsonschema.validate(tomllib.loads(shipped), published)


def test_the_document_describes_every_key_as_the_code_does() -> None:
    document = (ROOT / "docs" / "witness.md").read_text(encoding="utf-8")
    assert document == filled("witness.md", document), "run `make docs`"
    assert all(f"| `{key.name}` |" in document for key in NETWORK_KEYS)


VALIDATOR: Any = jsonschema.Draft202012Validator(json.loads(json.dumps(witness_file_schema())))
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 7, -1, 1.5, 10**9, 10**12, "", "a", "env:A", "file:x", "program:x", SEED, ACCOUNT, "ED" + "A" * 64),
    *([], ["a"], ["https://a.example"], ["wss://a.example"], ["http://localhost"], ["ED" + "A" * 64], {}, {"a": 1}),
]


@given(key=st.sampled_from([*(key.name for key in NETWORK_KEYS), "other"]), value=st.sampled_from(VALUES))
def test_the_schema_and_the_reader_accept_the_same(key: str, value: object) -> None:
    require_agreement({"networks": {"x": {**LEAST, key: value}}, "authorities": {"a": LEAST_AUTHORITY}})


@given(key=st.sampled_from([*(key.name for key in AUTHORITY_KEYS), "other"]), value=st.sampled_from(VALUES))
def test_the_schema_and_the_reader_accept_the_same_of_authorities(key: str, value: object) -> None:
    require_agreement({"authorities": {"a": {**LEAST_AUTHORITY, key: value}}})


def require_agreement(data: dict[str, Any]) -> None:
    try:
        parse_witness_file(data, base_dir=Path("/"))
    except WitnessFileError:
        assert not VALIDATOR.is_valid(data)
    else:
        assert VALIDATOR.is_valid(data)
