"""The one edge where psycopg's errors become ours."""

from __future__ import annotations

import psycopg

from vault_pg import errors

_BUSY = ("too many clients", "too many connections", "remaining connection slots")
_REFUSED = ("authentication failed", "no pg_hba.conf entry", "is not permitted to log in")
_NOT_NOW = (
    "connection refused", "timeout expired", "timed out", "no route to host", "network is unreachable", "no such file or directory",
    "could not translate host name", "name or service not known", "temporary failure in name resolution", "server closed the connection",
    "starting up", "shutting down", "in recovery mode", "not yet accepting connections", "connection reset", "connection timeout",
)  # fmt: skip


def is_too_many_clients(error: Exception) -> bool:
    """The server has no connection slot left."""
    low = str(error).lower()
    return isinstance(error, psycopg.Error) and any(word in low for word in _BUSY)


def is_final(error: Exception) -> bool:
    """The server refuses the login for what it says, whenever it says it; a host that did not answer might have let it in."""
    low = str(error).lower()
    return (
        isinstance(error, psycopg.OperationalError)
        and any(word in low for word in _REFUSED)
        and not is_too_many_clients(error)
        and not any(word in low for word in _NOT_NOW)
    )


def login_fault(error: psycopg.Error, username: str, target: str) -> errors.DatabaseError:
    """What a failed login means. libpq gives no SQLSTATE for it, so the text has to be read.

    Expired, dropped and wrong credentials look the same to a client: `password authentication failed`.
    """
    text = " ".join(str(error).split())
    low = text.lower()
    if is_too_many_clients(error):
        return errors.DatabaseUnavailable(f"PostgreSQL at {target} has no connection slot left: {text}", too_many_clients=True)
    if "database" in low and "does not exist" in low and "role" not in low:
        return errors.DatabaseNotFound(f"PostgreSQL at {target} has no such database, correct dbname in the conninfo: {text}")
    gone = "role" in low and ("does not exist" in low or "is not permitted to log in" in low)
    if gone or "password authentication failed" in low:
        return errors.CredentialRejected(
            f"PostgreSQL at {target} refuses the login of {username!r}: is it the server that the credential is for (with Vault, "
            f"the one that its database connection points to), and is a replica behind? {text}"
        )
    if any(word in low for word in _NOT_NOW):
        return errors.DatabaseUnavailable(f"PostgreSQL at {target} cannot be reached, check conninfo and server: {text}")
    if isinstance(error, psycopg.OperationalError):
        return errors.DatabaseError(f"PostgreSQL at {target} refuses the connection of {username!r}: {text}")
    # PostgreSQL's own sentence, without the lines below it, which quote the statement.
    return errors.ProofFailed(
        f"the proof of a new pool at {target} failed: {type(error).__name__}: {error.diag.message_primary or text}"
    )
