"""What our tasks look like on the wire, judged by the schemas of `@modelcontextprotocol/ext-tasks`, the extension's own client."""

import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_testing import ALICE, BOB, answer, connected
from node_testing import ROOT, node, npm_folder
from tasks_testing import Tasks, cancel, deferred, finished, get

from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.service import Service
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

pytestmark = pytest.mark.anyio

JUDGE = """
import { readFileSync } from "node:fs";
import { CreateTaskResultV2Schema, GetTaskResultV2Schema, CancelTaskResultV2Schema } from "@modelcontextprotocol/ext-tasks/core/v2";
const schemas = { created: CreateTaskResultV2Schema, got: GetTaskResultV2Schema, cancelled: CancelTaskResultV2Schema };
const judged = JSON.parse(readFileSync(0, "utf8")).map(([kind, value]) => {
  const found = schemas[kind].safeParse(value);
  return found.success ? found.data.status ?? "acknowledged" : JSON.stringify(found.error.issues);
});
console.log(JSON.stringify(judged));
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def confirming(service: Service) -> None:
    service.asker = HumanAsker(tools=service.tools, limiter=service.store_threads, systems=True)


@asynccontextmanager
async def taking(folder: Path, **more: Any) -> AsyncGenerator[Client]:
    async with connected("memory-stateless", folder, prepare=confirming, extensions=[Tasks()], **more) as client:
        yield client


def judged(values: list[tuple[str, Any]]) -> list[str]:
    """What the schemas make of each: its status, or their complaints."""
    command = [str(node()), "--input-type=module", "--eval", JUDGE]
    folder = npm_folder(ROOT / "tests" / "interop").parent
    done = subprocess.run(command, input=json.dumps(values), cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = json.loads(done.stdout)
    return found


async def test_every_state_of_our_tasks_satisfies_the_schemas_of_the_extension(tmp_path: Path) -> None:
    async def ask(*_: Any) -> Any:
        raise AssertionError

    async with taking(tmp_path) as client:
        requests = [(await answer(client, "request", goal="g", actor=ALICE))["request_id"] for _ in range(3)]
        made = [await deferred(client, "approve", request_id=request_id, actor=BOB) for request_id in requests]
        open_, given, stopped = [task["taskId"] for task in made]
        values = [("created", made[0]), ("got", await get(client, open_))]
        with DecisionStore(tmp_path / "decisions.db") as store:
            assert NexusControlTools(store).approve(requests[1], BOB).success
        values += [
            ("got", await finished(client, given)),
            ("cancelled", await cancel(client, stopped)),
            ("got", await get(client, stopped)),
        ]
    async with taking(tmp_path, elicitation_callback=ask) as client:
        values.append(("got", await get(client, open_)))
        assert judged(values) == ["working", "working", "completed", "acknowledged", "cancelled", "input_required"]
    assert judged([("got", {**values[0][1], "status": "paused"})])[0].startswith("["), "they do judge"
