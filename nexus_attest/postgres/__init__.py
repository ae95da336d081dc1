"""The store of decisions on PostgreSQL, for several hosts: same interface, same chain, same roots as on SQLite.

Needs the extra `postgres` (psycopg 3 and psycopg-pool), which is loaded when a store is opened and not before.
"""

from nexus_attest.postgres.address import is_address, shown
from nexus_attest.postgres.errors import PostgresDriverMissing
from nexus_attest.postgres.store import PostgresStore

__all__ = ["PostgresDriverMissing", "PostgresStore", "is_address", "shown"]
