"""The AWS auth method (iam), with AWS by hand: `dev/identities/ACCESS_KEY` (secret_key, arn), which a real Vault doesn't have.

A real one sends the signed GetCallerIdentity request to AWS; here the signature (Signature Version 4) is computed anew with the secret
key of the identity and compared. Signed requests are taken for 15 minutes, as by AWS.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from pydantic import SecretStr

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.logins import TokenSettings
from vault_pg.dev.vault.messages import DONE, Answer, Body, Refused, Request
from vault_pg.dev.vault.routes import Call, Routes

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>[^,]+), ?SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>\w+)"
)
BODY = "Action=GetCallerIdentity&Version=2011-06-15"
VALID = 900.0
SERVER_ID = "x-vault-aws-iam-server-id"


@dataclass(frozen=True, slots=True)
class Identity:
    secret_key: SecretStr
    arn: str


@dataclass(slots=True)
class Role:
    token: TokenSettings
    arns: list[str]
    entity_id: str = field(default_factory=lambda: str(uuid.uuid4()))


class AwsAuth:
    """One mount of the method. A role is bound by `bound_iam_principal_arn`; session tokens are not checked."""

    kind = "aws"

    def __init__(self, core: Core, mount: str) -> None:
        self._core = core
        self._mount = mount
        self._identities: dict[str, Identity] = {}
        self._roles: dict[str, Role] = {}
        self._config: Body = {}
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "login", self.login, public=True)
        add("PUT", "config/client", self.configure)
        add("PUT", "dev/identities/{key}", self.write_identity)
        add("PUT", "role/{name}", self.write, exists=lambda name: name in self._roles)

    def close(self) -> None:
        """Tokens outlive their auth mount here; nothing else is held."""

    def configure(self, call: Call) -> Answer:
        self._config |= {name: value for name, value in call.request.body.items() if name != "secret_key"}
        return DONE

    def write_identity(self, call: Call, key: str) -> Answer:
        secret = call.request.text("secret_key")
        self._core.remember(secret)
        self._identities[key] = Identity(SecretStr(secret), call.request.text("arn"))
        return DONE

    def write(self, call: Call, name: str) -> Answer:
        request = call.request
        self._roles[name] = Role(TokenSettings.read(request, self._core, None), request.names("bound_iam_principal_arn"))
        return DONE

    def login(self, call: Call) -> Answer:
        request = call.request
        identity = self._caller(request)
        name = request.text("role") or identity.arn.rpartition("/")[2]
        role = self._roles.get(name)
        if role is None:
            raise Refused(400, f"entry for role {name} not found")
        if identity.arn not in role.arns:
            raise Refused(400, f'IAM Principal "{identity.arn}" does not belong to the role "{name}"')
        return role.token.login(
            self._core,
            f"auth/{self._mount}login",
            display_name=f"{self._mount.rstrip('/')}-{name}",
            meta={"role": name},
            entity_id=role.entity_id,
        )

    def _caller(self, request: Request) -> Identity:
        """Whose signature it is. Refused where it is nobody's."""
        try:
            body = base64.b64decode(request.text("iam_request_body")).decode()
            url = base64.b64decode(request.text("iam_request_url")).decode()
            given = json.loads(base64.b64decode(request.text("iam_request_headers")))
            headers = {str(name).lower(): str(values[0]) for name, values in given.items()}
            signed = AUTHORIZATION.fullmatch(headers["authorization"])
            when = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except (ValueError, KeyError, AttributeError, IndexError, TypeError):
            raise Refused(400, "missing or malformed iam request") from None
        if (
            signed is None
            or body != BODY
            or request.text("iam_http_request_method") != "POST"
            or url != "https://sts.amazonaws.com/"
        ):
            raise Refused(400, "error making upstream request: it is no GetCallerIdentity")
        names = signed["headers"].split(";")
        wanted = self._config.get("iam_server_id_header_value")
        if wanted and (headers.get(SERVER_ID) != wanted or SERVER_ID not in names):
            raise Refused(400, "error validating X-Vault-AWS-IAM-Server-ID header: expected another value")
        identity = self._identities.get(signed["key"])
        late = abs(self._core.now() - when.timestamp()) > VALID
        if (
            identity is None
            or late
            or not hmac.compare_digest(_signature(identity, signed["scope"], names, headers), signed["signature"])
        ):
            raise Refused(400, "error making upstream request: received error code 403 from STS: SignatureDoesNotMatch")
        return identity


def _signature(identity: Identity, scope: str, names: list[str], headers: Mapping[str, str]) -> str:
    """Signature Version 4 of the request, as AWS's documentation has it."""
    canonical = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in names)
    request = "\n".join(["POST", "/", "", canonical, ";".join(names), sha256(BODY.encode()).hexdigest()])
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, sha256(request.encode()).hexdigest()])
    key = f"AWS4{identity.secret_key.get_secret_value()}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), sha256).digest()
    return hmac.new(key, text.encode(), sha256).hexdigest()
