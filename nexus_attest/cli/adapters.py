"""Commands around the adapter file: adapters list, check and survey."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_attest.routers import Adapter
    from nexus_attest.routers.mcp_adapter import Survey

__all__ = ["register"]

_File = Annotated[
    Path | None, typer.Argument(help="The adapter file. [default: the one of the configuration]", metavar="FILE", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    adapters = group("The adapter file: what approved decisions may run.")
    command(adapters, "list", db=False)(_list)
    command(adapters, "check", db=False)(_check)
    command(adapters, "survey", db=False)(_survey)
    app.add_typer(adapters, name="adapters")


def _list(session: "Session", file: _File = None) -> None:
    """List the adapters of a file, with the digest of each definition, which every run records. Starts and contacts nothing."""
    path, adapters = _loaded(file)
    data = {"file": str(path), "adapters": [_described(adapter) for adapter in adapters]}
    session.show(data, lambda: session.screen.adapters(data))


def _check(
    session: "Session",
    file: _File = None,
    file_only: Annotated[bool, typer.Option("--file-only", help="Judge the file alone, not this machine.")] = False,
) -> None:
    """Check an adapter file, and that this machine has what its adapters need: variables, secrets, folders. Starts and contacts nothing."""
    from nexus_attest.routers import CallRefused

    path, adapters = _loaded(file)
    found: list[dict[str, Any]] = []
    for adapter in adapters:
        problem: str | None = None
        try:
            if not file_only:
                adapter.preflight(())
        except CallRefused as refusal:
            problem = f"{refusal.code}: {refusal}"
        found.append({**_described(adapter), "problem": problem})
    data = {"file": str(path), "adapters": found}
    if lacking := [adapter["adapter_id"] for adapter in found if adapter["problem"]]:
        session.fail("ADAPTERS_NOT_READY", f"not ready: {', '.join(lacking)}", data, lambda: session.screen.adapters(data))
    session.show(data, lambda: session.screen.adapters(data))


def _survey(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="The adapter file.", metavar="FILE", show_default=False)],
    adapter_id: Annotated[str, typer.Argument(help="An adapter of kind mcp.", metavar="ADAPTER", show_default=False)],
) -> None:
    """Start a session with an MCP server, call nothing, and tell what its allowed tools are, with the digest to pin them."""
    import time

    from nexus_attest.routers import CallLimit, McpAdapter, UnknownAdapter

    _, adapters = _loaded(file)
    adapter = next((adapter for adapter in adapters if adapter.adapter_id == adapter_id), None)
    if not isinstance(adapter, McpAdapter):
        raise UnknownAdapter(f"{file} has no MCP server {adapter_id!r:.200}")
    adapter.preflight(())
    survey = adapter.survey(CallLimit(time.monotonic() + adapter.settings.start_timeout_s))
    session.show({**survey.details, "tools": dict(survey.definitions)}, lambda: session.say(_surveyed(survey)))


def _surveyed(survey: "Survey") -> str:
    from nexus_control.markdown import escape

    server = " ".join(str(survey.details[key]) for key in ("server", "version") if key in survey.details)
    tools = [f"  {name}: {escape(str(definition.get('description', '')))}" for name, definition in sorted(survey.definitions.items())]
    lines = [f"{escape(server) or 'a server without a name'}, MCP {survey.details['protocol']}", *tools]
    return "\n".join([*lines, f'tools_digest = "{survey.details["tools_digest"]}"'])


def _loaded(file: Path | None) -> "tuple[Path, tuple[Adapter, ...]]":
    from nexus_attest.cli.running import known_adapters_path
    from nexus_attest.routers import load_adapters

    path = known_adapters_path(file)
    return path, load_adapters(path)


def _described(adapter: "Adapter") -> dict[str, Any]:
    return {
        "adapter_id": adapter.adapter_id,
        "adapter_kind": adapter.adapter_kind,
        "capabilities": sorted(adapter.capabilities),
        "timeout_s": adapter.timeout_s,
        "idempotent": adapter.idempotent,
        "default_call": None if adapter.default_call is None else "/".join(adapter.default_call),
        "definition_digest": adapter.definition_digest,
    }
