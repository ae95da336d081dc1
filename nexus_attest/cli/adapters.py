"""Commands around the adapter file: adapters list and check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_attest.routers import Adapter

__all__ = ["register"]

_File = Annotated[
    Path | None, typer.Argument(help="The adapter file. [default: the one of the configuration]", metavar="FILE", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    adapters = group("The adapter file: what approved decisions may run.")
    command(adapters, "list", db=False)(_list)
    command(adapters, "check", db=False)(_check)
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
