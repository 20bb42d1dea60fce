"""PostgreSQL roles as Vault's postgresql-database-plugin creates, prolongs and drops them."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable
from datetime import UTC, datetime

from psycopg import Connection, sql

from vault_pg.dev.vault.tokens import letters

MOST_NAME = 63
RENEW = """ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}';"""
ROTATE = """ALTER USER "{{name}}" WITH PASSWORD '{{password}}';"""


def username(display_name: str, role: str, epoch: int) -> str:
    return f"v-{display_name[:8]}-{role[:8]}-{letters(20)}-{epoch}"[:MOST_NAME]


def password() -> str:
    """20 characters, at least one of each kind, as Vault's default password policy has it."""
    kinds = (string.ascii_lowercase, string.ascii_uppercase, string.digits, "-")
    chosen = [secrets.choice(kind) for kind in kinds]
    chosen += [secrets.choice("".join(kinds)) for _ in range(20 - len(kinds))]
    secrets.SystemRandom().shuffle(chosen)
    return "".join(chosen)


def execute(conn: Connection, statements: Iterable[str], *, name: str, password: str = "", end: float | None = None) -> None:
    """Run the operator's statements in one transaction, with Vault's placeholders filled in."""
    expiration = "" if end is None else datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M:%S%z")
    with conn.transaction():
        for statement in statements:
            text = statement
            for placeholder, value in (("name", name), ("username", name), ("password", password), ("expiration", expiration)):
                text = text.replace("{{" + placeholder + "}}", value)
            # As bytes: it is the operator's own SQL, which is not known when this is written.
            conn.execute(text.encode())


GRANTED_SCHEMAS = """
SELECT DISTINCT nspname FROM pg_shdepend AS dependency
JOIN pg_roles ON pg_roles.oid = refobjid AND refclassid = 'pg_authid'::regclass
JOIN pg_class ON pg_class.oid = objid AND classid = 'pg_class'::regclass
JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_database ON pg_database.oid = dbid AND datname = current_database()
WHERE rolname = %s AND dependency.deptype = 'a'
"""
"""The schemas with tables that a role has rights on. (Vault asks information_schema.role_column_grants, which takes 25 ms.)"""


def exists(conn: Connection, name: str) -> bool:
    return conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None


def drop(conn: Connection, name: str) -> None:
    """Take every right from the role, then drop it. A role that is gone already is fine; one that owns objects is refused."""
    if not exists(conn, name):
        return
    role = sql.Identifier(name)
    granted = conn.execute(GRANTED_SCHEMAS, [name])
    for schema in dict.fromkeys([*(schema for (schema,) in granted), "public"]):
        target = sql.Identifier(schema)
        conn.execute(sql.SQL("REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA {} FROM {}").format(target, role))
        conn.execute(sql.SQL("REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA {} FROM {}").format(target, role))
        conn.execute(sql.SQL("REVOKE USAGE ON SCHEMA {} FROM {}").format(target, role))
    conn.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(sql.Identifier(conn.info.dbname), role))
    conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
