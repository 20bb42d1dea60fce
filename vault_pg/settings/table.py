"""The settings as rows of a table, for the README and for whoever lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pydantic.fields import FieldInfo

from vault_pg.settings.auth import METHODS
from vault_pg.settings.layers import KIND, METHOD
from vault_pg.settings.settings import Settings
from vault_pg.settings.source import KINDS
from vault_pg.settings.tree import Path, entries


class Row(NamedTuple):
    """One setting."""

    name: str
    """As in the TOML file; those of the database "default" stand for those of any."""
    variable: str | None
    """The environment variable, None where there is none."""
    default: str
    """The word "required", nothing where the setting is off by default, else the value as TOML has it."""
    description: str


def rows() -> Iterator[Row]:
    """A row for each setting, in the order of the classes."""
    chosen: dict[Path, Iterable[str]] = {METHOD: METHODS, KIND: KINDS}
    seen = set[Path]()
    for entry in entries(Settings):
        name, description = ".".join(entry.path), entry.field.description or ""
        if entry.path in chosen:
            if entry.path in seen:
                continue
            seen.add(entry.path)
            description = f"{description}: {', '.join(chosen[entry.path])}"
        elif entry.method:
            name = f"{name} ({entry.method})"
        yield Row(name, entry.variable, _default(entry.field), description)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    match field.default:
        case bool():
            return str(field.default).lower()
        case int() | float():
            return f"{field.default:g}"
        case str():
            return field.default
        case _:
            return ""
