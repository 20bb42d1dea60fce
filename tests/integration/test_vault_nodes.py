"""Several addresses of one Vault, Unix sockets, and TLS by name and by bytes, on real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent import agent
from tests.integration.test_vault_faults import (
    ENOUGH,
    TOKEN,
    answer,
    certificate,
    failure,
    listening,
    reset,
    server_context,
    swallow,
    unused_port,
)
from tests.servers import Mount
from vault_pg.dev import DevVault
from vault_pg.errors import SettingsError, VaultSealed, VaultUnavailable
from vault_pg.events import Event
from vault_pg.settings import TokenAuth, VaultSettings
from vault_pg.vault import VaultSession
from vault_pg.vault.adapter import connect
from vault_pg.vault.nodes import Nodes

__all__ = ["certificate"]

LOOKED_UP = b'{"data": {"ttl": 60, "expire_time": "later", "renewable": false}}'
SEALED = answer("503 Service Unavailable", b'{"errors": ["Vault is sealed"]}')
WELL = answer("200 OK", LOOKED_UP)


def nobody() -> str:
    return f"http://127.0.0.1:{unused_port()}"


def redirecting(leader: str) -> Callable[[socket.socket], None]:
    return answer("307 Temporary Redirect", b"", f"Location: {leader}/v1/auth/token/lookup-self")


def look_up(*addresses: str, nodes: Nodes | None = None) -> str:
    """Ask one of `addresses`; the one that answered."""
    settings = VaultSettings(address=",".join(addresses))
    nodes = nodes or Nodes(settings.addresses)
    client = connect(settings, time.monotonic() + ENOUGH, nodes=nodes)
    client.token = TOKEN
    try:
        client.auth.token.lookup_self()
    finally:
        client.adapter.close()
    return nodes.order[0]


def test_nodes_that_cannot_serve_are_passed_over() -> None:
    with ExitStack() as stack:
        well = stack.enter_context(listening(WELL))
        sealed = stack.enter_context(listening(SEALED))
        not_initialised = stack.enter_context(listening(answer("501 Not Implemented")))
        secondary = stack.enter_context(listening(answer("472 X")))
        standby = stack.enter_context(listening(redirecting(nobody())))
        for other in (nobody(), sealed, not_initialised, secondary, standby, "unix:///nowhere/agent.sock"):
            assert look_up(other, well) == well


def test_a_dead_leader_behind_a_307_is_passed_over_and_the_new_leader_followed() -> None:
    """Three nodes: the first is dead, the second still points to it, the third points to the new leader."""
    dead = nobody()
    with ExitStack() as stack:
        leader = stack.enter_context(listening(WELL))
        late = stack.enter_context(listening(redirecting(dead)))
        in_time = stack.enter_context(listening(redirecting(leader)))
        assert look_up(dead, late, in_time) == in_time
        message = str(failure(f"{dead},{late}"))
    assert message.startswith(f"none of 2 addresses of Vault answers: Vault at {dead} refuses the connection")
    assert f"Vault at {late} points to its leader at {dead}, which refuses the connection" in message


def test_the_node_that_answered_last_is_asked_first() -> None:
    asked: list[str] = []

    def counted(name: str, talk: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
        def counting(conn: socket.socket) -> None:
            asked.append(name)
            talk(conn)

        return counting

    with listening(counted("sealed", SEALED)) as sealed, listening(counted("well", WELL)) as well:
        nodes = Nodes([sealed, well])
        for _ in range(3):
            look_up(sealed, well, nodes=nodes)
    assert asked == ["sealed", "well", "well", "well"]


@pytest.mark.parametrize("talk", [reset, answer("500 Internal Server Error", b'{"errors": ["oops"]}')], ids=["cut", "500"])
def test_a_request_that_may_have_been_served_is_not_made_again_elsewhere(talk: Callable[[socket.socket], None]) -> None:
    """An issue that was cut may have made a lease. The next request goes to the other node."""
    heard: list[socket.socket] = []
    with listening(talk) as cutting, listening(heard.append) as other:
        nodes = Nodes([cutting, other])
        with pytest.raises(VaultUnavailable):
            look_up(cutting, other, nodes=nodes)
        assert heard == []
        assert nodes.order == (other, cutting)


def test_a_node_that_swallows_requests_is_asked_last_the_next_time() -> None:
    with listening(swallow) as deaf, listening(WELL) as well:
        settings = VaultSettings(address=f"{deaf},{well}")
        nodes = Nodes(settings.addresses)
        client = connect(settings, time.monotonic() + 2.0, nodes=nodes)
        with pytest.raises(VaultUnavailable, match="did not answer"):
            client.auth.token.lookup_self()
        client.adapter.close()
        assert look_up(deaf, well, nodes=nodes) == well


def test_only_where_all_are_sealed_vault_is_sealed() -> None:
    with listening(SEALED) as one, listening(SEALED) as other:
        assert isinstance(failure(f"{one},{other}"), VaultSealed)
        assert not isinstance(failure(f"{one},{nobody()}"), VaultSealed)


async def test_a_session_outlives_the_node_that_it_began_with(mount: Mount, dev_vault: DevVault, tmp_path: Path) -> None:
    """Two ways to one Vault; the one that served is gone."""
    told: list[Event] = []
    with ExitStack() as first:
        way = first.enter_context(agent(tmp_path / "agent.sock", dev_vault.address))
        settings = VaultSettings(
            address=f"{way.address},{dev_vault.address}", auth=TokenAuth(token=mount.token()), timeout=ENOUGH
        )
        session = VaultSession(settings, emit=told.append)
        await session.open()
        lease = await session.issue(mount.path, "app", timeout=ENOUGH)
        assert len(way.asked) == 2
        first.close()
        await session.renew(lease, 100, timeout=ENOUGH)
        await session.revoke(lease, timeout=ENOUGH)
        await session.close(timeout=ENOUGH)


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    assert (
        str(failure(f"unix://{path}")) == f"Vault at unix://{path} cannot be asked: there is no such socket (does the agent run?)"
    )


def test_a_unix_socket_is_cut_at_the_deadline_too(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert "did not answer" in str(failure(f"unix://{path}", within=0.3))


def test_no_proxy_stands_before_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", nobody())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with listening(WELL) as vault, agent(tmp_path / "agent.sock", vault) as way:
        assert look_up(way.address) == way.address
        assert [path for path, _ in way.asked] == ["/v1/auth/token/lookup-self"]


def test_the_certificate_is_asked_and_checked_for_the_name_that_is_set(certificate: Path) -> None:
    names: list[str | None] = []
    context = server_context(certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with listening(answer("502 Bad Gateway"), context) as address:
        assert "status 502" in str(failure(address, ca_cert=certificate, tls_server_name="127.0.0.1"))
        assert "Hostname mismatch" in str(failure(address, ca_cert=certificate, tls_server_name="vault.internal"))
        elsewhere = address.replace("127.0.0.1", "localhost")
        assert "status 502" in str(failure(elsewhere, ca_cert=certificate, tls_server_name="127.0.0.1"))
    assert "vault.internal" in names


def test_a_ca_may_be_given_as_text(certificate: Path) -> None:
    pem = certificate.read_text().partition("-----BEGIN PRIVATE")[0]
    with listening(answer("502 Bad Gateway"), server_context(certificate)) as address:
        assert "status 502" in str(failure(address, ca_cert_bytes=pem))
        assert "not trusted" in str(failure(address))
    with pytest.raises(SettingsError, match="is no certificate in PEM"):
        VaultSettings(ca_cert_bytes="nothing")
