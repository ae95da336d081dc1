"""The tables of a store on PostgreSQL, what guards them, who may do what, and how an older schema becomes the present one.

The tables are those of SQLite (`nexus_control.schema`), in a schema of their own; texts sort and compare by their bytes, as there.
Append-only is enforced for everybody, the owner too: triggers that no setting of a session switches off refuse UPDATE, DELETE and
TRUNCATE. Roles say the same once more: members of `nexus_writer` can only insert and read, members of `nexus_reader` only read.
"""

import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

from nexus_attest.postgres import rights
from nexus_attest.postgres.driver import PgConnection, faults, run
from nexus_attest.postgres.rights import READER, WRITER
from nexus_control import backend
from nexus_control.errors import DecisionExists, InputError, SchemaMissing, SchemaTooNew, TemplateExists, brief

__all__ = [
    "DEFAULT_SCHEMA",
    "POSTGRES",
    "READER",
    "WRITER",
    "apply",
    "newest",
    "require_name",
    "script",
    "take_lock",
    "version",
]

DEFAULT_SCHEMA = "nexus_attest"
_TEXT = 'text COLLATE "C"'
_CHAIN = """prev        bytea    NOT NULL CHECK (length(prev) = 32),
    chain       bytea    NOT NULL CHECK (length(chain) = 32)"""

_TABLES = f"""
CREATE TABLE decisions (
    decision_id {_TEXT} NOT NULL,
    generation  bigint   NOT NULL CHECK (generation >= 1),
    created_at  {_TEXT} NOT NULL,
    tombstone   smallint NOT NULL DEFAULT 0 CHECK (tombstone IN (0, 1)),
    -- A copy of the first events and of an import's origin, for listing; the log stays the source.
    goal {_TEXT}, creator_type {_TEXT}, creator_id {_TEXT}, policy_ref {_TEXT}, template_name {_TEXT}, template_digest {_TEXT},
    imported_at {_TEXT}, imported_from {_TEXT}, bundle_digest {_TEXT},
    copy_digest bytea    NOT NULL,
    {_CHAIN},
    position    bigint   NOT NULL,
    PRIMARY KEY (decision_id, generation)
);
CREATE INDEX decisions_by_age ON decisions (created_at, position);
CREATE TABLE decision_events (
    position    bigint   PRIMARY KEY,
    decision_id {_TEXT} NOT NULL,
    generation  bigint   NOT NULL,
    seq         bigint   NOT NULL CHECK (seq >= 0),
    event_type  {_TEXT} NOT NULL,
    ts          {_TEXT} NOT NULL,
    actor_type  {_TEXT} NOT NULL,
    actor_id    {_TEXT} NOT NULL,
    payload     {_TEXT} NOT NULL,
    digest      {_TEXT} NOT NULL,
    {_CHAIN},
    UNIQUE (decision_id, generation, seq),
    FOREIGN KEY (decision_id, generation) REFERENCES decisions (decision_id, generation)
);
CREATE TABLE templates (
    name                         {_TEXT} NOT NULL PRIMARY KEY,
    description                  {_TEXT} NOT NULL,
    min_approvals                bigint NOT NULL,
    allowed_modes                {_TEXT} NOT NULL,
    require_adapter_capabilities {_TEXT} NOT NULL,
    max_steps                    bigint,
    labels                       {_TEXT} NOT NULL,
    created_at                   {_TEXT} NOT NULL,
    created_by_type              {_TEXT} NOT NULL,
    created_by_id                {_TEXT} NOT NULL,
    digest                       {_TEXT} NOT NULL
);
CREATE TABLE template_events (
    template_name {_TEXT} NOT NULL REFERENCES templates (name),
    seq           bigint NOT NULL CHECK (seq >= 0),
    event_type    {_TEXT} NOT NULL,
    ts            {_TEXT} NOT NULL,
    actor_type    {_TEXT} NOT NULL,
    actor_id      {_TEXT} NOT NULL,
    payload       {_TEXT} NOT NULL,
    digest        {_TEXT} NOT NULL,
    {_CHAIN},
    position      bigint NOT NULL,
    PRIMARY KEY (template_name, seq)
);
CREATE TABLE log (
    position  bigint PRIMARY KEY CHECK (position >= 1),
    leaf_hash bytea  NOT NULL CHECK (length(leaf_hash) = 32),
    kind      {_TEXT} NOT NULL CHECK (kind IN ('generation', 'event', 'template_event'))
);
CREATE TABLE checkpoints (
    number bigint PRIMARY KEY,
    size   bigint NOT NULL CHECK (size >= 0),
    note   {_TEXT} NOT NULL
);
-- How many events of a generation an import brought: what they say about approvals are claims of another system.
CREATE TABLE imports (
    decision_id {_TEXT} NOT NULL,
    generation  bigint NOT NULL,
    events      bigint NOT NULL CHECK (events >= 0),
    PRIMARY KEY (decision_id, generation),
    FOREIGN KEY (decision_id, generation) REFERENCES decisions (decision_id, generation)
);
-- Derived from the log: what is wrong here is named, and not believed. Several rows may speak of one tile, as none is ever replaced.
CREATE TABLE log_tiles (
    number bigint NOT NULL CHECK (number >= 0),
    hash   bytea  NOT NULL,
    seal   bytea  NOT NULL,
    PRIMARY KEY (number, hash, seal)
);"""

