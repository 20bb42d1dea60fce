"""The source that docs/sources.md shows does what is said of it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_sources import world
from vault_pg import CredentialSource, errors
from vault_pg.events import LeaseLost, LeaseRenewed, LeaseRevoked, LeaseRotated

pytestmark = pytest.mark.looptime

TEXT = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()


@dataclass
class User:
    name: str
    password: str = "pw"


class Client:
    """The broker's."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.made = 0
        self.quota = 10

    async def create(self) -> User | None:
        if self.made == self.quota:
            return None
        self.made += 1
        self.users.append(f"user-{self.made}")
        return User(self.users[-1])

    async def extend(self, _: str, increment: float) -> float:
        return increment

    async def drop(self, name: str) -> None:
        self.users.remove(name)

    async def knows(self, name: str) -> bool:
        return name in self.users


def broker(client: Client) -> CredentialSource:
    blocks = re.findall(r"```python\n(.*?)```", TEXT.partition("## A source of your own")[2], re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[0], names)  # noqa: S102 - what the page shows is what is tried
    source: CredentialSource = names["Broker"](client)
    return source


async def test_it_is_renewed_rotated_looked_up_and_revoked() -> None:
    client = Client()
    async with world(lambda _: broker(client)) as w:
        await asyncio.sleep(1500)
        assert len(w.of(LeaseRenewed)) >= 2
        await w.keeper.rotate()
        await w.settle()
        assert [event.lease_id for event in w.of(LeaseRevoked)] == ["user-1"]
        client.users.clear()
        w.keeper.suspicion.raise_()
        await w.settle()
        assert [event.why for event in w.of(LeaseLost)] == ["the broker no longer knows user-2"]
        assert await w.serves() == "user-3"
        assert len(w.of(LeaseRotated)) == 2
        client.users.append("user-2")  # it is revoked all the same
        await asyncio.sleep(60)
    assert client.users == []


async def test_its_own_words_are_told() -> None:
    client = Client()
    client.quota = 0
    with pytest.raises(errors.SourceError, match="the broker makes no user now: look at its quota"):
        async with world(lambda _: broker(client)):
            pass
