"""hvac, with every request bounded in time and every failure one of our errors."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import hvac
import requests
from hvac.adapters import RawAdapter

from vault_pg.errors import VaultError, VaultUnavailable
from vault_pg.settings import VaultSettings
from vault_pg.vault.answers import Question, late, nonsense, refusal
from vault_pg.vault.faults import FOREIGN, fault
from vault_pg.vault.transport import BoundedSession

OPEN_FIELDS = {"lease_id", "increment"}
"""Body fields that are no secrets; the value of any other is never quoted."""


HTTP_TO_HTTPS = b"Client sent an HTTP request to an HTTPS server"
"""The one answer of Vault's that is no JSON."""

EMPTY = (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT)

SHORT = 4
"""Characters below which a body field is no secret, and would only blot out text that has nothing to do with it."""


class VaultAdapter(RawAdapter):  # type: ignore[misc]  # hvac has no type hints
    """Answers are dicts (empty for 204); failures are `VaultError`s that have no foreign exception in their chain."""

    deadline: float = float("inf")
    """On `time.monotonic()`: no request begins later, and none lasts longer than that and `grace`."""
    grace: float = 0.0
    """Seconds that an answer is waited for on, though the caller no longer does."""
    most: float = 0.0
    """Seconds that a request has where nothing presses."""

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **kwargs: Any) -> dict[str, Any]:
        body = kwargs.get("json") or {}
        hidden = [str(value) for name, value in body.items() if name not in OPEN_FIELDS and len(str(value)) >= SHORT]
        question = Question(self.base_uri, method, url.removeprefix("/v1/"), (*hidden, *filter(None, [self.token])))
        timeout = self.deadline - time.monotonic()
        if timeout <= 0:
            raise late(question)
        failure: VaultError
        answer: dict[str, Any] | None = None
        kwargs |= {"raise_exception": False, "timeout": timeout + self.grace}
        try:
            with self.session.over_at(self.deadline, self.grace) as cutter:
                response: requests.Response = super().request(method, url, headers=headers, **kwargs)
        except FOREIGN as error:
            failure = fault(question, error, timeout, self.most)
        else:
            answer = _json(response)
            if HTTPStatus.OK <= response.status_code < HTTPStatus.MULTIPLE_CHOICES:
                failure = nonsense(question, hopeless=bool(response.content))
            else:
                failure = _refused(question, response, answer)
                answer = None
        if answer:
            return answer
        # A connection cut within the headers makes an answer with nothing in it.
        if cutter.over:
            failure = late(question, timeout, self.most)
        elif answer is not None:
            return answer
        # Raised out here: in the except block the foreign exception, with URL and token in its texts, would be its context.
        raise failure


def _json(response: requests.Response) -> dict[str, Any] | None:
    """The body as a dict, empty with the statuses that have none; None for anything else."""
    if response.status_code in EMPTY and not response.content:
        return {}
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else None


def _refused(question: Question, response: requests.Response, answer: dict[str, Any] | None) -> VaultError:
    errors = (answer or {}).get("errors")
    said = tuple(str(error) for error in errors) if isinstance(errors, list) else ()
    if answer is None and HTTP_TO_HTTPS in response.content:
        said = (HTTP_TO_HTTPS.decode(),)
    error = refusal(question, response.status_code, said, response.headers)
    # Vault gives its reasons in JSON. A proxy's own 403 or 404 must not pass for a dead token or a lost role.
    foreign = answer is None and not isinstance(error, VaultUnavailable)
    return nonsense(question, response.status_code, hopeless=True) if foreign else error


def connect(settings: VaultSettings, deadline: float, grace: float = 0.0) -> hvac.Client:
    """A client of its own for one thread, without a token; deadline and grace are VaultAdapter's. `close` its adapter after use.

    All that hvac would read from the environment is given explicitly: some of it it reads at import, some never.
    """
    verify: bool | str = True
    if settings.skip_verify:
        verify = False
    elif settings.ca_cert or settings.ca_path:
        verify = str(settings.ca_cert or settings.ca_path)
    cert = None
    if settings.client_cert:
        cert = (str(settings.client_cert), str(settings.client_key)) if settings.client_key else str(settings.client_cert)
    session = BoundedSession()
    # hvac prefers the session's own wherever that is true.
    session.verify, session.cert = verify, cert
    client = hvac.Client(
        url=settings.address,
        token="",
        cert=cert,
        verify=verify,
        session=session,
        adapter=VaultAdapter,
        namespace=settings.namespace,
    )
    client.adapter.deadline, client.adapter.grace, client.adapter.most = deadline, grace, settings.timeout
    return client
