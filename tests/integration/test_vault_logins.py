"""Every way to a token, by hvac's own calls, against a Vault that checks what it is shown."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hvac
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from tests.agent import agent
from tests.integration.test_vault_faults import certificate, listening, server_context
from tests.servers import DatabaseView, Mount
from tests.waiting import LONG, eventually
from vault_pg import connect
from vault_pg.dev import DevVault, EmbeddedPostgres, LoginMethod, RoleSpec, provision, provision_login
from vault_pg.errors import LoginFailed, VaultUnavailable
from vault_pg.events import Event, TokenIssued, TokenLost, VaultReachable, VaultUnreachable
from vault_pg.settings import (
    AgentAuth,
    AppRoleAuth,
    AuthSettings,
    AwsAuth,
    AzureAuth,
    CertAuth,
    CustomAuth,
    GcpAuth,
    JwtAuth,
    KubernetesAuth,
    LdapAuth,
    TokenAuth,
    UserpassAuth,
    VaultSettings,
)
from vault_pg.vault import VaultSession

__all__ = ["certificate"]


@asynccontextmanager
async def running(
    mount: Mount, auth: AuthSettings, told: list[Event] | None = None, **options: Any
) -> AsyncIterator[VaultSession]:
    """An open session that keeps its token alive."""
    settings = VaultSettings.model_validate({"address": mount.server.address, "auth": auth, "timeout": LONG, **options})
    session = VaultSession(settings, emit=(told if told is not None else []).append)
    try:
        await session.open()
        task = asyncio.create_task(session.run())
        yield session
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    finally:
        await session.close(timeout=LONG)


async def leases(session: VaultSession, mount: Mount) -> None:
    """The token is good for what it is there for."""
    lease = await session.issue(mount.path, "app", timeout=LONG)
    await session.revoke(lease, timeout=LONG)


def put(file: Path, token: SecretStr) -> None:
    """As an agent does: in one step."""
    new = file.with_suffix(".new")
    new.write_text(token.get_secret_value())
    new.rename(file)


async def test_a_new_token_in_a_sink_is_taken_while_the_old_one_lives(mount: Mount, tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    first, second = mount.token(ttl="30s", explicit_max_ttl="30s"), mount.token()
    put(sink, first)
    told: list[Event] = []
    async with running(mount, TokenAuth(token_file=sink), told) as session:
        await leases(session, mount)
        put(sink, second)
        await eventually(lambda: session.token.serial == 2, "the new token is taken")
        await leases(session, mount)
        assert TokenLost not in map(type, told)
    client = mount.client(second)
    assert client.auth.token.lookup_self()["data"]["ttl"]  # it is the agent's, and not revoked
    client.adapter.close()


async def test_a_dead_token_is_replaced_by_the_one_that_appears_in_the_sink(mount: Mount, tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    first = mount.token()
    put(sink, first)
    told: list[Event] = []
    async with running(mount, TokenAuth(token_file=sink), told) as session:
        mount.root.auth.token.revoke(first.get_secret_value())
        assert not await session.check_token()
        put(sink, mount.token())
        await eventually(lambda: session.token.serial == 2, "the new token is taken")
        await leases(session, mount)
    assert [type(event) for event in told] == [TokenIssued, TokenLost, TokenIssued]


async def test_an_agent_on_a_unix_socket_adds_its_own_token(mount: Mount, tmp_path: Path) -> None:
    with agent(tmp_path / "agent.sock", mount.server.address, mount.token()) as way:
        async with running(mount, AgentAuth(), address=way.address) as session:
            await leases(session, mount)
            way.token = mount.token()
            assert await session.check_token()
            assert session.token.serial == 2
            await leases(session, mount)
    assert {token for _, token in way.asked} == {""}
    assert "/v1/auth/token/revoke-self" not in {path for path, _ in way.asked}


def wrapped_secret_id(mount: Mount, role: str) -> SecretStr:
    answer = mount.root.adapter.post(f"/v1/auth/approle/role/{role}/secret-id", wrap_ttl="60s")
    return SecretStr(answer["wrap_info"]["token"])


async def test_a_wrapped_secret_id_logs_in_again_and_again(mount: Mount, tmp_path: Path) -> None:
    login = mount.approle()
    file = tmp_path / "wrapped"
    put(file, wrapped_secret_id(mount, mount.path))
    auth = AppRoleAuth(role_id=login.role_id, secret_id_file=file, wrapped=True, role=mount.path)
    async with running(mount, auth) as session:
        await session.log_in()
        put(file, wrapped_secret_id(mount, mount.path))
        await session.log_in()
        await leases(session, mount)
        assert session.token.serial == 3


async def test_a_wrapped_secret_id_whose_answer_is_late_in_an_outage_is_taken_for_nobody_elses(
    dev_vault: DevVault, mount: Mount, tmp_path: Path
) -> None:
    login = mount.approle()
    file = tmp_path / "wrapped"
    put(file, wrapped_secret_id(mount, mount.path))
    auth = AppRoleAuth(role_id=login.role_id, secret_id_file=file, wrapped=True, role=mount.path)
    told: list[Event] = []
    async with running(mount, auth, told) as session:
        put(file, wrapped_secret_id(mount, mount.path))
        watching = asyncio.create_task(session.watch())
        with dev_vault.faults.late(5, "*/wrapping/unwrap", times=1) as late:
            logging_in = asyncio.create_task(session.log_in())
            await eventually(lambda: late.hits > 0, "the secret id is asked for")
            with dev_vault.faults.unavailable(match="*/lookup-self"):
                with pytest.raises(VaultUnavailable):
                    await session.check_token()
                await eventually(lambda: [event for event in told if isinstance(event, VaultUnreachable)], "the outage")
            await logging_in
        assert [event for event in told if isinstance(event, VaultReachable)]
        watching.cancel()
        await leases(session, mount)


async def test_a_wrapped_secret_id_that_somebody_else_unwrapped_or_made(mount: Mount, make_mount: Callable[..., Mount]) -> None:
    login, other = mount.approle(), make_mount()
    other.approle()
    taken = wrapped_secret_id(mount, mount.path)
    mount.root.sys.unwrap(taken.get_secret_value())
    forged = SecretStr(mount.root.sys.wrap({"secret_id": "of the attacker"})["wrap_info"]["token"])
    for token, said in (
        (taken, "somebody else holds the secret id"),
        (forged, "was made at sys/wrapping/wrap and not at"),
        (wrapped_secret_id(mount, other.path), f"was made at auth/approle/role/{other.path}/secret-id and not at"),
    ):
        auth = AppRoleAuth(role_id=login.role_id, secret_id=token, wrapped=True, role=mount.path)
        with pytest.raises(LoginFailed, match=said) as caught:
            async with running(mount, auth):
                pass
        assert token.get_secret_value() not in str(caught.value)
    # The forged one was looked at and not used up.
    assert mount.root.sys.unwrap(forged.get_secret_value())["data"]


async def test_a_user_of_vaults_own(mount: Mount, root: hvac.Client, database: DatabaseView) -> None:
    path = f"{mount.path}-up"
    root.sys.enable_auth_method("userpass", path=path)
    root.auth.userpass.create_or_update_user("bob", password="pass word", policies=mount.policy, mount_point=path)
    try:
        auth = UserpassAuth(username="bob", password=SecretStr("pass word"), mount=path)
        async with running(mount, auth) as session:
            await leases(session, mount)
            await session.issue(mount.path, "app", timeout=LONG)
        await eventually(lambda: not database.roles(), "the token was revoked, and its lease with it")
        with pytest.raises(LoginFailed, match="look at the user name and password"):
            async with running(mount, UserpassAuth(username="bob", password=SecretStr("wrong one"), mount=path)):
                pass
    finally:
        root.sys.disable_auth_method(path)


async def test_a_function_of_the_users_own(mount: Mount, database: DatabaseView) -> None:
    login = mount.approle()

    def log_in(client: hvac.Client) -> Any:
        return client.auth.approle.login(login.role_id, login.secret_id.get_secret_value())

    async def token() -> SecretStr:
        await asyncio.sleep(0)
        return mount.token()

    async with running(mount, CustomAuth(login=log_in)) as session:
        await session.issue(mount.path, "app", timeout=LONG)
    await eventually(lambda: not database.roles(), "the token was ours")
    async with running(mount, CustomAuth(login=token)) as session:
        await leases(session, mount)
        assert not session.token.owned


@pytest.mark.parametrize("login", list(LoginMethod))
async def test_each_login_that_a_dev_vault_is_set_up_for(
    new_vault: Callable[..., DevVault],
    postgres: EmbeddedPostgres,
    login: LoginMethod,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAULT_PG_STATUS_SOCKET", "false")
    server = new_vault()
    root = hvac.Client(url=server.address, token=server.root_token.get_secret_value())
    provision(root, postgres, roles={"app": RoleSpec()})
    variables = provision_login(root, login, "app", tmp_path)
    root.adapter.close()
    known = {"VAULT_ADDR": server.address, "VAULT_PG_ROLE": "app", "VAULT_PG_CONNINFO": postgres.conninfo()}
    for name, value in (known | variables).items():
        monkeypatch.setenv(name, value)
    async with connect() as conn:
        row = await (await conn.execute("select count(*) from orders")).fetchone()
    assert row is not None
    assert row[0] >= 1000


# -- signed tokens, with keys that the mount was told


class Issuer:
    """Signs JWTs."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        pem = self._key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.public = pem.decode()

    def sign(self, claims: dict[str, Any], *, lasts: float = 3600) -> SecretStr:
        return SecretStr(jwt.encode({"exp": time.time() + lasts, **claims}, self._key, algorithm="ES256"))


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@contextmanager
def method(dev_vault: DevVault, root: hvac.Client, kind: str) -> Iterator[str]:
    """A mount of the auth method; the dev Vault alone knows the outer world that the methods ask."""
    path = f"{kind}-{secrets.token_hex(3)}"
    root.sys.enable_auth_method(kind, path=path)
    yield path
    root.sys.disable_auth_method(path)


