"""The store on PostgreSQL: everything that every backend does, and what is PostgreSQL's own."""

import itertools
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg
import pytest
from postgres_testing import PostgresServer, round_trips
from store_contract import CREATION, StoreContract, append, created
from store_testing import ALICE, BOB, in_child, new_store, raw_event, ticking_clock

from nexus_attest.postgres import PostgresStore, database, driver
from nexus_attest.postgres import batch as batches
from nexus_attest.postgres import exchange as exchanges
from nexus_attest.postgres import schema as schemas
from nexus_attest.postgres import writer as writers
from nexus_attest.postgres.address import shown
from nexus_attest.postgres.appends import AppendQueue
from nexus_attest.postgres.batch import Wanted
from nexus_attest.postgres.database import PostgresDatabase
from nexus_attest.postgres.driver import PgConnection
from nexus_attest.postgres.errors import PostgresDriverMissing
from nexus_attest.postgres.schema import DEFAULT_SCHEMA, script, take_lock
from nexus_attest.postgres.setup import initialize
from nexus_control.errors import (
    CommitUnknown,
    DecisionExists,
    DecisionNotFound,
    InputError,
    NexusError,
    SchemaMissing,
    SchemaTooNew,
    StoreBusy,
    StoreClosed,
    StoreConflict,
    StoreError,
    StoreReadOnly,
    StoreUnreachable,
    TemplateExists,
)
from nexus_control.events import EventType, event_digest
from nexus_control.store import EventStore
from nexus_control.tool import NexusControlTools

_numbers = itertools.count(1)


def open_store(address: str, schema: str = DEFAULT_SCHEMA, clock: Callable[[], datetime] | None = None, **options: Any) -> PostgresStore:
    """A store whose times and ids (`id-0`, `id-1` ...) repeat on every run."""
    names: Iterator[str] = (f"id-{number}" for number in range(1_000_000))
    return PostgresStore(address, schema=schema, clock=clock or ticking_clock(), new_id=lambda: next(names), **options)


@pytest.fixture
def schema() -> str:
    return f"schema_{next(_numbers)}"


@pytest.fixture
def store(postgres_server: PostgresServer, schema: str) -> Iterator[PostgresStore]:
    with open_store(postgres_server.address(), schema) as store:
        yield store


class TestOnPostgres(StoreContract):
    """A schema of its own for each test."""

    @pytest.fixture(autouse=True)
    def server(self, postgres_server: PostgresServer) -> None:
        self._server = postgres_server

    def open(self, folder: Path, clock: Callable[[], datetime] | None = None) -> EventStore:
        name = "s" + "".join(character if character.isalnum() else "_" for character in folder.name.lower())
        return open_store(self._server.address(), name, clock)


# -- the same as on SQLite


def test_the_same_events_make_the_same_chain_positions_and_roots_as_on_sqlite(store: PostgresStore) -> None:
    found: list[Any] = []
    for each in (store, new_store()):
        templates = each.get_template_store()
        first = each.append_events(
            "dec-1", [created("a\x00\x01\u2028é"), (EventType.POLICY_ATTACHED, BOB, {"min_approvals": 2})], create=True
        )
        templates.create_template("t\x00", ALICE, labels=["x\x01"])
        each.delete_decision("dec-1")
        each.import_decision_atomic("dec-1", "2024-06-01T00:00:00+00:00", [raw_event(0), raw_event(1, actor_id="\x01\x02\x00")])
        for number in range(300):
            append(each, "dec-1", str(number))
        size, root = each.log_root()
        proofs = each.inclusion_proof(7), each.consistency_proof(5, 299), each.joint_inclusion_proof([1, 280])
        found.append((first, each.get_events("dec-1"), each.list_generations("dec-1"), size, root, proofs, templates.list_templates()))
        assert each.certain_log_root() == (size, root)
    assert found[0] == found[1]
    assert found[0][3:5] == (308, found[1][4])


def test_a_place_is_told_without_its_password(postgres_server: PostgresServer) -> None:
    address = postgres_server.address().replace("nexus@", "nexus:s%40cret@") + "&password=other"
    with open_store(address, "told") as store:
        assert store.path == f"{postgres_server.address()} (schema told)"
    assert shown("postgres://u:p@h:5/d?sslpassword=x&sslmode=require&PassWord=y") == "postgres://u@h:5/d?sslmode=require"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "store.db",
        "mysql://h/d",
        "postgresql:/h/d",
        "postgresql://u:se#cret@h/d",
        "postgresql://u:se?cret@h/d",
        "postgresql://u:se/cret@h/d",
        "postgresql://u:se\0cret@h/d",
        "postgresql://[u:secret@h/d",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(InputError) as caught:
        PostgresStore(address)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["postgresql://u:%zzsecret@h/d", "postgresql://u:secret@h/d?no_such=secret", "postgresql://u:se cret@h:x/d"]
)
def test_what_libpq_does_not_take_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(InputError) as caught:
        PostgresStore(address)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "Nexus", "a-b", 'a"; DROP', "1a", "a" * 64, 5])
def test_a_schema_has_a_plain_name(postgres_server: PostgresServer, name: Any) -> None:
    with pytest.raises(InputError):
        PostgresStore(postgres_server.address(), schema=name)


def test_tools_take_an_address_where_they_take_a_path(postgres_server: PostgresServer) -> None:
    tools = NexusControlTools(db_path=postgres_server.new_database())
    with closing(tools.store):
        assert isinstance(tools.store, PostgresStore)
        assert tools.request("goal", {"type": "human", "id": "alice"}).success


def test_without_the_driver_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(PostgresDriverMissing, match=r"pip install 'nexus-attest\[postgres\]'"):
        PostgresStore("postgresql://nobody@localhost:1/nothing")


def test_a_database_in_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.psql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="UTF8"):
        PostgresStore(postgres_server.address("latin"))


def test_existing_things_are_named_as_such(store: PostgresStore) -> None:
    store.create_decision("a")
    store.get_template_store().create_template("t", ALICE)
    with pytest.raises(DecisionExists):
        store.create_decision("a")
    with pytest.raises(TemplateExists):
        store.get_template_store().create_template("t", ALICE)
    with pytest.raises(StoreConflict):
        store.import_decision_atomic("b", "2024-06-01", [raw_event(0), raw_event(0)])


