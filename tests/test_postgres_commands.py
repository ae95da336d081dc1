"""The command line on PostgreSQL: the same commands, `db init`, and `migrate` either way."""

import re
import shlex
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cli_testing import ADAPTER, ROOT, CommandLine, program
from postgres_testing import PostgresServer
from store_testing import raw_event
from test_copying import fill
from test_docs import run

from nexus_attest.postgres import PostgresStore
from nexus_attest.postgres import schema as schemas
from nexus_attest.postgres.address import shown
from nexus_attest.postgres.schema import script
from nexus_control import copying
from nexus_control.copying import copy_store
from nexus_control.errors import StoresDiffer
from nexus_control.events import Actor, EventType, utc_now
from nexus_control.store import DecisionStore

ALICE = Actor(type="human", id="alice")


@pytest.fixture
def cli(tmp_path: Path, postgres_server: PostgresServer) -> CommandLine:
    """Its store is a new database, whose address holds a password that nothing may show."""
    return CommandLine(tmp_path, extra={"NEXUS_ATTEST_DB": postgres_server.new_database().replace("nexus@", "nexus:hunt%65r2@")})


def address_of(cli: CommandLine) -> str:
    return cli.extra["NEXUS_ATTEST_DB"]


def test_a_decision_goes_all_the_way(cli: CommandLine) -> None:
    program(cli.folder)
    assert cli.json("list", code=1)["code"] == "SCHEMA_MISSING"
    made = cli.json("db", "init")
    assert (made["from"], made["to"], made["roles"]) == (0, 2, ["nexus_writer", "nexus_reader"])
    assert cli.json("db", "init")["from"] == 2
    request_id = cli.approved()
    run_id = cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml")["run_id"]
    assert cli.json("status", request_id)["state"] == "completed"
    assert cli.json("runs", "show", run_id)["status"] == "COMPLETED"
    assert cli.json("log", "verify")["size"] == 7
    (runs,) = (cli.folder / "home" / ".local/share/nexus-attest").glob("postgresql-*.db.runs")
    assert runs.is_file()


def test_a_command_that_records_makes_the_tables(cli: CommandLine) -> None:
    request_id = cli.json("request", "do it")["request_id"]
    assert cli.json("list")["requests"][0]["request_id"] == request_id


def test_no_output_has_the_password(cli: CommandLine) -> None:
    address = address_of(cli)
    outputs = [
        cli.run("db", "init"),
        cli.run("request", "do it", "--db", address),
        cli.run("mcp", "config", "claude-desktop", "--db", address),
        cli.run("doctor"),
        cli.run("backup", "x.db"),
        cli.run("migrate", address, "copy.db"),
        cli.run("migrate", "copy.db", address, "--json"),
        cli.run("list", "--db", address.replace("host=", "host=/nowhere&x=")),
        cli.run("list", "--db", "postgresql://nexus:hunter2@localhost:1/x", "--debug"),
    ]
    assert [output for output in outputs if "hunter2" in output.out + output.err or "hunt%65r2" in output.out + output.err] == []
    assert "STORE_UNREACHABLE" in outputs[-1].err


def test_the_printed_script_makes_the_same_database(cli: CommandLine, postgres_server: PostgresServer) -> None:
    sql = cli.run("db", "init", "--print").out
    assert cli.json("db", "init", "--print")["sql"] == sql
    assert "CREATE ROLE" not in cli.run("db", "init", "--print", "--without-roles").out
    address = postgres_server.new_database()
    postgres_server.psql(sql, address)
    assert cli.json("log", "verify", "--db", address)["ok"] is True
    assert postgres_server.dump(address) == (cli.json("db", "init"), postgres_server.dump(address_of(cli)))[1]