async def logs_in(mount: Mount, auth: AuthSettings) -> None:
    async with running(mount, auth) as session:
        await leases(session, mount)
        await session.log_in()
        await leases(session, mount)


async def refused(mount: Mount, auth: AuthSettings) -> str:
    with pytest.raises(LoginFailed) as caught:
        async with running(mount, auth):
            pass
    return str(caught.value)


async def test_a_service_account_of_kubernetes(
    dev_vault: DevVault, mount: Mount, root: hvac.Client, issuer: Issuer, tmp_path: Path
) -> None:
    file = tmp_path / "token"

    def account(name: str, by: Issuer = issuer, lasts: float = 3600) -> SecretStr:
        return by.sign({"kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": name}}}, lasts=lasts)

    with method(dev_vault, root, "kubernetes") as path:
        root.adapter.post(f"/v1/auth/{path}/config", json={"kubernetes_host": "https://k8s", "pem_keys": [issuer.public]})
        root.auth.kubernetes.create_role("app", ["orders"], ["prod"], policies=[mount.policy], mount_point=path)
        put(file, account("orders"))
        auth = KubernetesAuth(role="app", token_file=file, mount=path)
        await logs_in(mount, auth)
        for bad in (account("other"), account("orders", Issuer()), account("orders", lasts=-60)):
            put(file, bad)
            said = await refused(mount, auth)
            assert f"no Kubernetes method answers at auth/{path}, or it does not allow this host or the service account" in said
            assert bad.get_secret_value() not in said


