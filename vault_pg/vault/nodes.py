"""The addresses of one Vault: which one is asked first, and what it means when none of them answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from vault_pg.errors import VaultSealed, VaultUnavailable


class Nodes:
    """Addresses in the order in which they are asked: the one that answered last comes first. Thread-safe."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._order = tuple(addresses)

    @property
    def order(self) -> tuple[str, ...]:
        with self._lock:
            return self._order

    def answered(self, address: str) -> None:
        """It comes first from now on."""
        with self._lock:
            self._order = (address, *(other for other in self._order if other != address))

    def failed(self, address: str) -> None:
        """It comes last from now on; the others keep their order."""
        with self._lock:
            self._order = (*(other for other in self._order if other != address), address)


def none_answers(failures: Sequence[VaultUnavailable]) -> VaultUnavailable:
    """The failures of all nodes as one error; VaultSealed only where every one of them is sealed."""
    if len(failures) == 1:
        return failures[0]
    waits = [failure.retry_after for failure in failures if failure.retry_after is not None]
    kind = VaultSealed if all(isinstance(failure, VaultSealed) for failure in failures) else VaultUnavailable
    return kind(
        f"none of {len(failures)} addresses of Vault answers: {'; '.join(map(str, failures))}",
        retry_after=min(waits, default=None),
        hopeless=all(failure.hopeless for failure in failures),
    )