def test_an_id_that_no_index_can_hold_is_an_input_error_and_nothing_is_written(store: PostgresStore) -> None:
    name = "".join(map(chr, range(1000, 5000)))
    with pytest.raises(InputError, match="2,600 bytes"):
        store.append_events(name, [created()], create=True)
    assert store.log_root()[0] == 0


def test_an_open_store_cannot_be_pickled(store: PostgresStore) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(store._database)  # pyright: ignore[reportPrivateUsage]


def test_two_stores_on_one_database_see_what_the_other_wrote(postgres_server: PostgresServer, schema: str) -> None:
    with open_store(postgres_server.address(), schema) as first, open_store(postgres_server.address(), schema) as second:
        first.append_events("dec-1", [created()], create=True)
        assert append(second, "dec-1").seq == 1
        with first.snapshot():
            assert len(first.get_events("dec-1")) == 2
            append(second, "dec-1")
            assert len(first.get_events("dec-1")) == 2
        assert first.log_root() == second.log_root() == (4, first.log_root()[1])


def test_a_transaction_cannot_begin_inside_a_snapshot(store: PostgresStore) -> None:
    with pytest.raises(RuntimeError), store.snapshot():
        store.create_decision("a")
    store.create_decision("a")


# -- append-only


TABLES = ["decisions", "decision_events", "templates", "template_events", "log", "checkpoints", "imports", "schema_versions"]


@pytest.fixture
def filled(store: PostgresStore) -> PostgresStore:
    store.import_decision_atomic("dec-1", "2024-06-01", [raw_event(0, digest=created_digest())])
    store.get_template_store().create_template("t", ALICE)
    assert store.verify_log().errors == []
    return store


def created_digest() -> str:
    return event_digest("DECISION_CREATED", '{"goal":"g"}')


@pytest.mark.parametrize("table", TABLES)
def test_nobody_can_change_or_delete_a_row_nor_the_owner_nor_a_replica(
    postgres_server: PostgresServer, filled: PostgresStore, schema: str, table: str
) -> None:
    column = postgres_server.psql(f"SELECT attname FROM pg_attribute WHERE attrelid = '{schema}.{table}'::regclass AND attnum = 1")
    statements = [
        f"UPDATE {schema}.{table} SET {column} = {column}",
        f"UPDATE {schema}.{table} SET {column} = {column} WHERE false",
        f"DELETE FROM {schema}.{table}",
        f"TRUNCATE {schema}.{table} CASCADE",
    ]
    with psycopg.connect(postgres_server.address(), autocommit=True) as other:
        for role in ("origin", "replica"):
            other.execute(f"SET session_replication_role = {role}")  # pyright: ignore
            for statement in statements:
                with pytest.raises(psycopg.errors.RestrictViolation, match="is append-only"):
                    other.execute(statement)  # pyright: ignore
    assert filled.verify_log().errors == []


@pytest.mark.parametrize("position", [1, 5, 7])
def test_no_leaf_goes_anywhere_but_to_the_end(postgres_server: PostgresServer, filled: PostgresStore, schema: str, position: int) -> None:
    assert filled.log_root()[0] == 3
    with psycopg.connect(postgres_server.address(), autocommit=True) as other, pytest.raises(psycopg.IntegrityError):
        other.execute(f"INSERT INTO {schema}.log VALUES ({position}, decode(repeat('00', 32), 'hex'), 'event')")  # pyright: ignore


