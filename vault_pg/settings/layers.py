"""Where settings come from, and how the sources are laid over each other, field by field.

Each source becomes a layer: a flat table of the values it gives, by path. Laying the layers on each other, the weakest first, is then
one update after the other, and each value keeps the name of its source for the mistakes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from tomllib import TOMLDecodeError
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, TomlConfigSettingsSource

from vault_pg.settings import conninfo, source
from vault_pg.settings.auth import METHODS, AuthMethod
from vault_pg.settings.mistakes import did_you_mean
from vault_pg.settings.source import FROM_VAULT
from vault_pg.settings.tree import DEFAULT_DATABASE, TAGS, Entry, Path, entries, stronger_of
from vault_pg.settings.values import trouble
from vault_pg.source import CredentialSource

CONFIG = "VAULT_PG_CONFIG"
PREFIX = "VAULT_PG_"

NOT_OURS = re.compile(
    r"""VAULT_PG_(TEST_|LOG
    |(.*_)?SERVICE_(HOST|PORT(_.*)?)$
    |(.*_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$)""",
    re.VERBOSE,
)
"""Variables that are no settings: of the tests, of logging, and those that Kubernetes makes for a service called vault-pg or vault-pg-…."""

VAULT: Path = ("vault",)
AUTH: Path = ("vault", "auth")
METHOD: Path = ("vault", "auth", "method")
TOKEN: Path = ("vault", "auth", "token")
TOKEN_FILE: Path = ("vault", "auth", "token_file")
DATABASES: Path = ("databases",)
SOURCE = "source"
KIND: Path = ("databases", DEFAULT_DATABASE, SOURCE, "kind")


@dataclass(frozen=True)
class Layer:
    """What one source gives."""

    values: dict[Path, Any]
    """By path, tables before what stands in them; the value of a table is an empty dict."""
    where: Callable[[Path], str]

    def databases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path[1] for path in self.values if path[:1] == DATABASES and len(path) > 1))


class Unreadable(Exception):
    """A source that cannot be read; the text is a mistake."""


def keywords(data: Mapping[str, Any]) -> Layer:
    # TokenAuth(token=None) asks for no login without a token: it leaves the token to the other sources.
    values = {path: value for path, value in _flat(data) if path not in {TOKEN, TOKEN_FILE} or value is not None}
    return Layer(values, lambda path: f"argument {'.'.join(path)}")


def environment(root: type[BaseModel], *chosen: object) -> Layer:
    """The variables of all settings, of login methods and kinds of sources those `chosen` alone. Empty variables count as not set."""
    names = {
        entry.path: _variable(entry)
        for entry in entries(root)
        if (entry.variable and entry.method in {"", *chosen}) or entry.path in {METHOD, KIND}
    }
    given = {path: os.environ[name] for path, name in names.items() if name and os.environ.get(name, "").strip()}
    direct = len((*DATABASES, DEFAULT_DATABASE, "role"))
    table: dict[str, Any] = {path[-1]: value for path, value in given.items() if path[:1] == DATABASES and len(path) == direct}
    values = {(*DATABASES, DEFAULT_DATABASE, name): value for name, value in conninfo.absorb(table).items()}
    deep = {path: value for path, value in given.items() if path[:1] != DATABASES or len(path) > direct}
    # Tables before what stands in them.
    values |= {path[:-1]: {} for path in deep if path[:1] == DATABASES} | deep

    def where(path: Path) -> str:
        # A role out of the conninfo has no variable of its own.
        if path == KIND[:-1]:
            return f"environment variable {names[KIND]}"
        held = path if path in given else (*path[:-1], "conninfo")
        return f"environment variable {names.get(held) or names[path]}"

    return Layer(values, where)


def misspelt(root: type[BaseModel]) -> Iterator[str]:
    """A mistake for each variable that looks like one of ours and is none."""
    known = {entry.variable for entry in entries(root) if entry.variable} | {CONFIG}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and not NOT_OURS.match(name):
            ours = {other for other in known if other.startswith(PREFIX)}
            yield f"environment variable {name} is no setting: {did_you_mean(name, ours, prefix=PREFIX)}"


def toml(root: type[BaseSettings]) -> Layer:
    """The file that VAULT_PG_CONFIG names, if it names one. Raises Unreadable."""
    name = os.environ.get(CONFIG, "").strip()
    if not name:
        return Layer({}, str)
    file = FilePath(name)
    try:
        file = file.expanduser()
        with file.open("rb"):  # the source passes over a file that it does not find
            data = TomlConfigSettingsSource(root, toml_file=file)()
    except OSError as error:
        reason = f"which {trouble(error)}: name a TOML file that this process can read"
    except TOMLDecodeError as error:
        reason = f"which is no valid TOML: {error}"
    except (UnicodeDecodeError, RecursionError, RuntimeError):
        reason = "which is no valid TOML: give a TOML file in UTF-8"
    else:
        return Layer(dict(_flat(data)), lambda path: f"{'.'.join(path)} in {file}")
    raise Unreadable(f"environment variable {CONFIG} names {file}, {reason}")


def token_file() -> Layer:
    """The file in which `vault login` left a token in the home directory, if it did. Raises Unreadable."""
    file = FilePath("~/.vault-token")
    try:
        file = file.expanduser()
        text = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        text = ""
    except RuntimeError:  # no home directory
        text = ""
    except (OSError, UnicodeDecodeError):
        text = None
    if text is None:
        raise Unreadable(
            "~/.vault-token cannot be read: make it a file that this process can read, remove it, or set VAULT_TOKEN"
        )
    return Layer({TOKEN_FILE: file} if text else {}, lambda _: "vault.auth.token_file (default)")


def lay(layers: list[Layer], method: object) -> tuple[dict[Path, Any], dict[Path, str]]:
    """The values of all layers (the weakest first) laid on each other, and the name of the source of each."""
    auth = METHODS.get(method, AuthMethod) if isinstance(method, str) else AuthMethod
    values: dict[Path, Any] = {}
    origins: dict[Path, str] = {}
    for layer in layers:
        given = _of_method(layer.values, method)
        replaced = {path for path in values if path[:-1] == AUTH and path[-1] in auth.alternatives and _gives(given, auth)}
        values = {path: value for path, value in values.items() if path not in replaced}
        values = {
            path: value
            for path, value in values.items()
            if not _other_source(path, values, given) and not _role_of_another(path, given)
        } | given
        origins |= {path: layer.where(path) for path in given}
    return values, origins


def kind_of(layers: list[Layer], name: str) -> object:
    """The kind of source that a database has by the strongest layer (the last) that says; an object of the user's, where that is it."""
    source: Path = (*DATABASES, name, SOURCE)
    for layer in reversed(layers):
        if layer.values.get(source, {}) != {}:
            return layer.values[source]
        if (*source, "kind") in layer.values:
            return layer.values[(*source, "kind")]
    return "dynamic"


def _other_source(path: Path, values: Mapping[Path, Any], given: Mapping[Path, Any]) -> bool:
    """It belongs to the source of a database that a stronger layer gives another source."""
    source, kind = path[: len(KIND) - 1], (*path[: len(KIND) - 1], "kind")
    if source[:1] != DATABASES or source[-1] != SOURCE:
        return False
    return given.get(source, {}) != {} or (kind in given and given[kind] != values.get(kind, given[kind]))


def _role_of_another(path: Path, given: Mapping[Path, Any]) -> bool:
    """It is Vault's role for a database that a stronger layer gives a source without roles."""
    if path[:1] != DATABASES or path[2:] not in {("role",), ("mount",)}:
        return False
    source: Path = (*path[:2], SOURCE)
    return given.get(source, {}) != {} or given.get((*source, "kind"), FROM_VAULT[0]) not in FROM_VAULT


def nested(values: Mapping[Path, Any]) -> dict[str, Any]:
    """The flat table as the tree that it stands for. Below a value that is no table, nothing is put."""
    tree: dict[str, Any] = {}
    for path in sorted(values, key=len):
        table: Any = tree
        for key in path[:-1]:
            table = table.setdefault(key, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            value = values[path]
            table[path[-1]] = {} if is_table(path) and isinstance(value, dict) else value
    return tree


def _variable(entry: Entry) -> str | None:
    """The variable that counts: the stronger one where that is set."""
    stronger = stronger_of(entry.field)
    return stronger if stronger and os.environ.get(stronger, "").strip() else entry.variable


def _of_method(values: dict[Path, Any], method: object) -> dict[Path, Any]:
    """A layer that logs in by another method has nothing to say about this one."""
    if values.get(METHOD, method) == method:
        return values
    return {path: value for path, value in values.items() if path[: len(AUTH)] != AUTH}


def _gives(values: Mapping[Path, Any], auth: type[AuthMethod]) -> bool:
    return any(values.get((*AUTH, name)) is not None for name in auth.alternatives)


def _flat(table: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, each in table.items():
        here = (*path, str(key))
        value = source.table(each) if _is_source(here) else each
        inner = _table(value) if is_table(here) else None
        if inner is None:
            yield here, value
        else:
            yield here, {}
            yield from _flat(conninfo.absorb(inner) if here[:1] == DATABASES and len(here) > 1 else inner, here)


def is_table(path: Path) -> bool:
    return path in {VAULT, AUTH, DATABASES} or (path[:1] == DATABASES and len(path) == len(DATABASES) + 1) or _is_source(path)


def _is_source(path: Path) -> bool:
    return path[:1] == DATABASES and path[-1] == SOURCE and len(path) == len(KIND) - 1


def _table(value: object) -> Mapping[str, Any] | None:
    """Of a model only what its maker set, so that the rest can still come from a weaker source."""
    if isinstance(value, BaseModel) and not isinstance(value, CredentialSource):
        names = value.model_fields_set | {name for name in TAGS if name in type(value).model_fields}
        return {name: getattr(value, name) for name in names}
    return value if isinstance(value, Mapping) else None
