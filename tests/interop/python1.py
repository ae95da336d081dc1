# type: ignore - it is for another release of the SDK than the one that is installed where types are checked
"""The Python SDK 1.x as a client. Runs in an environment of its own, which has that SDK and nothing of ours."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from walk import GIVEN, Called, walk


async def main() -> None:
    asked: list[str] = []

    async def person(_: Any, params: Any) -> Any:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"approve": True})

    async with AsyncExitStack() as opened:
        if "url" in GIVEN:
            read, write, _ = await opened.enter_async_context(streamablehttp_client(GIVEN["url"]))
        else:
            parameters = StdioServerParameters(command=GIVEN["command"], args=GIVEN["args"], env=GIVEN["env"])
            read, write = await opened.enter_async_context(stdio_client(parameters))
        session = await opened.enter_async_context(ClientSession(read, write, elicitation_callback=person))
        await session.initialize()

        async def call(tool: str, arguments: dict[str, Any]) -> Called:
            result = await session.call_tool(tool, arguments)
            code = result.meta["io.github.nexus-attest/error"]["code"] if result.isError else None
            return result.structuredContent, code, result.content[0].text

        await walk([tool.name for tool in (await session.list_tools()).tools], call, asked)


asyncio.run(main())
