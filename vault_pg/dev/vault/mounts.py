"""What is mounted where."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from vault_pg.dev.vault.durations import seconds
from vault_pg.dev.vault.messages import Body, Refused, Request
from vault_pg.dev.vault.routes import Routes
from vault_pg.dev.vault.tokens import letters


class Engine(Protocol):
    """A secrets engine or auth method: routes, and an end."""

    kind: str
    routes: Routes

    def close(self) -> None: ...


@dataclass(slots=True)
class Mount:
    engine: Engine
    description: str = ""
    default_ttl: int = 0
    max_ttl: int = 0
    accessor: str = ""
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def shown(self) -> Body:
        config = {"default_lease_ttl": self.default_ttl, "max_lease_ttl": self.max_ttl, "force_no_cache": False}
        return {
            "accessor": self.accessor,
            "config": config,
            "description": self.description,
            "external_entropy_access": False,
            "local": False,
            "options": None,
            "seal_wrap": False,
            "type": self.engine.kind,
            "uuid": self.uuid,
        }


Maker: TypeAlias = Callable[[str, int, int], Engine]
"""Makes an engine for a path (with its trailing slash), a default and a maximum lease TTL."""


class Mounts:
    """Mounts by path with a trailing slash: secrets engines, or the auth methods below auth/."""

    def __init__(self, makers: Mapping[str, Maker], builtin: Mapping[str, Engine]) -> None:
        self._makers = makers
        self._builtin = frozenset(builtin)
        self._mounts = {path: Mount(engine, accessor=f"{engine.kind}_{letters(8).lower()}") for path, engine in builtin.items()}

    def shown(self) -> Body:
        return {path: mount.shown() for path, mount in sorted(self._mounts.items())}

    def enable(self, path: str, request: Request) -> None:
        path, kind = path.strip("/") + "/", request.text("type")
        if kind not in self._makers:
            raise Refused(400, f"plugin not found in the catalog: {kind}; this server has {', '.join(sorted(self._makers))}")
        for used in self._mounts:
            if used.startswith(path) or path.startswith(used):
                raise Refused(400, f"path is already in use at {used}")
        config = request.body.get("config") or {}
        default, most = seconds(config.get("default_lease_ttl")), seconds(config.get("max_lease_ttl"))
        engine = self._makers[kind](path, default, most)
        self._mounts[path] = Mount(engine, request.text("description"), default, most, f"{kind}_{letters(8).lower()}")

    def disable(self, path: str) -> None:
        path = path.strip("/") + "/"
        if path in self._builtin:
            raise Refused(400, f'cannot unmount "{path}"')
        mount = self._mounts.pop(path, None)
        if mount:
            mount.engine.close()

    def find(self, path: str) -> tuple[str, Engine] | None:
        """The mount that serves `path`, and its engine."""
        for mounted, mount in self._mounts.items():
            if path.startswith(mounted):
                return mounted, mount.engine
        return None
