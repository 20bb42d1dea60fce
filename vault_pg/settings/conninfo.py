"""libpq's connection strings: what is ours in them, what must not be in them, and how to show them."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from vault_pg.settings.mistakes import did_you_mean

OURS = {"vault_role": "role", "vault_mount": "mount"}
"""Parameters of a conninfo that are settings of ours."""

SUPPLIED = ("user", "password")
"""What the source of the credential supplies, Vault or another."""

SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})

MAX_PORT = 65535

NOWHERE = "/nonexistent/vault_pg"
"""A directory of a server's socket that no server has."""

# libpq refuses names that it does not know, so it can't be asked to split a conninfo that has vault_role in it.
_PAIR = re.compile(r"\s*(?P<name>[^\s=]+)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", re.DOTALL)


class Part(NamedTuple):
    """One parameter: its text as it stands, its name, its value decoded."""

    text: str
    name: str
    value: str


class Split(NamedTuple):
    """A conninfo: what stands before the parameters, and the parameters. The server's part of a URI is left as it is."""

    head: str
    parts: list[Part]
    uri: bool

    def join(self, parts: list[Part]) -> str:
        if not self.uri:
            return " ".join(part.text for part in parts)
        return self.head + "?" * bool(parts) + "&".join(part.text for part in parts)


def split(conninfo: str) -> Split | None:
    """None where it is malformed."""
    conninfo = conninfo.strip()
    if conninfo.startswith(("postgresql://", "postgres://")):
        head, _, query = conninfo.partition("?")
        pieces = [(text, *text.partition("=")[::2]) for text in query.split("&") if text]
        return Split(head, [Part(text, unquote(name), unquote(value)) for text, name, value in pieces], uri=True)
    matches = list(_PAIR.finditer(conninfo))
    if "".join(match[0] for match in matches).strip() != conninfo.strip():
        return None
    return Split("", [Part(match[0].strip(), match["name"], _unquoted(match["value"])) for match in matches], uri=False)


def _unquoted(value: str) -> str:
    inner = value[1:-1] if value.startswith("'") else value
    return re.sub(r"\\(.)", r"\1", inner, flags=re.DOTALL)


def absorb(table: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one database from one source, with vault_role and vault_mount taken out of the conninfo.

    A conninfo that contradicts the role or mount beside it, or itself, keeps them, for `problem` to tell.
    """
    values = dict(table)
    conninfo = values.get("conninfo")
    parsed = split(conninfo) if isinstance(conninfo, str) else None
    if parsed is None:
        return values
    taken: dict[str, Any] = {}
    for part in parsed.parts:
        setting = OURS.get(part.name)
        if setting is not None and taken.setdefault(setting, values.get(setting) or part.value) != part.value:
            return values
    if taken:
        values |= taken
        values["conninfo"] = parsed.join([part for part in parsed.parts if part.name not in OURS])
    return values


def masked(conninfo: str) -> str:
    """The conninfo to show: no secret in it."""
    parsed = split(conninfo)
    if parsed is None or (parsed.uri and "@" in conninfo):
        return "***"
    return parsed.join([Part(f"{part.name}=***", "", "") if part.name in SECRETS else part for part in parsed.parts])


def problem(conninfo: str, *, supplier: str = "Vault") -> str | None:
    """What is wrong with a conninfo, or None. libpq's own message is not repeated where it may quote a piece of a password."""
    parsed = split(conninfo)
    doubled = [part.name for part in parsed.parts if part.name in OURS] if parsed else []
    if doubled:
        return f"says {doubled[0]}, and another {OURS[doubled[0]]} is given beside it: give only one of them"
    if not conninfo:
        return None
    from psycopg import Error, pq  # noqa: PLC0415 - settings alone must not cost the import of psycopg
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        found = conninfo_to_dict(conninfo)
    except Error:
        return _malformed(conninfo, parsed, {option.keyword.decode() for option in pq.Conninfo.get_defaults()})
    supplied = [name for name in SUPPLIED if name in found]
    if supplied:
        return f"holds a {' and a '.join(supplied)}: take that out, {supplier} supplies both user and password"
    if not all(_is_port(port) for port in str(found.get("port", "")).split(",")):
        return f"has a port that is no number from 1 to {MAX_PORT}: correct it"
    return _refused(found)


def problem_of_arguments(conninfo: str, arguments: Mapping[str, Any], connection_class: type[Any] | None) -> str | None:
    """What is wrong with arguments of psycopg's `connect` beside a good conninfo, or None."""
    from psycopg import AsyncConnection, pq  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    ours = inspect.getattr_static(AsyncConnection, "connect")
    if inspect.getattr_static(connection_class or AsyncConnection, "connect") is not ours:
        return None  # nobody knows what another takes
    own = inspect.signature(AsyncConnection.connect).parameters.keys()
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    unknown = next((name for name in arguments if name not in own | known), None)
    if unknown is not None:
        return f"holds {unknown}, which neither psycopg's connect nor libpq knows: {_hint(unknown, known | own)}"
    return _refused(conninfo_to_dict(conninfo) | {name: value for name, value in arguments.items() if name in known})


def _refused(params: Mapping[str, Any]) -> str | None:
    """What libpq says of the values, which it looks at as it begins to connect: an unknown service, a sslmode that is none.

    It is let begin, towards a place that does not exist; where it comes that far there is nothing to say.
    """
    from psycopg import pq  # noqa: PLC0415
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415

    aside = {"host": NOWHERE, "hostaddr": "", "port": "", "user": "nobody", "password": "none"}
    attempt = pq.PGconn.connect_start(make_conninfo("", **dict(params) | aside).encode())
    said = attempt.get_error_message().strip()
    attempt.finish()
    if NOWHERE in said:
        return None
    if SECRETS & params.keys():
        return "has a value that libpq refuses: correct it"
    if blamed := _variables_that_say(said, params):
        return f"is completed by {blamed}, which libpq refuses, {said}: correct that"
    return f"is refused by libpq, {said}: correct it"


def _variables_that_say(said: str, params: Mapping[str, Any]) -> str:
    """The variables of libpq whose value it quotes, where the conninfo itself says nothing of that."""
    from psycopg import pq  # noqa: PLC0415

    open_ones = {
        option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar and option.keyword.decode() not in params
    }
    guilty = [name for name in sorted(open_ones) if (value := os.environ.get(name)) and f'"{value}"' in said]
    return f"environment variable {' and '.join(guilty)}" if guilty else ""


def _is_port(text: str) -> bool:
    return not text or (text.isdecimal() and 0 < int(text) <= MAX_PORT)


def _malformed(conninfo: str, parsed: Split | None, known: set[str]) -> str:
    if parsed is not None:
        unknown = next((part.name for part in parsed.parts if part.name not in known), None)
        # A word that a badly quoted password left over is not shown, nor is any other that may be one.
        if unknown is not None and unknown.isidentifier() and not _may_hold_secret(conninfo):
            return f"has a parameter {unknown}, which libpq does not know: {_hint(unknown, known)}"
    return (
        "is malformed: give libpq's keywords, such as host=db.internal dbname=app, "
        "or a URI, such as postgresql://db.internal:5432/app?sslmode=verify-full"
    )


def _may_hold_secret(conninfo: str) -> bool:
    """Loosely: of a conninfo that libpq does not understand, nobody knows where a password begins and ends."""
    return "@" in conninfo or any(name in conninfo for name in SECRETS)


def _hint(unknown: str, known: set[str]) -> str:
    hint = did_you_mean(unknown, known | OURS.keys())
    return hint if hint.startswith("did") else "take it out, or correct its name"
