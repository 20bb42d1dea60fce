"""Which handler serves which path."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vault_pg.dev.vault.messages import Answer, Request
from vault_pg.dev.vault.tokens import Token

Handler: TypeAlias = Callable[..., Answer]
"""Called with a Call and the path's parameters by name."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way: who asks and where."""

    request: Request
    token: Token | None
    mount: str
    """With its trailing slash."""

    @property
    def caller(self) -> Token:
        """The token of a request that cannot come without one."""
        if self.token is None:
            raise AssertionError(f"{self.request.path} is served without a token")
        return self.token


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    pattern: re.Pattern[str]
    handler: Handler
    public: bool = False
    """Served without a token."""
    sudo: bool = False
    exists: Callable[..., bool] | None = None
    """Where a write may create: whether the thing is there, which decides between `create` and `update`."""


class Routes:
    """The paths of one mount. `{name}` in a path takes one segment, `{name*}` takes all that follows."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        public: bool = False,
        sudo: bool = False,
        exists: Callable[..., bool] | None = None,
    ) -> None:
        expression = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
        expression = re.sub(r"\\{(\w+)\\\*\\}", r"(?P<\1>.*)", expression)
        self._routes.append(Route(method, re.compile(expression + "/?"), handler, public, sudo, exists))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        for route in self._routes:
            found = route.pattern.fullmatch(path)
            if found and route.method == method:
                return route, found.groupdict()
        return None

    def serves(self, path: str) -> bool:
        return any(route.pattern.fullmatch(path) for route in self._routes)
