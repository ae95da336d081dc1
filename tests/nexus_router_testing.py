"""nexus-router for tests: the package itself where it is installed, the stand-in of tests/router_standin everywhere."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

STANDIN = Path(__file__).parent / "router_standin"
KINDS = ("stand-in", "installed") if find_spec("nexus_router") else ("stand-in",)


class Package:
    """The modules of nexus-router."""

    def __init__(self) -> None:
        self.tool: Any = import_module("nexus_router.tool")
        self.dispatch: Any = import_module("nexus_router.dispatch")
        self.exceptions: Any = import_module("nexus_router.exceptions")

    def registry(self, *adapters: Any) -> Any:
        """A registry with these adapters and the null adapter as default."""
        registry = self.dispatch.AdapterRegistry()
        for adapter in (self.dispatch.NullAdapter(), *adapters):
            registry.register(adapter)
        return registry


@contextmanager
def nexus_router(kind: str) -> Generator[Package]:
    """One of the two, importable as `nexus_router` inside the block."""
    _forget()
    with pytest.MonkeyPatch.context() as patch:
        if kind == "stand-in":
            patch.syspath_prepend(str(STANDIN))  # pyright: ignore[reportUnknownMemberType]
        yield Package()
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "nexus_router"]:
        del sys.modules[name]
