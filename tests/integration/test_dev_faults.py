"""The dev Vault's failures on demand, as a client sees them; and what it does with requests that no client should send."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator

import hvac
import psycopg
import pytest
import requests
from hvac import exceptions
from pydantic import SecretStr

from tests.servers import DatabaseView, Mount, client_of, mounted
from tests.waiting import until
from vault_pg.dev import DevError, DevVault, EmbeddedPostgres, RoleSpec

HEALTH = "sys/health"
SELF = "auth/token/lookup-self"


@pytest.fixture
def client(dev_vault: DevVault) -> Iterator[hvac.Client]:
    client = client_of(dev_vault)
    yield client
    client.adapter.close()


def get(vault: DevVault, path: str = HEALTH) -> requests.Response:
    headers = {"X-Vault-Token": vault.root_token.get_secret_value()}
    return requests.get(f"{vault.address}/v1/{path}", headers=headers, timeout=30)


def issue(mount: Mount, client: hvac.Client | None = None) -> str:
    return str((client or mount.root).secrets.database.generate_credentials("app", mount_point=mount.path)["lease_id"])


def test_answers_can_be_chosen_so_many_times_and_every_so_often(dev_vault: DevVault) -> None:
    with dev_vault.faults.answer(429, headers={"Retry-After": "7"}, match=HEALTH, times=2, every=2) as fault:
        answers = [get(dev_vault) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200, 429, 200, 429, 200, 200]
        assert answers[1].headers["Retry-After"] == "7"
        assert answers[1].json() == {"errors": []}
        assert get(dev_vault, SELF).status_code == 200
        assert fault.hits == 2
    assert dev_vault.log.count(HEALTH) == 6
    assert dev_vault.log.count(f"GET {HEALTH}", status=429) == 2


def test_a_fault_ends_with_its_block_and_all_end_together(dev_vault: DevVault) -> None:
    with dev_vault.faults.answer(500):
        assert get(dev_vault).status_code == 500
    assert get(dev_vault).status_code == 200
    dev_vault.faults.answer(500)
    dev_vault.faults.seal()
    assert get(dev_vault).status_code == 500
    dev_vault.faults.clear()
    assert get(dev_vault).status_code == 200


def test_bodies_of_any_kind(dev_vault: DevVault, client: hvac.Client) -> None:
    dev_vault.faults.answer(200, "<html>a proxy</html>", match=SELF, times=1)
    assert client.auth.token.lookup_self().text == "<html>a proxy</html>"
    dev_vault.faults.answer(412, {"errors": ["required index state not present"]}, match=SELF, times=1)
    with pytest.raises(exceptions.UnexpectedError, match="required index state"):
        client.auth.token.lookup_self()
    dev_vault.faults.answer(204, match="sys/leases/renew", times=1)
    assert client.sys.renew_lease("any/lease").status_code == 204
    # The connection is still in step.
    assert client.auth.token.lookup_self()["data"]["policies"] == ["root"]


def test_sealed_it_answers_503_and_ends_nothing(
    dev_vault: DevVault, make_mount: Callable[..., Mount], database: DatabaseView, client: hvac.Client
) -> None:
    mount = make_mount(default_ttl=4)
    lease = issue(mount)
    dev_vault.faults.seal()
    due = time.monotonic() + 4
    for call in (client.auth.token.lookup_self, lambda: issue(mount), lambda: client.sys.renew_lease(lease)):
        with pytest.raises(exceptions.VaultDown, match="Vault is sealed"):
            call()
    assert client.sys.is_sealed()
    with pytest.raises(exceptions.InvalidRequest):
        client.sys.submit_unseal_key("not the key")
    assert client.sys.is_sealed()
    until(lambda: time.monotonic() > due, "the lease is due")
    assert len(database.roles()) == 1
    client.sys.submit_unseal_key(dev_vault.unseal_key.get_secret_value())
    assert client.auth.token.lookup_self()["data"]["policies"] == ["root"]
    until(lambda: not database.roles(), "what was due ends after the unseal")


def test_a_cut_answer_was_served_all_the_same(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    with dev_vault.faults.cut(f"{mount.path}/creds/app", times=1), pytest.raises(requests.exceptions.RequestException):
        issue(mount)
    assert len(database.roles()) == 1
    assert len(mount.leases()) == 1


def test_a_refused_request_was_not_served(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    with dev_vault.faults.refuse(f"{mount.path}/creds/app", times=1), pytest.raises(requests.ConnectionError):
        issue(mount)
    assert database.roles() == set()
    assert mount.leases() == []


def test_a_request_that_waits_holds_nobody_else_up(dev_vault: DevVault) -> None:
    with dev_vault.faults.hold(SELF) as fault:
        waiting = threading.Thread(target=get, args=(dev_vault, SELF))
        waiting.start()
        until(lambda: fault.hits == 1)
        assert get(dev_vault).status_code == 200
        assert [record.path for record in dev_vault.log.records()] == [HEALTH]
    waiting.join()
    assert [record.path for record in dev_vault.log.records()] == [HEALTH, SELF]


def test_a_slow_request_takes_its_time(dev_vault: DevVault) -> None:
    begun = time.monotonic()
    with dev_vault.faults.slow(0.2, times=1):
        assert get(dev_vault).status_code == 200
    assert time.monotonic() - begun >= 0.2


def test_a_client_that_gave_up_waiting_has_its_lease_all_the_same(dev_vault: DevVault, mount: Mount) -> None:
    path = f"{mount.path}/creds/app"
    with dev_vault.faults.late(30, path), pytest.raises(requests.Timeout):
        requests.get(
            f"{dev_vault.address}/v1/{path}", headers={"X-Vault-Token": dev_vault.root_token.get_secret_value()}, timeout=1
        )
    until(lambda: len(mount.leases()) == 1)


def test_a_lease_is_lost_behind_its_holders_back(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    lease = issue(mount)
    dev_vault.faults.lose_lease(lease)
    assert database.roles() == set()
    with pytest.raises(exceptions.InvalidRequest, match="lease not found"):
        mount.root.sys.renew_lease(lease)


def test_a_token_is_killed_by_id_or_accessor(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    by_id, by_accessor = mount.client(), mount.client()
    for client, name in ((by_id, by_id.token), (by_accessor, by_accessor.auth.token.lookup_self()["data"]["accessor"])):
        issue(mount, client)
        dev_vault.faults.kill_token(name)
        with pytest.raises(exceptions.Forbidden, match="permission denied"):
            client.auth.token.lookup_self()
        until(lambda: not database.roles())


def test_stopped_it_refuses_and_started_again_it_remembers(
    dev_vault: DevVault, make_mount: Callable[..., Mount], database: DatabaseView, client: hvac.Client
) -> None:
    lasting, ending = make_mount(), make_mount(default_ttl=4)
    kept, lost = issue(lasting), issue(ending)
    address = dev_vault.address
    dev_vault.stop()
    dev_vault.stop()
    assert not dev_vault.running
    for _ in range(2):
        # The first finds its connection cut, the second none to be had.
        with pytest.raises(requests.ConnectionError):
            client.auth.token.lookup_self()
    assert len(database.roles()) == 2
    dev_vault.start()
    assert dev_vault.address == address
    assert client.sys.read_lease(kept)["data"]["id"] == kept
    until(lambda: len(database.roles()) == 1, "the other has ended")
    until(lambda: not ending.leases())
    with pytest.raises(exceptions.InvalidRequest):
        client.sys.renew_lease(lost)


def test_stopping_cuts_a_request_under_way(new_vault: Callable[..., DevVault]) -> None:
    vault = new_vault()
    failed = threading.Event()

    def ask() -> None:
        try:
            get(vault)
        except requests.ConnectionError:
            failed.set()

    fault = vault.faults.hold()
    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: fault.hits == 1)
    vault.stop()
    assert failed.wait(60)
    asking.join()
    fault.end()


def test_troubles_of_the_server_end_with_their_block(dev_vault: DevVault) -> None:
    with dev_vault.faults.seal():
        assert get(dev_vault).status_code == 503
    assert get(dev_vault).status_code == 200
    with dev_vault.faults.stop():
        for _ in range(2):
            with pytest.raises(requests.ConnectionError):
                get(dev_vault)
    assert get(dev_vault).status_code == 200
    dev_vault.faults.stop()
    dev_vault.faults.clear()
    assert get(dev_vault).status_code == 200


def test_not_now_is_said_in_vaults_words_and_for_how_long(dev_vault: DevVault) -> None:
    for status, said in (
        (412, ["required index state not present"]),
        (429, ["request path: rate limit quota exceeded"]),
        (503, []),
    ):
        dev_vault.faults.unavailable(status, retry_after=9, match=SELF, times=1)
        answer = get(dev_vault, SELF)
        assert (answer.status_code, answer.json()["errors"], answer.headers["Retry-After"]) == (status, said, "9")
    with dev_vault.faults.unavailable(473, every=2):
        answers = [get(dev_vault) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 473, 200, 473]
    assert "Retry-After" not in answers[1].headers


def test_a_standby_points_to_a_leader_that_is_dead_or_lives(dev_vault: DevVault, new_vault: Callable[..., DevVault]) -> None:
    with dev_vault.faults.standby() as fault:
        for _ in range(2):
            with pytest.raises(requests.ConnectionError) as caught:
                get(dev_vault, SELF)
            assert caught.value.request is not None
            assert f":{dev_vault.port}/" not in str(caught.value.request.url)
        assert fault.hits == 2
    leader = new_vault(root_token=dev_vault.root_token)
    with dev_vault.faults.standby(leader.address):
        answer = get(dev_vault, SELF)
    assert [before.status_code for before in answer.history] == [307]
    assert answer.url == f"{leader.address}/v1/{SELF}"
    assert answer.status_code == 200


def test_a_proxys_page_is_no_answer(dev_vault: DevVault) -> None:
    with dev_vault.faults.garbage(SELF):
        answer = get(dev_vault, SELF)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html")
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()


def test_a_renewal_answered_by_204_renews_nothing(dev_vault: DevVault, mount: Mount) -> None:
    lease = issue(mount)
    with dev_vault.faults.no_content():
        assert mount.root.sys.renew_lease(lease).status_code == 204
    assert mount.root.sys.read_lease(lease)["data"]["last_renewal"] is None


@pytest.mark.parametrize("kind", ["slow", "late"])
def test_a_slow_request_waits_no_longer_than_the_fault_lasts(dev_vault: DevVault, kind: str) -> None:
    fault = getattr(dev_vault.faults, kind)(3600, SELF)
    waiting = threading.Thread(target=get, args=(dev_vault, SELF))
    waiting.start()
    until(lambda: fault.hits == 1)
    fault.end()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_database_that_only_vault_cannot_reach(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    lease = issue(mount)
    with dev_vault.faults.cut_off_database():
        with pytest.raises(
            exceptions.InternalServerError, match=r"(?s)unable to start transaction: dial tcp .* connection refused"
        ):
            issue(mount)
        with pytest.raises(exceptions.InvalidRequest, match=r"(?s)failed to renew entry: .* dial tcp .* connection refused"):
            mount.root.sys.renew_lease(lease)
        with pytest.raises(exceptions.InvalidRequest, match=r"(?s)failed to revoke entry: .* dial tcp .* connection refused"):
            mount.root.adapter.put("/v1/sys/leases/revoke", json={"lease_id": lease, "sync": True})
        assert len(database.roles()) == 1
    mount.root.sys.renew_lease(lease)
    mount.root.sys.revoke_lease(lease)
    assert database.roles() == set()


def test_postgresql_that_is_down_is_back_with_its_data(mount: Mount, postgres: EmbeddedPostgres, database: DatabaseView) -> None:
    issue(mount)
    port = postgres.port
    with postgres.down():
        assert not postgres.running
        with pytest.raises(exceptions.InternalServerError, match="connection refused"):
            issue(mount)
    assert postgres.port == port
    assert len(database.roles()) == 1
    issue(mount)


def test_a_grant_is_cut_short_and_the_lease_really_ends_then(
    dev_vault: DevVault, make_mount: Callable[..., Mount], database: DatabaseView
) -> None:
    mount = make_mount(default_ttl=60, max_ttl=3600)
    lease = issue(mount)
    with dev_vault.faults.truncate_grants(4):
        answer = mount.root.sys.renew_lease(lease, 60)
        assert answer["lease_duration"] == 4
        assert answer["warnings"] == ['TTL of "1m" exceeded the effective max_ttl of "4s"; TTL value is capped accordingly']
        short = mount.root.secrets.database.generate_credentials("app", mount_point=mount.path)
        assert short["lease_duration"] == 4
        assert len(database.roles()) == 2
    until(lambda: not database.roles(), "both have ended")
    assert mount.root.secrets.database.generate_credentials("app", mount_point=mount.path)["lease_duration"] == 60


def test_a_revocation_that_the_database_refuses_is_tried_again_when_it_is_due(
    dev_vault: DevVault, make_mount: Callable[..., Mount], database: DatabaseView
) -> None:
    mount = make_mount(default_ttl=1)
    with dev_vault.faults.fail_revocations():
        asked, due = issue(mount), issue(mount)
        with pytest.raises(exceptions.InvalidRequest, match=r"(?s)failed to revoke entry: .* some objects depend on it"):
            mount.root.adapter.put("/v1/sys/leases/revoke", json={"lease_id": asked, "sync": True})
        until(lambda: mount.root.sys.read_lease(due)["data"]["ttl"] < 0, "it is past its end")
        assert len(database.roles()) == 2
    until(lambda: not database.roles(), "Vault has tried again")


def test_all_that_logins_yielded_ends_at_once(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    login = mount.approle()
    clients = [client_of(dev_vault) for _ in range(2)]
    for client in clients:
        client.auth.approle.login(login.role_id, login.secret_id.get_secret_value())
        issue(mount, client)
    made = mount.client()
    assert dev_vault.faults.kill_logins() >= 2
    for client in clients:
        with pytest.raises(exceptions.Forbidden, match="permission denied"):
            client.auth.token.lookup_self()
    until(lambda: not database.roles())
    assert made.auth.token.lookup_self()["data"]["path"] == "auth/token/create"


def test_leases_are_lost_by_a_pattern(dev_vault: DevVault, make_mount: Callable[..., Mount], database: DatabaseView) -> None:
    mount, other = make_mount(), make_mount()
    lost, kept = {issue(mount), issue(mount)}, issue(other)
    assert set(dev_vault.faults.lose_leases(f"{mount.path}/creds/*")) == lost
    assert len(database.roles()) == 1
    assert other.leases() == [kept]


def test_a_port_that_is_taken_is_named(dev_vault: DevVault) -> None:
    with pytest.raises(DevError, match=f"cannot listen on 127.0.0.1:{dev_vault.port}: .*; choose another port"):
        DevVault(port=dev_vault.port).start()


def test_the_log_and_the_reprs_hold_no_secret(dev_vault: DevVault, mount: Mount) -> None:
    login = mount.approle()
    client = client_of(dev_vault)
    client.auth.approle.login(login.role_id, login.secret_id.get_secret_value())
    lease = issue(mount, client)
    client.sys.revoke_lease(lease)
    secrets = dev_vault.secrets()
    assert {client.token, login.secret_id.get_secret_value(), mount.postgres.admin_password.get_secret_value()} <= secrets
    shown = repr((dev_vault, dev_vault.log.records(), vars(dev_vault), login, vars(mount)))
    assert not [secret for secret in secrets if secret in shown]


def test_the_root_token_can_be_chosen(new_vault: Callable[..., DevVault]) -> None:
    chosen = SecretStr("a-token-of-ones-own")
    vault = new_vault(root_token=chosen)
    assert client_of(vault).auth.token.lookup_self()["data"]["id"] == chosen.get_secret_value()
    assert new_vault().root_token != new_vault().root_token


def test_a_lease_whose_token_ends_during_the_issue_is_revoked(
    new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres, database: DatabaseView
) -> None:
    vault = new_vault()
    slow = "SELECT pg_sleep(1); CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'"
    with mounted(vault, postgres, {"app": RoleSpec(creation_statements=[slow])}) as mount:
        client = mount.client()
        refused = threading.Event()

        def ask() -> None:
            try:
                issue(mount, client)
            except exceptions.Forbidden:
                refused.set()

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: sleeping(postgres), "PostgreSQL works at the role")
        vault.faults.kill_token(client.token)
        asking.join()
        assert refused.is_set()
        until(lambda: not database.roles())
        assert mount.leases() == []


def sleeping(postgres: EmbeddedPostgres) -> bool:
    with postgres.admin() as conn:
        return conn.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone() is not None


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "sys/leases/renew", "{not json", 400),
        ("PUT", "sys/leases/renew", "[1]", 400),
        ("PUT", "sys/leases/renew", '{"lease_id": "x", "increment": "soon"}', 400),
        ("POST", "auth/token/create", '{"num_uses": "some"}', 400),
        ("PUT", "sys/policies/acl/odd", '{"policy": "path \\"x\\" { policy = \\"read\\" }"}', 400),
        ("PUT", "sys/mounts/odd", '{"type": "kv"}', 400),
        ("PUT", "sys/mounts/sys", '{"type": "database"}', 400),
        ("DELETE", "sys/health", "", 405),
        ("GET", "sys/nothing", "", 404),
        ("LIST", "sys/leases/lookup/nothing/", "", 404),
        ("PATCH", "sys/health", "", 501),
    ],
)
def test_odd_requests_are_refused_and_the_server_lives_on(
    dev_vault: DevVault, method: str, path: str, body: str, status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", dev_vault.port, timeout=30)
    connection.request(method, f"/v1/{path}", body, {"X-Vault-Token": dev_vault.root_token.get_secret_value()})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == status
    connection.close()
    assert get(dev_vault).status_code == 200


def test_postgresql_that_restarts_between_two_issues_is_not_noticed(
    mount: Mount, postgres: EmbeddedPostgres, database: DatabaseView
) -> None:
    issue(mount)
    postgres.restart()
    issue(mount)
    assert len(database.roles()) == 2


def test_a_role_that_vanished_cannot_be_renewed_but_its_lease_ends_well(mount: Mount, database: DatabaseView) -> None:
    lease = issue(mount)
    for name in database.roles():
        database.execute("DROP ROLE {}", name)
    with pytest.raises(exceptions.InvalidRequest, match="failed to renew entry"):
        mount.root.sys.renew_lease(lease)
    mount.root.sys.revoke_lease(lease)
    assert mount.leases() == []


def test_a_leased_role_is_in_the_group_of_the_demo_table(mount: Mount, postgres: EmbeddedPostgres) -> None:
    data = mount.root.secrets.database.generate_credentials("app", mount_point=mount.path)["data"]
    with psycopg.connect(postgres.conninfo(), user=data["username"], password=data["password"]) as conn:
        assert conn.execute("SELECT count(*) > 0 FROM orders").fetchone() == (True,)
