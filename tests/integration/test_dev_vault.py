"""What a Vault does with leases, tokens and roles: on the dev Vault, and on a real one where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import hvac
import psycopg
import pytest
from hvac import exceptions
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from tests.servers import DatabaseView, Mount, client_of, mounted
from tests.waiting import until
from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec, StaticRoleSpec
from vault_pg.dev.vault.database import EXPIRY_BUFFER

OWNING = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_readwrite;
CREATE SCHEMA "{{name}}" AUTHORIZATION "{{name}}";"""
"""A role that owns something, so that it cannot be dropped."""

MakeMount = Callable[..., Mount]


@dataclass(frozen=True)
class Issued:
    lease: str
    ttl: int
    username: str
    password: SecretStr


def issue(mount: Mount, client: hvac.Client | None = None, role: str = "app") -> Issued:
    answer = (client or mount.root).secrets.database.generate_credentials(role, mount_point=mount.path)
    data = answer["data"]
    return Issued(answer["lease_id"], answer["lease_duration"], data["username"], SecretStr(data["password"]))


def log_in(postgres: EmbeddedPostgres, issued: Issued) -> psycopg.Connection:
    conninfo = make_conninfo(postgres.conninfo(), user=issued.username, password=issued.password.get_secret_value())
    return psycopg.connect(conninfo, autocommit=True)


def valid_until(database: DatabaseView, issued: Issued) -> datetime:
    with database.postgres.admin() as conn:
        row = conn.execute("SELECT rolvaliduntil FROM pg_roles WHERE rolname = %s", [issued.username]).fetchone()
    assert row is not None
    found = row[0]
    assert isinstance(found, datetime)
    return found


def lease_of(mount: Mount, lease_id: str) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = mount.root.sys.read_lease(lease_id)["data"]
    except exceptions.InvalidRequest:
        return None
    return data


def test_a_credential_works_until_it_is_revoked(mount: Mount, postgres: EmbeddedPostgres, database: DatabaseView) -> None:
    issued = issue(mount, mount.client())
    assert mount.leases() == [issued.lease]
    assert database.roles() == {issued.username}
    with log_in(postgres, issued) as conn:
        assert conn.execute("SELECT current_user").fetchone() == (issued.username,)
        conn.execute("INSERT INTO orders (item) VALUES ('leased')")
        conn.execute("DELETE FROM orders WHERE item = 'leased'")
    mount.root.sys.revoke_lease(issued.lease)
    assert database.roles() == set()
    assert mount.leases() == []
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        log_in(postgres, issued)


def test_names_say_who_asked_for_which_role(make_mount: MakeMount) -> None:
    mount = make_mount(roles={"a-rather-long-name": RoleSpec()})
    named = issue(mount, mount.client(mount.token(display_name="bill")), "a-rather-long-name")
    assert named.username.startswith("v-token-bi-a-rather-")
    assert len(named.username) <= 63


def test_roles_end_on_time_and_an_open_session_shows_how(
    make_mount: MakeMount, postgres: EmbeddedPostgres, database: DatabaseView
) -> None:
    mount = make_mount(default_ttl=4, max_ttl=8)
    issued = issue(mount)
    with log_in(postgres, issued) as conn:
        until(lambda: not database.roles(), "the lease has ended")
        assert conn.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT count(*) FROM orders")
        with pytest.raises(psycopg.errors.UndefinedObject):
            conn.execute("SELECT current_user")
    assert lease_of(mount, issued.lease) is None


def test_a_renewal_sets_the_end_and_moves_valid_until(mount: Mount, database: DatabaseView) -> None:
    issued = issue(mount)
    first = valid_until(database, issued)
    shorter = mount.root.sys.renew_lease(issued.lease, increment=600)
    assert (shorter["lease_duration"], shorter["warnings"]) == (600, None)
    assert valid_until(database, issued) < first
    lease = lease_of(mount, issued.lease)
    assert lease is not None
    assert lease["last_renewal"] is not None
    end = datetime.fromisoformat(lease["expire_time"])
    assert abs((valid_until(database, issued) - end).total_seconds() - EXPIRY_BUFFER) <= 2
    longer = mount.root.sys.renew_lease(issued.lease, increment=7200)
    assert longer["lease_duration"] == 7200
    assert valid_until(database, issued) > first


