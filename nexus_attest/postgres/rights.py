"""Who may change what a store has written, but its owner: rights, owners, and what makes tables show other rows than they hold.

The owner of the tables can do everything, and so can a superuser; nobody else should be able to do more than insert and read. Triggers
refuse changes to everybody; what is found here is what would let somebody get around them, or see and write other rows than the store did.
"""

from collections.abc import Collection, Iterator

from nexus_control.backend import Connection
from nexus_control.errors import brief

__all__ = ["READER", "WRITER", "problems"]

WRITER, READER = "nexus_writer", "nexus_reader"

_HERE = "current_schema()::regnamespace"
# Everybody with a right of their own, but the owner of the object. PUBLIC is no role.
_GRANTED = """
    SELECT COALESCE(g.rolname, 'PUBLIC'), {what}, a.privilege_type
    FROM {catalog} CROSS JOIN LATERAL aclexplode({rights}) AS a LEFT JOIN pg_roles AS g ON g.oid = a.grantee
    WHERE {where} AND a.grantee <> {owner} ORDER BY 1, 2, 3"""
_ON_TABLES = _GRANTED.format(
    what="c.relname::text",
    catalog="pg_class AS c",
    rights="c.relacl",
    where=f"c.relnamespace = {_HERE} AND c.relkind = 'r'",
    owner="c.relowner",
)
_ON_COLUMNS = _GRANTED.format(
    what="c.relname || '.' || t.attname",
    catalog="pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid AND NOT t.attisdropped",
    rights="t.attacl",
    where=f"c.relnamespace = {_HERE} AND c.relkind = 'r'",
    owner="c.relowner",
)
_ON_SCHEMA = _GRANTED.format(
    what="n.nspname::text", catalog="pg_namespace AS n", rights="n.nspacl", where=f"n.oid = {_HERE}", owner="n.nspowner"
)
_BY_DEFAULT = _GRANTED.format(
    what="w.rolname::text",
    catalog="pg_default_acl AS d JOIN pg_roles AS w ON w.oid = d.defaclrole",
    rights="d.defaclacl",
    where=f"d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, {_HERE}) AND (d.defaclnamespace <> 0 OR d.defaclrole = {{owner}})",
    owner="d.defaclrole",
)
_OWNER = f"SELECT relowner FROM pg_class WHERE relnamespace = {_HERE} AND relname = 'schema_versions'"
_OWNED = f"""
    SELECT o.kind, o.name, r.rolname FROM (
        SELECT 'schema' AS kind, nspname AS name, nspowner AS owner FROM pg_namespace WHERE oid = {_HERE}
        UNION ALL SELECT 'table', relname, relowner FROM pg_class WHERE relnamespace = {_HERE} AND relkind = 'r'
        UNION ALL SELECT 'function', proname, proowner FROM pg_proc WHERE pronamespace = {_HERE}
    ) AS o JOIN pg_roles AS r ON r.oid = o.owner WHERE NOT r.rolsuper AND r.oid <> ? ORDER BY 1, 2"""
# pg_has_role says yes for every superuser: so the members are looked up, and asked one by one.
_MEMBERS = """
    WITH RECURSIVE members (oid) AS (
        SELECT oid FROM pg_roles WHERE rolname IN (?, ?)
        UNION SELECT m.member FROM pg_auth_members AS m JOIN members AS p ON p.oid = m.roleid
    )
    SELECT r.rolname FROM members JOIN pg_roles AS r USING (oid) WHERE r.oid <> ? AND pg_has_role(r.oid, ?, 'MEMBER') ORDER BY 1"""
_TABLES = f"""
    SELECT c.relname, c.relpersistence::text, c.relrowsecurity OR EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid),
           EXISTS (SELECT FROM pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent))
    FROM pg_class AS c WHERE c.relnamespace = {_HERE} AND c.relkind = 'r' ORDER BY 1"""


def problems(connection: Connection, tables: Collection[str]) -> Iterator[str]:
    """What lets somebody but the owner change the rows of these tables of the current schema, or what is taken for them."""
    row = connection.execute(_OWNER).fetchone()
    if row is None:
        return
    owner: int = row[0]
    yield from _grants(connection, tables, owner)
    for kind, name, other in connection.execute(_OWNED, (owner,)):
        if kind != "table" or name in tables:
            yield f"the {kind} {brief(name)} belongs to {other}, who does not own the store"
    for member in connection.execute(_MEMBERS, (WRITER, READER, owner, owner)):
        yield f"{member[0]} is of {WRITER} or {READER}, and may act as the owner of the store"
    for name, persistence, has_policies, has_relatives in connection.execute(_TABLES):
        if name not in tables:
            continue
        if persistence != "p":
            yield f"the table {name} is not kept over a crash of the server"
        if has_policies:
            yield f"the table {name} has row security, which hides rows and refuses others"
        if has_relatives:
            yield f"the table {name} inherits, or is inherited: rows of another table are taken for its own"


def _grants(connection: Connection, tables: Collection[str], owner: int) -> Iterator[str]:
    for role, table, right in connection.execute(_ON_TABLES):
        if table in tables and right != "SELECT" and not (role == WRITER and right == "INSERT" and table != "schema_versions"):
            yield f"{role} may {right} on {table}"
    for role, column, right in connection.execute(_ON_COLUMNS):
        if column.partition(".")[0] in tables and right != "SELECT":
            yield f"{role} may {right} on {column}"
    for role, schema, right in connection.execute(_ON_SCHEMA):
        if right != "USAGE":
            yield f"{role} may {right} in the schema {schema}"
    for role, maker, right in connection.execute(_BY_DEFAULT.format(owner=int(owner))):
        if right != "SELECT":
            yield f"{role} may {right} on every table that {maker} makes"
