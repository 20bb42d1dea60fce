"""Requests and answers as Vault shapes them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Body: TypeAlias = dict[str, Any]

DENIED = "permission denied"


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, *errors: str) -> None:
        self.status = status
        self.errors = errors
        super().__init__(status, *errors)

    @classmethod
    def wrapped(cls, status: int, error: str) -> Refused:
        """In the frame that Vault puts round what its plugins and its policy check say."""
        return cls(status, framed(error))


def framed(error: str) -> str:
    return f"1 error occurred:\n\t* {error}\n\n"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    """GET, PUT (which POST is too), DELETE or LIST."""
    path: str
    """Without /v1/."""
    token: str = field(default="", repr=False)
    body: Body = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    wrap_ttl: int = 0
    bad_body: str = ""

    def text(self, name: str, default: str = "") -> str:
        value = self.body.get(name)
        return default if value is None else str(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.body.get(name)
        return default if value is None else str(value).lower() in ("true", "1")

    def number(self, name: str) -> int:
        try:
            return int(self.body.get(name) or 0)
        except (TypeError, ValueError):
            raise Refused(400, f"error converting input for field {name!r}: a number is needed") from None

    def names(self, *fields: str) -> list[str]:
        """The first of `fields` that is given, as a list; "a,b" is two."""
        for name in fields:
            value = self.body.get(name)
            if value is not None:
                return listed(value)
        return []


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease part of an answer."""

    id: str
    duration: int
    renewable: bool


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 200
    data: Body | None = None
    auth: Body | None = field(default=None, repr=False)
    lease: Granted | None = None
    warnings: list[str] | None = None
    top: bool = False
    """`data` stands at the top of the answer too, as in sys/."""
    raw: Body | None = None
    """The whole body, outside of the usual envelope."""

    def body(self) -> Body | None:
        if self.raw is not None:
            return self.raw
        if self.status in EMPTY:
            return None
        lease = self.lease or Granted("", 0, renewable=False)
        envelope = {
            "request_id": str(uuid.uuid4()),
            "lease_id": lease.id,
            "renewable": lease.renewable,
            "lease_duration": lease.duration,
            "data": self.data,
            "wrap_info": None,
            "warnings": self.warnings or None,
            "auth": self.auth,
        }
        return {**(self.data or {}), **envelope} if self.top else envelope


EMPTY = (202, 204)
ACCEPTED = Answer(202)
DONE = Answer(204)


def keys(names: Iterable[str]) -> Answer:
    """The answer to LIST; Vault says 404 when there is nothing."""
    found = sorted(names)
    if not found:
        raise Refused(404)
    return Answer(data={"keys": found})


def listed(value: object) -> list[str]:
    """A list from a list or from "a,b"."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [str(part) for part in value]
    raise Refused(400, "error converting input: a list or a comma separated string is needed")
