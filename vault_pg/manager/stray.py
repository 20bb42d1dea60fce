"""Strays: managers that nobody has left when the interpreter ends, because their event loop was closed or stopped under them.

They are left then. Where the loop is closed their tasks will never run again, but leases can be revoked from any other loop.
"""

from __future__ import annotations

import atexit
from contextlib import suppress
from typing import Protocol


class Stray(Protocol):
    def end_stray(self) -> None: ...


_entered: list[Stray] = []
"""Held, so that one that its program has forgotten is not collected with its tasks pending."""


def add(manager: Stray) -> None:
    # Not at import: what is registered last comes first, and this needs what other modules register.
    atexit.unregister(_end_all)
    atexit.register(_end_all)
    _entered.append(manager)


def remove(manager: Stray) -> None:
    if manager in _entered:
        _entered.remove(manager)


def _end_all() -> None:
    for manager in [*_entered]:
        with suppress(BaseException):  # its events have told what there is to tell, and the others have to come to their turn
            manager.end_stray()
        remove(manager)