def test_the_printed_script_brings_the_tables_of_an_older_version_to_this_one_and_no_others(
    cli: CommandLine, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = cli.run("db", "init", "--print").out
    upgrade = cli.run("db", "init", "--print", "--from", "1").out
    roles_alone = cli.run("db", "init", "--print", "--from", "2").out
    assert cli.json("db", "init", "--print", "--from", "1")["sql"] == upgrade
    assert "ROLE" not in cli.run("db", "init", "--print", "--from", "1", "--without-roles").out
    with monkeypatch.context() as older:
        older.setattr(schemas, "_MIGRATIONS", schemas._MIGRATIONS[:1])  # pyright: ignore[reportPrivateUsage]
        first = script("nexus_attest", with_roles=True)
    postgres_server.psql(first, address_of(cli))
    before = postgres_server.dump(address_of(cli))
    for wrong, why in (
        (fresh, 'relation "schema_versions" already exists'),
        (roles_alone, "the schema nexus_attest has version 1, this script is for version 2"),
    ):
        with pytest.raises(AssertionError, match=why):
            postgres_server.psql(wrong, address_of(cli))
        assert postgres_server.dump(address_of(cli)) == before
    postgres_server.psql(upgrade, address_of(cli))
    assert cli.json("db", "init")["from"] == 2
    assert cli.json("log", "verify")["ok"] is True
    with pytest.raises(AssertionError, match="the schema nexus_attest has version 2, this script is for version 1"):
        postgres_server.psql(upgrade, address_of(cli))

    made = postgres_server.new_database()
    postgres_server.psql(fresh, made)
    assert postgres_server.dump(made) == postgres_server.dump(address_of(cli))
    alone = postgres_server.new_database()
    postgres_server.psql(cli.run("db", "init", "--print", "--without-roles").out, alone)
    assert postgres_server.dump(alone) != postgres_server.dump(made)
    postgres_server.psql(roles_alone, alone)
    assert postgres_server.dump(alone) == postgres_server.dump(made)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--print", "--from", "3"), "there is no version 3 of the tables: this release brings those of the versions 1 to 2 to version 2"),
        (("--print", "--from", "0"), "there is no version 0 of the tables: this release brings those of the versions 1 to 2 to version 2"),
        (("--from", "1"), "--from is for --print; without it `db init` looks which version there is"),
    ],
)
def test_a_version_that_no_script_begins_with_is_refused(cli: CommandLine, arguments: tuple[str, ...], why: str) -> None:
    refused = cli.json("db", "init", *arguments, code=2)
    assert (refused["code"], refused["error"]) == ("INVALID_ARGUMENT", f"INVALID_ARGUMENT: {why}")


