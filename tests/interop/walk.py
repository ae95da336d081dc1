"""The walk of every client in Python, as in walk.mjs: list the tools, request, two approvals that a person confirms, execute, export."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Called = tuple[dict[str, Any] | None, str | None, str]
"""Structured content, code of the error, and the text of a result."""


async def walk(tools: list[str], call: Callable[[str, dict[str, Any]], Awaitable[Called]], asked: list[str]) -> None:
    """`call` takes a tool's name and its arguments; `asked` are the questions that the client has answered. Prints one JSON object."""

    async def done(tool: str, **arguments: Any) -> Any:
        data, code, text = await call(f"nexus-attest.{tool}", arguments)
        if code is not None:
            raise RuntimeError(text)
        return data

    def named(name: str) -> dict[str, str]:
        return {"type": "human", "id": name}

    plan = json.dumps([{"tool": "t", "method": "m"}])
    asking = {"goal": "walk", "actor": named("alice"), "mode": "apply", "plan": plan, "min_approvals": 2}
    request_id = (await done("request", **asking))["request_id"]
    approved = [(await done("approve", request_id=request_id, actor=named(name)))["is_approved"] for name in ("bob", "carol")]
    execution = {"request_id": request_id, "adapter_id": GIVEN["adapter"], "actor": named("alice")}
    run = await done("execute", **execution)
    exported = (await done("export_audit_package", decision_id=request_id))["package"]
    _, code, _ = await call("nexus-attest.execute", execution)
    told = {"tools": tools, "approved": approved, "mode": run["mode"], "again": code, "asked": asked, "package": exported}
    print(json.dumps(told))


GIVEN: dict[str, Any] = json.loads(sys.argv[1])
"""`{"command", "args", "env"}` or `{"url"}`, and `adapter` and `mode`: what the test wants."""
