"""sys/: mounts, policies, leases, wrapping, capabilities, health and seal."""

from __future__ import annotations

import secrets

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import rfc3339, seconds
from vault_pg.dev.vault.messages import ACCEPTED, DENIED, DONE, Answer, Body, Granted, Refused, keys
from vault_pg.dev.vault.mounts import Mounts
from vault_pg.dev.vault.policies import ROOT
from vault_pg.dev.vault.routes import Call, Routes
from vault_pg.dev.vault.wrapping import Wrappings
from vault_pg.version import __version__

VERSION = f"1.8.0-dev+vault-pg.{__version__}"


class System:
    """The system backend."""

    kind = "system"

    def __init__(self, core: Core, wrappings: Wrappings) -> None:
        self.core = core
        self.wrappings = wrappings
        self.secrets: Mounts
        self.auths: Mounts
        self.routes = Routes()
        self._route_state()
        self._route_mounts()
        self._route_policies()
        self._route_leases()
        self._route_wrapping()

    def serve(self, secrets_mounts: Mounts, auths: Mounts) -> None:
        """The mounts to rule over; sys/ is one of them, hence not at the start."""
        self.secrets, self.auths = secrets_mounts, auths

    def close(self) -> None:
        """Never unmounted."""

    def _route_state(self) -> None:
        add = self.routes.add
        add("GET", "health", self.health, public=True)
        add("GET", "seal-status", lambda _call: self.seal_status(), public=True)
        add("GET", "leader", lambda _call: self.leader(), public=True)
        add("GET", "init", lambda _call: Answer(raw={"initialized": True}), public=True)
        add("PUT", "seal", lambda _call: self.seal(), sudo=True)
        add("PUT", "unseal", self.unseal, public=True)
        add("PUT", "capabilities-self", lambda call: self.capabilities(call, call.request.token))
        add("PUT", "capabilities", lambda call: self.capabilities(call, call.request.text("token")))

    def _route_mounts(self) -> None:
        add = self.routes.add
        add("GET", "mounts", lambda _call: Answer(data=self.secrets.shown(), top=True))
        add("PUT", "mounts/{path*}", self.mount)
        add("DELETE", "mounts/{path*}", self.unmount)
        add("GET", "auth", lambda _call: Answer(data=self.auths.shown(), top=True))
        add("PUT", "auth/{path*}", self.enable_auth, sudo=True)
        add("DELETE", "auth/{path*}", self.disable_auth, sudo=True)

    def _route_policies(self) -> None:
        for path in ("policies/acl", "policy"):
            self.routes.add("LIST", path, lambda _call: self.policies())
            self.routes.add("GET", path, lambda _call: self.policies())
            self.routes.add("GET", path + "/{name}", self.read_policy)
            self.routes.add("PUT", path + "/{name}", self.write_policy)
            self.routes.add("DELETE", path + "/{name}", self.delete_policy)

    def _route_leases(self) -> None:
        add = self.routes.add
        add("PUT", "leases/lookup", lambda call: Answer(data=self.core.leases.shown(self._lease_id(call))))
        add("LIST", "leases/lookup/{prefix*}", self.list_leases, sudo=True)
        for stem in ("leases/", ""):
            add("PUT", stem + "renew", self.renew)
            add("PUT", stem + "renew/{lease*}", self.renew)
            add("PUT", stem + "revoke", self.revoke)
            add("PUT", stem + "revoke/{lease*}", self.revoke)
            add("PUT", stem + "revoke-prefix/{prefix*}", self.revoke_prefix, sudo=True)
            add("PUT", stem + "revoke-force/{prefix*}", self.revoke_force, sudo=True)

    def _route_wrapping(self) -> None:
        add = self.routes.add
        add(
            "PUT",
            "wrapping/lookup",
            lambda call: self.wrappings.lookup(call.request.text("token") or call.request.token),
            public=True,
        )
        # Not by policy alone: a wrapping token may do nothing but this.
        add("PUT", "wrapping/unwrap", self.unwrap, public=True)
        add("PUT", "wrapping/wrap", lambda call: Answer(data=call.request.body))

    def unwrap(self, call: Call) -> Answer:
        """Asked by the wrapping token itself, or by a token that may, of a wrapping token in the body."""
        named = call.request.text("token")
        if not named:
            return self.wrappings.unwrap(call.request.token)
        self.wrappings.lookup(named)
        asker = self.core.token(call.request.token)
        if not {"update", ROOT} & self.core.capabilities(asker, call.request.path):
            raise Refused.wrapped(403, DENIED)
        return self.wrappings.unwrap(named)

    # State of the server

    def health(self, call: Call) -> Answer:
        sealed = self.core.sealed
        replication = "unknown" if sealed else "disabled"
        body: Body = {
            "initialized": True,
            "sealed": sealed,
            "standby": sealed,
            "performance_standby": False,
            "replication_performance_mode": replication,
            "replication_dr_mode": replication,
            "server_time_utc": int(self.core.now()),
            "version": VERSION,
        }
        code = call.request.query.get("sealedcode" if sealed else "activecode", "503" if sealed else "200")
        if not code.isdigit():
            raise Refused(400, "bad status code")
        return Answer(int(code), raw=body if sealed else {**body, **self._cluster()})

    def _cluster(self) -> Body:
        return {"cluster_name": f"vault-cluster-{self.core.cluster_id[:8]}", "cluster_id": self.core.cluster_id}

    def seal_status(self) -> Answer:
        sealed = self.core.sealed
        status: Body = {"type": "shamir", "initialized": True, "sealed": sealed, "t": 1, "n": 1, "progress": 0, "nonce": ""}
        status |= {"version": VERSION, "migration": False}
        if not sealed:
            status |= self._cluster()
        return Answer(raw={**status, "recovery_seal": False, "storage_type": "inmem"})

    def leader(self) -> Answer:
        if self.core.sealed:
            raise Refused(503, "Vault is sealed")
        body: Body = {"ha_enabled": False, "is_self": False, "active_time": rfc3339(self.core.started), "leader_address": ""}
        body |= {"leader_cluster_address": "", "performance_standby": False, "performance_standby_last_remote_wal": 0}
        return Answer(raw=body)

    def seal(self) -> Answer:
        self.core.seal()
        return DONE

    def unseal(self, call: Call) -> Answer:
        key = call.request.text("key")
        if not key:
            raise Refused(400, "'key' must be specified in request body as JSON, or 'reset' set to true")
        if not secrets.compare_digest(key.encode(), self.core.unseal_key.get_secret_value().encode()):
            raise Refused(400, "failed to decrypt encrypted stored keys: cipher: message authentication failed")
        self.core.unseal()
        return self.seal_status()

    def capabilities(self, call: Call, secret: str) -> Answer:
        token = self.core.token(secret)
        paths = call.request.names("paths", "path")
        if not paths:
            raise Refused(400, "paths must be supplied")
        found = {path: sorted(self.core.capabilities(token, path)) or ["deny"] for path in paths}
        data: Body = {**found, "capabilities": found[paths[0]]} if len(paths) == 1 else dict(found)
        return Answer(data=data, top=True)

    # Mounts and policies

    def mount(self, call: Call, path: str) -> Answer:
        self.secrets.enable(path, call.request)
        return DONE

    def unmount(self, _call: Call, path: str) -> Answer:
        self.core.leases.revoke_prefix(path, sync=True)
        self.secrets.disable(path)
        return DONE

    def enable_auth(self, call: Call, path: str) -> Answer:
        self.auths.enable(path, call.request)
        return DONE

    def disable_auth(self, _call: Call, path: str) -> Answer:
        self.auths.disable(path)
        return DONE

    def policies(self) -> Answer:
        names = self.core.policies.names()
        return Answer(data={"keys": names, "policies": names}, top=True)

    def read_policy(self, call: Call, name: str) -> Answer:
        text = self.core.policies.text(name)
        if call.request.path.startswith("sys/policy/"):
            return Answer(data={"name": name, "rules": text}, top=True)
        return Answer(data={"name": name, "policy": text})

    def write_policy(self, call: Call, name: str) -> Answer:
        text = call.request.text("policy") or call.request.text("rules")
        if not text:
            raise Refused(400, "'policy' parameter not supplied or empty")
        with self.core.lock:
            self.core.policies.write(name.lower(), text)
        return DONE

    def delete_policy(self, _call: Call, name: str) -> Answer:
        with self.core.lock:
            self.core.policies.delete(name.lower())
        return DONE

    # Leases

    def _lease_id(self, call: Call, in_path: str = "") -> str:
        lease_id = in_path or call.request.text("lease_id")
        if not lease_id:
            raise Refused(400, "lease_id must be specified")
        return lease_id

    def list_leases(self, _call: Call, prefix: str) -> Answer:
        folder = prefix.rstrip("/") + "/"
        below = (lease_id.removeprefix(folder) for lease_id in self.core.leases.ids(folder))
        return keys({name.split("/")[0] + ("/" if "/" in name else "") for name in below})

    def renew(self, call: Call, lease: str = "") -> Answer:
        lease_id = self._lease_id(call, lease)
        granted, warnings = self.core.leases.renew(lease_id, seconds(call.request.body.get("increment"), "increment"))
        return Answer(lease=Granted(lease_id, granted, renewable=True), warnings=warnings)

    def revoke(self, call: Call, lease: str = "") -> Answer:
        sync = call.request.flag("sync", default=True)
        self.core.leases.revoke(self._lease_id(call, lease), sync=sync)
        return DONE if sync else ACCEPTED

    def revoke_prefix(self, call: Call, prefix: str) -> Answer:
        sync = call.request.flag("sync", default=True)
        self.core.leases.revoke_prefix(prefix, sync=sync)
        return DONE if sync else ACCEPTED

    def revoke_force(self, _call: Call, prefix: str) -> Answer:
        self.core.leases.force(prefix)
        return DONE