def test_max_ttl_cuts_a_renewal_and_ends_the_lease(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(default_ttl=4, max_ttl=5)
    issued = issue(mount)
    answer = mount.root.sys.renew_lease(issued.lease, increment=100)
    assert answer["lease_duration"] <= 5
    assert "exceeded the effective max_ttl" in answer["warnings"][0]
    until(lambda: not database.roles(), "renewed or not, the lease ends")
    with pytest.raises(exceptions.InvalidRequest, match="lease not found"):
        mount.root.sys.renew_lease(issued.lease)


def test_a_lease_dies_with_the_token_that_asked_for_it(mount: Mount, database: DatabaseView) -> None:
    short = issue(mount, mount.client(mount.token(ttl="4s")))
    assert short.ttl == 3600
    other = issue(mount)
    until(lambda: database.roles() == {other.username}, "the token has ended, and its lease with it")
    until(lambda: lease_of(mount, short.lease) is None)


def test_the_child_dies_with_the_parent_and_an_orphan_does_not(mount: Mount, database: DatabaseView) -> None:
    may_create = 'path "auth/token/create" { capabilities = ["create", "update", "sudo"] }'
    mount.write_policy(mount.service_policy("app") + "\n" + may_create)
    parent = mount.client(mount.token())
    made = [
        parent.auth.token.create(policies=[mount.policy], no_parent=orphan)["auth"]["client_token"] for orphan in (False, True)
    ]
    child, orphan = (mount.client(SecretStr(token)) for token in made)
    issue(mount, child)
    kept = issue(mount, orphan)
    parent.auth.token.revoke_self()
    until(lambda: database.roles() == {kept.username}, "the child's lease has ended")
    with pytest.raises(exceptions.Forbidden):
        child.auth.token.lookup_self()
    assert orphan.auth.token.lookup_self()["data"]["orphan"] is True


def test_a_batch_token_cuts_the_lease_to_its_own_life(mount: Mount) -> None:
    batch = mount.client(mount.token(ttl="20s", type="batch"))
    issued = issue(mount, batch)
    assert issued.ttl <= 20
    lease = lease_of(mount, issued.lease)
    assert lease is not None
    assert lease["ttl"] <= 20
    renewed = batch.sys.renew_lease(issued.lease, increment=3600)
    assert renewed["lease_duration"] <= 20


@pytest.mark.parametrize(
    ("options", "granted"),
    [
        ({"ttl": "20s"}, 20),
        ({"ttl": "20s", "explicit_max_ttl": "30s", "increment": 300}, 30),
        ({"ttl": "20s", "increment": 300}, 300),
        ({"period": "40s", "increment": 300}, 40),
    ],
)
def test_token_renewals_keep_to_their_limits(mount: Mount, options: dict[str, Any], granted: int) -> None:
    increment = options.pop("increment", None)
    client = mount.client(mount.token(**options))
    auth = client.auth.token.renew_self(increment=increment)["auth"]
    assert granted - 2 <= auth["lease_duration"] <= granted
    assert auth["renewable"] is True


def test_tokens_that_cannot_be_renewed(mount: Mount) -> None:
    for options, text in (
        ({"renewable": False}, "lease is not renewable"),
        ({"type": "batch"}, "batch tokens cannot be renewed"),
    ):
        client = mount.client(mount.token(**options))
        with pytest.raises(exceptions.InvalidRequest, match=text):
            client.auth.token.renew_self()
    with pytest.raises(exceptions.InvalidRequest, match="lease is not renewable"):
        mount.root.auth.token.renew_self()


def test_a_token_of_few_uses_ends_with_the_last(mount: Mount, database: DatabaseView) -> None:
    client = mount.client(mount.token(num_uses=3))
    assert client.auth.token.lookup_self()["data"]["num_uses"] == 2
    issue(mount, client)
    with pytest.raises(exceptions.InvalidRequest, match="token had one use left"):
        issue(mount, client)
    with pytest.raises(exceptions.Forbidden):
        client.auth.token.lookup_self()
    until(lambda: not database.roles(), "its leases have ended")


def test_the_default_policy_allows_a_token_to_look_after_itself(mount: Mount) -> None:
    issued = issue(mount)
    client = mount.client(mount.token(policies=["default"]))
    assert client.auth.token.lookup_self()["data"]["policies"] == ["default"]
    client.auth.token.renew_self()
    assert client.sys.read_lease(issued.lease)["data"]["id"] == issued.lease
    assert client.sys.renew_lease(issued.lease)["lease_id"] == issued.lease
    for forbidden in (
        lambda: issue(mount, client),
        lambda: client.sys.revoke_lease(issued.lease),
        lambda: client.sys.list_leases(f"{mount.path}/creds/app/"),
        client.sys.list_policies,
    ):
        with pytest.raises(exceptions.Forbidden):
            forbidden()


def test_capabilities_are_those_of_the_policy(mount: Mount) -> None:
    client = mount.client()
    paths = [f"{mount.path}/creds/app", f"{mount.path}/creds/other", "sys/leases/revoke"]
    assert {path: client.sys.get_capabilities([path])["data"]["capabilities"] for path in paths} == {
        paths[0]: ["read"],
        paths[1]: ["deny"],
        paths[2]: ["update"],
    }


def test_a_role_that_owns_something_is_not_dropped_unless_by_force(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(creation_statements=[OWNING])
    issued = issue(mount)
    try:
        with pytest.raises(exceptions.InvalidRequest, match=r"(?s)failed to revoke entry: .*objects depend on it"):
            mount.root.sys.revoke_lease(issued.lease)
        assert lease_of(mount, issued.lease) is not None
        mount.root.sys.revoke_force(f"{mount.path}/creds/app")
        assert lease_of(mount, issued.lease) is None
        assert database.roles() == {issued.username}
    finally:
        database.execute("DROP OWNED BY {}", issued.username)
        database.execute("DROP ROLE {}", issued.username)


def test_custom_revocation_statements_are_run(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(creation_statements=[OWNING], revocation_statements=['DROP OWNED BY "{{name}}"; DROP ROLE "{{name}}";'])
    mount.root.sys.revoke_lease(issue(mount).lease)
    assert database.roles() == set()


def test_the_default_revocation_takes_direct_grants_away(make_mount: MakeMount, database: DatabaseView) -> None:
    grants = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'; GRANT SELECT (item) ON orders TO "{{name}}";
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO "{{name}}"; GRANT USAGE ON SCHEMA public TO "{{name}}";"""
    mount = make_mount(creation_statements=[grants])
    mount.root.sys.revoke_lease(issue(mount).lease)
    assert database.roles() == set()


def test_a_prefix_is_revoked_at_once(mount: Mount, database: DatabaseView) -> None:
    for _ in range(3):
        issue(mount)
    assert len(database.roles()) == 3
    mount.root.sys.revoke_prefix(f"{mount.path}/creds")
    until(lambda: not database.roles())


def test_a_role_that_is_not_allowed_on_its_connection(mount: Mount) -> None:
    mount.root.secrets.database.create_role("stranger", "app", ["SELECT 1"], mount_point=mount.path)
    with pytest.raises(exceptions.InternalServerError, match='"stranger" is not an allowed role'):
        issue(mount, role="stranger")


def test_a_connection_that_does_not_work_is_refused_without_its_password(mount: Mount, postgres: EmbeddedPostgres) -> None:
    def configure(url: str) -> None:
        mount.root.secrets.database.configure(
            "bad",
            "postgresql-database-plugin",
            connection_url=url,
            username="postgres",
            password="not-the-right-one",
            mount_point=mount.path,
        )

    place = f"{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}"
    for url in (f"postgresql://{place}/app?sslmode=disable", "postgresql://{{username}}:{{password}}@127.0.0.1:1/app"):
        with pytest.raises(exceptions.InvalidRequest, match="error verifying connection") as refused:
            configure(url)
        assert "not-the-right-one" not in str(refused.value)


def test_static_roles_change_their_password_by_themselves(
    mount: Mount, postgres: EmbeddedPostgres, database: DatabaseView
) -> None:
    database.execute("CREATE ROLE {} LOGIN IN ROLE app_readwrite", "static_person")
    try:
        mount.provision({"app": RoleSpec()}, {"fixed": StaticRoleSpec("static_person", rotation_period=5)})

        def credential() -> Issued:
            data = mount.root.secrets.database.get_static_credentials("fixed", mount_point=mount.path)["data"]
            assert (data["username"], data["rotation_period"]) == ("static_person", 5)
            return Issued("", data["ttl"], data["username"], SecretStr(data["password"]))

        first = credential()
        log_in(postgres, first).close()
        until(lambda: credential().password != first.password, "it was rotated")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            log_in(postgres, first)
        log_in(postgres, credential()).close()
        mount.root.secrets.database.delete_static_role("fixed", mount_point=mount.path)
    finally:
        database.execute("DROP ROLE {}", "static_person")


def test_approle_logs_in_and_its_secret_ids_can_be_few(mount: Mount, database: DatabaseView) -> None:
    login = mount.approle(token_ttl=30)
    mount.root.auth.approle.create_or_update_approle(mount.path, secret_id_num_uses=1)
    once = mount.root.auth.approle.generate_secret_id(mount.path)["data"]["secret_id"]
    client = client_of(mount.server)
    auth = client.auth.approle.login(login.role_id, once)["auth"]
    assert (auth["lease_duration"], auth["metadata"]) == (30, {"role_name": mount.path})
    assert issue(mount, client).username in database.roles()
    with pytest.raises(exceptions.InvalidRequest):
        client_of(mount.server).auth.approle.login(login.role_id, once)
    client.auth.token.revoke_self()
    until(lambda: not database.roles())


def test_a_wrapped_secret_id_is_unwrapped_once(mount: Mount) -> None:
    mount.approle()
    wrapped = mount.root.auth.approle.generate_secret_id(mount.path, wrap_ttl="60s")["wrap_info"]
    client = client_of(mount.server, SecretStr(wrapped["token"]))
    assert client.sys.unwrap()["data"]["secret_id"]
    with pytest.raises(exceptions.InvalidRequest, match="wrapping token is not valid or does not exist"):
        client.sys.unwrap()
    again = mount.root.auth.approle.generate_secret_id(mount.path, wrap_ttl="60s")["wrap_info"]
    # The other way: a living token in the header, the wrapping token in the body.
    nobody = client_of(mount.server)
    nobody.token = ""
    with pytest.raises((exceptions.InvalidRequest, exceptions.Forbidden), match=r"missing client token|permission denied"):
        nobody.sys.unwrap(again["token"])
    assert mount.client().sys.unwrap(again["token"])["data"]["secret_id"]


def test_sql_that_postgresql_refuses_leaves_no_role(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(creation_statements=["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'; SELECT no_such_function();"])
    with pytest.raises(exceptions.InternalServerError, match="failed to execute query"):
        issue(mount)
    assert database.roles() == set()
    assert mount.leases() == []


def test_paths_that_nothing_serves(mount: Mount) -> None:
    with pytest.raises(exceptions.InvalidPath, match="no handler for route"):
        issue(Mount(mount.server, mount.root, mount.postgres, "not-mounted"))
    with pytest.raises(exceptions.InvalidRequest, match="unknown role: nobody"):
        issue(mount, role="nobody")
    with pytest.raises(exceptions.InvalidRequest, match="path is already in use"):
        mount.root.sys.enable_secrets_engine("database", path=mount.path)


def test_a_mount_that_is_taken_away_takes_its_leases_along(mount: Mount, database: DatabaseView) -> None:
    issue(mount)
    mount.root.sys.disable_secrets_engine(mount.path)
    until(lambda: not database.roles())


def test_set_up_twice_is_set_up_once(mount: Mount, database: DatabaseView) -> None:
    issued = issue(mount)
    mount.provision({"app": RoleSpec(default_ttl=60, max_ttl=120)})
    assert issue(mount).ttl == 60
    assert mount.root.sys.renew_lease(issued.lease)["lease_duration"] == 60


def test_revocation_is_tried_again_once_the_database_is_back(
    dev_vault: DevVault, mount: Mount, postgres: EmbeddedPostgres, database: DatabaseView, caplog: pytest.LogCaptureFixture
) -> None:
    client = mount.client()
    issued = issue(mount, client)
    postgres.stop(immediate=True)
    try:
        client.auth.token.revoke_self()
        with pytest.raises(exceptions.InternalServerError, match="connection refused"):
            issue(mount)
        until(lambda: "connection refused" in caplog.text, "the first try has failed")
        assert lease_of(mount, issued.lease) is not None
    finally:
        postgres.start()
    until(lambda: not database.roles(), "the role is dropped in the end")
    assert lease_of(mount, issued.lease) is None


def test_a_lease_that_cannot_be_revoked_is_given_up(
    new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres, database: DatabaseView
) -> None:
    vault = new_vault(revoke_retry_base=0.01)
    with mounted(vault, postgres, {"app": RoleSpec(default_ttl=1, creation_statements=[OWNING])}) as mount:
        issued = issue(mount)
        until(lambda: (lease_of(mount, issued.lease) or {}).get("renewable") is False, "it is given up")
        with pytest.raises(exceptions.InvalidRequest, match="failed previous revocation attempts"):
            mount.root.sys.renew_lease(issued.lease)
        assert database.roles() == {issued.username}
    database.execute("DROP OWNED BY {}", issued.username)
    database.execute("DROP ROLE {}", issued.username)
