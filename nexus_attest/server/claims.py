"""Tells whoever started an execution that it was claimed: from here on it may have effects, and the store knows its name."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from nexus_control.tool import RouterProtocol

__all__ = ["announced", "on_claim"]

on_claim: ContextVar[Callable[[str], None] | None] = ContextVar("on_claim", default=None)
"""Called with the id of the execution, in its thread, before the router is. It must not raise: that would count as the router's failure."""


def announced(router: RouterProtocol) -> RouterProtocol:
    """The router, which announces each run to the `on_claim` of the calling context; unchanged where nobody wants to know."""
    told = on_claim.get()
    return router if told is None else _Announcing(router, told)


class _Announcing:
    accepts_execution_id = True

    def __init__(self, router: RouterProtocol, told: Callable[[str], None]) -> None:
        self._router = router
        self._told = told

    def run(self, **arguments: Any) -> dict[str, Any]:
        self._told(arguments["execution_id"])
        if not getattr(self._router, "accepts_execution_id", False):
            del arguments["execution_id"]
        return self._router.run(**arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return self._router.get_adapter_capabilities(adapter_id)