_APPEND_ONLY = ("decisions", "decision_events", "templates", "template_events", "log", "checkpoints", "imports", "schema_versions")

# What they look at is named with its schema.
_FUNCTIONS = {
    "refuse_change": """
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END""",
    # The log has no gaps: neither the place of another leaf nor one beyond the next.
    "refuse_gap": """
DECLARE
    lowest bigint; highest bigint; added bigint;
BEGIN
    SELECT min(position), max(position), count(*) INTO lowest, highest, added FROM added_rows;
    IF added > 0 AND (highest - lowest + 1 <> added
            OR (lowest > 1 AND NOT EXISTS (SELECT FROM {schema}.log WHERE position = lowest - 1))
            OR EXISTS (SELECT FROM {schema}.log WHERE position > highest)) THEN
        RAISE EXCEPTION 'log is append-only' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END""",
    # Without gaps, so that one that is missing shows, and never of a smaller log than the one before.
    "refuse_checkpoint": """
BEGIN
    IF NEW.number <> (SELECT COALESCE(MAX(number), 0) + 1 FROM {schema}.checkpoints)
            OR NEW.size < (SELECT COALESCE(MAX(size), 0) FROM {schema}.checkpoints) THEN
        RAISE EXCEPTION 'checkpoints is append-only' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END""",
}

_TRIGGERS = {
    **{
        (table, f"{table}_refuse_change"): ("BEFORE UPDATE OR DELETE OR TRUNCATE", "FOR EACH STATEMENT", "refuse_change")
        for table in _APPEND_ONLY
    },
    ("log", "log_refuse_gap"): ("AFTER INSERT", "REFERENCING NEW TABLE AS added_rows FOR EACH STATEMENT", "refuse_gap"),
    ("checkpoints", "checkpoints_refuse_insert"): ("BEFORE INSERT", "FOR EACH ROW", "refuse_checkpoint"),
}


def _guards() -> Iterator[str]:
    for name, body in _FUNCTIONS.items():
        yield f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $nexus${body}\n$nexus$;"
        yield f"REVOKE ALL ON FUNCTION {name}() FROM PUBLIC;"
    for (table, name), (when, each, function) in _TRIGGERS.items():
        yield f"CREATE TRIGGER {name} {when} ON {table} {each} EXECUTE FUNCTION {function}();"
        # Also in a session that a superuser has told to skip triggers, as replication does.
        yield f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};"


_VERSIONS = """
CREATE TABLE schema_versions (
    version    integer     PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);"""

# Functions and operators are looked up as well, also those that nobody names with a schema: along this path, whoever inserts.
_OWN_PATH = "search_path=pg_catalog, pg_temp"
_OWN_PATHS = "\n".join(f"ALTER FUNCTION {name}() SET {_OWN_PATH.replace('=', ' = ')};" for name in _FUNCTIONS)

_MIGRATIONS: tuple[str, ...] = ("\n".join((_VERSIONS, _TABLES, *_guards())).strip(), _OWN_PATHS)
"""The statements of each version, with `{schema}` for the name of the schema. A released one never changes."""


# -- making it ------------------------------------------------------------------------------------------------------------------


def require_name(schema: object) -> str:
    """The name of a schema that needs no quotes. Raises InputError."""
    if not isinstance(schema, str) or not re.fullmatch("[a-z_][a-z0-9_]{0,62}", schema):
        raise InputError(f"a schema must be named in lower case letters, digits and _, got {brief(schema)}")
    return schema


def _ddl(schema: str, since: int = 0) -> str:
    """The statements that make the schema, or bring one of version `since` to the present version; without roles."""
    parts = [f"CREATE SCHEMA IF NOT EXISTS {schema};"] if not since else []
    parts.append(f"SET LOCAL search_path = {schema}, pg_temp;")
    for number, statements in enumerate(_MIGRATIONS[since:], since + 1):
        parts += [statements.replace("{schema}", schema), f"INSERT INTO schema_versions (version) VALUES ({number});"]
    return "\n".join(parts) + "\n"


