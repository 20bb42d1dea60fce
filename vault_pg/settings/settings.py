"""The settings of a process, out of all their sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from vault_pg.settings import layers
from vault_pg.settings.auth import METHODS
from vault_pg.settings.database import DatabaseSettings
from vault_pg.settings.layers import Layer
from vault_pg.settings.model import Given, Model
from vault_pg.settings.source import FROM_VAULT
from vault_pg.settings.tree import DEFAULT_DATABASE, Path, Variable
from vault_pg.settings.values import Seconds, UserPath
from vault_pg.settings.vault import VaultSettings


class Settings(Model, BaseSettings):
    """All settings of a process: from arguments, the environment, and the TOML file that VAULT_PG_CONFIG names.

    In that order of strength, field by field: what an argument leaves open may come from the environment, and so on. Where databases
    are given as an argument (or else in the file), those are all there are; the environment's VAULT_PG_ROLE and its like are about the
    one called "default". Raises SettingsError with all mistakes at once.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    vault: Annotated[VaultSettings, Field(description="Where Vault is and how to log in")] = Field(default_factory=VaultSettings)
    databases: Annotated[dict[str, DatabaseSettings], Field(description="The databases by name")] = Field(default_factory=dict)
    start_timeout: Annotated[
        Seconds, Variable("VAULT_PG_START_TIMEOUT"), Field(description="How long the start may take, in seconds")
    ] = 30.0
    shutdown_timeout: Annotated[
        Seconds,
        Variable("VAULT_PG_SHUTDOWN_TIMEOUT"),
        Field(description="How long the end may take, with draining and revoking, in seconds"),
    ] = 10.0
    handle_sigterm: Annotated[
        bool, Variable("VAULT_PG_HANDLE_SIGTERM"), Field(description="End cleanly on SIGTERM, where nobody else handles it")
    ] = True
    status_socket: Annotated[
        bool, Variable("VAULT_PG_STATUS_SOCKET"), Field(description="Serve `vault-pg status` on a Unix socket")
    ] = True
    runtime_dir: Annotated[
        UserPath | None,
        Variable("VAULT_PG_RUNTIME_DIR"),
        Field(description="Directory of that socket; without it $XDG_RUNTIME_DIR/vault-pg, or one in the temporary directory"),
    ] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes them by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The values as `_given` put them together: sources of pydantic-settings can't tell which of them a mistake came from."""
        return (init_settings,)

    @classmethod
    def _given(cls, data: dict[str, Any]) -> Given:
        mistakes = list(layers.misspelt(cls))
        complete = True
        try:
            file = layers.toml(cls)
        except layers.Unreadable as error:
            mistakes.append(str(error))
            file, complete = Layer({}, str), False
        arguments = layers.keywords(data)
        bare = layers.environment(cls)
        method = _method(arguments, bare, file)
        environment = layers.environment(cls, method, layers.kind_of([file, bare, arguments], DEFAULT_DATABASE))
        stack = [file, environment, arguments]
        names = arguments.databases() or file.databases() or (DEFAULT_DATABASE,)
        asks_vault = any(layers.kind_of(stack, name) in FROM_VAULT for name in names)
        given = any({layers.TOKEN, layers.TOKEN_FILE} & set(layer.values) for layer in stack)
        if method == "token" and asks_vault and not given:
            try:
                stack.insert(0, layers.token_file())
                mistakes += [_no_token()] if complete and not stack[0].values else []
            except layers.Unreadable as error:
                mistakes.append(str(error))
        values, origins = layers.lay(stack, method)
        values = _chosen(values, names)
        return Given(layers.nested(values), lambda path: _origin(path, origins), mistakes, complete)


def _method(*strongest_first: Layer) -> object:
    return next((layer.values[layers.METHOD] for layer in strongest_first if layers.METHOD in layer.values), "token")


def _chosen(values: dict[Path, Any], names: Sequence[str]) -> dict[Path, Any]:
    """Only the databases of these names; each of them is there, even where no source says anything about it."""
    if not isinstance(values.get(layers.DATABASES, {}), dict):
        return values  # pydantic says what is wrong with it
    kept = {path: value for path, value in values.items() if path[:1] != layers.DATABASES or path[1:2] == () or path[1] in names}
    return {(*layers.DATABASES, name): {} for name in names} | kept


def _origin(path: Path, origins: dict[Path, str]) -> str:
    """The source of the value at a path, or of the setting that it is a piece of."""
    if path in origins:
        return origins[path]
    known = (path[:length] for length in range(len(path) - 1, 0, -1))
    return next((origins[each] for each in known if each in origins and not layers.is_table(each)), f"{'.'.join(path)} (default)")


def _no_token() -> str:
    others = ", ".join(name for name in METHODS if name != "token")
    return (
        "no Vault token: set VAULT_TOKEN or VAULT_PG_TOKEN_FILE, write ~/.vault-token, or set VAULT_PG_AUTH to another login method "
        f"({others}) and that method's variables"
    )