async def test_a_jwt_of_any_issuer(dev_vault: DevVault, mount: Mount, root: hvac.Client, issuer: Issuer) -> None:
    with method(dev_vault, root, "jwt") as path:
        root.auth.jwt.configure(jwt_validation_pubkeys=[issuer.public], bound_issuer="ci", default_role="app", path=path)
        root.auth.jwt.create_role(
            "app", "sub", [], bound_audiences=["vault"], bound_claims={"team": "shop"}, token_policies=[mount.policy], path=path
        )
        claims = {"sub": "job", "aud": "vault", "iss": "ci", "team": "shop"}
        await logs_in(mount, JwtAuth(jwt=issuer.sign(claims), mount=path))
        for change, why in (
            ({"aud": "other"}, "[Aa]udience"),
            ({"iss": "other"}, "[Ii]ssuer"),
            ({"team": "other"}, "bound claim"),
            ({"exp": time.time() - 60}, "expired"),
        ):
            bad = issuer.sign({**claims, **change})
            said = await refused(mount, JwtAuth(jwt=bad, role="app", mount=path))
            assert re.search(why, said), said
            assert bad.get_secret_value() not in said
        assert "no known key" in await refused(mount, JwtAuth(jwt=Issuer().sign(claims), mount=path))


async def test_a_user_of_a_directory(dev_vault: DevVault, mount: Mount, root: hvac.Client) -> None:
    with method(dev_vault, root, "ldap") as path:
        root.adapter.post(f"/v1/auth/{path}/dev/directory/bob", json={"password": "pass word", "groups": ["ops"]})
        assert "authorized group" in await refused(mount, LdapAuth(username="bob", password=SecretStr("pass word"), mount=path))
        root.auth.ldap.create_or_update_group("ops", policies=[mount.policy], mount_point=path)
        await logs_in(mount, LdapAuth(username="bob", password=SecretStr("pass word"), mount=path))
        assert "failed to bind" in await refused(mount, LdapAuth(username="bob", password=SecretStr("wrong one"), mount=path))


