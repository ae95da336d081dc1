"""Routers: who executes an approved decision, and the record that anybody can check later.

    with RunEngine(load_adapters("adapters.toml"), db_path="runs.db") as router:
        tools.execute(request_id, "subprocess:keytool", actor, router)

Importing this needs the standard library and `nexus_control` only; an adapter imports `mcp` or `httpx` when it opens a session.
"""

from nexus_attest.routers.adapter import Adapter, AdapterSession, Call, CallIdentity, CallLimit, CallResult
from nexus_attest.routers.adapters_file import load_adapters, parse_adapters
from nexus_attest.routers.bridge import NexusRouterBridge
from nexus_attest.routers.engine import RunEngine
from nexus_attest.routers.errors import (
    AdapterFileError,
    CallFailed,
    CallOutcome,
    CallRefused,
    NexusRouterMissing,
    RunFailed,
    RunNotFinished,
    RunNotFound,
    UnknownAdapter,
)
from nexus_attest.routers.http_adapter import HttpAdapter
from nexus_attest.routers.mcp_adapter import McpAdapter
from nexus_attest.routers.run_records import RunRecords, RunSummary
from nexus_attest.routers.settings import AdapterSettings, HttpSettings, McpHttpSettings, McpStdioSettings, SubprocessSettings
from nexus_attest.routers.stop_signals import StopSignals, Terminated
from nexus_attest.routers.subprocess_adapter import SubprocessAdapter
from nexus_control.errors import InvalidPlan, PlanNotExecutable
from nexus_control.plan import DefaultCall, Plan, Step, parse_plan

__all__ = [
    "Adapter",
    "AdapterFileError",
    "AdapterSession",
    "AdapterSettings",
    "Call",
    "CallFailed",
    "CallIdentity",
    "CallLimit",
    "CallOutcome",
    "CallRefused",
    "CallResult",
    "DefaultCall",
    "HttpAdapter",
    "HttpSettings",
    "InvalidPlan",
    "McpAdapter",
    "McpHttpSettings",
    "McpStdioSettings",
    "NexusRouterBridge",
    "NexusRouterMissing",
    "Plan",
    "PlanNotExecutable",
    "RunEngine",
    "RunFailed",
    "RunNotFinished",
    "RunNotFound",
    "RunRecords",
    "RunSummary",
    "Step",
    "StopSignals",
    "SubprocessAdapter",
    "SubprocessSettings",
    "Terminated",
    "UnknownAdapter",
    "load_adapters",
    "parse_adapters",
    "parse_plan",
]