def _roles() -> str:
    """The statements that make the two roles, which nobody can log in as. Running them again is safe."""
    return "".join(
        f"DO $nexus$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $nexus$;\n"
        for role in (WRITER, READER)
    )


def _grants(schema: str) -> str:
    """The statements that give the two roles what they may do, and nothing else. Running them again is safe."""
    return "\n".join(
        [
            f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;",
            f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {WRITER}, {READER};",
            f"GRANT USAGE ON SCHEMA {schema} TO {WRITER}, {READER};",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {WRITER}, {READER};",
            *(
                f"GRANT INSERT ON {schema}.{table} TO {WRITER};"
                for table in (*(name for name in _APPEND_ONLY if name != "schema_versions"), "log_tiles")
            ),
            "",
        ]
    )


def _require_version(schema: str, since: int) -> str:
    """The statement that ends a script, and undoes what it did, where the schema has another version; until the end nobody else writes."""
    return f"""DO $nexus$
DECLARE
    found integer;
BEGIN
    {take_lock(schema).replace("SELECT", "PERFORM")};
    SELECT COALESCE(max(version), 0) INTO found FROM {schema}.schema_versions;
    IF found <> {since} THEN
        RAISE EXCEPTION 'the schema {schema} has version %, this script is for version {since}', found;
    END IF;
END $nexus$;"""


def script(schema: str, *, with_roles: bool, since: int | None = None) -> str:
    """What an owner runs with psql to set up a new database, or one with the tables of version `since`, all or nothing.

    Raises InputError for a version that this release does not know.
    """
    if since is not None and not 1 <= since <= newest():
        raise InputError(
            f"there is no version {since} of the tables: this release brings those of the versions 1 to {newest()} to version {newest()}"
        )
    parts = [] if since is None else [_require_version(schema, since)]
    return "\n".join(["BEGIN;", *parts, _ddl(schema, since or 0), *([_roles() + _grants(schema)] if with_roles else []), "COMMIT;", ""])


_STORED_SCHEMA = f"""
    SELECT has_schema_privilege(n.oid, 'USAGE') AS usable, c.oid AS versions, (
        SELECT r.rolname FROM pg_roles AS r
        WHERE r.rolname IN ('{WRITER}', '{READER}') AND pg_has_role(r.oid, 'MEMBER') AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE')
        ORDER BY r.rolname LIMIT 1) AS unready
    FROM pg_namespace AS n LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'schema_versions' WHERE n.nspname = ?"""


_HAS_ROLES = """
    SELECT EXISTS (
        SELECT FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE n.nspname = ? AND r.rolname = ?
    )"""


def version(connection: PgConnection, schema: str) -> int:
    """Which version the schema has, 0 when there is none. Raises SchemaTooNew, SchemaMissing where this role may not even look."""
    # Asked of the catalog's tables: functions like to_regclass may still say what was there before this transaction waited for the lock.
    row = connection.execute(_STORED_SCHEMA, (schema,)).fetchone()
    if row is not None and not row["usable"] and row["unready"] is not None:
        raise SchemaMissing(
            f"this role is a member of {row['unready']}, which has no rights in the schema {schema} yet; "
            "have the database's owner run `nexus-attest db init`"
        )
    if row is not None and not row["usable"]:
        raise SchemaMissing(f"this role may not use the schema {schema}; connect as a member of {WRITER} or {READER}")
    if row is None or row["versions"] is None:
        return 0
    number: int = connection.execute(f"SELECT COALESCE(MAX(version), 0) FROM {schema}.schema_versions").fetchone()[0]
    if number > len(_MIGRATIONS):
        raise SchemaTooNew(
            f"the schema {schema} has version {number}, this release knows {len(_MIGRATIONS)}; "
            "install the release that wrote it, or a newer one"
        )
    return number


def apply(connection: PgConnection, schema: str, *, with_roles: bool) -> int:
    """Bring the schema to the present version in one transaction; gives the version it had. Where the roles are in use, they get the same
    rights on what a migration adds.

    Raises SchemaTooNew; errors of the driver when the role may not.
    """
    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")  # what a server has for a default may see the state before the lock
    try:
        _lock(connection, schema)
        since = version(connection, schema)  # under the lock: another process may have done it
        if since < len(_MIGRATIONS):
            run(connection.raw, _ddl(schema, since))
        if with_roles:
            run(connection.raw, _roles() + _grants(schema))
        elif 0 < since < len(_MIGRATIONS) and connection.execute(_HAS_ROLES, (schema, WRITER)).fetchone()[0]:
            run(connection.raw, _grants(schema))  # on what is new
        connection.execute("COMMIT")
    except BaseException:
        if not connection.raw.closed:
            connection.raw.rollback()
        raise
    return since


def newest() -> int:
    """The version that this release makes."""
    return len(_MIGRATIONS)


