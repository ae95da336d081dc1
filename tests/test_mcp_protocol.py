"""What the server answers, the same over every transport and in both protocol eras."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_testing import ADAPTER, ALICE, BOB, CONNECTIONS, answer, connected, error_of

pytestmark = pytest.mark.anyio

PLAN = '[{"tool": "t", "method": "m"}]'


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=CONNECTIONS)
async def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncGenerator[Client]:
    assert anyio_backend == "asyncio"
    folder = tmp_path_factory.mktemp("served")
    async with connected(request.param, folder) as found:
        yield found


async def requested(client: Client, **more: Any) -> str:
    return (await answer(client, "request", goal="Rotate the key", actor=ALICE, **more))["request_id"]


async def test_a_decision_goes_from_request_to_verified_evidence(client: Client) -> None:
    request_id = await requested(client, mode="apply", plan=PLAN, min_approvals=2)
    assert (await answer(client, "approve", request_id=request_id, actor=ALICE))["is_approved"] is False
    assert (await answer(client, "approve", request_id=request_id, actor=BOB))["is_approved"] is True
    run = await answer(client, "execute", request_id=request_id, adapter_id=ADAPTER, actor=BOB)
    assert (run["mode"], run["steps_executed"]) == ("apply", 1)
    assert (await answer(client, "status", request_id=request_id))["state"] == "completed"
    package = (await answer(client, "export_audit_package", decision_id=request_id, embed_router_bundle=True))["package"]
    from nexus_control.audit_package import verify_audit_package

    assert verify_audit_package(package).ok
    assert package["router"]["mode"] == "embedded"


async def test_both_spellings_and_the_old_prefix_reach_the_same_tool(client: Client) -> None:
    request_id = await requested(client)
    for name in ("nexus-attest.status", "nexus_attest_status", "nexus-control.status", "nexus_control_status"):
        result = await client.call_tool(name, {"request_id": request_id})
        assert result.structured_content["decision_id"] == request_id


async def test_a_misspelt_argument_is_refused_with_its_path(client: Client) -> None:
    error = await error_of(client, "request", goal="g", actor=ALICE, min_aprovals=5)
    assert (error["code"], error["paths"]) == ("INVALID_ARGUMENTS", ["$.min_aprovals"])
    assert "did you mean min_approvals?" in error["text"]


async def test_an_unknown_tool_is_a_protocol_error(client: Client) -> None:
    with pytest.raises(MCPError) as caught:
        await client.call_tool("nexus-attest.nothing", {})
    assert caught.value.error.code == -32602


async def test_an_engine_error_keeps_its_code_and_says_what_to_do(client: Client) -> None:
    error = await error_of(client, "approve", request_id="nobody", actor=ALICE)
    assert error["code"] == "DECISION_NOT_FOUND"
    assert error["text"] == "DECISION_NOT_FOUND: Decision not found: nobody. Use the request_id that request returned."


async def test_resources_of_a_decision_can_be_read(client: Client) -> None:
    request_id = await requested(client)
    found = (await client.read_resource(f"nexus://decisions/{request_id}")).contents[0]
    assert found.mime_type == "application/json"
    assert json.loads(getattr(found, "text", ""))["decision_id"] == request_id
    with pytest.raises(MCPError) as caught:
        await client.read_resource("nexus://decisions/nobody")
    assert caught.value.error.code == -32602
