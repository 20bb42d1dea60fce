"""The kinds of values that settings have, with the checks that belong to them."""

from __future__ import annotations

import inspect
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError


def mistake(problem: str, *, other: str = "", needs: tuple[str, ...] = ()) -> PydanticCustomError:
    """A mistake in one field. `problem` goes on after the field's name; "{other}" in it stands for the field `other` beside it.

    "{needs}" stands for how to give one of the fields of these names: variables, arguments, keys of the TOML file.
    """
    return PydanticCustomError("mistake", "mistake", {"problem": problem, "other": other, "needs": needs})


def missing(what: str, *names: str) -> PydanticCustomError:
    """None of the fields of these names is given, and one of them has to be; `what` is what they stand for."""
    return PydanticCustomError("missing_all", "missing", {"what": what, "needs": names})


def _number(value: Any) -> Any:
    """True and False are numbers to Python; as a setting they are a mistake."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "no number")
    return value


Count = Annotated[int, BeforeValidator(_number)]
"""A whole number."""


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ms|[smhd])")


def _seconds(value: Any) -> Any:
    """Durations as Vault writes them ("30s", "1h30m"), besides plain numbers of seconds."""
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "no number")
    if isinstance(value, str) and re.fullmatch(f"(?:{_DURATION.pattern})+", value.strip()):
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


def bare(text: str) -> bool:
    """It can stand in a header of a request."""
    return text.isascii() and text.isprintable() and " " not in text


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not text:
        raise mistake("is empty: give a value, or leave it out")
    # An HTTP library that refuses such a header puts it, secret and all, into the text of its exception.
    if not bare(text):
        raise mistake("holds a space, a line break or another character that it can't have: give the bare value")
    return SecretStr(text)


Secret = Annotated[SecretStr, AfterValidator(_secret)]


def _header(value: str) -> str:
    if not bare(value):
        raise mistake("holds a space, a line break or another character that it can't have: give the bare value")
    return value


HeaderText = Annotated[str, AfterValidator(_header), Field(min_length=1)]
"""A text that goes into a header of a request."""


def _path(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError:
        raise mistake("starts with ~ but no home directory is known: give the whole path") from None


def _file(value: Path) -> Path:
    # Not opened: to open a named pipe waits for its writer, and to close it again breaks that.
    try:
        directory = stat.S_ISDIR(value.stat().st_mode)
        why = "is a directory" if directory else "" if os.access(value, os.R_OK) else "cannot be read"
    except OSError as error:
        why = trouble(error)
    if why:
        raise mistake(f"names {shown(value)} which {why}: name one that this process can read")
    return value


def _directory(value: Path) -> Path:
    if not value.is_dir():
        raise mistake(f"names {shown(value)} which is no directory: name one of CA certificates")
    return value


def shown(value: Path) -> str:
    """A bare word may be the secret itself, given where its file was asked for; a path with folders is not."""
    return "a file," if value.parent == Path() else f"{value},"


def trouble(error: OSError) -> str:
    """Why a file cannot be read, as the end of "FILE, which …"."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "does not exist"
        case IsADirectoryError():
            return "is a directory"
        case _:
            return "cannot be read"


UserPath = Annotated[Path, AfterValidator(_path)]
ReadableFile = Annotated[UserPath, AfterValidator(_file)]
Directory = Annotated[UserPath, AfterValidator(_directory)]


def _mount(value: str) -> str:
    bare = value.strip("/")
    if any(part in {"", ".", ".."} for part in bare.split("/")) or re.search(r"[\s?#%\\]", bare) or not bare.isprintable():
        raise mistake("is no path of a Vault mount: give it as `vault secrets list` or `vault auth list` shows it")
    return bare


Mount = Annotated[str, AfterValidator(_mount)]


def _username(value: str) -> str:
    if not value or not value.isprintable() or re.search(r"[\s/?#%\\]", value) or value in {".", ".."}:
        raise mistake("is no user name that Vault takes: it has no spaces and none of / ? # % in it")
    return value


Username = Annotated[str, AfterValidator(_username)]


def _role(value: str) -> str:
    if not re.fullmatch(r"\w(?:[\w.-]*\w)?", value, re.ASCII):
        raise mistake(
            "is no name of a Vault role: it has letters, digits, and - _ . inside; give it as `vault list MOUNT/roles` shows it"
        )
    return value


Role = Annotated[str, AfterValidator(_role)]


def takes(function: object, *arguments: object) -> bool:
    """Whether it can be called with these, as far as anybody can tell."""
    try:
        inspect.signature(cast(Callable[..., object], function)).bind(*arguments)
    except TypeError:
        return False
    except (ValueError, NameError):  # of some written in C nobody knows; annotations that Python 3.14 evaluates only now
        return True
    return True


AWAITABLE = ("Awaitable", "Coroutine", "Future", "Task", "Any", "object")
"""Words of the annotation of a function that may well return what can be awaited."""


def plain(function: object) -> bool:
    """Whether it is surely no coroutine function: written with def, not wrapped around another, nor said to return an awaitable."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        return False
    returns = "Any"
    with suppress(NameError):  # Python 3.14 evaluates it only now
        returns = str(function.__annotations__.get("return", ""))
    wrapping = function.__name__ == "<lambda>" or hasattr(function, "__wrapped__")
    return not wrapping and not any(word in returns for word in AWAITABLE)