@pytest.mark.parametrize(
    ("table", "values"),
    [("log", "(9, decode(repeat('00', 32), 'hex'), 'event')"), ("checkpoints", "(9, 3, 'note')")],
    ids=["log", "checkpoints"],
)
def test_who_brings_operators_of_their_own_is_judged_by_those_of_postgresql(
    postgres_server: PostgresServer, filled: PostgresStore, schema: str, table: str, values: str
) -> None:
    """Functions and operators are looked up along the path of whoever inserts, unless a trigger has one of its own."""
    before = filled.log_root()
    with psycopg.connect(postgres_server.address(), autocommit=True) as other:
        other.execute("DROP SCHEMA IF EXISTS false_friends CASCADE; CREATE SCHEMA false_friends")
        for name, right in itertools.product(("<>", "<", ">"), ("bigint", "integer")):
            never = f"CREATE OR REPLACE FUNCTION false_friends.never(bigint, {right}) RETURNS boolean LANGUAGE sql AS 'SELECT false'"
            other.execute(never)  # pyright: ignore
            operator = f"CREATE OPERATOR false_friends.{name} (LEFTARG = bigint, RIGHTARG = {right}, FUNCTION = false_friends.never)"
            other.execute(operator)  # pyright: ignore
        other.execute("SET search_path = false_friends, pg_catalog")
        assert other.execute("SELECT 1::bigint <> 2::bigint").fetchone() == (False,)
        with pytest.raises(psycopg.errors.RestrictViolation, match="is append-only"):
            other.execute(f"INSERT INTO {schema}.{table} VALUES {values}")  # pyright: ignore
    assert filled.verify_log().errors == []
    assert filled.log_root() == before


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("ALTER FUNCTION {0}.refuse_gap() RESET search_path", "schema: the trigger log_refuse_gap is missing or was changed"),
        ("DROP TRIGGER log_refuse_change ON {0}.log", "schema: the trigger log_refuse_change is missing or was changed"),
        ("ALTER TABLE {0}.log DISABLE TRIGGER log_refuse_gap", "schema: the trigger log_refuse_gap is missing or was changed"),
        (
            "ALTER TABLE {0}.decisions ENABLE TRIGGER decisions_refuse_change",
            "schema: the trigger decisions_refuse_change is missing or was changed",
        ),
        (
            "CREATE OR REPLACE FUNCTION {0}.refuse_checkpoint() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "schema: the trigger checkpoints_refuse_insert is missing or was changed",
        ),
        (
            "CREATE TRIGGER other BEFORE INSERT ON {0}.log FOR EACH ROW EXECUTE FUNCTION {0}.refuse_change()",
            "schema: the trigger 'other' on log is not of this schema",
        ),
        ("CREATE RULE quiet AS ON INSERT TO {0}.log DO INSTEAD NOTHING", "schema: the rule 'quiet' on log is not of this schema"),
        ("ALTER TABLE {0}.log DROP CONSTRAINT log_pkey", "schema: the table log lacks a constraint (PRIMARY KEY)"),
        (
            "ALTER TABLE {0}.imports DROP CONSTRAINT imports_decision_id_generation_fkey",
            "schema: the table imports lacks a constraint (REFERENCES)",
        ),
        ("GRANT UPDATE ON {0}.log TO PUBLIC", "schema: PUBLIC may UPDATE on log"),
        ("GRANT DELETE ON {0}.log_tiles TO nexus_writer", "schema: nexus_writer may DELETE on log_tiles"),
        ("GRANT INSERT ON {0}.log TO nexus_reader", "schema: nexus_reader may INSERT on log"),
        ("GRANT INSERT ON {0}.schema_versions TO nexus_writer", "schema: nexus_writer may INSERT on schema_versions"),
        ("GRANT TRIGGER ON {0}.decisions TO stranger", "schema: stranger may TRIGGER on decisions"),
        ("GRANT INSERT ON {0}.log TO stranger", "schema: stranger may INSERT on log"),
        ("GRANT UPDATE (payload) ON {0}.decision_events TO nexus_writer", "schema: nexus_writer may UPDATE on decision_events.payload"),
        ("GRANT REFERENCES (name) ON {0}.templates TO PUBLIC", "schema: PUBLIC may REFERENCES on templates.name"),
        ("GRANT CREATE ON SCHEMA {0} TO nexus_writer", "schema: nexus_writer may CREATE in the schema {0}"),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA {0} GRANT UPDATE ON TABLES TO nexus_writer",
            "schema: nexus_writer may UPDATE on every table that nexus makes",
        ),
        ("ALTER TABLE {0}.log OWNER TO stranger", "schema: the table 'log' belongs to stranger, who does not own the store"),
        ("ALTER SCHEMA {0} OWNER TO stranger", "schema: the schema '{0}' belongs to stranger, who does not own the store"),
        (
            "ALTER FUNCTION {0}.refuse_gap() OWNER TO stranger",
            "schema: the function 'refuse_gap' belongs to stranger, who does not own the store",
        ),
        ("ALTER TABLE {0}.log SET UNLOGGED", "schema: the table log is not kept over a crash of the server"),
        (
            "ALTER TABLE {0}.log ENABLE ROW LEVEL SECURITY",
            "schema: the table log has row security, which hides rows and refuses others",
        ),
        (
            "CREATE POLICY strange ON {0}.imports USING (false)",
            "schema: the table imports has row security, which hides rows and refuses others",
        ),
        (
            "CREATE TABLE {0}.more () INHERITS ({0}.checkpoints)",
            "schema: the table checkpoints inherits, or is inherited: rows of another table are taken for its own",
        ),
    ],
)
def test_what_guards_the_rows_is_verified_with_them(
    postgres_server: PostgresServer, filled: PostgresStore, schema: str, damage: str, finding: str
) -> None:
    initialize(postgres_server.address(), schema=schema)
    with suppress(AssertionError):
        postgres_server.psql("CREATE ROLE stranger")
    postgres_server.psql(f"GRANT USAGE ON SCHEMA {schema} TO stranger; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO stranger")
    assert filled.verify_log().errors == []
    postgres_server.psql(damage.format(schema))
    assert filled.verify_log().errors == [finding.format(schema)]


