"""What opens a store by its address, by scheme. The engine has none; importing nexus_attest adds PostgreSQL's.

Imported with the root of nexus_attest, so it imports nothing.
"""

__all__ = ["BACKENDS"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus_control.event_store import EventStore

BACKENDS: "dict[str, Callable[[str], EventStore]]" = {}
"""Each gets the whole address."""
