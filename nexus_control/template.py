"""Immutable policy templates: a name, the policy values, who created it and when.

A template is written once, together with its TEMPLATE_CREATED event, which is chained and a leaf of the store's log. There is no
update and no delete. A decision keeps the template as it was (snapshot and digest), so it never depends on this table again.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, cast

from nexus_control.backend import Backend, Connection, Dialect, insert
from nexus_control.canonical_json import canonical_json
from nexus_control.database import Database
from nexus_control.errors import InvalidActor, InvalidPolicy, InvalidTemplate, MalformedEvent
from nexus_control.events import (
    ZERO_HASH,
    Actor,
    Clock,
    EventType,
    are_event_cells,
    decode_payload,
    event_digest,
    in_utc,
    parse_actor,
    parse_time,
    require_page,
    require_text,
    template_event_record,
    utc_now,
)
from nexus_control.integrity import content_digest
from nexus_control.log import LogWriter
from nexus_control.policy import Policy
from nexus_control.schema import LARGEST_INT, SCHEMA, SQLITE
from nexus_control.sqlite import Connection as SqliteConnection

__all__ = ["TEMPLATE_COLUMNS", "StoredTemplateEvent", "Template", "TemplateStore", "template_problems"]

_NUMBERS = ("min_approvals", "max_steps")
_SEQUENCES = ("allowed_modes", "require_adapter_capabilities", "labels")
TEMPLATE_COLUMNS = (
    "name",
    "description",
    "min_approvals",
    "allowed_modes",
    "require_adapter_capabilities",
    "max_steps",
    "labels",
    "created_at",
    "created_by_type",
    "created_by_id",
    "digest",
)
_SELECT = f"SELECT {', '.join(TEMPLATE_COLUMNS)} FROM templates"
_INSERT = f"INSERT INTO templates ({', '.join(TEMPLATE_COLUMNS)}) VALUES ({', '.join('?' * len(TEMPLATE_COLUMNS))})"
_EVENT_FIELDS = "template_name, seq, event_type, ts, actor_type, actor_id, payload, digest"
_EVENTS = f"SELECT {_EVENT_FIELDS} FROM template_events WHERE template_name = ? ORDER BY seq"
_NEWEST_FIRST = _SELECT + " ORDER BY created_at DESC, (SELECT position FROM template_events WHERE template_name = name AND seq = 0) DESC"
_ORPHANS = "SELECT DISTINCT template_name FROM template_events WHERE template_name NOT IN (SELECT name FROM templates)"
_INSERT_EVENT = f"INSERT INTO template_events ({_EVENT_FIELDS}, prev, chain, position) VALUES ({', '.join('?' * 11)})"


@dataclass(frozen=True)
class Template:
    """A named policy. Values are checked like those of `Policy`; lists given for the sequences become tuples.

    Raises InvalidTemplate for an empty name, a value out of range or of the wrong type.
    """

    name: str
    description: str = ""
    min_approvals: int = 1
    allowed_modes: tuple[str, ...] = ("dry_run",)
    require_adapter_capabilities: tuple[str, ...] = ()
    max_steps: int | None = None
    labels: tuple[str, ...] = ()
    created_at: datetime | None = None
    created_by: Actor | None = None

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.name), str):
            raise InvalidTemplate(f"template name must be a string, got {type(self.name).__name__}")
        if not self.name:
            raise InvalidTemplate("template name cannot be empty")
        if not isinstance(cast("object", self.description), str):
            raise InvalidTemplate(f"description must be a string, got {type(self.description).__name__}")
        if self.created_at is not None and not isinstance(cast("object", self.created_at), datetime):
            raise InvalidTemplate(f"created_at must be a time, got {type(self.created_at).__name__}")
        if self.created_by is not None and not isinstance(cast("object", self.created_by), Mapping):
            raise InvalidTemplate(f"created_by must be an actor, got {type(self.created_by).__name__}")
        try:
            policy = self.policy()
        except InvalidPolicy as problem:
            raise InvalidTemplate(str(problem)) from None
        for field in _SEQUENCES:
            object.__setattr__(self, field, getattr(policy, field))

    def policy(self) -> Policy:
        """The policy that this template stands for. Raises InvalidPolicy."""
        return Policy(
            min_approvals=self.min_approvals,
            allowed_modes=self.allowed_modes,  # pyright: ignore[reportArgumentType]  # checked by Policy itself
            require_adapter_capabilities=self.require_adapter_capabilities,
            max_steps=self.max_steps,
            labels=self.labels,
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON data; this is what `digest` covers."""
        return {
            "name": self.name,
            "description": self.description,
            **self.policy().to_dict(),
            "created_at": None if self.created_at is None else self.created_at.isoformat(),
            "created_by": None if self.created_by is None else dict(self.created_by),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Template":
        """Inverse of `to_dict`; missing keys take the defaults. Raises InvalidTemplate."""
        if not isinstance(cast("object", data), Mapping):
            raise InvalidTemplate(f"a template must be an object, got {type(data).__name__}")
        known: dict[str, Any] = {key: data[key] for key in ("description", "min_approvals", *_SEQUENCES, "max_steps") if key in data}
        created_at, created_by = data.get("created_at"), data.get("created_by")
        try:
            if isinstance(created_at, str):
                created_at = datetime.fromisoformat(created_at)
            creator = None if created_by is None else parse_actor(created_by)
        except (ValueError, InvalidActor) as problem:
            raise InvalidTemplate(str(problem)) from None
        return cls(name=data.get("name", ""), created_at=created_at, created_by=creator, **known)

    def to_snapshot(self) -> dict[str, Any]:
        """The template as a decision keeps it."""
        return {"template_name": self.name, "template_description": self.description, **self.policy().to_dict()}

    def digest(self) -> str:
        """Raw content digest of `to_dict()`."""
        return content_digest(self.to_dict())


@dataclass
class StoredTemplateEvent:
    """One row of a template's log; `digest` covers type and payload."""

    template_name: str
    seq: int
    event_type: EventType
    ts: datetime
    actor: Actor
    payload: dict[str, Any]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON data."""
        return {
            "template_name": self.template_name,
            "seq": self.seq,
            "event_type": self.event_type.value,
            "ts": self.ts.isoformat(),
            "actor": dict(self.actor),
            "payload": self.payload,
            "digest": self.digest,
        }


class TemplateStore:
    """The templates in a database.

    `conn` is a store's database, or a SQLite connection with name-addressable rows, which the caller closes.
    """

    def __init__(self, conn: SqliteConnection | Backend, *, clock: Clock = utc_now, dialect: Dialect = SQLITE) -> None:
        self._database: Backend = Database.adopt(conn, SCHEMA) if isinstance(conn, SqliteConnection) else conn
        self._clock = in_utc(clock)
        self._dialect = dialect

    def create_template(
        self,
        name: str,
        actor: Mapping[str, str],
        description: str = "",
        min_approvals: int = 1,
        allowed_modes: Sequence[str] | None = None,
        require_adapter_capabilities: Sequence[str] | None = None,
        max_steps: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> Template:
        """Store a new template and its TEMPLATE_CREATED event in one transaction.

        Raises TemplateExists (on SQLite a `sqlite3.IntegrityError` too) for a name that is taken, InvalidTemplate or InvalidActor for wrong
        values.
        """
        sequences = {"allowed_modes": allowed_modes, "require_adapter_capabilities": require_adapter_capabilities, "labels": labels}
        given: dict[str, Any] = {field: value for field, value in sequences.items() if value is not None}
        creator = parse_actor(actor)
        now = self._clock()
        template = Template(name, description, min_approvals, max_steps=max_steps, created_at=now, created_by=creator, **given)
        if max(template.min_approvals, template.max_steps or 1) > LARGEST_INT:
            raise InvalidTemplate(f"min_approvals and max_steps must be at most {LARGEST_INT}")
        try:
            payload_json = canonical_json(_event_payload(template))
        except ValueError as problem:
            raise InvalidTemplate(f"the template cannot be stored: {problem}") from None
        with self._database.transaction() as connection:
            if _select(connection, name) is not None:
                raise self._dialect.template_exists(f"Template already exists: {name}")
            insert(connection, _INSERT, [_row(template)])
            _insert_created_event(connection, name, now.isoformat(), creator, payload_json)
        return template

    def get_template(self, name: str) -> Template | None:
        """The template of this name, or None. Raises MalformedEvent when its row cannot be read, InputError for what is no text."""
        name = require_text(name, "template name")
        with self._database.reading() as connection:
            row = _select(connection, name)
        return None if row is None else _template(row)

    def list_templates(self, limit: int = 100, offset: int = 0, label_filter: str | None = None) -> list[Template]:
        """Newest first; with `label_filter` only those that carry exactly this label.

        Raises MalformedEvent for a row that cannot be read, InputError for numbers that make no page and for what is no text.
        """
        require_page(limit, offset)
        if label_filter is not None:
            require_text(label_filter, "label_filter")
        with self._database.reading() as connection:
            templates = map(_template, connection.execute(_NEWEST_FIRST))
            # Compared here and not by SQLite, whose JSON functions end a text at its first NUL.
            wanted = (template for template in templates if label_filter is None or label_filter in template.labels)
            return list(islice(wanted, offset, min(offset + limit, sys.maxsize)))

    def template_exists(self, name: str) -> bool:
        """Whether a template of this name is stored. Raises InputError for what is no text."""
        name = require_text(name, "template name")
        with self._database.reading() as connection:
            return _select(connection, name) is not None

    def get_template_events(self, name: str) -> list[StoredTemplateEvent]:
        """The template's log in ascending seq; empty for an unknown name.

        Raises MalformedEvent for a row that cannot be read, InputError for what is no text.
        """
        name = require_text(name, "template name")
        with self._database.reading() as connection:
            rows = connection.execute(_EVENTS, (name,)).fetchall()
        return [_stored_event(row) for row in rows]


def template_problems(connection: Connection) -> Iterator[str]:
    """What is wrong with the rows of `templates`: each must read as a template, carry its own digest, and repeat its first event."""
    for row in connection.execute(_ORPHANS):
        yield f"template {row[0]}: its events are there, its row is missing"
    for row in connection.execute(_SELECT):
        name = f"template {row['name']}"
        try:
            template = _template(row)
        except MalformedEvent as problem:
            yield f"{name}: {problem}"
            continue
        if template.digest() != row["digest"]:
            yield f"{name}: the digest does not match the row"
        elif tuple(row) != _row(template):
            yield f"{name}: a value is spelled in another way than it was stored"
        first = connection.execute(_EVENTS + " LIMIT 1", (row["name"],)).fetchone()
        if first is None:
            yield f"{name}: it has no event"
        elif _said_by_event(first) != _said_by_row(row, template):
            yield f"{name}: it says something else than its event"


def _said_by_event(event: Any) -> tuple[object, ...]:
    return event["ts"], event["actor_type"], event["actor_id"], event["payload"]


def _said_by_row(row: Any, template: Template) -> tuple[str, ...]:
    return row["created_at"], row["created_by_type"], row["created_by_id"], canonical_json(_event_payload(template))


def _insert_created_event(connection: Connection, name: str, ts: str, who: Actor, payload_json: str) -> None:
    event_type = EventType.TEMPLATE_CREATED.value
    record = template_event_record(
        template_name=name,
        seq=0,
        event_type=event_type,
        ts=ts,
        actor_type=who.type,
        actor_id=who.id,
        payload_json=payload_json,
        prev_hash=ZERO_HASH,
    )
    log = LogWriter(connection)
    links = (bytes.fromhex(ZERO_HASH), bytes.fromhex(log.add("template_event", record)))
    log.flush()
    digest = event_digest(event_type, payload_json)
    row = (name, 0, event_type, ts, who.type, who.id, payload_json, digest, *links, log.position)
    insert(connection, _INSERT_EVENT, [row])


def _event_payload(template: Template) -> dict[str, Any]:
    data = template.to_dict()
    return {key: value for key, value in data.items() if key not in ("created_at", "created_by")}


def _row(template: Template) -> tuple[str | int | None, ...]:
    data = template.to_dict()
    lists = {field: canonical_json(data[field]) for field in _SEQUENCES}
    who = data["created_by"]
    flat = {**data, **lists, "created_by_type": who["type"], "created_by_id": who["id"], "digest": template.digest()}
    return tuple(flat[field] for field in TEMPLATE_COLUMNS)


def _select(connection: Connection, name: str) -> Any:
    return connection.execute(_SELECT + " WHERE name = ?", (name,)).fetchone()


def _template(row: Any) -> Template:
    data = dict(row)
    for field in TEMPLATE_COLUMNS:
        if type(data[field]) is not (int if field in _NUMBERS else str) and (field != "max_steps" or data[field] is not None):
            raise MalformedEvent(f"unreadable template row: {field} is {type(data[field]).__name__}")
    try:
        lists = {field: json.loads(data[field]) for field in _SEQUENCES}
        return Template.from_dict({**data, **lists, "created_by": {"type": data["created_by_type"], "id": data["created_by_id"]}})
    except (ValueError, RecursionError) as problem:
        raise MalformedEvent(f"unreadable template row: {problem}") from None


def _stored_event(row: Any) -> StoredTemplateEvent:
    name, seq, kind, ts, actor_type, actor_id, payload, digest = row
    if not are_event_cells(seq, kind, ts, actor_type, actor_id, payload, digest, b"", b"", name):
        raise MalformedEvent(f"event {seq!r:.100} of template {name!r:.100} has a value of a type that no event has")
    try:
        event_type = EventType(kind)
    except ValueError:
        raise MalformedEvent(f"event {seq} of template {name} has the unknown type {kind!r}") from None
    return StoredTemplateEvent(name, seq, event_type, parse_time(ts), Actor(type=actor_type, id=actor_id), decode_payload(payload), digest)