def test_rights_that_hold_for_every_schema_are_found_and_who_acts_as_the_owner(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_database()
    for role in ("keeper", "helper"):
        with suppress(AssertionError):
            postgres_server.psql(f"CREATE ROLE {role} LOGIN", address)
    postgres_server.psql(f"GRANT CREATE ON DATABASE {urlsplit(address).path[1:]} TO keeper", address)
    PostgresStore(address.replace("nexus@", "keeper@")).close()
    initialize(address)
    with PostgresStore(address) as store:
        assert store.verify_log().errors == []
        postgres_server.psql("GRANT keeper TO helper; GRANT nexus_writer TO helper", address)
        try:
            assert store.verify_log().errors == ["schema: helper is of nexus_writer or nexus_reader, and may act as the owner of the store"]
        finally:
            postgres_server.psql("REVOKE keeper, nexus_writer FROM helper", address)
        postgres_server.psql("ALTER DEFAULT PRIVILEGES FOR ROLE keeper GRANT DELETE ON TABLES TO PUBLIC", address)
        assert store.verify_log().errors == ["schema: PUBLIC may DELETE on every table that keeper makes"]
        postgres_server.psql("ALTER DEFAULT PRIVILEGES FOR ROLE keeper REVOKE DELETE ON TABLES FROM PUBLIC", address)
        assert store.verify_log().errors == []


def test_a_row_that_was_edited_by_the_owner_is_found(postgres_server: PostgresServer, filled: PostgresStore, schema: str) -> None:
    postgres_server.psql(
        f"ALTER TABLE {schema}.decision_events DISABLE TRIGGER ALL; UPDATE {schema}.decision_events SET actor_id = 'mallory';"
        f"ALTER TABLE {schema}.decision_events ENABLE ALWAYS TRIGGER decision_events_refuse_change"
    )
    assert filled.verify_log().errors[-2:] == [
        "decision dec-1 generation 1 event 0: the chain hash does not match the row",
        "log: the leaf at position 2 does not match its event",
    ]


def test_rows_that_a_rule_drops_are_not_acknowledged(postgres_server: PostgresServer, filled: PostgresStore, schema: str) -> None:
    postgres_server.psql(f"CREATE RULE quiet AS ON INSERT TO {schema}.decision_events DO INSTEAD NOTHING")
    with pytest.raises(StoreError, match="the database dropped 1 of 1 new rows"):
        append(filled, "dec-1")
    assert filled.log_root()[0] == 3


def test_a_wrong_cached_hash_is_named_and_never_signed(postgres_server: PostgresServer, store: PostgresStore, schema: str) -> None:
    store.append_events("dec-1", [created()] * 300, create=True)
    right = store.certain_log_root()
    postgres_server.psql(
        f"INSERT INTO {schema}.log_tiles SELECT number, decode(repeat('00', 32), 'hex'), "
        f"sha256(convert_to('nexus-control log tile 0 ', 'UTF8') || decode(repeat('00', 32), 'hex')) FROM {schema}.log_tiles"
    )
    with open_store(postgres_server.address(), schema) as other:
        assert other.certain_log_root() == other.log_root() == right
        assert other.verify_log().errors == ["tile 0: the cached hash of positions 1 to 256 is wrong"]


# -- making it, and who may


def test_a_database_without_a_store_is_refused_where_none_may_be_made(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_database()
    with pytest.raises(SchemaMissing, match="nexus-attest db init"):
        PostgresStore(address, create=False)
    assert postgres_server.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'nexus_attest'", address) == "0"


def test_a_schema_of_a_newer_release_is_left_alone(postgres_server: PostgresServer, schema: str) -> None:
    open_store(postgres_server.address(), schema).close()
    postgres_server.psql(f"INSERT INTO {schema}.schema_versions VALUES (99)")
    with pytest.raises(SchemaTooNew, match="99"):
        open_store(postgres_server.address(), schema)


FIRST_VERSION = "ac5fa491a823be1668cbe7ea4e1042515fe92c86f3dd57c746859f95e7c86c00"


def test_the_first_version_of_the_tables_never_changes() -> None:
    assert len(schemas._MIGRATIONS) >= 1  # pyright: ignore[reportPrivateUsage]
    assert sha256(schemas._MIGRATIONS[0].encode()).hexdigest() == FIRST_VERSION  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("with_roles", [True, False])
def test_a_store_of_an_older_version_is_brought_to_this_one_by_its_owner_and_keeps_all_it_has(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, with_roles: bool
) -> None:
    address = postgres_server.new_database()
    postgres_server.psql(script(DEFAULT_SCHEMA, with_roles=with_roles), address)
    with PostgresStore(address) as store:
        store.append_events("dec-1", [created()], create=True)
        before = store.log_root()
    if with_roles:
        with suppress(AssertionError):
            postgres_server.psql("CREATE ROLE app_writer LOGIN IN ROLE nexus_writer")
    later = (*schemas._MIGRATIONS, "CREATE TABLE more (number bigint PRIMARY KEY);\nINSERT INTO more VALUES (7);")  # pyright: ignore
    writer = address.replace("nexus@", "app_writer@")
    with monkeypatch.context() as newer:
        newer.setattr(schemas, "_MIGRATIONS", later)
        if with_roles:
            with pytest.raises(SchemaMissing, match="have the database's owner run `nexus-attest db init`"):
                PostgresStore(writer)
        with PostgresStore(address, create=False) as store:
            assert store.log_root() == before
            append(store, "dec-1")
            assert store.verify_log().errors == []
        assert initialize(address, with_roles=False)["from"] == schemas.newest()
        assert postgres_server.psql("SELECT * FROM nexus_attest.more", address) == "7"
        assert (
            postgres_server.psql("SELECT string_agg(version::text, ' ' ORDER BY version) FROM nexus_attest.schema_versions", address)
            == "1 2 3"
        )
        if with_roles:
            with PostgresStore(writer) as store, store.backend.reading() as connection:
                assert connection.execute("SELECT number FROM more").fetchone()[0] == 7
    with pytest.raises(SchemaTooNew, match="has version 3, this release knows 2"):
        PostgresStore(address)


def test_a_migration_that_fails_leaves_the_store_as_it_was(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = postgres_server.new_database()
    PostgresStore(address).close()
    before = postgres_server.dump(address)
    with monkeypatch.context() as newer:
        newer.setattr(schemas, "_MIGRATIONS", (*schemas._MIGRATIONS, "CREATE TABLE more (); CREATE TABLE more ();"))  # pyright: ignore
        with pytest.raises(StoreError, match="already exists"):
            PostgresStore(address)
    assert postgres_server.dump(address) == before
    PostgresStore(address).close()


def test_stores_that_are_opened_at_once_make_one_schema(postgres_server: PostgresServer, schema: str) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            open_store(postgres_server.address(), schema).close()
        except BaseException as error:  # shown by the assertion below
            problems.append(error)

    run_together([work] * 6)
    assert problems == []


def run_together(works: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def shared(postgres_server: PostgresServer) -> str:
    """A database set up by the printed script, with a writer and a reader who can log in; roles belong to the whole server."""
    address = postgres_server.new_database()
    postgres_server.psql(script(DEFAULT_SCHEMA, with_roles=True), address)
    for role in ("writer", "reader"):
        with suppress(AssertionError):
            postgres_server.psql(f"CREATE ROLE app_{role} LOGIN IN ROLE nexus_{role}")
    return address


def test_setting_up_a_second_time_changes_nothing(shared: str) -> None:
    assert initialize(shared)["from"] == initialize(shared)["to"]
    with PostgresStore(shared) as store:
        assert store.verify_log().errors == []


def test_a_writer_can_do_everything_that_tools_do_and_only_insert_and_read(postgres_server: PostgresServer, shared: str) -> None:
    address = shared.replace("nexus@", "app_writer@")
    with PostgresStore(address) as store:
        store.append_events("dec-1", [created()] * 300, create=True)
        store.get_template_store().create_template("t", ALICE)
        store.import_decision_atomic("dec-1", "2024-06-01", [raw_event(0, digest=created_digest())], overwrite=True)
        store.delete_decision("dec-1")
        assert store.verify_log().errors == []
        for right in ("UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
            for table in [*TABLES, "log_tiles"]:
                assert postgres_server.psql(f"SELECT has_table_privilege('nexus_attest.{table}', '{right}')", address) == "f"
        with pytest.raises(AssertionError, match="permission denied"):
            postgres_server.psql("CREATE TABLE nexus_attest.more ()", address)


def test_a_reader_only_reads(shared: str) -> None:
    with PostgresStore(shared) as store:
        store.create_decision("dec-1")
    with PostgresStore(shared.replace("nexus@", "app_reader@")) as store:
        assert store.decision_exists("dec-1")
        assert store.verify_log().errors == []
        with pytest.raises(StoreReadOnly, match="nexus_writer"):
            store.create_decision("dec-2")


def test_who_may_make_nothing_is_told_who_can(postgres_server: PostgresServer, shared: str) -> None:  # noqa: ARG001
    address = postgres_server.new_database().replace("nexus@", "app_writer@")
    with pytest.raises(SchemaMissing, match="owner run `nexus-attest db init`"):
        PostgresStore(address)
    with pytest.raises(StoreReadOnly):
        initialize(address)


def test_a_member_of_the_roles_is_told_to_have_them_set_up_and_nobody_else_is(postgres_server: PostgresServer, shared: str) -> None:  # noqa: ARG001
    address = postgres_server.new_database()
    PostgresStore(address).close()  # as `restore` and `migrate` do it: tables, and no rights of roles
    with suppress(AssertionError):
        postgres_server.psql("CREATE ROLE nobody LOGIN")
    for role in ("app_writer", "app_reader"):
        with pytest.raises(SchemaMissing) as refused:
            PostgresStore(address.replace("nexus@", f"{role}@"))
        assert str(refused.value) == (
            f"this role is a member of nexus_{role[4:]}, which has no rights in the schema nexus_attest yet; "
            "have the database's owner run `nexus-attest db init`"
        )
    connect_otherwise = "this role may not use the schema nexus_attest; connect as a member of nexus_writer or nexus_reader"
    with pytest.raises(SchemaMissing, match=connect_otherwise):
        PostgresStore(address.replace("nexus@", "nobody@"))
    initialize(address)
    for role in ("app_writer", "app_reader"):
        PostgresStore(address.replace("nexus@", f"{role}@")).close()
    with pytest.raises(SchemaMissing, match=connect_otherwise):
        PostgresStore(address.replace("nexus@", "nobody@"))


# -- writers at once


def test_threads_that_write_at_once_share_commits_and_a_failure_undoes_its_own_alone(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: Counter[str] = Counter()
    whole = PgConnection.execute

    def counted(self: PgConnection, sql: str, parameters: Any = (), /) -> Any:
        statements[sql] += 1
        return whole(self, sql, parameters)

    monkeypatch.setattr(PgConnection, "execute", counted)
    barrier = threading.Barrier(16)
    refused: list[str] = []

    def work(number: int) -> None:
        for turn in range(6):
            barrier.wait()
            try:
                with store.transaction():
                    store.append_events(f"{number}-{turn}", [created()], create=True)
                    if number % 4 == 0:
                        raise LookupError
            except LookupError:
                refused.append(f"{number}-{turn}")
            else:
                assert store.decision_exists(f"{number}-{turn}")

    run_together([lambda number=number: work(number) for number in range(16)])
    assert len(refused) == 24
    assert sorted(name for name, _ in store.list_decisions()) == sorted(f"{n}-{t}" for n in range(16) for t in range(6) if n % 4)
    assert store.log_root()[0] == 72 * 2
    assert store.verify_log().errors == []
    assert 0 < statements["COMMIT"] < 72  # with one for each there would be 72


def test_appends_of_many_threads_go_in_together_and_each_is_answered_for_itself(store: PostgresStore) -> None:
    store.append_events("shared", [created()], create=True)
    store.create_decision("deleted")
    store.delete_decision("deleted")
    answers: list[tuple[str, Any]] = []
    unindexable = "".join(map(chr, range(1000, 5000)))
    calls: dict[str, Callable[[], object]] = {
        "shared": lambda: append(store, "shared").seq,
        "no such": lambda: append(store, "no such"),
        "deleted": lambda: append(store, "deleted"),
        "late": lambda: store.append_events("shared", [created()], expected_seq=0),
        "new": lambda: len(store.append_events("new", [created(), created()], create=True)),
        "long": lambda: store.append_events(unindexable, [created()], create=True),
        "wrong": lambda: store.append_events("shared", [("NO_SUCH", ALICE, {})]),  # pyright: ignore[reportArgumentType]
    }
    barrier = threading.Barrier(4 * len(calls))

    def work(name: str) -> None:
        for _ in range(5):
            barrier.wait()
            try:
                answers.append((name, calls[name]()))
            except NexusError as error:
                answers.append((name, error.code))

    run_together([lambda name=name: work(name) for name in [*calls] * 4])
    found = Counter(answers)
    assert {answer: number for answer, number in found.items() if answer[0] != "shared"} == {
        ("no such", "DECISION_NOT_FOUND"): 20,
        ("deleted", "DECISION_NOT_FOUND"): 20,
        ("late", "CONCURRENT_MODIFICATION"): 20,
        ("new", 2): 1,
        ("new", "DECISION_EXISTS"): 19,
        ("long", "INVALID_ARGUMENT"): 20,
        ("wrong", "INVALID_ARGUMENT"): 20,
    }
    assert sorted(seq for name, seq in answers if name == "shared") == list(range(1, 21))
    assert [event.seq for event in store.get_events("shared")] == list(range(21))
    assert store.log_root()[0] == 2 + 2 + 20 + 3
    assert store.verify_log().errors == []


def test_an_append_that_is_interrupted_while_it_waits_holds_up_nobody() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(batch: Sequence[Wanted], _: object) -> None:
        entered.set()
        leave.wait(60)
        for each in batch:
            each.stored = [cast("Any", each.append)]

    queue = AppendQueue("here", slow, cast("Any", None))
    first = threading.Thread(target=queue.append, args=(cast("Any", "first"),))
    first.start()
    assert entered.wait(60)

    def interrupt(*_: object) -> None:
        threading.Timer(0.05, leave.set).start()
        raise KeyboardInterrupt

    def alarm() -> None:
        while not queue._waiting:  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    threading.Thread(target=alarm).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            queue.append(cast("Any", "interrupted"))
    finally:
        signal.signal(signal.SIGALRM, before)
    first.join(60)
    answers: list[object] = []
    last = threading.Thread(target=lambda: answers.append(queue.append(cast("Any", "last"))), daemon=True)
    last.start()
    last.join(60)
    assert answers == [["last"]]


@pytest.mark.parametrize("place", [4, 5])
def test_a_block_that_is_interrupted_around_its_commit_passes_the_turn(
    place: int, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read when a block begins to wait for its turn, begins and ends, and before and after the commit."""
    store.decision_exists("d")  # a connection is open
    calls = itertools.count(1)

    def clock() -> float:
        if next(calls) == place:
            raise KeyboardInterrupt
        return time.monotonic()

    monkeypatch.setattr(writers, "LOCK_TIMEOUT_SECONDS", 20)
    monkeypatch.setattr(writers, "monotonic", clock)
    with pytest.raises(KeyboardInterrupt), store.transaction():
        store.create_decision("interrupted")
    with store.transaction():
        store.create_decision("after")
    assert store.decision_exists("interrupted") is (place == 5)
    assert store.verify_log().errors == []


@pytest.mark.parametrize("waits_first", [True, False])
def test_who_is_answered_waits_for_no_answer_to_those_behind(waits_first: bool) -> None:
    """Three appends of the first batch, of which two are woken by who leads the second one, however that ends."""
    begun, arrived, go_on = threading.Semaphore(0), threading.Semaphore(0), threading.Semaphore(0)

    def together(batch: Sequence[Wanted], before_waiting: Callable[[], None]) -> None:
        begun.release()
        for each in batch:
            each.stored = [cast("Any", each.append)]
        if batch[0].append == cast("Any", "behind"):
            if waits_first:
                before_waiting()
                go_on.acquire(timeout=60)
            raise StoreBusy("no connection")
        go_on.acquire(timeout=60)

    queue = AppendQueue("here", together, cast("Any", None))
    answers: list[object] = []

    def work(name: str) -> None:
        try:
            answers.append(queue.append(cast("Any", name)))
        except StoreBusy:
            answers.append(name)
        arrived.release()

    def start(*names: str) -> None:
        threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in names]
        for thread in threads:
            thread.start()

    def waiting(number: int) -> None:
        deadline = time.monotonic() + 60
        while len(queue._waiting) != number and time.monotonic() < deadline:  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.001)

    start("alone")
    assert begun.acquire(timeout=60)
    start("a", "b", "c")
    waiting(3)
    go_on.release()
    assert begun.acquire(timeout=60)
    start("behind", "behind")  # enough of them to begin at once
    waiting(2)
    go_on.release()
    for _ in range(4 if waits_first else 6):
        assert arrived.acquire(timeout=60)
    assert sorted(map(str, answers)) == ["['a']", "['alone']", "['b']", "['c']"] + ["behind"] * 2 * (not waits_first)
    if waits_first:
        go_on.release()
        for _ in range(2):
            assert arrived.acquire(timeout=60)
    assert answers.count("behind") == 2


def test_who_is_answered_does_not_wait_for_a_connection_of_those_behind(postgres_server: PostgresServer, schema: str) -> None:
    with open_store(postgres_server.address(), schema, pool_size=1) as store:
        store.create_decision("d")
        database = cast("PostgresDatabase", store.backend)
        waits: list[None] = []
        database.take_back(database.lend(lambda: waits.append(None)))
        assert waits == []  # one was there
        taken = database.lend()

        def wait() -> None:
            waits.append(None)
            threading.Timer(0.2, database.take_back, [taken]).start()

        database.take_back(database.lend(wait))
        assert waits == [None]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_writers_see_what_was_committed_before_their_turn_whatever_the_server_has_for_a_default(
    postgres_server: PostgresServer, level: str
) -> None:
    address = postgres_server.new_database()
    with PostgresStore(address) as store:
        store.append_events("shared", [created()], create=True)
    name = urlsplit(address).path[1:]
    postgres_server.psql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")

    def work() -> None:
        with PostgresStore(address) as own:
            for _ in range(10):
                with own.transaction():
                    append(own, "shared")

    run_together([work] * 4)
    with PostgresStore(address) as store:
        assert [event.seq for event in store.get_events("shared")] == list(range(41))
        assert store.verify_log().ok


def test_appends_that_wait_for_each_other_need_few_commits(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[None] = []

    def counted(_: Any, commit: Callable[[], object]) -> Any:
        commits.append(None)
        return commit()

    barrier = threading.Barrier(24)

    def work() -> None:
        barrier.wait()
        for _ in range(10):
            append(store, "d")

    store.create_decision("d")
    with at_commits(monkeypatch, counted):
        run_together([work] * 24)
    assert len(store.get_events("d")) == 240
    assert 0 < len(commits) < 80
    assert store.verify_log().errors == []


def test_an_append_is_one_round_trip_as_long_as_nobody_else_writes(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = round_trips(monkeypatch)

    def needed() -> list[int]:
        trips.clear()
        append(store, "dec-1")
        return [len(trip) for trip in trips]

    store.create_decision("dec-1")
    assert trips == [[b"begin", b"lock", b"last", b"tips"], [b"header", b"append", b"commit"]]
    assert needed() == [4]
    assert trips == [[b"begin", b"lock", b"append_after", b"commit"]]
    with open_store(postgres_server.address(), schema) as other:
        append(other, "dec-1")
        assert needed() == [4, 4, 2]
        append(other, "dec-1")
        assert needed() == [4, 2]  # not tried while somebody else writes
    assert needed() == [4, 2]
    assert needed() == [4]
    with store.transaction():
        store.create_decision("dec-2")
    assert [needed(), needed()] == [[4, 2], [4]]
    store.delete_decision("dec-1")
    with pytest.raises(DecisionNotFound):
        append(store, "dec-1")
    assert store.verify_log().errors == []


def test_stores_that_append_by_turns_make_one_chain(postgres_server: PostgresServer, store: PostgresStore, schema: str) -> None:
    store.append_events("dec-1", [created()], create=True)
    with open_store(postgres_server.address(), schema) as other:
        both = [store, other]
        found = [append(both[number // 3 % 2], "dec-1").seq for number in range(300)]
    assert found == list(range(1, 301))
    assert store.verify_log().errors == []
    assert store.log_root()[0] == 302


@pytest.mark.parametrize("table", ["decision_events", "log"])
@pytest.mark.parametrize("known", [True, False])
def test_rows_that_a_trigger_drops_are_not_acknowledged(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, table: str, known: bool
) -> None:
    store.create_decision("dec-1")
    if known:
        append(store, "dec-1")
    before = store.log_root()
    postgres_server.psql(
        f"CREATE FUNCTION {schema}.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        f"CREATE TRIGGER quiet BEFORE INSERT ON {schema}.{table} FOR EACH ROW EXECUTE FUNCTION {schema}.quiet()"
    )
    with pytest.raises(StoreError, match="the database dropped 1 of 1 new rows"):
        append(store, "dec-1")
    assert store.log_root() == before
    postgres_server.psql(f"DROP TRIGGER quiet ON {schema}.{table}")
    append(store, "dec-1")
    assert store.verify_log().errors == []


def test_who_catches_an_error_of_the_database_loses_its_own_work_alone(store: PostgresStore) -> None:
    barrier = threading.Barrier(8)
    told: list[tuple[int, str]] = []

    def work(number: int) -> None:
        for turn in range(5):
            barrier.wait()
            try:
                with store.transaction():
                    store.create_decision(f"{number}-{turn}")
                    if number % 4 == 0:
                        with suppress(InputError), store.backend.reading() as connection:
                            connection.execute("SELECT 1 / 0").fetchone()
            except NexusError as error:
                told.append((number, error.code))

    run_together([lambda number=number: work(number) for number in range(8)])
    assert Counter(told) == {(0, "STORE_ERROR"): 5, (4, "STORE_ERROR"): 5}
    assert sorted(name for name, _ in store.list_decisions()) == sorted(f"{n}-{t}" for n in range(8) for t in range(5) if n % 4)
    assert store.verify_log().errors == []


def test_nobody_waits_for_more_than_one_slow_block(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_WARY_TIMES", 1000)
    now = 0.0
    monkeypatch.setattr(writers, "monotonic", lambda: now)
    committed: dict[str, set[str]] = {}
    writer = store.backend._writer  # pyright: ignore

    def wait_for(waiting: int) -> None:
        while len(writer._queue) < waiting:  # pyright: ignore
            threading.Event().wait(0.001)

    def work(name: str, then: Callable[[], object]) -> None:
        with store.transaction():
            committed[name] = {found for found, _ in elsewhere.list_decisions()}
            store.create_decision(name)
            then()

    def pass_time() -> None:
        nonlocal now
        now += 0.3

    def queue_behind() -> None:
        for place, (name, then) in enumerate([("slow", pass_time), ("next", lambda: None)], 1):
            threads.append(threading.Thread(target=work, args=(name, then)))
            threads[-1].start()
            wait_for(place)

    threads: list[threading.Thread] = []
    with open_store(postgres_server.address(), schema) as elsewhere:
        work("first", queue_behind)
        for thread in threads:
            thread.join()
        assert committed == {"first": set(), "slow": set(), "next": {"first", "slow"}}
        assert {name for name, _ in store.list_decisions()} == {"first", "slow", "next"}
        # From now on nobody waits.
        threads.clear()
        for name in ("first", "slow", "next"):
            store.delete_decision(name)
        work("first", queue_behind)
        for thread in threads:
            thread.join()
    assert committed == {"first": set(), "slow": {"first"}, "next": {"first", "slow"}}
    assert store.verify_log().errors == []


def test_one_of_many_workers_gets_each_execution(postgres_server: PostgresServer, schema: str) -> None:
    runs: Counter[str] = Counter()

    class Router:
        def run(self, **given: Any) -> dict[str, Any]:
            runs[given["goal"]] += 1
            return {"run_id": given["goal"], "steps_executed": 0}

        def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:  # noqa: ARG002
            return None

    actor = {"type": "human", "id": "alice"}
    stores = [PostgresStore(postgres_server.address(), schema=schema) for _ in range(4)]
    tools = [NexusControlTools(store) for store in stores]
    ids: list[str] = []
    for goal in "abcde":
        ids.append(tools[0].request(goal, actor, min_approvals=1).data["request_id"])
        tools[0].approve(ids[-1], actor)
    outcomes: list[Any] = []
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        for decision_id in ids:
            barrier.wait()
            outcomes.append(tools[number % 4].execute(decision_id, "a", actor, Router()))

    run_together([lambda number=number: work(number) for number in range(16)])
    assert dict(runs) == dict.fromkeys("abcde", 1)
    assert Counter(outcome.code for outcome in outcomes)[None] == 5
    assert {outcome.code for outcome in outcomes} <= {None, "ALREADY_EXECUTED", "EXECUTION_IN_PROGRESS"}
    assert stores[0].verify_log().errors == []
    for store in stores:
        store.close()


def test_a_writer_who_waits_too_long_for_another_process_is_told(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LOCK_TIMEOUT_SECONDS", 1)
    with psycopg.connect(postgres_server.address()) as other:
        other.execute(take_lock(schema))  # pyright: ignore
        with pytest.raises(StoreBusy, match="another writer holds the lock"):
            store.create_decision("dec-1")
    store.create_decision("dec-1")


# -- connections that end


def end_connections(server: PostgresServer) -> None:
    """End every connection of clients, and wait until they have ended."""
    server.psql(
        "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


def test_idle_connections_that_the_server_ended_are_replaced(postgres_server: PostgresServer, store: PostgresStore) -> None:
    store.create_decision("dec-1")
    end_connections(postgres_server)
    assert store.decision_exists("dec-1")
    end_connections(postgres_server)
    assert append(store, "dec-1").seq == 0


def test_a_connection_that_ends_in_a_transaction_takes_all_of_it_along(postgres_server: PostgresServer, store: PostgresStore) -> None:
    with pytest.raises(StoreUnreachable, match="nothing was written"), store.transaction():  # noqa: PT012
        store.create_decision("dec-1")
        end_connections(postgres_server)
        store.create_decision("dec-2")
    assert store.list_decisions() == []
    with pytest.raises(StoreUnreachable, match="nothing was written"), store.transaction():  # noqa: PT012
        store.create_decision("dec-1")
        end_connections(postgres_server)
    assert store.list_decisions() == []


def block(store: PostgresStore) -> None:
    with store.transaction():
        append(store, "dec-1")


WAYS: dict[str, Callable[[PostgresStore], object]] = {"block": block, "append": lambda store: append(store, "dec-1")}


@contextmanager
def at_commits(monkeypatch: pytest.MonkeyPatch, happens: Callable[[Any, Callable[[], object]], Any]) -> Generator[None]:
    """Have something happen in place of each commit; it is given the connection, and the commit."""
    execute, exchange = PgConnection.execute, batches.exchange

    def executed(self: PgConnection, sql: str, parameters: Any = (), /) -> Any:
        return happens(self.raw, lambda: execute(self, sql, parameters)) if sql == "COMMIT" else execute(self, sql, parameters)

    def exchanged(raw: Any, sent: Any, *rest: Any) -> Any:
        commits = sent[-1][0].sql == b"COMMIT"
        return happens(raw, lambda: exchange(raw, sent, *rest)) if commits else exchange(raw, sent, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(PgConnection, "execute", executed)
        patched.setattr(batches, "exchange", exchanged)
        yield


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_commit_whose_answer_is_lost_is_looked_up(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, way: str, arrived: bool, known: bool
) -> None:
    store.create_decision("dec-1")
    if known:
        append(store, "dec-1")
    before = store.log_root()[0]

    def cut(raw: Any, commit: Callable[[], object]) -> None:
        if arrived:
            commit()
        raw.close()
        raise psycopg.OperationalError("cut")

    with at_commits(monkeypatch, cut):
        if arrived:
            WAYS[way](store)
        else:
            with pytest.raises(StoreUnreachable, match="nothing was written"):
                WAYS[way](store)
    assert store.log_root()[0] == before + arrived
    WAYS[way](store)
    assert store.log_root()[0] == before + arrived + 1
    assert store.verify_log().errors == []


def test_an_append_that_loses_every_connection_before_its_commit_wrote_nothing(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_decision("dec-1")
    append(store, "dec-1")

    def lose(raw: Any, *_: Any) -> None:
        raw.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patched:
        patched.setattr(batches, "exchange", lose)
        with pytest.raises(StoreUnreachable, match="nothing was written"):
            append(store, "dec-1")
        with pytest.raises(StoreUnreachable, match="nothing was written"):
            store.create_decision("dec-2")
    assert append(store, "dec-1").seq == 1
    assert not store.decision_exists("dec-2")


@pytest.mark.parametrize("way", WAYS)
def test_a_commit_that_nobody_can_look_up_is_unknown(
    postgres_server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(driver, "_POOL_TIMEOUT_SECONDS", 1)
    store.create_decision("dec-1")
    append(store, "dec-1")

    def kill(raw: Any, commit: Callable[[], object]) -> Any:
        del raw
        postgres_server.kill()
        return commit()

    with at_commits(monkeypatch, kill), pytest.raises(CommitUnknown, match="read again what is stored"):
        WAYS[way](store)
    with pytest.raises(StoreUnreachable):
        store.decision_exists("dec-1")
    postgres_server.start()
    assert len(store.get_events("dec-1")) == 1
    WAYS[way](store)
    assert store.verify_log().errors == []


def test_what_the_server_begins_with_only_after_the_connection_was_lost_is_not_called_undone(
    postgres_server: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_decision("dec-1")
    append(store, "dec-1")
    process = int(
        postgres_server.psql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'nexus-attest' AND pid <> pg_backend_pid() "
            f"AND query LIKE '%COMMIT%' AND state = 'idle' ORDER BY query_start DESC LIMIT 1 -- {schema}"
        )
    )
    whole, wait = batches.exchange, exchanges._wait  # pyright: ignore[reportPrivateUsage]
    tries: list[int] = []

    def lose(raw: Any, sent: Any, *rest: Any) -> Any:
        tries.append(len(tries))
        if len(tries) == 1:
            assert raw.info.backend_pid == process
            os.kill(process, signal.SIGSTOP)
            threading.Timer(0.5, os.kill, (process, signal.SIGCONT)).start()
        return whole(raw, sent, *rest)

    def lost(socket: int, *, writing: bool = False) -> bool:
        if len(tries) == 1:
            raise psycopg.OperationalError("lost")
        return wait(socket, writing=writing)

    monkeypatch.setattr(batches, "exchange", lose)
    monkeypatch.setattr(exchanges, "_wait", lost)
    assert append(store, "dec-1").seq == 1
    assert len(tries) == 1
    assert [event.seq for event in store.get_events("dec-1")] == [0, 1]
    assert store.verify_log().errors == []


def test_a_server_that_is_not_there_is_told(postgres_server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_POOL_TIMEOUT_SECONDS", 1)
    store.create_decision("dec-1")
    postgres_server.stop()
    try:
        with pytest.raises(StoreUnreachable, match="check"):
            store.create_decision("dec-2")
        with pytest.raises(StoreUnreachable, match="check"):
            PostgresStore(postgres_server.address())
    finally:
        postgres_server.start()
    store.create_decision("dec-2")
    assert store.log_root()[0] == 2


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("08006", "STORE_UNREACHABLE"),
        ("22003", "INVALID_ARGUMENT"),
        ("23505", "STORE_CONFLICT"),
        ("25006", "STORE_READ_ONLY"),
        ("25P02", "STORE_ERROR"),
        ("40001", "STORE_BUSY"),
        ("40P01", "STORE_BUSY"),
        ("42501", "STORE_READ_ONLY"),
        ("42P01", "STORE_UNREADABLE"),
        ("53100", "STORE_FULL"),
        ("53300", "STORE_BUSY"),
        ("54000", "INVALID_ARGUMENT"),
        ("55P03", "STORE_BUSY"),
        ("57014", "STORE_BUSY"),
        ("57P03", "STORE_UNREACHABLE"),
        ("58030", "STORE_ERROR"),
        ("P0001", "STORE_ERROR"),
        ("XX001", "STORE_UNREADABLE"),
    ],
)
def test_every_error_of_the_server_has_a_code_and_says_what_to_do(state: str, code: str) -> None:
    with pytest.raises(NexusError, match=r"^here: it broke \(.+\)$") as caught:
        driver.raise_named(psycopg.errors.lookup(state)("it\n broke"), "here", lost=False)
    assert caught.value.code == code


def test_a_child_process_has_connections_of_its_own(store: PostgresStore) -> None:
    store.create_decision("dec-1")
    assert in_child(lambda: [append(store, "dec-1").seq, store.log_root()[0]]) == [0, 2]
    assert append(store, "dec-1").seq == 1
    with store.transaction():
        append(store, "dec-1")
        assert in_child(lambda: store.log_root()[0]) == 3
    assert store.log_root()[0] == 4


def test_a_block_that_was_forked_ends_only_in_the_parent(store: PostgresStore) -> None:
    store.create_decision("dec-1")
    with store.transaction():
        append(store, "dec-1")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"x")
            os._exit(0)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
    assert store.log_root()[0] == 2


def test_a_store_that_was_closed_by_another_thread_says_so(store: PostgresStore) -> None:
    with store.snapshot():
        store.close()
        assert store.log_root()[0] == 0
    with pytest.raises(StoreClosed):
        store.log_root()
    with pytest.raises(StoreClosed):
        store.create_decision()


def test_many_readers_at_once_share_a_few_connections(store: PostgresStore) -> None:
    store.append_event(store.create_decision("dec-1"), CREATION, ALICE, {})
    found: list[int] = []
    run_together([lambda: found.extend(len(store.get_events("dec-1")) for _ in range(5))] * 24)
    assert found == [1] * 120
