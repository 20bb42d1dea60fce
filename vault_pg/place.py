"""Where in the user's own code an error was raised: what may be told of it where its text may hold a secret."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb

MISTAKES = (TypeError, NameError, AttributeError, ImportError, NotImplementedError)
"""Errors of who wrote the code: trying again helps no more than waiting."""

_OURS = f"{Path(__file__).parent}/"
_PATHS = sysconfig.get_paths()
_INSTALLED = tuple(f"{_PATHS[name]}/" for name in ("purelib", "platlib"))
_STANDARD = (*(f"{_PATHS[name]}/" for name in ("stdlib", "platstdlib")), "<frozen ")


def told(error: BaseException) -> str:
    """Its type and place, `ValueError at /srv/app/login.py:12`, without its text."""
    found = place(error)
    return f"{type(error).__name__} at {found}" if found else type(error).__name__


def place(error: BaseException) -> str:
    """File and line of the last frame of the user's code, else of what the user has installed; "" where only others were at work."""
    frames = [*_foreign(error)]
    own = [frame for frame in frames if not frame.startswith(_INSTALLED)]
    return (own or frames or [""])[-1]


def _foreign(error: BaseException) -> Iterator[str]:
    for frame, line in walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        # What is installed lies inside the standard library's own folder.
        if not name.startswith(_OURS) and (name.startswith(_INSTALLED) or not name.startswith(_STANDARD)):
            yield f"{name}:{line}"
