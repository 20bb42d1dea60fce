"""Login by a function of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, SecretStr, field_serializer, field_validator

from vault_pg.settings.auth.base import METHOD_FIELD, METHOD_VARIABLE, AuthMethod
from vault_pg.settings.values import mistake, takes

if TYPE_CHECKING:
    Yield: TypeAlias = str | SecretStr | dict[str, Any]
    LoginFunction: TypeAlias = Callable[[Any], Yield] | Callable[[], Awaitable[Yield]]
else:
    LoginFunction = Callable[..., Any]  # pydantic checks no more than this


class CustomAuth(AuthMethod):
    """A function that logs in, called anew for each login.

    A plain one gets an hvac client without a token and runs in a thread; a coroutine function gets nothing and runs on the event loop.
    Either returns the answer of one of hvac's logins (its token is ours: renewed, replaced, revoked at the end), or a bare token, which
    is looked up, renewed and replaced, but not revoked.
    """

    method: Annotated[Literal["custom"], METHOD_VARIABLE, METHOD_FIELD] = "custom"
    login: Annotated[
        LoginFunction, Field(title="login function", description="Function that returns a token or the answer of hvac's login")
    ]

    @field_validator("login")
    @classmethod
    def _called(cls, value: object) -> object:
        if inspect.iscoroutinefunction(value):
            if not takes(value):
                raise mistake("is a coroutine function that cannot be called without arguments: let it take none")
        elif not takes(value, object()):
            raise mistake("is a function that cannot be called with an hvac client alone: let it take that one argument")
        return value

    @field_serializer("login", when_used="json")
    def _json_login(self, value: object) -> str:
        return str(getattr(value, "__qualname__", type(value).__qualname__))
