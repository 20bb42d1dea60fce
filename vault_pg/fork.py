"""Fork: what a child process may not do with what its parent owns.

A forked child has copies of the parent's connections, but the servers at their other ends know of one client only: whatever a child
sends, a goodbye included, they take for the parent's. Costs nothing until somebody forks.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Owns something that no child may touch."""

    def disown(self) -> None:
        """Called in a child, in its first moment: give up, with no word to anybody outside."""
        ...


_owners: WeakSet[Owner] = WeakSet()


def watch(owner: Owner) -> None:
    """Let `owner.disown()` be called in every child that is forked from now on."""
    _owners.add(owner)


def sever(descriptors: Iterable[int]) -> None:
    """Put the end of a dead connection in the place of each: what is written there, or closed, reaches nobody."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        for descriptor in descriptors:
            with suppress(OSError):
                os.dup2(ours.fileno(), descriptor, inheritable=False)


def separate(loop: asyncio.AbstractEventLoop) -> None:
    """Give the child's copy of an event loop a selector and a wake-up of its own.

    The copies of an epoll selector are one object in the kernel: a child that closes its loop, as the end of asyncio.run does, would
    take the wake-up out of its parent's, which then never hears of what its threads have done (bpo-21998). asyncio has no public way.
    """
    selector = getattr(loop, "_selector", None)
    if isinstance(loop, asyncio.SelectorEventLoop) and isinstance(selector, selectors.EpollSelector):
        with select.epoll() as fresh:
            os.dup2(fresh.fileno(), selector.fileno(), inheritable=False)
        private: Any = loop  # typeshed keeps these to itself
        private._close_self_pipe()  # noqa: SLF001 - see above: there is no public way
        private._make_self_pipe()  # noqa: SLF001


def sentence(what: str, parent: int) -> str:
    """What to tell whoever uses something of the parent's."""
    return (
        f"{what} belongs to process {parent}, which this one was forked from, and cannot be used here: "
        "enter a LeaseManager in each process, after the fork (in the worker's own start or lifespan, not when its modules are loaded)"
    )


def _in_child() -> None:
    for owner in [*_owners]:
        with suppress(Exception):  # nobody is there to be told, and the others have to come to their turn
            owner.disown()


os.register_at_fork(after_in_child=_in_child)
