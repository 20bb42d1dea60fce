"""What the manager of the demo told by its events, counted."""

from __future__ import annotations

from collections.abc import Callable

from vault_pg.events import Event, GenerationClosed, GenerationRetired, LeaseRenewed, LeaseRotated, TokenIssued, TokenRenewed


class Record:
    """A listener: `told` are the events with their times, `swaps` the times of the rotations, on the clock it was given."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.told: list[tuple[float, Event]] = []
        self.swaps: list[float] = []
        self.renewals = 0
        self.logins = 0
        self.token_renewals = 0
        self.most_generations = 1
        self._retired: set[int] = set()
        self._clock = clock

    def __call__(self, event: Event) -> None:
        self.told.append((self._clock(), event))
        match event:
            case LeaseRotated():
                self.swaps.append(self._clock())
            case LeaseRenewed():
                self.renewals += 1
            case TokenIssued():
                self.logins += 1
            case TokenRenewed():
                self.token_renewals += 1
            case GenerationRetired():
                self._retired.add(event.generation)
                self.most_generations = max(self.most_generations, 1 + len(self._retired))
            case GenerationClosed():
                self._retired.discard(event.generation)
