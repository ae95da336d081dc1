"""The trust policy as a file, in TOML.

    version = 1                                   the only one
    name = "production"                           for people; optional

    [[actors]]                                    approvals count only when they come from an actor who is listed
    id = "alice"
    type = "human"                                or "system"; default human
    [[actors.keys]]                               any number; none is fine where names alone are enough
    public_key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="    32 bytes of Ed25519 in base64, as `nexus-attest keys show` prints
    id = "ed25519:21fe31dfa154a261"               default: made from the public key, as here
    not_before = 2026-01-01T00:00:00Z             validity, each optional, with offset
    not_after = 2027-01-01T00:00:00Z
    retired_at = 2026-06-01T00:00:00Z             what was signed and recorded before stays believed

    [groups]
    release = ["alice", "system:ci"]              listed actors; a name without type is a human

    [[rules]]                                     every rule that holds for an act must be satisfied
    labels = ["prod"]                             decisions with any of these labels,
    templates = ["rotate-key"]                    or made from any of these templates; neither: all decisions
    actions = ["approve", "revoke"]               what it is about, of request, approve, revoke, execute; this is the default
    assurance = "signed"                          at least asserted (default), authenticated or signed
    actors = ["bob"]                              who may; with `groups`; neither: everybody
    groups = ["release"]
    self_approval = false                         whether a requester may approve; default true

    [[log_keys]]                                  of logs and their witnesses
    key = "example.com/log+cc714670+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"    verifier key of https://c2sp.org/signed-note

    [[attestors]]                                 whose attestations are believed
    id = "release-bot"
    key_id = "k1"                                 as attestations name it
    public_key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="    not_before, not_after, retired_at as above

    [[ledgers]]                                   whose transactions are believed as witnesses
    network = "xrpl.testnet"
    accounts = ["rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe"]
    publisher_keys = ["ED..."]                    master keys of publishers of validator lists, in hex; optional
    publishers = "any"                            one of them is enough (default), or "all" must show it
    level = "quorum"                              the least that a proof must show: server, tree or quorum (default)

    [[authorities]]                               whose time-stamps (RFC 3161) are believed
    name = "timestamps.example"
    certificates = ["-----BEGIN CERTIFICATE-----..."]    in PEM: roots, with what is between and not sent; or the authority's own
    policies = ["1.3.6.1.4.1.4146.2.3"]           believed for these alone; optional

A file of at most 1 MiB is understood completely or refused: TrustInvalid names every mistake with its place.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from nexus_attest import ed25519
from nexus_attest.key_errors import TrustInvalid
from nexus_attest.toml_data import parse_toml
from nexus_attest.trust import (
    POLICY_VERSION,
    ActorName,
    AttestorKey,
    Authority,
    Ledger,
    LedgerLevel,
    PublicKey,
    Rule,
    TrustedActor,
    TrustPolicy,
    name_of,
)
from nexus_control.checkpoint import NoteKey, parse_note_key
from nexus_control.errors import FileRefused, InvalidActor, MalformedNote, brief
from nexus_control.events import Actor, parse_actor
from nexus_control.files import read_file
from nexus_control.identity import Action, Assurance
from nexus_control.likeness import alike

__all__ = ["load_trust", "parse_trust", "pem_certificates"]

_MAX_FILE_BYTES = 1024 * 1024
_MAX_PROBLEMS = 100
_MAX_NAME_CHARACTERS = 256
_ACTIONS: tuple[Action, ...] = ("request", "approve", "revoke", "execute")
_ASSURANCES: tuple[Assurance, ...] = ("asserted", "authenticated", "signed")
_LEVELS: tuple[LedgerLevel, ...] = ("server", "tree", "quorum")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]{64,20000})-----END CERTIFICATE-----", re.ASCII)
_PEM_BLOCK = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9]\d{0,38})){1,30}", re.ASCII)
_PUBLISHER_KEY = re.compile("(?:ED|02|03)[0-9A-F]{64}")

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def load_trust(path: str | Path) -> TrustPolicy:
    """The trust policy of a file. Raises TrustInvalid."""
    try:
        data = parse_toml(read_file(Path(path), _MAX_FILE_BYTES))
    except FileRefused as problem:
        raise TrustInvalid([str(problem)]) from None
    except (ValueError, RecursionError) as problem:
        raise TrustInvalid([f"{path}: no TOML: {problem}"]) from None
    try:
        return parse_trust(data)
    except TrustInvalid as problem:
        raise TrustInvalid([f"{path}: {text}" for text in problem.problems]) from None


def pem_certificates(text: str) -> list[bytes]:
    """The DER of the certificates in PEM (RFC 7468) in a text, whatever stands between them. Raises TrustInvalid when one is none."""
    try:
        return [_certificate(block) for block in _PEM_BLOCK.findall(text)]
    except _Wrong as problem:
        raise TrustInvalid([f"must be {problem}"]) from None


def parse_trust(data: Mapping[str, Any]) -> TrustPolicy:
    """The trust policy of a parsed file. Raises TrustInvalid with every mistake, up to a hundred."""
    problems: list[str] = []
    document = _Table(data, "", problems)
    document.value("version", _version, required=True)
    name = document.value("name", _text)
    actors = [actor for table in document.tables("actors") if (actor := _actor(table)) is not None]
    known = _unique_actors(actors, problems)
    groups = _groups(document, known)
    rules = [rule for table in document.tables("rules") if (rule := _rule(table, known, groups)) is not None]
    log_keys = [key for table in document.tables("log_keys") if (key := _log_key(table)) is not None]
    attestors = [attestor for table in document.tables("attestors") if (attestor := _attestor(table)) is not None]
    ledgers = [ledger for table in document.tables("ledgers") if (ledger := _ledger(table)) is not None]
    authorities = [authority for table in document.tables("authorities") if (authority := _authority(table)) is not None]
    for name_twice in sorted(_twice(authority.name for authority in authorities)):
        problems.append(f"authorities: {name_twice} is there twice")
    document.finish()
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        raise TrustInvalid([*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])
    return TrustPolicy(
        name=name,
        actors=tuple(actors),
        rules=tuple(rules),
        log_keys=tuple(log_keys),
        attestors=tuple(attestors),
        ledgers=tuple(ledgers),
        authorities=tuple(authorities),
    )


class _Wrong(Exception):
    """A value is not what belongs there; the text says what does."""


class _Table:
    """A TOML table whose keys are taken one by one. Mistakes are noted with their place; what is left at the end was not understood."""

    def __init__(self, value: object, path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        self._left: dict[str, Any] = {}
        self._known: list[str] = []
        if isinstance(value, Mapping):
            self._left = dict(cast("Mapping[str, Any]", value))
        else:
            self.note(None, "must be a table")

    def note(self, key: str | None, text: str) -> None:
        """Remember a mistake at `key`, or of the whole table."""
        place = ".".join(part for part in (self.path, key) if part)
        self.problems.append(f"{place}: {text}" if place else text)

    def value(self, key: str, parse: Callable[[object], T], *, required: bool = False) -> T | None:
        """The value of `key`; None when it is not there, or wrong and noted."""
        self._known.append(key)
        if key not in self._left:
            if required:
                self.note(key, "is missing")
            return None
        try:
            return parse(self._left.pop(key))
        except _Wrong as problem:
            self.note(key, f"must be {problem}")
            return None

    def items(self, key: str, parse: Callable[[object], H]) -> list[H] | None:
        """The value of `key` as a list without repetitions; None when it is not there, or no list."""
        listed = self.value(key, _list)
        if listed is None:
            return None
        found: dict[H, None] = {}
        for index, item in enumerate(listed):
            try:
                value = parse(item)
                if value in found:
                    raise _Wrong("there once")
                found[value] = None
            except _Wrong as problem:
                self.note(f"{key}[{index}]", f"must be {problem}")
        return list(found)

    def tables(self, key: str) -> "list[_Table]":
        """The tables of an array of tables, each to be finished by whoever reads it."""
        prefix = f"{self.path}." if self.path else ""
        return [_Table(item, f"{prefix}{key}[{index}]", self.problems) for index, item in enumerate(self.value(key, _list) or ())]

    def finish(self) -> None:
        """Note the keys that nobody took."""
        for key in self._left:
            self.note(None, f"unknown key {brief(key)}; known: {', '.join(self._known)}")


def _actor(table: _Table) -> TrustedActor | None:
    name = table.value("id", _text, required=True)
    kind = table.value("type", _one_of("human", "system")) or "human"
    keys = [key for entry in table.tables("keys") if (key := _key(entry)) is not None]
    table.finish()
    return None if name is None else TrustedActor(Actor(type=kind, id=name), tuple(keys))


def _key(table: _Table, id_key: str = "id") -> PublicKey | None:
    raw = table.value("public_key", _public_key, required=True)
    key_id = table.value(id_key, _text, required=id_key != "id")
    not_before, not_after = table.value("not_before", _time), table.value("not_after", _time)
    retired_at = table.value("retired_at", _time)
    table.finish()
    if not_before is not None and not_after is not None and not_before >= not_after:
        table.note("not_after", "must be later than not_before")
    if raw is None:
        return None
    return PublicKey(
        key_id=key_id or ed25519.key_id_of(raw), public_key=raw, not_before=not_before, not_after=not_after, retired_at=retired_at
    )


def _unique_actors(actors: list[TrustedActor], problems: list[str]) -> frozenset[ActorName]:
    """The names of all actors; notes names and keys that come twice. One key in two hands would vouch for neither."""
    names: set[ActorName] = set()
    ids: set[str] = set()
    keys: set[bytes] = set()
    for trusted in actors:
        name = name_of(trusted.actor)
        if name in names:
            problems.append(f"actors: {':'.join(name)} is listed twice")
        names.add(name)
        for key in trusted.keys:
            if key.key_id in ids:
                problems.append(f"actors: key id {key.key_id} is there twice")
            elif key.public_key in keys:
                problems.append(f"actors: the public key of {key.key_id} is there twice")
            ids.add(key.key_id)
            keys.add(key.public_key)
    for twins in alike(trusted.actor.id for trusted in actors):
        problems.append(f"actors: {', '.join(map(ascii, twins[:10]))} look the same, so that one would pass for the other")
    return frozenset(names)


def _groups(document: _Table, known: frozenset[ActorName]) -> dict[str, frozenset[ActorName]]:
    value = document.value("groups", _table_of_groups) or {}
    table = _Table(value, "groups", document.problems)
    return {name: frozenset(table.items(name, _listed_actor(known)) or ()) for name in value}


def _rule(table: _Table, known: frozenset[ActorName], groups: Mapping[str, frozenset[ActorName]]) -> Rule | None:
    labels, templates = table.items("labels", _text), table.items("templates", _text)
    actions = table.items("actions", _action)
    assurance = table.value("assurance", _assurance)
    actors = table.items("actors", _listed_actor(known))
    group_names = table.items("groups", _known_group(groups))
    self_approval = table.value("self_approval", _flag)
    table.finish()
    # An empty list would otherwise mean "all", which is the opposite of what it looks like.
    for key, given in (("labels", labels), ("templates", templates), ("actions", actions)):
        if given == []:
            table.note(key, "must not be empty")
    who = None if actors is None and group_names is None else frozenset(actors or ()).union(*(groups[name] for name in group_names or ()))
    return Rule(
        actions=frozenset(("approve", "revoke") if actions is None else actions),
        labels=frozenset(labels or ()),
        templates=frozenset(templates or ()),
        assurance=assurance or "asserted",
        actors=who,
        self_approval=True if self_approval is None else self_approval,
    )


def _log_key(table: _Table) -> NoteKey | None:
    key = table.value("key", _note_key, required=True)
    table.finish()
    return key


def _attestor(table: _Table) -> AttestorKey | None:
    name = table.value("id", _text, required=True)
    key = _key(table, "key_id")
    return None if name is None or key is None else AttestorKey(name, key)


def _ledger(table: _Table) -> Ledger | None:
    network = table.value("network", _text, required=True)
    accounts = table.items("accounts", _text)
    keys = table.items("publisher_keys", _publisher_key)
    publishers = table.value("publishers", _publishers)
    level = table.value("level", _level)
    table.finish()
    if not accounts:
        table.note("accounts", "must name at least one account")
    if network is None:
        return None
    return Ledger(network, tuple(accounts or ()), tuple(keys or ()), publishers == "all", level or "quorum")


def _authority(table: _Table) -> Authority | None:
    name = table.value("name", _text, required=True)
    certificates = table.items("certificates", _certificate)
    policies = table.items("policies", _oid)
    table.finish()
    if not certificates:
        table.note("certificates", "must hold at least one certificate")
    if policies == []:
        table.note("policies", "must not be empty")
    return None if name is None else Authority(name, tuple(certificates or ()), tuple(policies or ()))


def _twice(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}


# What values must be. Each gives the value, or raises _Wrong with the words that follow "must be".


def _version(value: object) -> int:
    if type(value) is not int or value != POLICY_VERSION:
        raise _Wrong(f"{POLICY_VERSION}, the version that this release reads")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_NAME_CHARACTERS or value != value.strip() or not value.isprintable():
        raise _Wrong(f"text of 1 to {_MAX_NAME_CHARACTERS} printable characters without spaces around it")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _Wrong("an array")
    return cast("list[object]", value)


def _table_of_groups(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Wrong("a table of groups")
    return cast("dict[str, object]", value)


def _one_of(*names: T) -> Callable[[object], T]:
    def parse(value: object) -> T:
        for name in names:
            if isinstance(value, str) and value == name:
                return name
        raise _Wrong(f"one of {', '.join(map(str, names))}")

    return parse


_action: Callable[[object], Action] = _one_of(*_ACTIONS)
_level: Callable[[object], LedgerLevel] = _one_of(*_LEVELS)
_publishers: Callable[[object], str] = _one_of("any", "all")
_assurance: Callable[[object], Assurance] = _one_of(*_ASSURANCES)


def _time(value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _Wrong("a date and time with offset, such as 2026-01-01T00:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _Wrong("a time in the calendar of UTC") from None


def _public_key(value: object) -> bytes:
    wrong = _Wrong("the 32 bytes of an Ed25519 public key in base64")
    if not isinstance(value, str) or len(value) > _MAX_NAME_CHARACTERS:
        raise wrong
    try:
        raw = b64decode(value, validate=True)
    except ValueError:
        raise wrong from None
    if b64encode(raw).decode() != value or not ed25519.is_public_key(raw):
        raise wrong
    return raw


def _note_key(value: object) -> NoteKey:
    try:
        return parse_note_key(_text(value))
    except MalformedNote as problem:
        raise _Wrong(f"a verifier key of a log or witness: {problem}") from None


def _publisher_key(value: object) -> str:
    if not isinstance(value, str) or not _PUBLISHER_KEY.fullmatch(value):
        raise _Wrong("a public key of 33 bytes in uppercase hex")
    return value


def _certificate(value: object) -> bytes:
    """The DER in PEM. Whether it is a certificate is seen when it is used: reading one takes a package that is optional."""
    wrong = _Wrong("one certificate in PEM, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----")
    found = _PEM.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise wrong
    try:
        data = b64decode("".join(found[1].split()), validate=True)
    except ValueError:
        raise wrong from None
    if data[:1] != b"\x30":  # a SEQUENCE, as every certificate is
        raise wrong
    return data


def _oid(value: object) -> str:
    if not isinstance(value, str) or not _OID.fullmatch(value):
        raise _Wrong("an object identifier such as 1.3.6.1.4.1.4146.2.3")
    return value


def _listed_actor(known: frozenset[ActorName]) -> Callable[[object], ActorName]:
    def parse(value: object) -> ActorName:
        text = _text(value)
        kind, colon, name = text.partition(":")
        try:
            found = name_of(parse_actor({"type": kind, "id": name} if colon else {"type": "human", "id": text}))
        except InvalidActor:
            raise _Wrong("an actor: NAME, human:NAME or system:NAME") from None
        if found not in known:
            raise _Wrong(f"an actor of this file; {brief(text)} is not listed")
        return found

    return parse


def _known_group(groups: Mapping[str, frozenset[ActorName]]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value)
        if text not in groups:
            raise _Wrong(f"a group of this file; there is no {brief(text)}")
        return text

    return parse
