"""Provable governance for AI agents' tool calls: request, policy, approvals, one execution, and evidence that a stranger can check.

The engine's public names, the same objects as in `nexus_control`; the modules of this package that mirror an engine module hold the
same objects too. Code uses them where they are defined: to replace one in a test, patch `nexus_control.<module>`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import nexus_control
from nexus_control import __all__ as __all__
from nexus_control.backends import BACKENDS

if TYPE_CHECKING:
    from nexus_control import *
else:

    def __getattr__(name: str) -> Any:
        """PEP 562: a public name of the engine, or the mirror of one of its modules, loaded on its first use."""
        if name in __all__:
            return getattr(nexus_control, name)
        if name in nexus_control.PUBLISHED:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _open_postgres(address: str) -> Any:
    from nexus_attest.postgres import PostgresStore  # and with it the store's modules

    return PostgresStore(address)


BACKENDS.update(postgresql=_open_postgres, postgres=_open_postgres)