@contextmanager
def metadata_service(answers: dict[str, str], header: str) -> Iterator[str]:
    """What a cloud answers its machines, to those alone who send its header."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = answers.get(self.path.partition("?")[0]) if self.headers.get(header) else None
            body = (known or "").encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


async def test_the_identity_of_a_machine_in_azure(dev_vault: DevVault, mount: Mount, root: hvac.Client, issuer: Issuer) -> None:
    token = issuer.sign({"oid": "machine-1", "aud": "https://management.azure.com/"})
    answers = {
        "/metadata/identity/oauth2/token": json.dumps({"access_token": token.get_secret_value()}),
        "/metadata/instance": json.dumps({"compute": {"subscriptionId": "sub-1", "resourceGroupName": "shop", "name": "vm-1"}}),
    }
    with method(dev_vault, root, "azure") as path, metadata_service(answers, "Metadata") as service:
        root.adapter.post(f"/v1/auth/{path}/config", json={"tenant_id": "t", "resource": "https://management.azure.com/"})
        root.adapter.post(f"/v1/auth/{path}/dev/keys", json={"keys": [issuer.public]})
        bound = {"policies": [mount.policy], "bound_subscription_ids": ["sub-1"], "bound_resource_groups": ["shop"]}
        root.auth.azure.create_role("app", **bound, mount_point=path)
        await logs_in(mount, AzureAuth(role="app", metadata=service, mount=path))
        assert "not authorized" in await refused(mount, AzureAuth(role="app", jwt=token, mount=path))
        answers.clear()
        with pytest.raises(VaultUnavailable, match=r"metadata service at .* answers with status 403"):
            async with running(mount, AzureAuth(role="app", metadata=service, mount=path)):
                pass


async def test_the_identity_of_a_machine_in_googles_cloud(
    dev_vault: DevVault, mount: Mount, root: hvac.Client, issuer: Issuer
) -> None:
    token = issuer.sign({"email": "app@shop.iam", "aud": "vault/app"})
    identity = {"/computeMetadata/v1/instance/service-accounts/default/identity": token.get_secret_value()}
    with method(dev_vault, root, "gcp") as path, metadata_service(identity, "Metadata-Flavor") as service:
        root.adapter.post(f"/v1/auth/{path}/dev/keys", json={"keys": [issuer.public]})
        bound = {"type": "gce", "policies": [mount.policy], "bound_service_accounts": ["app@shop.iam"]}
        root.adapter.post(f"/v1/auth/{path}/role/app", json=bound)
        await logs_in(mount, GcpAuth(role="app", metadata=service, mount=path))
        await logs_in(mount, GcpAuth(role="app", jwt=token, mount=path))
        other = issuer.sign({"email": "other@shop.iam", "aud": "vault/app"})
        assert "service account not authorized" in await refused(mount, GcpAuth(role="app", jwt=other, mount=path))


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # hvac's, from Python 3.12 on
async def test_an_aws_identity(dev_vault: DevVault, mount: Mount, root: hvac.Client) -> None:
    arn, key, secret = "arn:aws:iam::1:role/app", "AKIAEXAMPLE", SecretStr(secrets.token_hex(20))

    def auth(path: str, secret: SecretStr = secret, **options: Any) -> AwsAuth:
        return AwsAuth(access_key=key, secret_key=secret, header_value="vault.internal", mount=path, **options)

    with method(dev_vault, root, "aws") as path:
        root.adapter.post(f"/v1/auth/{path}/config/client", json={"iam_server_id_header_value": "vault.internal"})
        root.adapter.post(f"/v1/auth/{path}/dev/identities/{key}", json={"secret_key": secret.get_secret_value(), "arn": arn})
        root.auth.aws.create_role(
            "app", auth_type="iam", bound_iam_principal_arn=[arn], policies=[mount.policy], mount_point=path
        )
        root.auth.aws.create_role("other", auth_type="iam", bound_iam_principal_arn=["arn:x"], mount_point=path)
        await logs_in(mount, auth(path, role="app", session_token=SecretStr("of-temporary-keys")))
        await logs_in(mount, auth(path))
        assert "SignatureDoesNotMatch" in await refused(mount, auth(path, SecretStr("another-secret-key")))
        assert "does not belong to the role" in await refused(mount, auth(path, role="other"))
        root.adapter.post(f"/v1/auth/{path}/config/client", json={"iam_server_id_header_value": "another"})
        assert "X-Vault-AWS-IAM-Server-ID" in await refused(mount, auth(path))


async def test_our_certificate_is_what_a_login_by_certificate_shows(certificate: Path) -> None:
    """A server that takes no connection without it."""
    heard: list[bytes] = []

    def vault(conn: socket.socket) -> None:
        request = conn.recv(65536)
        heard.append(request)
        # Over two writes of the client the body may come apart from the head.
        if b"role-of-ours" not in request:
            heard.append(conn.recv(65536))
        token = {"client_token": "hvs.by-certificate", "lease_duration": 60, "renewable": True, "num_uses": 0}
        body = json.dumps({"auth": token}).encode()
        conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    context = server_context(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)
    with listening(vault, context) as address:
        options = {"address": address, "auth": CertAuth(role="role-of-ours", mount="team/cert"), "ca_cert": certificate}
        settings = VaultSettings.model_validate({**options, "client_cert": certificate, "client_key": certificate})
        session = VaultSession(settings, emit=lambda _: None)
        await session.open()
        assert session.token.secret.get_secret_value() == "hvs.by-certificate"
        await session.close(timeout=LONG, revoke=False)
    said = b"".join(heard)
    assert said.startswith(b"POST /v1/auth/team/cert/login ")
    assert b'"name": "role-of-ours"' in said
