# type: ignore - it is for a package that is not installed where types are checked
"""fastmcp 4.x as a client, in the era that `mode` names. Runs in an environment of its own, which has that package and nothing of ours."""

import asyncio
from typing import Any

from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport
from walk import GIVEN, Called, walk


async def main() -> None:
    asked: list[str] = []

    async def person(message: str, _type: Any, _params: Any, _context: Any) -> Any:
        asked.append(message)
        return ElicitResult(action="accept", content={"approve": True})

    reached = GIVEN["url"] if "url" in GIVEN else StdioTransport(command=GIVEN["command"], args=GIVEN["args"], env=GIVEN["env"])
    async with Client(reached, mode=GIVEN["mode"], elicitation_handler=person) as client:

        async def call(tool: str, arguments: dict[str, Any]) -> Called:
            result = await client.call_tool(tool, arguments, raise_on_error=False)
            code = result.meta["io.github.nexus-attest/error"]["code"] if result.is_error else None
            return result.structured_content, code, result.content[0].text

        await walk([tool.name for tool in await client.list_tools()], call, asked)


asyncio.run(main())