# -- the write lock -------------------------------------------------------------------------------------------------------------

_LOCK_CLASS = 0x4E415454
"""The first half of our advisory locks: "NATT". The second is a hash of the schema's name, so that stores do not wait for each other."""


def take_lock(schema: str) -> str:
    """The statement with which a writer begins: from there to the end of its transaction, it is alone."""
    return f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, hashtext('{schema}'))"


def _lock(connection: PgConnection, schema: str) -> None:
    connection.execute(take_lock(schema))


# -- looking at it --------------------------------------------------------------------------------------------------------------

_STORED_TRIGGERS = """
    SELECT c.relname, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid), p.prosrc, p.proconfig
    FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace ORDER BY c.relname, t.tgname"""
_STORED_RULES = """
    SELECT c.relname, r.rulename FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname, r.rulename"""
_STORED_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
_STORED_CONSTRAINTS = """
    SELECT c.relname, k.contype, count(*) FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
    WHERE c.relnamespace = current_schema()::regnamespace AND k.convalidated AND k.contype IN ('p', 'u', 'f', 'c')
    GROUP BY c.relname, k.contype"""
_IDENTITY = """
    SELECT s.system_identifier, d.oid::bigint, current_schema() FROM pg_control_system() AS s, pg_database AS d
    WHERE d.datname = current_database()"""

_KINDS = {"p": "PRIMARY KEY", "u": "UNIQUE (", "f": "REFERENCES", "c": "CHECK ("}


class _Postgres:
    """PostgreSQL's ways."""

    decision_exists = DecisionExists
    template_exists = TemplateExists

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        return faults()

    def problems(self, connection: backend.Connection) -> list[str]:
        return [f"schema: {problem}" for problem in _problems(connection)]

    def damage(self, connection: backend.Connection) -> None:
        del connection  # what looks at its indexes, amcheck, is an extension that may not be there, for those whom its owner lets use it

    def identity(self, connection: backend.Connection) -> object:
        return tuple(connection.execute(_IDENTITY).fetchone())

    def stream(self, connection: backend.Connection, sql: str) -> Generator[Any]:
        return cast("PgConnection", connection).stream(sql)


def _problems(connection: backend.Connection) -> Iterator[str]:
    """What is not as this release made it: tables, constraints, triggers and what they run, and what the roles may do."""
    wanted = _tables()
    stored = {row[0] for row in connection.execute(_STORED_TABLES)}
    yield from (f"the table {name} is missing" for name in wanted if name not in stored)
    constraints = {(table, kind): number for table, kind, number in connection.execute(_STORED_CONSTRAINTS)}
    for table, text in wanted.items():
        for kind, mark in _KINDS.items():
            if table in stored and constraints.get((table, kind), 0) < text.count(mark):
                yield f"the table {table} lacks a constraint ({mark.rstrip(' (')})"
    schema: str = connection.execute("SELECT current_schema()").fetchone()[0]
    triggers = {(row[0], row[1]): tuple(row[2:]) for row in connection.execute(_STORED_TRIGGERS)}
    for table, name in _TRIGGERS:
        found = triggers.pop((table, name), None)
        if found is None or not _is_as_made(found, schema, table, name):
            yield f"the trigger {name} is missing or was changed"
    for table, name in triggers:
        if table in wanted:
            yield f"the trigger {brief(name)} on {table} is not of this schema"
    for table, name in connection.execute(_STORED_RULES):
        if table in wanted:
            yield f"the rule {brief(name)} on {table} is not of this schema"
    yield from rights.problems(connection, wanted)


def _is_as_made(found: Sequence[Any], schema: str, table: str, name: str) -> bool:
    when, each, function = _TRIGGERS[table, name]
    enabled, definition, source, settings = found
    events = set(when.split()[1:]) - {"OR"}
    # `pg_get_triggerdef` writes the events in its own order, and names with their schema.
    said = re.fullmatch(
        rf"CREATE TRIGGER {name} (BEFORE|AFTER) ([A-Z ]+) ON (?:\w+\.)?{table} (.*) EXECUTE FUNCTION (?:\w+\.)?{function}\(\)", definition
    )
    return (
        enabled == "A"
        and settings == [_OWN_PATH]
        and source.strip() == _FUNCTIONS[function].strip().replace("{schema}", schema)
        and said is not None
        and said[1] == when.split()[0]
        and set(said[2].split()) - {"OR"} == events
        and said[3] == each
    )


def _tables() -> dict[str, str]:
    """The statement that made each table, by name."""
    return {found[1]: found[0] for found in re.finditer(r"CREATE TABLE (\w+) \(.*?\n\);", _VERSIONS + _TABLES, re.DOTALL)}


POSTGRES: backend.Dialect = _Postgres()
