"""The witness file: on which networks intents may be witnessed, through which servers, by which account, and whom to believe there.

    network = "testnet"                          the one that is meant where none is named; no default: nothing is sent by accident

    [networks.testnet]                           mainnet, testnet, a network of your own: a short name; receipts repeat it
    network_id = 1                               what its servers must say; those that say another number are not asked
    urls = ["https://s.altnet.rippletest.net:51234"]
    signer = "env:NEXUS_XRPL_SEED"               where the secret is, never the secret itself

    [authorities.example]                        a time-stamp authority: a witness of its own, or the second one of a network
    url = "http://timestamps.example/tsr"
    certificates = ["example-root.pem"]          what its certificates must lead to

What a key means is said once, in `NETWORK_KEYS` and `AUTHORITY_KEYS`; docs/witness.md, docs/timestamps.md and the JSON Schema for editors,
schemas/nexus-attest.witness.v1.json, follow from it. A file of at most 1 MiB is understood completely or refused, with every mistake in it
named by its path. Values are never repeated in messages: somebody may have written a seed where the name of one belongs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nexus_attest.attestation.batch_tree import MAX_MEMBERS
from nexus_attest.attestation.errors import AuthorityUnknown, NetworkUnknown, SignerMissing, WitnessFileError
from nexus_attest.attestation.xrpl.batch import BatchSettings
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.attestation.xrpl.submission import SubmissionSettings
from nexus_attest.attestation.xrpl.transport import HttpxTransport
from nexus_attest.key_errors import TrustInvalid
from nexus_attest.shapes import Key, Problems, Shape, boolean, integer, listing, number, read_table, shown, table_schema, text
from nexus_attest.toml_data import parse_toml
from nexus_attest.trust import Authority
from nexus_attest.trust_file import pem_certificates
from nexus_attest.urls import is_bare_url, is_private_way, same_server
from nexus_control.errors import FileRefused
from nexus_control.events import Clock, utc_now
from nexus_control.files import read_file

if TYPE_CHECKING:
    from nexus_attest.attestation.tsa import TimestampAuthority

__all__ = [
    "AUTHORITY_KEYS",
    "NETWORK_KEYS",
    "AuthoritySource",
    "Network",
    "WitnessFile",
    "load_witness_file",
    "parse_witness_file",
    "witness_file_schema",
]

SCHEMA_ID = "nexus-attest.witness.v1"

_MAX_FILE_BYTES = 1024 * 1024
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
_NETWORK_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,13}"
"""Every receipt repeats it; with more, those of a batch of 1,000 could have more than 1,500 bytes."""
_SEED = re.compile(r"s[1-9A-HJ-NP-Za-km-z]{25,60}")


def _is_no_seed(value: str) -> bool:
    return not (value.startswith("env:") and _SEED.fullmatch(value[4:]))


def _urls(schemes: str, wanted: str, *, least: int = 0) -> Shape:
    """Each once, however spelled: a server that is named twice would be asked for a second opinion of itself."""
    item = text(rf"(?:{schemes})://[^\s\x00-\x1f\x7f]{{1,2000}}", f"a {wanted} without credentials, query and fragment", also=is_bare_url)
    urls = listing(item, f"a list of {wanted}s{', at least one' if least else ''}", least=least)

    def read(value: object, where: str, problems: Problems) -> tuple[str, ...] | None:
        mistakes = len(problems)
        found: tuple[str, ...] | None = urls.read(value, where, problems)
        if found is None or len(problems) > mistakes:
            return found
        servers = [same_server(url) for url in found]
        for place, server in enumerate(servers):
            if (first := servers.index(server)) < place:
                problems.append(f"{where}[{place}]: is the same server as {where}[{first}]")
        return found

    return Shape(read=read, schema={**urls.schema, "uniqueItems": True})


NETWORK_KEYS = (
    Key(
        name="urls",
        shape=_urls("https?", "JSON-RPC URL", least=1),
        about="Servers, best three, of different operators: where one fails the next is asked, except that `confirm_answers` of them "
        "must answer before receipts are written. `https`, or `http` for this host itself.",
    ),
    Key(
        name="network_id",
        shape=integer(0, 2**32 - 1),
        about="What the servers must say: 0 on mainnet, 1 on testnet. One that says another number is not asked; when most do, "
        "that is `WRONG_NETWORK`.",
    ),
    Key(
        name="account",
        shape=text("r[1-9A-HJ-NP-Za-km-z]{24,34}", "the classic address of an account, r..."),
        default=None,
        about="The account that witnesses. Absent: the signer's own; given, the signer's key is its regular key.",
    ),
    Key(
        name="signer",
        shape=text(
            r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\x00]{1,4096}|program:[^\x00]{1,4096}",
            "where the seed is: 'env:NAME', 'file:PATH' or 'program:COMMAND', never the seed itself",
            also=_is_no_seed,
        ),
        default=None,
        about="Who signs, for `witness run`: a variable or a file (mode 0600, relative to this file's folder) with the seed, or a program.",
    ),
    Key(
        name="max_fee_drops",
        shape=integer(1, 2_000_000),
        default=5000,
        about="The most that one transaction may cost, in millionths of an XRP. Usual is 10.",
    ),
    Key(name="max_members", shape=integer(1, MAX_MEMBERS), default=4096, about="A batch closes when it has so many members,"),
    Key(name="max_age_s", shape=integer(0, 600), default=10, about="or when its oldest intent has waited so many seconds."),
    Key(
        name="window",
        shape=integer(5, 20),
        default=15,
        about="Ledgers that a transaction has, until it is dead and signed anew.",
    ),
    Key(
        name="expiry_answers",
        shape=integer(1, 100),
        default=None,
        about="So many servers must know nothing of an expired transaction before another one is signed, and so many must tell where the "
        "ledger and the account are before any is; never more than there are. Absent: most of them (both of two, 2 of 3, 3 of 5).",
    ),
    Key(
        name="confirm_answers",
        shape=integer(1, 100),
        default=None,
        about="So many servers must have a transaction validated before receipts are written; never more than there are. "
        "Absent: most of them. With 1 a single server that lies writes receipts for what is on no ledger.",
    ),
    Key(name="timeout_s", shape=number(0, 600, "seconds"), default=30.0, about="Seconds that a whole request may take."),
    Key(
        name="streams",
        shape=_urls("wss?", "WebSocket URL"),
        default=(),
        about="Where validations are recorded from, for proofs of level `quorum`. `wss`, or `ws` for this host itself.",
    ),
    Key(
        name="lists",
        shape=_urls("https?", "web URL"),
        default=(),
        about="Where publishers serve their validator lists.",
    ),
    Key(
        name="publisher_keys",
        shape=listing(text("(?:ED|02|03)[0-9A-F]{64}", "a public key of 33 bytes in capital hex digits"), "a list of public keys"),
        default=(),
        about="The pins: master keys of publishers whose lists are believed. Whoever verifies has their own, in the trust policy.",
    ),
    Key(
        name="authorities",
        shape=listing(text(_NAME, "a name of letters, digits, '.', '_' and '-'"), "a list of names"),
        default=(),
        about="Time-stamp authorities of this file which stamp its confirmed batches, too: a second witness.",
    ),
    Key(
        name="allow_plain",
        shape=boolean(),
        default=False,
        about="true: connections without TLS may go to other hosts than this one. For a network of your own.",
    ),
)
"""Every key of a network, in the order of the documents."""

AUTHORITY_KEYS = (
    Key(
        name="url",
        shape=text(r"https?://[^\s\x00-\x1f\x7f]{1,2000}", "a URL of HTTP without credentials, query and fragment", also=is_bare_url),
        about="Where it answers (RFC 3161 over HTTP). Without TLS nothing is lost: what counts is its signature.",
    ),
    Key(
        name="certificates",
        shape=listing(text(r"[^\x00]{1,4096}", "the name of a file"), "a list of files with certificates in PEM, at least one", least=1),
        about="Files, relative to this file's folder: roots that its certificates must lead to, and what is between and not sent.",
    ),
    Key(
        name="policies",
        shape=listing(text(r"[0-2](?:\.(?:0|[1-9][0-9]{0,38})){1,30}", "an object identifier"), "a list of object identifiers"),
        default=(),
        about="Only time-stamps under these policies are taken. Absent: any.",
    ),
    Key(name="max_members", shape=integer(1, MAX_MEMBERS), default=4096, about="A batch closes when it has so many members,"),
    Key(name="max_age_s", shape=integer(0, 600), default=10, about="or when its oldest intent has waited so many seconds."),
    Key(name="timeout_s", shape=number(0, 600, "seconds"), default=15.0, about="Seconds that a whole request may take."),
    Key(
        name="clock_skew_s",
        shape=number(0, 86_400, "seconds"),
        default=300.0,
        about="So far may its clock be from ours, or its time-stamp is not taken.",
    ),
)
"""Every key of a time-stamp authority, in the order of the documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network of a file. `base_dir`: the folder of the file, which relative paths start from."""

    name: str
    base_dir: Path
    urls: tuple[str, ...]
    network_id: int
    account: str | None
    signer: str | None
    streams: tuple[str, ...]
    lists: tuple[str, ...]
    publisher_keys: tuple[str, ...]
    authorities: tuple[str, ...]
    timeout_s: float
    batching: BatchSettings
    submission: SubmissionSettings

    def nodes(self, *, clock: Clock = utc_now) -> LedgerNodes:
        """Its servers; what they are asked raises WrongNetwork when most have another number than it."""
        transport = HttpxTransport(self.timeout_s)
        return LedgerNodes([LedgerNode(url, transport) for url in self.urls], network_id=self.network_id, clock=clock)

    def open_signer(self) -> LocalWalletSigner:
        """Who signs. Raises SignerMissing when the file does not say, KeyNotFound, KeyFileRefused, KeyInvalid or SignerFailed."""
        if self.signer is None:
            raise SignerMissing(f"the witness file has no signer for {self.name}")
        kind, _, rest = self.signer.partition(":")
        source = str(self.base_dir / Path(rest).expanduser()) if kind == "file" else self.signer
        return LocalWalletSigner.open(source, account=self.account)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySource:
    """One time-stamp authority of a file. `base_dir`: the folder of the file, which the names of `certificates` start from."""

    name: str
    base_dir: Path
    url: str
    certificates: tuple[str, ...]
    policies: tuple[str, ...]
    timeout_s: float
    clock_skew_s: float
    batching: BatchSettings

    def open(self, *, clock: Clock = utc_now) -> "TimestampAuthority":
        """Its client. Raises ExtraMissing, and WitnessFileError when a file holds no certificate."""
        from nexus_attest.attestation.tsa import TimestampAuthority  # which most files have no use for

        pins: list[bytes] = []
        for name in self.certificates:
            path = self.base_dir / Path(name).expanduser()
            try:
                found = pem_certificates(read_file(path, _MAX_FILE_BYTES).decode("ascii", "replace"))
            except (FileRefused, TrustInvalid) as problem:
                raise WitnessFileError(f"authorities.{self.name}.certificates: {path}: {problem}") from None
            if not found:
                raise WitnessFileError(f"authorities.{self.name}.certificates: {path} holds no certificate in PEM")
            pins += found
        believed = Authority(self.name, tuple(pins), self.policies)
        return TimestampAuthority(self.url, believed, timeout=self.timeout_s, clock_skew=self.clock_skew_s, clock=clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessFile:
    """The networks and time-stamp authorities of a file by their names; `default` is the network that is meant where none is named."""

    networks: Mapping[str, Network]
    authorities: Mapping[str, AuthoritySource]
    default: str | None

    def authority(self, name: str | None = None) -> AuthoritySource:
        """One authority; without a name the only one. Raises AuthorityUnknown."""
        known = ", ".join(self.authorities) or "none"
        if name is None and len(self.authorities) != 1:
            raise AuthorityUnknown(f"which time-stamp authority? The witness file has {known}")
        wanted = next(iter(self.authorities)) if name is None else name
        if wanted not in self.authorities:
            raise AuthorityUnknown(f"the witness file has no time-stamp authority {shown(wanted)}; it has {known}")
        return self.authorities[wanted]

    def network(self, name: str | None = None) -> Network:
        """One network. Raises NetworkUnknown for one that is not there, and when none is named anywhere."""
        wanted = self.default if name is None else name
        known = ", ".join(self.networks) or "none"
        if wanted is None:
            raise NetworkUnknown(f"which network? The witness file has {known}, and no `network` that is meant when none is named")
        if wanted not in self.networks:
            raise NetworkUnknown(f"the witness file has no network {shown(wanted)}; it has {known}")
        return self.networks[wanted]


def load_witness_file(path: str | Path) -> WitnessFile:
    """The networks of a file. Raises WitnessFileError."""
    file = Path(path).absolute()
    try:
        data = parse_toml(read_file(file, _MAX_FILE_BYTES))
    except FileRefused as problem:
        raise WitnessFileError(str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise WitnessFileError(f"{file}: no TOML: {problem}") from None
    try:
        return parse_witness_file(data, base_dir=file.parent)
    except WitnessFileError as problem:
        raise WitnessFileError(f"{file}: {problem}", problem.problems) from None


def parse_witness_file(data: object, *, base_dir: Path) -> WitnessFile:
    """The networks of a parsed file. Raises WitnessFileError, whose `problems` are all mistakes of the file, each with its path."""
    problems: list[str] = []
    values = read_table(data, _FILE, "", problems)
    networks: dict[str, Network] = {}
    for name, found in cast("Mapping[str, object]", values.get("networks") or {}).items():
        if (network := _network(name, found, base_dir, problems)) is not None:
            networks[name] = network
    authorities: dict[str, AuthoritySource] = {}
    for name, found in cast("Mapping[str, object]", values.get("authorities") or {}).items():
        if (source := _authority(name, found, base_dir, problems)) is not None:
            authorities[name] = source
    if not problems and not networks and not authorities:
        problems.append("networks: is missing, and so is authorities")
    if not problems:
        named = ((network, place, name) for network in networks.values() for place, name in enumerate(network.authorities))
        problems += [
            f"networks.{network.name}.authorities[{place}]: must be an authority of this file"
            for network, place, name in named
            if name not in authorities
        ]
    default = values.get("network")
    if not problems and default is not None and default not in networks:
        problems.append("network: must be a network of this file")
    if problems:
        raise WitnessFileError("; ".join(problems), tuple(problems))
    return WitnessFile(networks=networks, authorities=authorities, default=default)


def witness_file_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of witness files, for editors. The reader knows more: see `also` above, `network` and `allow_plain`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Witness file of nexus-attest",
        **table_schema(_FILE),
        "anyOf": [{"required": ["networks"]}, {"required": ["authorities"]}],
    }


def _network(name: str, value: object, base_dir: Path, problems: Problems) -> Network | None:
    before, where = len(problems), f"networks.{shown(name)}"
    values: dict[str, Any] = read_table(value, NETWORK_KEYS, where, problems)
    if len(problems) == before and not values.pop("allow_plain"):
        plain = [(key, place) for key in ("urls", "streams", "lists") for place, url in enumerate(values[key]) if not is_private_way(url)]
        problems += [f"{where}.{key}[{place}]: must use TLS, unless allow_plain = true" for key, place in plain]
    if len(problems) > before:
        return None
    submission = {key: values.pop(key) for key in ("window", "max_fee_drops", "expiry_answers", "confirm_answers")}
    batching = BatchSettings(network=name, max_members=values.pop("max_members"), max_age=values.pop("max_age_s"))
    values.pop("allow_plain", None)
    return Network(name=name, base_dir=base_dir, batching=batching, submission=SubmissionSettings(**submission), **values)


def _authority(name: str, value: object, base_dir: Path, problems: Problems) -> AuthoritySource | None:
    before = len(problems)
    values: dict[str, Any] = read_table(value, AUTHORITY_KEYS, f"authorities.{shown(name)}", problems)
    if len(problems) > before:
        return None
    batching = BatchSettings(network=name, max_members=values.pop("max_members"), max_age=values.pop("max_age_s"))
    return AuthoritySource(name=name, base_dir=base_dir, batching=batching, **values)


def _tables(kind: str, example: str, names: Shape, keys: Sequence[Key]) -> Shape:
    """Tables by names of the user's choice, at least one, whose content is read later."""

    def read(value: object, where: str, problems: Problems) -> dict[str, object]:
        if not isinstance(value, dict) or not value:
            problems.append(f"{where}: must be a table of at least one {kind}, {example}")
            return {}
        named = cast("dict[str, object]", value)
        return {name: entry for name, entry in named.items() if names.read(name, f"{where}.{shown(name)}", problems) is not None}

    schema = {"type": "object", "minProperties": 1, "propertyNames": names.schema, "additionalProperties": table_schema(keys)}
    return Shape(read=read, schema=schema)


_NAMES = text(_NAME, "a name of letters, digits, '.', '_' and '-'")
_NETWORK_NAMES = text(
    _NETWORK_NAME,
    "a name of at most 14 letters, digits, '.', '_' and '-' (another name changes nothing but what later receipts repeat)",
)

_FILE = (
    Key(name="network", shape=_NETWORK_NAMES, default=None, about="The network that is meant where none is named."),
    Key(
        name="networks",
        shape=_tables("network", "[networks.NAME]", _NETWORK_NAMES, NETWORK_KEYS),
        default=None,
        about="The networks by their names. There is one, or an authority.",
    ),
    Key(
        name="authorities",
        shape=_tables("time-stamp authority", "[authorities.NAME]", _NAMES, AUTHORITY_KEYS),
        default=None,
        about="The time-stamp authorities by their names.",
    ),
)
