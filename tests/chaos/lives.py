"""A program: lives of a service, one after the other, each struck by signals at moments of its own.

Plans come as JSON on standard input, what came of each goes out as JSON, a line each. Real signals, in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass, field

from tests.waiting import LONG
from vault_pg import Event, LeaseManager, LeasesLeftBehind


@dataclass(frozen=True)
class Plan:
    signal: int
    strikes: list[str]
    """Events at which the signal is sent, each once, in this order."""


@dataclass
class Outcome:
    ended: str = "returned"
    events: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    struck: int = 0


async def live(plan: Plan, outcome: Outcome) -> None:
    waiting = [*plan.strikes]

    def listen(event: Event) -> None:
        outcome.events.append(event.name)
        if isinstance(event, LeasesLeftBehind):
            outcome.left_behind.extend(event.lease_ids)
        if waiting and event.name == waiting[0]:
            waiting.pop(0)
            outcome.struck += 1
            os.kill(os.getpid(), plan.signal)

    manager = LeaseManager()
    manager.add_listener(listen)
    async with manager:
        pool = manager.get_pool()
        async with pool.connection() as conn:
            await conn.execute("select count(*) from orders")
        await manager.rotate()
        async with pool.connection() as conn:
            await conn.execute("select pg_sleep(0.05)")


def run(plan: Plan) -> Outcome:
    outcome = Outcome()
    try:
        asyncio.run(live(plan, outcome))
    except BaseException as error:  # noqa: BLE001 - how it ended is what is asked
        outcome.ended = f"{type(error).__name__} {error}".strip()
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        thread.join(LONG)  # one that is done may not have ended yet
    outcome.threads = [thread.name for thread in others if thread.is_alive()]
    return outcome


if __name__ == "__main__":
    for each in json.load(sys.stdin):
        sys.stdout.write(json.dumps(asdict(run(Plan(**each)))) + "\n")
        sys.stdout.flush()