def test_a_store_moves_to_postgres_and_back_with_every_row(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_STEP", 40)
    path = cli.folder / "old.db"
    with DecisionStore(path) as store:
        fill(store)
        store.append_events("long", [], create=True)
        expected = store.log_root()
    there = cli.json("migrate", str(path), address_of(cli))
    assert (there["size"], there["root"], there["copied"], there["checkpoints"]) == (*expected, expected[0], 3)
    back = cli.json("migrate", address_of(cli), "new.db")
    assert (back["root"], back["errors"]) == (expected[1], [])
    with DecisionStore(path) as old, DecisionStore(cli.folder / "new.db") as new, PostgresStore(address_of(cli)) as between:
        assert old.list_decisions() == new.list_decisions() == between.list_decisions()
        assert old.checkpoints() == new.checkpoints() == between.checkpoints()
        assert between.verify_log().errors == []
    again = cli.run("migrate", str(path), address_of(cli))
    assert "(0 of them new)" in again.out


def test_an_interrupted_move_goes_on_and_a_foreign_target_is_refused(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_STEP", 10)

    def interrupt(done: int, _: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with DecisionStore() as source, PostgresStore(address_of(cli)) as target:
        fill(source)
        with pytest.raises(KeyboardInterrupt):
            copy_store(source, target, interrupt)
        assert target.log_root() == source.log_root(30)
        assert copy_store(source, target).facts == source.log_root()[0] - 30
        target.create_decision("more")
        with pytest.raises(StoresDiffer):
            copy_store(source, target)
    assert cli.json("migrate", "nowhere.db", "x.db", code=2)["code"] == "STORE_NOT_FOUND"
    assert not (cli.folder / "x.db").exists()


def test_a_store_is_not_moved_to_itself_however_it_is_spelled(cli: CommandLine, postgres_server: PostgresServer) -> None:
    address = address_of(cli)
    cli.json("request", "do it")
    name = address.partition("@/")[2].partition("?")[0]
    for other in (address, f"postgres://?dbname={name}&user=nexus&host={postgres_server.folder}"):
        refused = cli.json("migrate", address, other, code=2)
        assert (refused["code"], "are the same store" in refused["error"]) == ("INVALID_ARGUMENT", True)
    cli.json("request", "do it", "--db", "store.db")
    (cli.folder / "link.db").symlink_to("store.db")
    for other in ("store.db", "./store.db", "link.db"):
        assert cli.json("migrate", "store.db", other, code=2)["code"] == "INVALID_ARGUMENT"
    assert cli.json("migrate", "store.db", "copy.db")["copied"] == 3
    assert cli.json("log", "verify")["size"] == 3


def test_the_document_does_what_it_says(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("decisions", "again"):
        postgres_server.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    monkeypatch.setenv("PGHOST", str(postgres_server.folder))
    monkeypatch.setenv("PGUSER", "nexus")
    monkeypatch.chdir(tmp_path)
    run(ROOT / "docs" / "postgres.md")


def test_the_doctor_looks_at_facts_executions_and_what_is_kept_on_this_machine(cli: CommandLine, postgres_server: PostgresServer) -> None:
    cli.json("db", "init")
    program(cli.folder)
    request_id = cli.approved()
    (risk,) = [finding for finding in cli.json("doctor", code=1)["findings"] if finding["severity"] != "note"]
    assert (risk["code"], risk["severity"]) == ("SERVER_NOT_DURABLE", "error")
    assert risk["text"].startswith("the server has fsync and full_page_writes off: ")
    for statement in re.findall("-c '(.+?)'", risk["next"]):
        postgres_server.psql(statement)
    try:
        deadline = time.monotonic() + 30
        while postgres_server.psql("SHOW fsync") != "on" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cli.json("doctor")["ok"] is True
        assert cli.json("doctor")["store"].startswith("postgresql://nexus@")
    finally:
        postgres_server.psql("ALTER SYSTEM RESET ALL")
        postgres_server.psql("SELECT pg_reload_conf()")
    with PostgresStore(address_of(cli)) as store:
        store.append_event(request_id, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": ADAPTER, "dry_run": True})
        store.append_event(request_id, EventType.EXECUTION_STARTED, ALICE, {"router_request_digest": ""})
        store.create_decision("strange")
        store.insert_event_raw("strange", 0, "NONSENSE", "2026-01-01T00:00:00+00:00", "human", "x", "{}", "")
    told = cli.json("doctor", code=1)
    found = {finding["code"]: (finding["severity"], finding["subject"]) for finding in told["findings"]}
    assert found["EXECUTION_UNDER_WAY"] == ("note", request_id)
    assert found["DECISION_UNREADABLE"] == ("error", "strange")
    assert found["LOG_VERIFICATION_FAILED"] == ("error", told["store"])
    assert "LOG_VERIFICATION_FAILED" not in {finding["code"] for finding in cli.json("doctor", "--quick", code=1)["findings"]}


def test_what_guards_the_rows_is_looked_at_also_by_a_quick_doctor(cli: CommandLine, postgres_server: PostgresServer) -> None:
    def told(*options: str) -> list[tuple[str, str, str]]:
        # Without what every store on this server has: it is not durable, and nobody signed the log.
        found = [finding for finding in cli.json("doctor", *options, code=1)["findings"] if finding["code"] == "LOG_VERIFICATION_FAILED"]
        return [(finding["severity"], finding["subject"], finding["text"]) for finding in found]

    def altered(number: int, first: str) -> list[tuple[str, str, str]]:
        facts = "1 fact" if number == 1 else f"{number} facts"
        return [("error", shown(address), f"{facts} not as written, the first: schema: {first}")]

    address = address_of(cli)
    cli.json("db", "init")
    assert told("--quick") == told() == []
    with suppress(AssertionError):  # roles belong to the whole server
        postgres_server.psql("CREATE ROLE governance LOGIN IN ROLE nexus_writer")
    postgres_server.psql("GRANT UPDATE ON nexus_attest.decision_events TO governance", address)
    assert told("--quick") == told() == altered(1, "governance may UPDATE on decision_events")
    postgres_server.psql("DROP TRIGGER log_refuse_change ON nexus_attest.log", address)
    assert told("--quick") == told() == altered(2, "the trigger log_refuse_change is missing or was changed")


def test_the_doctor_judges_the_clock_by_what_was_recorded_here_last(cli: CommandLine) -> None:
    def codes() -> set[str]:
        return {finding["code"] for finding in cli.json("doctor", "--quick", code=1)["findings"]}

    with PostgresStore(address_of(cli)) as store:
        store.import_decision_atomic("elsewhere", "2999-01-01T00:00:00+00:00", [])
        store.append_events("here", [(EventType.DECISION_CREATED, ALICE, {"goal": "g"})], create=True)
    assert "CLOCK_BEHIND" not in codes()
    with PostgresStore(address_of(cli), clock=lambda: utc_now() + timedelta(hours=1)) as store:
        store.append_event("here", EventType.APPROVAL_GRANTED, ALICE, {"expires_at": None})
    assert "CLOCK_BEHIND" in codes()


def test_a_store_on_a_server_is_backed_up_to_a_verified_file_and_restored_into_an_empty_database(
    cli: CommandLine, postgres_server: PostgresServer
) -> None:
    program(cli.folder)
    request_id = cli.approved()
    run_id = cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml")["run_id"]
    made = cli.json("backup", "monday.db")
    assert (made["size"], made["findings"]) == (7, [])
    assert (cli.folder / "monday.db").stat().st_mode & 0o777 == 0o600
    assert cli.json("log", "verify", "--db", "monday.db")["root"] == made["root"]
    assert cli.json("status", request_id, "--db", "monday.db")["state"] == "completed"
    assert cli.json("backup", "monday.db", code=2)["code"] == "BACKUP_EXISTS"
    assert cli.json("backup", "tuesday.db", "--runs", "nowhere.runs", code=2)["code"] == "FILE_NOT_READABLE"
    assert [path.name for path in cli.folder.glob(".nexus-attest-*")] == []

    other = postgres_server.new_database()
    assert cli.json("restore", "monday.db", "--replace", "--db", other, code=2)["code"] == "STORE_NOT_A_FILE"
    back = cli.json("restore", "monday.db", "--db", other)
    assert (back["size"], back["root"], back["kept"]) == (7, made["root"], None)
    assert cli.json("status", request_id, "--db", other)["state"] == "completed"
    assert cli.json("runs", "show", run_id, "--db", other)["status"] == "COMPLETED"
    assert cli.json("log", "verify", "--db", other)["ok"] is True
    assert cli.json("restore", "monday.db", "--db", other)["root"] == made["root"]
    cli.json("request", "later", "--db", other)
    assert cli.json("restore", "monday.db", "--db", other, code=2)["code"] == "STORE_EXISTS"
    assert cli.json("log", "verify", "--db", other)["size"] == 10


def test_who_fills_an_empty_database_is_told_to_give_the_roles_of_programs_their_rights(
    cli: CommandLine, postgres_server: PostgresServer
) -> None:
    def told(*arguments: str) -> list[str]:
        return cli.run(*arguments).out.splitlines()[-2:]

    def db_init(address: str) -> list[str]:
        return [
            "The roles of programs have no rights in this database yet; have its owner give them:",
            f"  $ nexus-attest db init --db '{shown(address)}'",
        ]

    cli.json("db", "init")
    with suppress(AssertionError):  # roles belong to the whole server
        postgres_server.psql("CREATE ROLE service LOGIN IN ROLE nexus_writer")
    cli.json("request", "do it")
    cli.json("backup", "b.db")
    restored, moved = postgres_server.new_database(), postgres_server.new_database()
    for address, words in ((restored, ("restore", "b.db", "--db", restored)), (moved, ("migrate", "b.db", moved))):
        assert told(*words) == db_init(address)
        assert cli.json(*words)["roles"] == []
        as_a_member = address.replace("nexus@", "service@")
        assert "have the database's owner run `nexus-attest db init`" in cli.json("list", "--db", as_a_member, code=1)["error"]
        cli.run(*shlex.split(db_init(address)[1])[2:])
        assert len(cli.json("list", "--db", as_a_member)["requests"]) == 1
        assert told(*words) != db_init(address)
        assert cli.json(*words)["roles"] == ["nexus_reader", "nexus_writer"]
    assert [cli.json(*words)["roles"] for words in (("restore", "b.db", "--db", "c.db"), ("migrate", "b.db", "d.db"))] == [[], []]
    assert "db init" not in cli.run("migrate", "b.db", "d.db").out + cli.run("restore", "b.db", "--db", "e.db").out


def test_a_backup_from_a_server_or_to_it_that_does_not_verify_is_refused(cli: CommandLine, postgres_server: PostgresServer) -> None:
    with PostgresStore(address_of(cli)) as store:
        store.import_decision_atomic("dec-1", "2024-06-01", [raw_event(0, digest="wrong")])
    refused = cli.json("backup", "b.db", code=2)
    assert refused["code"] == "BACKUP_UNSOUND"
    assert not (cli.folder / "b.db").exists()
    assert len(cli.json("backup", "evidence.db", "--keep-unsound")["findings"]) == 1
    other = postgres_server.new_database()
    assert cli.json("restore", "evidence.db", "--db", other, code=2)["code"] == "BACKUP_UNSOUND"
    assert cli.json("log", "verify", "--db", other)["size"] == 0
