"""The store of decisions on PostgreSQL, for several hosts: same interface, same chain, same roots as on SQLite.

Needs the extra `postgres` (psycopg 3 and psycopg-pool), which is loaded when a store is opened and not before.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_attest.postgres.store import PostgresStore

__all__ = ["PostgresStore"]

if not TYPE_CHECKING:  # a type checker that saw this function would accept every name

    def __getattr__(name: str) -> Any:
        """PEP 562: the store's modules, on their first use; whoever asks whether a text is an address does without."""
        if name != "PostgresStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from nexus_attest.postgres.store import PostgresStore

        return PostgresStore
