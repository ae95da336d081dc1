"""The published list of the MCP server's tools: the one in docs/mcp-tools.json, within its bounds, and made of the published schemas."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from nexus_attest.server.app import build_server, listed_tools
from nexus_attest.server.service import Service, ServiceOptions
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools
from scripts.mcp_tools import document, listing, listing_by_option

ROOT = Path(__file__).resolve().parents[2]

MOST_TOKENS = 1_600
CHARACTERS_PER_TOKEN = 4.25
"""Of such JSON, with a margin: o200k_base has 4.33, cl100k_base 4.45."""

ANNOTATIONS = {"$schema", "$id", "title", "description", "default", "examples"}

HINTS = {  # read-only, destructive, idempotent, open world
    "request": (False, False, False, False),
    "approve": (False, False, False, False),
    "execute": (False, True, False, True),
    "status": (True, False, True, False),
    "inspect": (True, False, True, False),
    "template.create": (False, False, False, False),
    "template.get": (True, False, True, False),
    "template.list": (True, False, True, False),
    "export_bundle": (True, False, True, False),
    "import_bundle": (False, True, False, False),
    "export_audit_package": (True, False, True, False),
    "revoke_approval": (False, False, False, False),
    "list": (True, False, True, False),
    "recover": (False, True, False, False),
}
PUBLISHED = list(HINTS)[:11]


@pytest.fixture
def engine() -> Iterator[NexusControlTools]:
    with DecisionStore() as store:
        yield NexusControlTools(store)


def names(engine: NexusControlTools, **options: Any) -> list[str]:
    return [tool.name for tool in listed_tools(Service(tools=engine, options=ServiceOptions(**options)))]


def short(names: list[str]) -> list[str]:
    return [name.removeprefix("nexus-attest.") for name in names]


def plain(node: object, *, names: bool = False) -> object:
    """A schema without its annotations; keys are names of properties where `names` says so."""
    if isinstance(node, dict):
        members = cast("dict[str, object]", node).items()
        return {key: plain(value, names=key == "properties" and not names) for key, value in members if names or key not in ANNOTATIONS}
    return node


@pytest.mark.parametrize(("name", "listed"), [("mcp-tools.json", listing), ("mcp-tools-by-option.json", listing_by_option)])
def test_the_published_list_is_the_one_that_is_served(name: str, listed: Callable[[], object]) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == document(listed()), "run `make docs` and look at the difference"


def test_for_clients_that_show_cards_one_tool_is_linked_and_one_is_more() -> None:
    approve, answer = listing_by_option()["--approval-card"]
    (plain,) = [tool for tool in listing() if tool["name"] == approve["name"]]
    assert approve.pop("_meta").keys() - plain.pop("_meta").keys() == {"ui", "ui/resourceUri"}
    assert approve == plain
    assert (answer["name"], answer["_meta"]["ui"]) == ("nexus-attest.answer_approval", {"visibility": ["app"]})
    assert answer["outputSchema"] == plain["outputSchema"]


def test_with_a_trust_policy_acts_take_signatures_and_with_a_bound_actor_they_need_no_name() -> None:
    plain = {tool["name"]: tool["inputSchema"] for tool in listing()}
    signed, bound = (listing_by_option()[option] for option in ("--trust", "--actor-source"))
    assert short([tool["name"] for tool in signed]) == ["request", "approve", "execute", "revoke_approval"]
    for tool in signed:
        added = tool["inputSchema"]["properties"].keys() - plain[tool["name"]]["properties"].keys()
        assert added == {"signature"}
    assert short([tool["name"] for tool in bound]) == [name for name in HINTS if "actor" in plain[f"nexus-attest.{name}"]["required"]]
    for tool in bound:
        assert [*tool["inputSchema"]["required"], "actor"] == sorted(plain[tool["name"]]["required"], key="actor".__eq__)


@pytest.mark.parametrize("takes_signatures", [False, True])
@pytest.mark.parametrize("style", ["dotted", "underscore"])
def test_what_a_model_sees_of_the_eleven_tools_is_short(engine: NexusControlTools, style: Any, takes_signatures: bool) -> None:
    service = Service(tools=engine, options=ServiceOptions(tool_names=style), takes_signatures=takes_signatures)
    tools = listed_tools(service)
    assert len([tool for tool in tools if "signature" in tool.input_schema["properties"]]) == (3 if takes_signatures else 0)
    seen = [{"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema} for tool in tools]
    assert len(json.dumps(seen, separators=(",", ":"), ensure_ascii=False)) / CHARACTERS_PER_TOKEN <= MOST_TOKENS


@pytest.mark.parametrize("number", range(11))
def test_the_listed_schema_accepts_what_the_published_file_accepts(number: int) -> None:
    tool = listing()[number]
    file = ROOT / "schemas" / f"nexus-control.{PUBLISHED[number]}.v0.1.json"
    assert plain(tool["inputSchema"]) == plain(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("tool", listing(), ids=lambda tool: tool["name"])
def test_a_tool_says_what_it_is_and_what_it_does(tool: dict[str, Any]) -> None:
    name = tool["name"].removeprefix("nexus-attest.")
    hints = tool["annotations"]
    assert tool["title"]
    assert tool["description"].endswith(".")
    assert tool["_meta"] == {"io.github.nexus-attest/canonical": tool["name"]}
    assert tuple(hints[f"{key}Hint"] for key in ("readOnly", "destructive", "idempotent", "openWorld")) == HINTS[name]
    check: Any = jsonschema.Draft202012Validator
    for schema in (tool["inputSchema"], tool["outputSchema"]):
        check.check_schema(schema)
        assert schema["type"] == "object"


def test_the_default_list_is_the_published_eleven(engine: NexusControlTools) -> None:
    assert short(names(engine)) == PUBLISHED
    assert short(names(engine, extra_tools=True)) == list(HINTS)


def test_underscore_names_suit_every_known_host(engine: NexusControlTools) -> None:
    listed = names(engine, tool_names="underscore", extra_tools=True)
    assert "nexus_attest_template_create" in listed
    assert all(re.fullmatch("[a-zA-Z0-9_]{1,64}", name) for name in listed)
    assert all(len("nexus-attest") + len(name) <= 60 for name in listed)
    assert len(set(listed)) == len(HINTS)


def test_read_only_leaves_what_changes_nothing(engine: NexusControlTools) -> None:
    assert short(names(engine, read_only=True)) == [name for name in PUBLISHED if HINTS[name][0]]
    assert short(names(engine, read_only=True, tools=frozenset({"status", "approve"}))) == ["status"]


@pytest.mark.parametrize(
    "spelling", ["template.get", "nexus-attest.template.get", "nexus_attest_template_get", "nexus-control.template.get"]
)
def test_an_allow_list_takes_any_spelling(engine: NexusControlTools, spelling: str) -> None:
    assert short(names(engine, tools=frozenset({spelling}))) == ["template.get"]


def test_an_allow_list_can_name_extra_tools_and_unknown_ones_are_told(engine: NexusControlTools) -> None:
    options = ServiceOptions(tools=frozenset({"recover", "nothing"}))
    assert short(names(engine, tools=frozenset({"recover"}))) == ["recover"]
    assert options.unknown() == ["nothing"]


def test_a_server_object_can_be_made_for_every_selection(engine: NexusControlTools) -> None:
    assert build_server(Service(tools=engine, options=ServiceOptions(read_only=True))).name == "nexus-attest"


def test_the_documents_name_the_clients_that_tests_are_run_with() -> None:
    pinned = json.loads((ROOT / "tests" / "interop" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    python = dict(re.findall(r'"(mcp|fastmcp)==([0-9.]+)"', (ROOT / "tests" / "test_mcp_interop.py").read_text(encoding="utf-8")))
    clients = {
        "Python SDK 1.x": python["mcp"],
        "fastmcp": python["fastmcp"],
        "TypeScript SDK 1.x": pinned["@modelcontextprotocol/sdk"],
        "TypeScript SDK 2.x": pinned["@modelcontextprotocol/client"],
        "Inspector": pinned["@modelcontextprotocol/inspector"],
    }
    for name, place in (("README.md", ROOT), ("conformance.md", ROOT / "docs")):
        text = (place / name).read_text(encoding="utf-8")
        for client, version in clients.items():
            assert re.search(rf"(?m)^\| {re.escape(client)}[^\n]* {re.escape(version)}[^\n]* \d{{4}}-\d\d-\d\d", text), (name, client)
