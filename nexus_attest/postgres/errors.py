"""What can be wrong before there is a connection.

NexusError
`-- PostgresDriverMissing                the extra `postgres` is not installed
"""

from nexus_control.errors import NexusError

__all__ = ["PostgresDriverMissing"]


class PostgresDriverMissing(NexusError):
    """A PostgreSQL store was asked for, and psycopg is not installed."""

    code = "POSTGRES_DRIVER_MISSING"
