"""Setting up a database, as its owner: tables and roles."""

from contextlib import closing
from typing import Any

from nexus_attest.postgres import schema as tables
from nexus_attest.postgres.address import shown
from nexus_attest.postgres.driver import PgConnection, connect, faults, is_lost, raise_named

__all__ = ["initialize"]


def initialize(address: str, *, schema: str = tables.DEFAULT_SCHEMA, with_roles: bool = True) -> dict[str, Any]:
    """Make the tables, or bring them to this release, and the roles; gives `store`, `schema`, the versions `from` and `to`, and `roles`.

    Raises SchemaTooNew, StoreReadOnly when the role of the address may not do it, StoreUnreachable.
    """
    path = shown(address)
    with closing(connect(address, tables.require_name(schema))) as raw:
        try:
            since = tables.apply(PgConnection(raw), schema, with_roles=with_roles)
        except faults() as error:
            raise_named(error, path, lost=is_lost(error, raw))
    made = [tables.WRITER, tables.READER] if with_roles else []
    return {"store": path, "schema": schema, "from": since, "to": tables.newest(), "roles": made}
