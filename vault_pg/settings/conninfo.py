"""libpq's connection strings: what is ours in them, what must not be in them, and how to show them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from vault_pg.settings.mistakes import did_you_mean

OURS = {"vault_role": "role", "vault_mount": "mount"}
"""Parameters of a conninfo that are settings of ours."""

SUPPLIED = ("user", "password")
"""What Vault supplies."""

SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})

MAX_PORT = 65535

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


def problem(conninfo: str) -> str | None:
    """What is wrong with a conninfo, or None. libpq's own message is not repeated: it may quote a piece of a password."""
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
        return f"holds a {' and a '.join(supplied)}: take that out, Vault supplies both user and password"
    if not all(_is_port(port) for port in str(found.get("port", "")).split(",")):
        return f"has a port that is no number from 1 to {MAX_PORT}: correct it"
    return None


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
