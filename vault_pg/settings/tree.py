"""The settings as a tree: which model stands at which path, and which environment variable belongs to which field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Path: TypeAlias = tuple[str, ...]
"""Keys from the root, as the TOML file has them: ("databases", "default", "role")."""

DEFAULT_DATABASE = "default"

TAGS = {"method": "login method", "kind": "kind of source"}
"""Fields that tell which of a union a table is, and what messages call that."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Marks a field: the environment variable that it is read from, unless a `stronger` one is set."""

    name: str
    stronger: str | None = None


class Entry(NamedTuple):
    """One setting."""

    path: Path
    method: str
    """The login method, or the kind of source, that has it; "" for all other settings."""
    field: FieldInfo
    variable: str | None


class Place(NamedTuple):
    path: Path
    models: tuple[type[BaseModel], ...]
    """The model that stands there, or those of a union."""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def tag_of(model: type[BaseModel]) -> str:
    """The name of the field that tells which of a union the model is, "" where it is of none."""
    return next((name for name in TAGS if name in model.model_fields), "")


def method_of(model: type[BaseModel]) -> str:
    """The login method, or the kind of source, that the model is for; "" for any other model."""
    tag = tag_of(model)
    return str(model.model_fields[tag].default) if tag else ""


def variable_of(field: FieldInfo) -> str | None:
    return next((mark.name for mark in field.metadata if isinstance(mark, Variable)), None)


def stronger_of(field: FieldInfo) -> str | None:
    return next((mark.stronger for mark in field.metadata if isinstance(mark, Variable)), None)


def entries(model: type[BaseModel], path: Path = ()) -> Iterator[Entry]:
    """All settings below `model`, those of the database "default" standing for those of any."""
    for name, field in model.model_fields.items():
        inner = list(models_in(field.annotation))
        here = (*path, name, DEFAULT_DATABASE) if get_origin(field.annotation) is dict and inner else (*path, name)
        for each in inner:
            yield from entries(each, here)
        if not inner:
            yield Entry(here, method_of(model), field, variable_of(field))


def place(root: type[BaseModel], keys: Sequence[str]) -> Place:
    """Follow one of pydantic's locations, in which the tag of a union is a level of its own; paths have no such level."""
    path: list[str] = []
    models: tuple[type[BaseModel], ...] = (root,)
    named = False
    for key in keys:
        chosen = [model for model in models if len(models) > 1 and method_of(model) == key]
        if chosen:
            models = (chosen[0],)
            continue
        field = None if named else models[0].model_fields.get(key)
        if field is not None:
            models = tuple(models_in(field.annotation)) or models
        named = field is not None and get_origin(field.annotation) is dict
        path.append(key)
    return Place(tuple(path), models)
