"""Where Vault is and how to talk to it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from vault_pg.settings.auth import AuthSettings, CertAuth, TokenAuth
from vault_pg.settings.model import Model
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import Directory, HeaderText, ReadableFile, Seconds, mistake, shown


def _joined(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


class VaultSettings(Model):
    """Where Vault is and how to talk to it; Vault's own environment variables count as everywhere."""

    address: Annotated[
        str,
        Variable("VAULT_ADDR", stronger="VAULT_AGENT_ADDR"),
        BeforeValidator(_joined),
        Field(
            description="URL of Vault, several of one cluster with commas between, or unix:///path of an agent's socket; "
            "VAULT_AGENT_ADDR beats VAULT_ADDR"
        ),
    ] = "https://127.0.0.1:8200"
    namespace: Annotated[
        HeaderText | None, Variable("VAULT_NAMESPACE"), Field(description="Namespace (Vault Enterprise, OpenBao)")
    ] = None
    auth: Annotated[AuthSettings, Field(description="How to log in")] = Field(default_factory=TokenAuth)
    ca_cert: Annotated[
        ReadableFile | None, Variable("VAULT_CACERT"), Field(description="File with the CA certificate of Vault's server, PEM")
    ] = None
    ca_cert_bytes: Annotated[
        str | None, Variable("VAULT_CACERT_BYTES"), Field(description="The CA certificate itself, PEM, instead of a file")
    ] = None
    ca_path: Annotated[Directory | None, Variable("VAULT_CAPATH"), Field(description="Directory of CA certificates, PEM")] = None
    client_cert: Annotated[
        ReadableFile | None, Variable("VAULT_CLIENT_CERT"), Field(description="File with our own TLS certificate, PEM")
    ] = None
    client_key: Annotated[
        ReadableFile | None, Variable("VAULT_CLIENT_KEY"), Field(description="File with the key of our own TLS certificate, PEM")
    ] = None
    tls_server_name: Annotated[
        HeaderText | None,
        Variable("VAULT_TLS_SERVER_NAME"),
        Field(
            description="Name that Vault's certificate is asked (SNI) and checked for, where it is not the host of the address"
        ),
    ] = None
    skip_verify: Annotated[
        bool, Variable("VAULT_SKIP_VERIFY"), Field(description="Do not check Vault's TLS certificate; never in production")
    ] = False
    timeout: Annotated[
        Seconds,
        Variable("VAULT_CLIENT_TIMEOUT"),
        Field(description="Longest wait for an answer of Vault, in seconds; shorter where a lease ends sooner"),
    ] = 10.0

    @field_validator("address")
    @classmethod
    def _usable_address(cls, value: str) -> str:
        addresses = [address.strip().rstrip("/") for address in value.split(",")]
        problem = next(filter(None, map(_address_problem, addresses)), None)
        if problem:
            raise mistake(f"{problem}: give a URL such as https://vault.example.com:8200")
        return ",".join(dict.fromkeys(addresses))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The nodes of one cluster, or ways to it, in the order of preference."""
        return tuple(self.address.split(","))

    @field_validator("ca_cert", "client_cert")
    @classmethod
    def _holds_a_certificate(cls, value: Path | None) -> Path | None:
        if value is not None and value.is_file():
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
            except (ssl.SSLError, ValueError):
                raise mistake(f"names {shown(value)} which holds no certificate in PEM: name one that does") from None
        return value

    @field_validator("ca_cert_bytes")
    @classmethod
    def _certificate(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ssl.create_default_context(cadata=value)
            except (ssl.SSLError, ValueError):
                raise mistake("is no certificate in PEM: give the text that begins with -----BEGIN CERTIFICATE-----") from None
        return value

    @field_validator("auth", mode="before")
    @classmethod
    def _token_by_default(cls, value: Any) -> Any:
        return {"method": "token", **value} if isinstance(value, dict) else value

    @field_validator("client_cert")
    @classmethod
    def _cert_to_log_in_with(cls, value: object, info: ValidationInfo) -> object:
        if value is None and isinstance(info.data.get("auth"), CertAuth):
            raise mistake(
                "is not given, but the login method is cert: {needs}, and its key as client_key (VAULT_CLIENT_KEY)",
                needs=("client_cert",),
            )
        return value

    @field_validator("client_key")
    @classmethod
    def _cert_and_key(cls, value: object, info: ValidationInfo) -> object:
        if "client_cert" not in info.data:
            return value  # that mistake is told already
        if value is None and info.data["client_cert"] is not None:
            raise mistake("is not given, but {other} is: {needs}, or leave both out", other="client_cert", needs=("client_key",))
        if value is not None and info.data["client_cert"] is None:
            raise mistake("is given without client_cert: {needs}, or leave both out", needs=("client_cert",))
        return value


def _address_problem(address: str) -> str | None:
    """What makes an address useless. The address is not repeated: it may hold a password."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        return "is no URL, or has no valid port"
    if parts.scheme == "unix":
        return (
            None
            if not host and parts.path.startswith("/")
            else "names no Unix socket by its whole path, as unix:///run/agent.sock does"
        )
    if parts.scheme not in {"http", "https"} or not host:
        return "is no http or https URL with a host"
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password, which Vault has no use for"
    if parts.query or parts.fragment:
        return "has a query or a fragment"
    if parts.path.rstrip("/").endswith("/v1"):
        return "ends in /v1, which each request adds by itself"
    if not address.isprintable() or " " in address:
        return "holds a space or a line break"
    return None
