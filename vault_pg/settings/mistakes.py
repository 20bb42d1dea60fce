"""pydantic's errors as sentences: where the value came from, what is wrong with it, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from vault_pg.settings.tree import DEFAULT_DATABASE, TAGS, Path, Place, entries, method_of, place, tag_of, variable_of

Where: TypeAlias = Callable[[Path], str]
"""Names the source of the value at a path: "environment variable VAULT_PG_ROLE"."""

PROBLEMS = {
    "bool_parsing": "is neither true nor false: give one of them, or 1 or 0",
    "bool_type": "is neither true nor false: give one of them, or 1 or 0",
    "int_parsing": "is not a whole number: give one such as 4",
    "int_parsing_size": "is too large a number: give one such as 4",
    "int_type": "is not a whole number: give one such as 4",
    "int_from_float": "is not a whole number: give one such as 4",
    "float_parsing": "is not a number of seconds: give one such as 30 or 30s",
    "float_type": "is not a number of seconds: give one such as 30 or 30s",
    "finite_number": "is not a number of seconds: give one such as 30 or 30s",
    "string_type": "is not a text: give it as a string",
    "string_too_short": "is empty: give a value, or leave it out",
    "path_type": "is not a path: give it as a string",
    "callable_type": "is no Python function: pass one as an argument of {model}",
    "is_type": "is no Python class: pass one as an argument of {model}",
    "dict_type": "is not a table of names and values: give it as one",
    "model_type": "is not a table of settings: give it as one",
    "model_attributes_type": "is not a table of settings: give it as one",
}
"""What follows the name of the value, by pydantic's type of error. None repeats the value, which may be a secret."""

BOUNDS = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
}

LONGEST_METHOD = 12
"""Letters of a word that may be meant as a login method; anything else in its place may be a token, and is not shown."""


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """The close one among `known`, or all of them where none is close; all begin with `prefix`, which makes none of them close."""
    names = sorted(known)
    close = difflib.get_close_matches(word.removeprefix(prefix), [name.removeprefix(prefix) for name in names], n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(names)}"


def sentences(error: ValidationError, root: type[BaseModel], where: Where, *, missing: bool = True) -> Iterator[str]:
    """One sentence for each mistake that pydantic found in a `root`; what is missing is left out unless `missing`."""
    for details in error.errors(include_url=False):
        if missing or details["type"] not in {"missing", "missing_all"}:
            yield _sentence(details, root, where)


def _sentence(details: ErrorDetails, root: type[BaseModel], where: Where) -> str:
    keys = [str(key) for key in details["loc"]]
    parent, name = place(root, keys[:-1]), keys[-1]
    path = (*parent.path, name)
    kind, context = details["type"], details.get("ctx", {})
    if kind == "mistake":
        other = where((*parent.path, context["other"])) if context["other"] else ""
        ways = _ways(parent, context["needs"], root) if context["needs"] else ""
        return f"{where(path)} {context['problem'].replace('{other}', other).replace('{needs}', ways)}"
    if kind == "missing_all":
        return f"no {context['what']}{_whose(parent)}: {_ways(parent, context['needs'], root)}"
    if kind == "missing":
        return _missing(parent, name, root)
    if kind == "extra_forbidden":
        return f"{where(path)} is no setting: {_suggestion(name, parent, root)}"
    if kind.startswith("union_tag"):
        return _unknown_method(str(context.get("tag", "")), place(root, keys), where)
    if kind in BOUNDS:
        return f"{where(path)} is {details['input']}: give {BOUNDS[kind].format(**context)}"
    problem = PROBLEMS.get(kind, "cannot be used: give another value")
    return f"{where(path)} {problem.replace('{model}', parent.models[0].__name__)}"


def _missing(parent: Place, name: str, root: type[BaseModel]) -> str:
    field = parent.models[0].model_fields[name]
    what = f"no {field.title or name}{_whose(parent)}"
    if get_origin(field.annotation) is Callable:
        given = f"{parent.models[0].__name__}({name}=…)"
        place = f" for the argument {'.'.join(parent.path)}" if parent.path else ""
        return f"{what}: give {given} in Python{place}, because neither the environment nor a TOML file can hold a function"
    ways = _ways(parent, (name,), root)
    if name == "role" and parent.path[:1] == ("databases",):
        ways += ", or put vault_role=… into the conninfo"
    return f"{what}: {ways}"


def _whose(parent: Place) -> str:
    """The database that it is about, where there may be others."""
    named = parent.path[:1] == ("databases",) and parent.path[1] != DEFAULT_DATABASE
    return f" for {parent.path[1]!r}" if named else ""


def _ways(parent: Place, names: Sequence[str], root: type[BaseModel]) -> str:
    """How to give one of the fields of these names, in all places where it may stand: what follows a colon."""
    dotted = " or ".join(".".join((*parent.path, name)) for name in names)
    if not issubclass(root, BaseSettings):
        return f"give {dotted} as an argument of {root.__name__}"
    fields = parent.models[0].model_fields
    variables = [] if _whose(parent) else [variable for name in names if (variable := variable_of(fields[name]))]
    by_variable = f"set {' or '.join(variables)}, or " if variables else ""
    return f"{by_variable}give {dotted} as an argument or in the TOML file"


def _suggestion(name: str, parent: Place, root: type[BaseModel]) -> str:
    """The close name beside it, else the login method (or kind of source) that has such a setting, else all that is known."""
    model = parent.models[0]
    used = method_of(model)
    owners = {entry.method for entry in entries(root) if used and entry.method and entry.path[-1] == name}
    if owners:
        tag = tag_of(model)
        return f"the {TAGS[tag]} is {used}, and {name} belongs to {' and '.join(sorted(owners))}: set {tag} to that"
    return did_you_mean(name, model.model_fields)


def _unknown_method(tag: str, union: Place, where: Where) -> str:
    known = [method_of(model) for model in union.models]
    shown = f"is {tag!r}, which" if tag.isalpha() and len(tag) <= LONGEST_METHOD else "holds what"
    close = difflib.get_close_matches(tag, known, n=1)
    hint = f"did you mean {close[0]}? Known are" if close else "give one of"
    name = tag_of(union.models[0])
    return f"{where((*union.path, name))} {shown} is no {TAGS[name]}: {hint} {', '.join(known)}"
