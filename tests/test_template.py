"""Templates: their values, their digest, and the store that writes each once."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_testing import ALICE, BOB, T0, SetClock, new_store, quick_folder

from nexus_control.canonical_json import canonical_json
from nexus_control.errors import InputError, InvalidActor, InvalidTemplate, MalformedEvent, TemplateExists
from nexus_control.events import Actor, EventType
from nexus_control.integrity import content_digest
from nexus_control.policy import Policy
from nexus_control.store import DecisionStore
from nexus_control.template import StoredTemplateEvent, Template, TemplateStore

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
TEMPLATES = st.builds(
    Template,
    name=TEXTS.filter(bool),
    description=TEXTS,
    min_approvals=st.integers(1, 2**63 - 1),
    allowed_modes=st.lists(st.sampled_from(["dry_run", "apply"]), min_size=1, max_size=2),
    require_adapter_capabilities=st.lists(TEXTS, max_size=3),
    max_steps=st.none() | st.integers(1, 2**63 - 1),
    labels=st.lists(TEXTS, max_size=3),
    created_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    created_by=st.none() | st.builds(Actor, type=st.sampled_from(["human", "system"]), id=TEXTS.filter(bool)),
)
FULL: dict[str, Any] = {
    "description": "for production",
    "min_approvals": 2,
    "allowed_modes": ["dry_run", "apply"],
    "require_adapter_capabilities": ["timeout"],
    "max_steps": 5,
    "labels": ["prod", "keys"],
}


# -- values


def test_a_name_is_enough_for_a_template() -> None:
    template = Template(name="x")
    assert [getattr(template, field.name) for field in fields(template)] == ["x", "", 1, ("dry_run",), (), None, (), None, None]


def test_the_fields_of_a_template_keep_their_order() -> None:
    template = Template("n", "d", 2, ("apply",), ("c",), 3, ("l",), T0, ALICE)
    assert list(template.to_dict().values()) == ["n", "d", 2, ["apply"], ["c"], 3, ["l"], "2025-01-01T00:00:00+00:00", dict(ALICE)]


def test_lists_become_tuples_so_that_templates_can_be_compared_and_hashed() -> None:
    from_lists = Template("n", allowed_modes=cast("Any", ["apply"]), labels=cast("Any", ["a", "b"]))
    assert from_lists.labels == ("a", "b")
    assert from_lists == Template("n", allowed_modes=("apply",), labels=("a", "b"))
    assert hash(from_lists) == hash(Template("n", allowed_modes=("apply",), labels=("a", "b")))


def test_a_template_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        cast("Any", Template("n")).name = "m"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": ""}, "template name cannot be empty"),
        ({"name": None}, "template name must be a string, got NoneType"),
        ({"name": 5}, "template name must be a string, got int"),
        ({"description": None}, "description must be a string, got NoneType"),
        ({"min_approvals": 0}, "min_approvals must be at least 1"),
        ({"min_approvals": True}, "min_approvals must be an integer"),
        ({"min_approvals": "2"}, "min_approvals must be an integer"),
        ({"min_approvals": 1.0}, "min_approvals must be an integer"),
        ({"min_approvals": None}, "min_approvals must be an integer"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": "5"}, "max_steps must be an integer"),
        ({"allowed_modes": ()}, "allowed_modes cannot be empty"),
        ({"allowed_modes": ["fly"]}, "Invalid mode"),
        ({"allowed_modes": "dry_run"}, "allowed_modes must be a list"),
        ({"labels": "a"}, "labels must be a list"),
        ({"labels": [1]}, "labels must contain only strings"),
        ({"labels": ["\ud800"]}, "lone surrogates"),
        ({"require_adapter_capabilities": {"a"}}, "require_adapter_capabilities must be a list"),
        ({"created_at": "2024-06-01T00:00:00+00:00"}, "created_at must be a time, got str"),
        ({"created_by": "alice"}, "created_by must be an actor, got str"),
    ],
)
def test_values_are_judged_like_those_of_a_policy(values: dict[str, Any], problem: str) -> None:
    arguments: dict[str, Any] = {"name": "n", **values}
    with pytest.raises(InvalidTemplate, match=problem) as caught:
        Template(**arguments)
    assert isinstance(caught.value, ValueError)
    assert caught.value.code == "INVALID_TEMPLATE"


def test_a_template_stands_for_a_policy() -> None:
    assert Template("n", **FULL).policy() == Policy(2, ("dry_run", "apply"), ("timeout",), 5, ("prod", "keys"))


# -- forms


def test_the_digest_of_a_template_is_golden() -> None:
    assert Template(name="test", min_approvals=2).digest() == "06b5d09b5c2e4a954cfbe33af8e1b8e0ef9ad3782d826a5c2ee4f0d1bbcf6823"


def test_the_data_of_a_template_has_nine_keys() -> None:
    assert Template("n", **FULL, created_at=T0, created_by=ALICE).to_dict() == {
        "name": "n",
        **FULL,
        "created_at": "2025-01-01T00:00:00+00:00",
        "created_by": {"type": "human", "id": "alice"},
    }
    bare = Template("n").to_dict()
    assert (bare["created_at"], bare["created_by"], bare["labels"]) == (None, None, [])


def test_a_snapshot_leaves_out_who_and_when() -> None:
    template = Template("n", **FULL, created_at=T0, created_by=ALICE)
    values = {key: value for key, value in FULL.items() if key != "description"}
    assert template.to_snapshot() == {"template_name": "n", "template_description": "for production", **values}


@given(TEMPLATES)
def test_a_template_survives_its_data(template: Template) -> None:
    again = Template.from_dict(template.to_dict())
    assert again == template
    assert again.digest() == template.digest() == content_digest(template.to_dict())


def test_missing_keys_take_the_defaults_and_unknown_ones_are_ignored() -> None:
    assert Template.from_dict({"name": "n", "colour": "red"}) == Template("n")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"name": ""},
        {"name": "n", "labels": "a"},
        {"name": "n", "allowed_modes": None},
        {"name": "n", "created_at": 5},
        {"name": "n", "created_at": "yesterday"},
        {"name": "n", "created_by": "alice"},
        {"name": "n", "created_by": {"type": "robot", "id": "x"}},
        {"name": "n", "created_by": {"type": "human", "id": ""}},
        None,
        [],
        "n",
    ],
)
def test_data_that_is_no_template_is_refused(data: Any) -> None:
    with pytest.raises(InvalidTemplate):
        Template.from_dict(data)


def test_a_stored_event_as_data_has_the_names_of_its_fields() -> None:
    event = StoredTemplateEvent("n", 0, EventType.TEMPLATE_CREATED, T0, ALICE, {"name": "n"}, "d")
    assert event.to_dict() == {
        "template_name": "n",
        "seq": 0,
        "event_type": "TEMPLATE_CREATED",
        "ts": "2025-01-01T00:00:00+00:00",
        "actor": {"type": "human", "id": "alice"},
        "payload": {"name": "n"},
        "digest": "d",
    }
    event.digest = "e"
    assert event.to_dict()["digest"] == "e"


# -- the store


@pytest.fixture(params=["memory", "file", "connection"])
def templates(request: pytest.FixtureRequest) -> Iterator[TemplateStore]:
    """The templates of a store in memory, of one in a file, and on a plain connection."""
    with quick_folder() as folder, closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        if request.param == "connection":
            yield TemplateStore(connection)
        else:
            with new_store(":memory:" if request.param == "memory" else folder / "store.db") as store:
                yield store.get_template_store()
                assert store.verify_log().errors == []


def names(found: list[Template]) -> list[str]:
    return [template.name for template in found]


def test_a_template_is_stored_as_it_is_returned(templates: TemplateStore) -> None:
    template = templates.create_template("prod", ALICE, **FULL)
    assert (template.name, template.created_by, template.labels) == ("prod", ALICE, ("prod", "keys"))
    assert template.created_at is not None
    assert template.created_at.utcoffset() == timedelta(0)
    assert templates.get_template("prod") == template
    assert templates.template_exists("prod")
    assert templates.list_templates() == [template]


def test_a_template_without_values_rehearses_under_one_approval(templates: TemplateStore) -> None:
    template = templates.create_template("t", {"type": "system", "id": "ci"})
    assert (template.description, template.min_approvals, template.allowed_modes, template.max_steps) == ("", 1, ("dry_run",), None)
    assert (template.require_adapter_capabilities, template.labels, template.created_by) == ((), (), {"type": "system", "id": "ci"})


def test_all_values_may_be_given_by_position(templates: TemplateStore) -> None:
    template = templates.create_template("prod", ALICE, *FULL.values())
    assert template == templates.get_template("prod")
    assert template.to_snapshot()["labels"] == ["prod", "keys"]


def test_creation_is_an_event_of_the_template(templates: TemplateStore) -> None:
    template = templates.create_template("prod", ALICE, **FULL)
    (event,) = templates.get_template_events("prod")
    assert (event.template_name, event.seq, event.event_type, event.actor) == ("prod", 0, "TEMPLATE_CREATED", ALICE)
    assert event.ts == template.created_at
    assert event.payload == {"name": "prod", **FULL}
    assert event.digest == content_digest({"event_type": "TEMPLATE_CREATED", "payload": event.payload})


def test_an_unknown_template_is_none(templates: TemplateStore) -> None:
    assert templates.get_template("nope") is None
    assert not templates.template_exists("nope")
    assert templates.get_template_events("nope") == []
    assert templates.list_templates() == []


@pytest.mark.parametrize("name", [None, 5, True, b"n", ["n"], {"n": 1}, "\ud800"])
def test_what_is_no_text_is_no_name_and_no_label(templates: TemplateStore, name: Any) -> None:
    for ask in (templates.get_template, templates.template_exists, templates.get_template_events):
        with pytest.raises(InputError, match="template name must"):
            ask(name)
    if name is not None:
        with pytest.raises(InputError, match="label_filter must"):
            templates.list_templates(label_filter=name)


@pytest.mark.parametrize("number", [None, "5", 1.0, True, -1, 2**63, float("nan")])
def test_a_page_of_templates_that_cannot_be_counted_is_refused(templates: TemplateStore, number: Any) -> None:
    for page in ((number, 0), (1, number)):
        with pytest.raises(InputError, match="limit and offset must be integers from 0 to"):
            templates.list_templates(*page)


def test_a_name_is_given_once(templates: TemplateStore) -> None:
    first = templates.create_template("prod", ALICE)
    with pytest.raises(TemplateExists, match="already exists: prod") as caught:
        templates.create_template("prod", BOB, "another")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, sqlite3.IntegrityError)
    assert templates.get_template("prod") == first
    assert len(templates.get_template_events("prod")) == 1


@pytest.mark.parametrize("name", [" ", "it's", "a\x00b", "é\U0001f511", "%", "x" * 100_000, "-", "1"])
def test_every_text_that_utf8_can_express_is_a_name(templates: TemplateStore, name: str) -> None:
    templates.create_template("a", BOB)
    template = templates.create_template(name, ALICE, description=name, labels=[name])
    assert templates.get_template(name) == template
    assert names(templates.list_templates(label_filter=name)) == [name]
    assert len(templates.get_template_events(name)) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": None},
        {"name": 5},
        {"name": "\ud800"},
        {"description": "\ud800"},
        {"description": 5},
        {"min_approvals": 0},
        {"min_approvals": 2**63},
        {"max_steps": 2**63},
        {"max_steps": 10**5000},
        {"allowed_modes": []},
        {"allowed_modes": ["fly"]},
        {"labels": "abc"},
        {"require_adapter_capabilities": [None]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_wrong_values_are_refused_and_leave_nothing(templates: TemplateStore, values: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"name": "n", "actor": ALICE, **values}
    with pytest.raises(InvalidTemplate):
        templates.create_template(**arguments)
    assert templates.list_templates() == []


@pytest.mark.parametrize("actor", [None, "alice", {}, {"type": "robot", "id": "x"}, {"type": "human", "id": ""}])
def test_somebody_has_to_create_a_template(templates: TemplateStore, actor: Any) -> None:
    with pytest.raises(InvalidActor):
        templates.create_template("n", actor)
    assert templates.list_templates() == []


def test_the_largest_numbers_that_a_column_holds_are_kept(templates: TemplateStore) -> None:
    template = templates.create_template("n", ALICE, min_approvals=2**63 - 1, max_steps=2**63 - 1)
    assert templates.get_template("n") == template


# -- lists


def test_templates_are_listed_newest_first_and_paged(templates: TemplateStore) -> None:
    for name in "abcde":
        templates.create_template(name, ALICE)
    assert names(templates.list_templates()) == list("edcba")
    assert names(templates.list_templates(limit=2, offset=1)) == ["d", "c"]
    assert names(templates.list_templates(2, 4)) == ["a"]
    assert names(templates.list_templates(0)) == []
    assert names(templates.list_templates(2**63 - 1, 2)) == ["c", "b", "a"]


def test_templates_of_one_instant_are_listed_latest_first() -> None:
    with new_store(clock=SetClock()) as store:
        templates = store.get_template_store()
        for name in ["m", "z", "a", "k"]:
            templates.create_template(name, ALICE)
        assert names(templates.list_templates()) == ["k", "a", "z", "m"]


LABELS = ["prod", "Prod", "pro", "%", "_", "p%", '"', '","', "\\", "é", "e\u0301", "\U0001f511", "a\x00b", "a", "null", "1", "[]", ""]


def test_a_label_is_compared_exactly(templates: TemplateStore) -> None:
    for label in LABELS:
        templates.create_template(f"has {label}", ALICE, labels=["other", label])
    templates.create_template("bare", ALICE)
    for label in LABELS:
        assert names(templates.list_templates(label_filter=label)) == [f"has {label}"]
    assert len(templates.list_templates(label_filter="other")) == len(LABELS)
    assert names(templates.list_templates(2, 1, "other")) == [f"has {label}" for label in reversed(LABELS)][1:3]
    assert templates.list_templates(label_filter="no such label") == []


# -- with other things


def test_a_template_and_its_event_are_written_together_or_not_at_all() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        templates = TemplateStore(connection)
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(sqlite3.IntegrityError, match="no"):
            templates.create_template("n", ALICE)
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE own (x)")
        with pytest.raises(sqlite3.IntegrityError, match="no"):
            templates.create_template("n", ALICE)
        connection.execute("COMMIT")
        assert connection.execute("SELECT COUNT(*) FROM templates").fetchone()[0] == 0
        assert connection.execute("SELECT COUNT(*) FROM own").fetchone()[0] == 0
        connection.execute("DROP TRIGGER no")
        assert templates.create_template("n", ALICE) == templates.get_template("n")


def test_a_template_inside_a_rolled_back_transaction_never_was() -> None:
    with new_store() as store:
        templates = store.get_template_store()
        with pytest.raises(LookupError), store.transaction():  # noqa: PT012
            templates.create_template("n", ALICE)
            assert templates.template_exists("n")
            raise LookupError
        assert not templates.template_exists("n")
        assert store.log_root()[0] == 0


def test_templates_are_facts_of_the_stores_log() -> None:
    with new_store() as store:
        store.get_template_store().create_template("n", ALICE)
        assert store.log_root()[0] == 1
        assert store.verify_log().ok
        assert store.list_decisions() == []


def test_the_times_are_those_of_the_stores_clock() -> None:
    with new_store(clock=SetClock(datetime(2030, 5, 5, tzinfo=UTC))) as store:
        assert store.get_template_store().create_template("n", ALICE).created_at == datetime(2030, 5, 5, tzinfo=UTC)


@pytest.mark.parametrize("path", [":memory:", "file"])
def test_a_template_store_can_be_used_from_any_thread(path: str, tmp_path: Path) -> None:
    with DecisionStore(tmp_path / "store.db" if path == "file" else path) as store:
        templates = store.get_template_store()
        problems: list[BaseException] = []

        def work(prefix: str) -> None:
            try:
                for number in range(5):
                    templates.create_template(f"{prefix}{number}", ALICE)
            except BaseException as error:  # shown by the assertion below
                problems.append(error)

        threads = [threading.Thread(target=work, args=(prefix,)) for prefix in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert len(templates.list_templates()) == 15
        assert store.verify_log().ok


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", "["),
        ("labels", "{}"),
        ("labels", "[" * 100_000),
        ("created_at", "soon"),
        ("created_by_type", "robot"),
        ("min_approvals", 0),
    ],
)
def test_a_damaged_row_is_named(column: str, value: object) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        templates = TemplateStore(connection)
        templates.create_template("n", ALICE)
        connection.execute("DROP TRIGGER templates_refuse_update")
        connection.execute(f"UPDATE templates SET {column} = ?", (value,))
        with pytest.raises(MalformedEvent, match="unreadable template row"):
            templates.get_template("n")
        with pytest.raises(MalformedEvent):
            templates.list_templates()


def test_an_adopted_connection_stays_the_owners(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "own.db")) as connection:
        connection.row_factory = sqlite3.Row
        TemplateStore(connection).create_template("n", ALICE, labels=["é"])
        assert not connection.in_transaction
        assert names(TemplateStore(connection).list_templates(label_filter="é")) == ["n"]
    with DecisionStore(tmp_path / "own.db") as store:
        assert store.get_template_store().template_exists("n")
        assert store.verify_log().ok


def test_a_creation_time_of_another_zone_keeps_its_offset_in_the_data() -> None:
    created = datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert Template.from_dict(Template("n", created_at=created).to_dict()).created_at == created
    assert '"created_at":"2025-01-01T02:00:00+02:00"' in canonical_json(Template("n", created_at=created).to_dict())
