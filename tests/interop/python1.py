# type: ignore - it is for another release of the SDK than the one that is installed where types are checked
"""The Python SDK 1.x as a client: the walk of walk.mjs. Runs in an environment of its own, which has that SDK and nothing of ours."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def main(given: dict[str, Any]) -> dict[str, Any]:
    asked: list[str] = []

    async def person(_: Any, params: Any) -> Any:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"approve": True})

    async with AsyncExitStack() as opened:
        if "url" in given:
            read, write, _ = await opened.enter_async_context(streamablehttp_client(given["url"]))
        else:
            parameters = StdioServerParameters(command=given["command"], args=given["args"], env=given["env"])
            read, write = await opened.enter_async_context(stdio_client(parameters))
        session = await opened.enter_async_context(ClientSession(read, write, elicitation_callback=person))
        await session.initialize()

        async def call(tool: str, **arguments: Any) -> Any:
            result = await session.call_tool(f"nexus-attest.{tool}", arguments)
            if result.isError:
                raise RuntimeError(result.content[0].text)
            return result.structuredContent

        def named(name: str) -> dict[str, str]:
            return {"type": "human", "id": name}

        tools = [tool.name for tool in (await session.list_tools()).tools]
        plan = json.dumps([{"tool": "t", "method": "m"}])
        asking = {"goal": "walk", "actor": named("alice"), "mode": "apply", "plan": plan, "min_approvals": 2}
        request_id = (await call("request", **asking))["request_id"]
        approved = [(await call("approve", request_id=request_id, actor=named(name)))["is_approved"] for name in ("bob", "carol")]
        execution = {"request_id": request_id, "adapter_id": given["adapter"], "actor": named("alice")}
        run = await call("execute", **execution)
        exported = (await call("export_audit_package", decision_id=request_id))["package"]
        refused = await session.call_tool("nexus-attest.execute", execution)
        code = refused.meta["io.github.nexus-attest/error"]["code"]
        return {"tools": tools, "approved": approved, "mode": run["mode"], "again": code, "asked": asked, "package": exported}


print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
