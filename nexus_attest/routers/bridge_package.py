"""nexus-router as the bridge uses it: which of its names, and what is made of their answers.

Nothing else here imports it, and nothing at all before `NexusRouterPackage.load` is called.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from nexus_attest.routers.bridge_calls import BridgeErrors, GuardedAdapter
from nexus_attest.routers.errors import NexusRouterMissing, RunFailed
from nexus_control.errors import MalformedBundle
from nexus_control.flight_record import Run, RunEvent
from nexus_control.integrity import digests_equal
from nexus_control.router_record import router_run_digest, stated_run_digest

__all__ = ["NexusRouterPackage"]

_NAMES = {
    "nexus_router.tool": ("run", "inspect", "export"),
    "nexus_router.dispatch": ("AdapterRegistry",),
    "nexus_router.exceptions": ("NexusOperationalError", "NexusBugError"),
}
_ADVICE = (
    "install nexus-router from its source (`pip install ./nexus-router` in a checkout; the name is not registered on the package registry),"
    " or use nexus_attest.routers.RunEngine, which needs no further package"
)


@dataclass(frozen=True, slots=True)
class NexusRouterPackage:
    """The modules `tool` and `dispatch` of nexus-router, and its errors."""

    tool: Any
    dispatch: Any
    errors: BridgeErrors

    @classmethod
    def load(cls) -> "NexusRouterPackage":
        """Raises NexusRouterMissing when it cannot be imported, or is another package of this name.

        Its version says little (1.1.1 calls itself 1.1.0), so what counts is whether the names are there.
        """
        modules: dict[str, Any] = {}
        for module, names in _NAMES.items():
            try:
                modules[module] = import_module(module)
            except ImportError as problem:
                raise NexusRouterMissing(f"nexus-router cannot be imported ({problem}): {_ADVICE}") from None
            if missing := [name for name in names if not callable(getattr(modules[module], name, None))]:
                raise NexusRouterMissing(f"{module} has no {', '.join(missing)}, so it is not the nexus-router that this knows: {_ADVICE}")
        exceptions = modules["nexus_router.exceptions"]
        operational, bug = exceptions.NexusOperationalError, exceptions.NexusBugError
        errors = BridgeErrors(operational, bug, (operational, bug))
        return cls(modules["nexus_router.tool"], modules["nexus_router.dispatch"], errors)

    def run(self, request: Mapping[str, object], database: str, adapter: GuardedAdapter) -> None:
        """Let it make a run in a database of its own. What it raises is its, or its adapter's, business."""
        registry = self.dispatch.AdapterRegistry(default_adapter_id=adapter.adapter_id)  # it must have a default, used or not
        registry.register(adapter)
        self.tool.run(dict(request), db_path=database, adapters=registry)

    def only_run_id(self, database: str) -> str | None:
        """The id of the one run in the database of a run; None when there is none. Raises RunFailed when there are more."""
        if not Path(database).exists():  # it would make one
            return None
        found: list[dict[str, Any]] = self.tool.inspect({"db_path": database, "limit": 2})["runs"]
        if len(found) > 1:
            raise _strange("its database holds more than one run")
        return found[0]["run_id"] if found else None

    def recorded(self, database: str) -> tuple[Run, list[RunEvent]] | None:
        """The run as nexus-router exports it; None when it recorded none. Raises RunFailed when the export does not recompute."""
        run_id = self.only_run_id(database)
        if run_id is None:
            return None
        bundle: Any = self.tool.export({"db_path": database, "run_id": run_id, "include_provenance": False}).get("artifact")
        try:
            if not isinstance(bundle, dict):
                raise _strange("it exports no record of its run")
            record = cast("dict[str, Any]", bundle)
            if not digests_equal(stated_run_digest(record), router_run_digest(record)):
                raise _strange("the digest of its record does not recompute")
            run, events = record["run"], record["events"]
            return (
                Run(**{key: run[key] for key in Run.__annotations__}),
                [RunEvent(**{key: event[key] for key in RunEvent.__annotations__}) for event in events],
            )
        except (KeyError, TypeError, MalformedBundle) as problem:
            raise _strange(f"its record has another form: {problem!r:.200}") from None


def _strange(what: str) -> RunFailed:
    return RunFailed("ROUTER_RECORD_INVALID", f"nexus-router ran, but {what}", run_id=None, response=None)
