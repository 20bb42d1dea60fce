"""One database: its Vault role, how to reach it, and the pool for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vault_pg.settings import conninfo
from vault_pg.settings.model import Model
from vault_pg.settings.source import FROM_VAULT, DynamicSource, SourceModel, SourceSettings, name_of
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import Count, Mount, Role, Seconds, mistake, plain, takes

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

    ConnectionHook: TypeAlias = Callable[[AsyncConnection[Any]], Awaitable[None]]
    ConnectionProbe: TypeAlias = Callable[[AsyncConnection[Any]], Awaitable[object]]
    PoolHook: TypeAlias = Callable[[AsyncConnectionPool[Any]], None] | Callable[[AsyncConnectionPool[Any]], Awaitable[None]]
    ConnectionClass: TypeAlias = type[AsyncConnection[Any]]
else:
    # pydantic checks no more than this, and the import of psycopg would cost every `vault-pg --help`.
    ConnectionHook = ConnectionProbe = PoolHook = Callable[..., Any]
    ConnectionClass = type

MIN_SIZE = 4

_WHOLE = TypeAdapter(int)


class DatabaseSettings(Model):
    """One database: where its user and password come from (by default a dynamic role of Vault), how to reach it, and the pool for it."""

    source: Annotated[SourceSettings, Field(description="Where user name and password come from")] = Field(
        default_factory=DynamicSource
    )
    role: Annotated[
        Role | None,
        Variable("VAULT_PG_ROLE"),
        Field(title="database role", description="Vault's database role; required where the source is Vault"),
    ] = None
    mount: Annotated[Mount, Variable("VAULT_PG_MOUNT"), Field(description="Where the secrets engine is mounted")] = "database"
    conninfo: Annotated[
        str,
        Variable("VAULT_PG_CONNINFO"),
        Field(description="libpq's keywords or URI, with no user or password; vault_role and vault_mount may stand in it"),
    ] = ""
    min_size: Annotated[
        Count,
        Variable("VAULT_PG_MIN_SIZE"),
        Field(ge=0, description="Connections that the pool keeps at least; unless given, never more than max_size"),
    ] = MIN_SIZE
    max_size: Annotated[
        Count, Variable("VAULT_PG_MAX_SIZE"), Field(ge=1, description="Connections that the pool has at most")
    ] = 10
    overlap: Annotated[
        Count | None,
        Variable("VAULT_PG_OVERLAP"),
        Field(ge=1, description="Connections beyond max_size while a rotation goes on; without it min_size, at least 1"),
    ] = None
    timeout: Annotated[
        Seconds, Variable("VAULT_PG_TIMEOUT"), Field(description="Longest wait for a connection of the pool, in seconds")
    ] = 30.0
    max_waiting: Annotated[
        Count, Variable("VAULT_PG_MAX_WAITING"), Field(ge=0, description="Clients that may wait for a connection; 0: any number")
    ] = 0
    max_lifetime: Annotated[
        Seconds, Variable("VAULT_PG_MAX_LIFETIME"), Field(description="Age at which a connection is replaced, in seconds")
    ] = 3600.0
    max_idle: Annotated[
        Seconds,
        Variable("VAULT_PG_MAX_IDLE"),
        Field(description="Idle time after which a connection beyond min_size is closed, in seconds"),
    ] = 600.0
    max_age: Annotated[
        Seconds | None,
        Variable("VAULT_PG_MAX_AGE"),
        Field(description="Age at which a credential is replaced even if Vault would renew it, in seconds"),
    ] = None
    check_interval: Annotated[
        Seconds | None,
        Variable("VAULT_PG_CHECK_INTERVAL"),
        Field(description="A checkout asks the server whether connection and role still live if it has not for so many seconds"),
    ] = None
    increment: Annotated[
        Seconds | None,
        Variable("VAULT_PG_INCREMENT"),
        Field(description="What a renewal asks for, in seconds; without it the role's default TTL"),
    ] = None
    drain_timeout: Annotated[
        Seconds,
        Variable("VAULT_PG_DRAIN_TIMEOUT"),
        Field(description="How long borrowers may keep connections of a replaced credential, in seconds"),
    ] = 60.0
    build_timeout: Annotated[
        Seconds, Variable("VAULT_PG_BUILD_TIMEOUT"), Field(description="How long a new pool may take to be ready, in seconds")
    ] = 30.0
    close_returns: Annotated[
        bool, Variable("VAULT_PG_CLOSE_RETURNS"), Field(description="close() of a borrowed connection gives it back to the pool")
    ] = False
    reconnect_timeout: Annotated[
        Seconds,
        Variable("VAULT_PG_RECONNECT_TIMEOUT"),
        Field(description="How long the pool tries to replace a lost connection before it calls that failed, in seconds"),
    ] = 300.0
    num_workers: Annotated[
        Count, Variable("VAULT_PG_NUM_WORKERS"), Field(ge=1, description="Background tasks that open and close connections")
    ] = 3
    connection_class: Annotated[
        ConnectionClass | None, Field(description="Class of the connections, a kind of psycopg's AsyncConnection")
    ] = None
    kwargs: Annotated[dict[str, Any], Field(description="Further arguments of psycopg's AsyncConnection.connect")] = Field(
        default_factory=dict
    )
    configure: Annotated[ConnectionHook | None, Field(description="Coroutine function run on each new connection")] = None
    check: Annotated[ConnectionHook | None, Field(description="Coroutine function run on each checkout")] = None
    reset: Annotated[ConnectionHook | None, Field(description="Coroutine function run on each returned connection")] = None
    reconnect_failed: Annotated[
        PoolHook | None,
        Field(description="Function, or coroutine function, told of the pool that could not replace a lost connection"),
    ] = None
    probe: Annotated[
        ConnectionProbe | None,
        Field(description="Coroutine function that proves a new credential before it serves; raises if not"),
    ] = None

    @property
    def from_vault(self) -> bool:
        """Its credential comes from Vault, so a login there is needed."""
        return getattr(self.source, "kind", None) in FROM_VAULT

    @model_validator(mode="before")
    @classmethod
    def _take_ours_out(cls, data: Any) -> Any:
        return conninfo.absorb(data) if isinstance(data, dict) else data

    @model_validator(mode="wrap")
    @classmethod
    def _min_size_gives_way(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        most = _max_size(data)
        if most is None or most >= MIN_SIZE:
            return handler(data)
        made = handler({**data, "min_size": most})
        made.model_fields_set.discard("min_size")  # nobody gave it: a source that does may still lay it over
        return made

    @field_validator("role")
    @classmethod
    def _role_of_vault(cls, value: object, info: ValidationInfo) -> object:
        if "source" not in info.data:
            return value  # that mistake is told already
        kind = _kind(info)
        if value is None and kind in FROM_VAULT:
            raise PydanticCustomError("missing", "Field required")
        if value is not None and kind not in FROM_VAULT:
            raise mistake(f"is given, but the source of the credential is {kind}, which has no role: take it out, or the source")
        return value

    @field_validator("conninfo")
    @classmethod
    def _usable_conninfo(cls, value: str, info: ValidationInfo) -> str:
        problem = conninfo.problem(value, supplier=_supplier(info))
        if problem:
            raise mistake(problem)
        return value

    @field_validator("max_size")
    @classmethod
    def _room_for_min_size(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_size", value)
        if value < least:
            raise mistake(f"is {value}, less than {{other}}, {least}: raise max_size or lower min_size", other="min_size")
        return value

    @field_validator("overlap")
    @classmethod
    def _default_overlap(cls, value: int | None, info: ValidationInfo) -> int:
        return max(1, info.data.get("min_size", 1)) if value is None else value

    @field_validator("kwargs")
    @classmethod
    def _usable_kwargs(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in (*conninfo.SUPPLIED, "conninfo"):
            if name in value:
                why = "use the setting conninfo" if name == "conninfo" else f"{_supplier(info)} supplies both user and password"
                raise mistake(f"holds {name}: take that out, {why}")
        if value and {"conninfo", "connection_class"} <= info.data.keys():
            problem = conninfo.problem_of_arguments(info.data["conninfo"], value, info.data["connection_class"])
            if problem:
                raise mistake(problem)
        return value

    @field_validator("connection_class")
    @classmethod
    def _kind_of_connection(cls, value: type | None) -> type | None:
        if value is not None:
            from psycopg import AsyncConnection  # noqa: PLC0415 - whoever has such a class has psycopg imported

            if not issubclass(value, AsyncConnection):
                raise mistake("is no kind of psycopg's AsyncConnection: derive the class from that")
        return value

    @field_validator("configure", "check", "reset", "probe")
    @classmethod
    def _awaited(cls, value: object) -> object:
        if value is not None and plain(value):
            raise mistake(f"is {name_of(value)}, no coroutine function: write it with async def")
        return value

    @field_validator("configure", "check", "reset", "reconnect_failed", "probe")
    @classmethod
    def _called(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and not takes(value, object()):
            what = "pool" if info.field_name == "reconnect_failed" else "connection"
            raise mistake(f"is {name_of(value)}, which cannot be called with the {what} alone: let it take that one argument")
        return value

    @field_serializer("conninfo", when_used="json")
    def _json_conninfo(self, value: str) -> str:
        return conninfo.masked(value)

    @field_serializer("source", when_used="json")
    def _json_source(self, value: object) -> dict[str, Any] | str:
        return value.model_dump(mode="json") if isinstance(value, SourceModel) else name_of(value)

    @field_serializer("kwargs", when_used="json")
    def _json_kwargs(self, value: dict[str, Any]) -> dict[str, str]:
        return {name: "***" if name in conninfo.SECRETS else repr(each) for name, each in value.items()}

    @field_serializer("connection_class", "configure", "check", "reset", "reconnect_failed", "probe", when_used="json")
    def _json_python(self, value: object) -> str | None:
        return None if value is None else str(getattr(value, "__qualname__", type(value).__qualname__))

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            match name:
                case "conninfo":
                    yield name, conninfo.masked(self.conninfo)
                case "source":
                    yield name, value if isinstance(value, SourceModel) else name_of(value)
                case "kwargs":
                    yield name, self._json_kwargs(self.kwargs)
                case _:
                    yield name, value


def _kind(info: ValidationInfo) -> str:
    """The kind of source of the database whose fields are validated; the name of its class where it is the user's own."""
    source = info.data.get("source")
    return str(getattr(source, "kind", name_of(source)))


def _supplier(info: ValidationInfo) -> str:
    return "Vault" if _kind(info) in FROM_VAULT else "its source"


def _max_size(data: Any) -> int | None:
    """The max_size of settings that give no min_size; None where there is none that could be one."""
    if not isinstance(data, dict) or "min_size" in data or "max_size" not in data:
        return None
    try:
        size = _WHOLE.validate_python(data["max_size"])
    except ValidationError:
        return None  # that mistake is told where the field is validated
    return size if size > 0 else None
