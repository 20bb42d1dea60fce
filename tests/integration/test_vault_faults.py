"""Connections that go wrong, on real sockets: each one sentence, within its time, and none with a secret in it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from vault_pg.errors import TokenInvalid, VaultError, VaultSealed, VaultUnavailable
from vault_pg.settings import TokenAuth, VaultSettings
from vault_pg.vault.adapter import connect
from vault_pg.vault.endpoints import ask_health
from vault_pg.vault.session import VaultSession

TOKEN = "hvs.a-token-that-must-not-be-shown"
LONG = 60.0
ENOUGH = 30.0
"""A time-out for calls that end by themselves."""

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk, wrap: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that does `talk` with each connection, and then closes it."""
    server = socket.create_server(("127.0.0.1", 0))
    talkers: list[threading.Thread] = []

    def serve(conn: socket.socket) -> None:
        with suppress(OSError), conn, wrap.wrap_socket(conn, server_side=True) if wrap else nullcontext(conn) as channel:
            talk(channel)

    def accept() -> None:
        with suppress(OSError):
            while True:
                conn, _ = server.accept()
                talkers.append(threading.Thread(target=serve, args=[conn], daemon=True))
                talkers[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"{'https' if wrap else 'http'}://127.0.0.1:{server.getsockname()[1]}"
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        accepting.join(LONG)
        for talker in talkers:
            talker.join(LONG)


def swallow(conn: socket.socket) -> None:
    """Take all that comes and answer nothing, until the other side gives up."""
    while conn.recv(4096):
        pass


def say(*parts: bytes) -> Talk:
    def talk(conn: socket.socket) -> None:
        conn.recv(65536)
        for part in parts:
            conn.sendall(part)

    return talk


def answer(status: str, body: bytes = b"", *headers: str) -> Talk:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""])
    return say(head.encode() + body)


def drip(head: bytes) -> Talk:
    """A byte now and then, each well within any time-out for one read."""

    def talk(conn: socket.socket) -> None:
        conn.recv(65536)
        conn.sendall(head)
        while True:
            conn.sendall(b"x")
            time.sleep(0.02)

    return talk


def reset(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def failure(address: str, *, within: float = ENOUGH, **options: object) -> VaultError:
    """What one look-up of the token at `address` fails with."""
    settings = VaultSettings.model_validate({"address": address, "auth": TokenAuth(token=SecretStr(TOKEN)), **options})
    client = connect(settings, time.monotonic() + within)
    client.token = TOKEN
    try:
        with pytest.raises(VaultError) as caught:
            client.auth.token.lookup_self()
    finally:
        client.adapter.close()
    error = caught.value
    assert error.__context__ is None
    assert error.__cause__ is None
    assert TOKEN not in "".join(traceback.format_exception(error))
    return error


def unavailable(address: str, *, within: float = ENOUGH, **options: object) -> str:
    error = failure(address, within=within, **options)
    assert type(error) is VaultUnavailable
    assert address in str(error)
    assert "\n" not in str(error)
    return str(error)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_nobody_listens() -> None:
    assert "refuses the connection" in unavailable(f"http://127.0.0.1:{unused_port()}")


def test_the_name_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "does not resolve" in unavailable("http://vault.nowhere:8200")


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (reset, "broke off the connection"),
        (lambda conn: conn.recv(65536), "broke off the connection"),
        (say(b"SSH-2.0-OpenSSH_9.6\r\n"), "broke off the connection"),
        (say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "broke off"),
        (say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"), "not HTTP, or broke off"),
        (answer("200 OK", b"<html>Please log in</html>", "Content-Type: text/html"), "answered nonsense"),
        (answer("200 OK", b'["a list"]', "Content-Type: application/json"), "answered nonsense"),
        (answer("200 OK", b"\xff\xfe\xfd", "Content-Type: application/json"), "answered nonsense"),
        (answer("200 OK"), "answered nonsense"),
        (say(b"HTTP/1.1 200 OK\r\nServer: crashed in the mid"), "answered nonsense"),
        (answer("403 Forbidden", b"<html>WAF</html>"), "answered nonsense with status 403"),
        (answer("404 Not Found", b"404 page not found"), "answered nonsense with status 404"),
        (answer("502 Bad Gateway", b"<html>nginx</html>"), "status 502"),
        (answer("307 Temporary Redirect"), "status 307"),
        (answer("307 Temporary Redirect", b"", "Location: /v1/auth/token/lookup-self"), "redirects in circles"),
        (answer("400 Bad Request", b"Client sent an HTTP request to an HTTPS server.\n"), "speaks TLS: write https://"),
    ],
    ids=[
        "reset",
        "closed",
        "another protocol",
        "cut in the middle",
        "broken encoding",
        "a web page",
        "no object",
        "no text",
        "nothing",
        "cut in the headers",
        "a proxy's denial",
        "another server",
        "a proxy's error",
        "a redirect to nowhere",
        "a redirect in circles",
        "http to https",
    ],
)
def test_an_answer_that_is_none(talk: Talk, said: str) -> None:
    with listening(talk) as address:
        assert said in unavailable(address)


@pytest.mark.parametrize(
    ("talk", "hopeless"),
    [
        (answer("200 OK", b"<html>Please log in</html>"), True),
        (answer("404 Not Found", b"404 page not found"), True),
        (answer("400 Bad Request", b"Client sent an HTTP request to an HTTPS server.\n"), True),
        (answer("200 OK"), False),
        (answer("502 Bad Gateway", b"<html>nginx</html>"), False),
        (reset, False),
    ],
    ids=["a web page", "another server", "http to https", "nothing", "a proxy's error", "reset"],
)
def test_what_is_no_vault_is_hopeless_and_a_vault_in_trouble_is_not(talk: Talk, hopeless: bool) -> None:
    with listening(talk) as address:
        error = failure(address)
    assert isinstance(error, VaultUnavailable)
    assert error.hopeless is hopeless


@pytest.mark.parametrize(
    ("talk", "in_doubt"),
    [
        (reset, True),
        (say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), True),
        (say(b"HTTP/1.1 200 OK\r\nServer: crashed in the mid"), True),
        (answer("502 Bad Gateway", b"<html>nginx</html>"), True),
        (answer("500 Internal Server Error", b'{"errors": ["internal error"]}'), False),
        (answer("503 Service Unavailable", b'{"errors": ["Vault is sealed"]}'), False),
        (answer("429 Too Many Requests", b'{"errors": []}'), False),
        (answer("307 Temporary Redirect", b"", "Location: /v1/auth/token/lookup-self"), False),
        (answer("200 OK", b"<html>Please log in</html>"), False),
    ],
    ids=[
        "reset",
        "cut in the body",
        "cut in the headers",
        "a gateway",
        "an error",
        "sealed",
        "a quota",
        "in circles",
        "a web page",
    ],
)
def test_it_is_known_whether_vault_may_have_done_what_it_was_asked(talk: Talk, in_doubt: bool) -> None:
    with listening(talk) as address:
        assert failure(address).in_doubt is in_doubt


def test_what_never_reached_vault_was_not_done() -> None:
    assert not failure(f"http://127.0.0.1:{unused_port()}").in_doubt
    with listening(swallow) as address:
        assert not failure(address, within=-1).in_doubt
        assert failure(address, within=0.5).in_doubt


def test_a_page_that_repeats_the_request_is_not_quoted() -> None:
    echo = f'{{"errors": ["you sent X-Vault-Token: {TOKEN}"]}}'.encode()
    with listening(answer("400 Bad Request", echo)) as address:
        assert TOKEN not in str(failure(address))


@pytest.mark.parametrize(
    "talk",
    [swallow, drip(b"HTTP/1.1 200 OK\r\nX-Slow: "), drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), drip(b"")],
    ids=["silence", "dripping headers", "dripping body", "dripping status"],
)
def test_a_request_is_over_at_its_deadline_whatever_the_server_does(talk: Talk) -> None:
    # Without the deadline these never end: each byte comes in time.
    with listening(talk) as address:
        assert "did not answer auth/token/lookup-self within the 0.5 s that were left for it" in unavailable(address, within=0.5)


def test_a_call_whose_deadline_has_passed_is_not_made() -> None:
    with listening(swallow) as address:
        assert "in time" in unavailable(address, within=-1)


def test_a_standby_that_points_to_a_dead_leader() -> None:
    leader = f"http://127.0.0.1:{unused_port()}"
    with listening(answer("307 Temporary Redirect", b"", f"Location: {leader}/v1/auth/token/lookup-self")) as address:
        message = unavailable(address)
    assert f"points to its leader at {leader}, which refuses the connection" in message


def test_a_standby_that_points_to_its_leader_is_followed_with_the_token() -> None:
    heard: list[bytes] = []

    def leader(conn: socket.socket) -> None:
        heard.append(conn.recv(65536))
        conn.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    with ExitStack() as stack:
        at_leader = stack.enter_context(listening(leader))
        redirect = answer("307 Temporary Redirect", b"", f"Location: {at_leader}/v1/auth/token/lookup-self")
        failure(stack.enter_context(listening(redirect)))
    assert f"X-Vault-Token: {TOKEN}".encode() in heard[0]


def test_a_proxy_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://bob:secret-of-bob@127.0.0.1:{unused_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    message = unavailable("http://vault.nowhere:8200")
    assert "the proxy to Vault" in message
    assert "bob" not in message


def test_a_token_that_no_header_can_carry_is_not_shown() -> None:
    settings = VaultSettings(address="http://127.0.0.1:1")
    for bad in (f"{TOKEN}\nX: y", f"{TOKEN}\u20ac"):
        client = connect(settings, time.monotonic() + ENOUGH)
        client.token = bad
        with pytest.raises(TokenInvalid, match="holds characters") as caught:
            client.auth.token.lookup_self()
        client.adapter.close()
        assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file; it is its own CA."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=vault"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{file}.key", "-out", str(file)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs an openssl that can make a certificate")
    file.write_text(file.read_text() + Path(f"{file}.key").read_text())
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    with listening(answer("502 Bad Gateway"), server_context(certificate)) as address:
        error = failure(address)
        assert isinstance(error, VaultUnavailable)
        assert error.hopeless
        message = unavailable(address)
        assert "certificate that is not trusted (self-signed certificate)" in message.replace("self signed", "self-signed")
        assert "VAULT_CACERT" in message
        assert "status 502" in unavailable(address, ca_cert=certificate)
        other = address.replace("127.0.0.1", "localhost")
        assert "not trusted (Hostname mismatch" in unavailable(other, ca_cert=certificate)


def test_a_deadline_counts_for_tls_too(certificate: Path) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"):
        with listening(drip(head), server_context(certificate)) as address:
            assert "did not answer" in unavailable(address, within=1.0, ca_cert=certificate)


def test_an_http_server_spoken_to_with_https() -> None:
    with listening(answer("400 Bad Request", b"what?")) as address:
        error = failure(address.replace("http:", "https:"))
    assert isinstance(error, VaultUnavailable)
    assert "does not speak TLS: write http:// in its address" in str(error)
    assert error.hopeless


def test_a_redirect_away_from_tls_is_not_followed(certificate: Path) -> None:
    heard: list[bytes] = []
    with ExitStack() as stack:
        clear = stack.enter_context(listening(lambda conn: heard.append(conn.recv(65536))))
        redirect = answer("307 Temporary Redirect", b"", f"Location: {clear}/v1/auth/token/lookup-self")
        address = stack.enter_context(listening(redirect, server_context(certificate)))
        assert "without TLS, which is not followed" in unavailable(address, ca_cert=certificate)
    assert heard == []


def test_a_ca_file_that_lost_its_certificate(tmp_path: Path, certificate: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(certificate.read_text())
    with listening(answer("502 Bad Gateway"), server_context(certificate)) as address:
        settings = VaultSettings(address=address, ca_cert=file)
        file.write_text("nothing\n")
        client = connect(settings, time.monotonic() + ENOUGH)
        with pytest.raises(VaultUnavailable, match="VAULT_CACERT"):
            client.sys.read_health_status(method="GET")
        client.adapter.close()


def test_a_ca_file_that_vanished(tmp_path: Path, certificate: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(certificate.read_text())
    settings = VaultSettings(address="https://127.0.0.1:1", ca_cert=file)
    file.unlink()
    client = connect(settings, time.monotonic() + ENOUGH)
    with pytest.raises(VaultUnavailable, match="certificate file in its settings does not exist"):
        client.sys.read_health_status(method="GET")
    client.adapter.close()


def test_a_health_is_never_asked_of_a_namespace() -> None:
    """OpenBao has none for it to tell: "operation unavailable in namespaces" would pass for an answer of a sealed Vault."""
    heard: list[bytes] = []

    def talk(conn: socket.socket) -> None:
        heard.append(conn.recv(4096, socket.MSG_PEEK))
        answer("503 Service Unavailable", b'{"sealed":true}')(conn)

    with listening(talk) as address:
        settings = VaultSettings(address=address, auth=TokenAuth(token=SecretStr(TOKEN)), namespace="team-a")
        client = connect(settings, time.monotonic() + ENOUGH)
        with pytest.raises(VaultSealed):
            ask_health(client)
        client.adapter.close()
    assert heard[0].startswith(b"GET /v1/sys/health?")
    assert b"team-a" not in heard[0]


async def test_an_await_is_over_in_time_and_so_is_the_end_of_the_session() -> None:
    with listening(drip(b"HTTP/1.1 200 OK\r\n")) as address:
        settings = VaultSettings(address=address, auth=TokenAuth(token=SecretStr(TOKEN)), timeout=0.5)
        session = VaultSession(settings, emit=lambda _: None)
        async with asyncio.timeout(LONG):
            with pytest.raises(VaultUnavailable):
                await session.open()
            await session.close(timeout=LONG)


def test_the_interpreter_ends_although_vault_swallows_requests() -> None:
    program = """
        import asyncio, sys
        from pydantic import SecretStr
        from vault_pg.settings import AppRoleAuth, VaultSettings
        from vault_pg.vault import calls
        from vault_pg.vault.session import VaultSession

        calls.GRACE = 1000.0

        async def main():
            auth = AppRoleAuth(role_id="nobody", secret_id=SecretStr("none"))
            session = VaultSession(VaultSettings(address=sys.argv[1], auth=auth, timeout=1), emit=lambda _: None)
            opening = asyncio.create_task(session.open())
            await asyncio.to_thread(sys.stdin.readline)
            print("leaving", opening.done())

        asyncio.run(main())
    """
    heard = threading.Event()

    def talk(conn: socket.socket) -> None:
        heard.set()
        drip(b"HTTP/1.1 200 OK\r\nX: ")(conn)

    with listening(talk) as address:
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), address]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert heard.wait(LONG)
        try:
            out, err = process.communicate("\n", timeout=LONG)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0
    assert out.startswith("leaving")
    assert err == ""


def test_the_headers_of_a_refusal_are_kept() -> None:
    with listening(answer("503 Service Unavailable", b'{"errors": ["Vault is sealed"]}', "Retry-After: 3")) as address:
        error = failure(address)
    assert isinstance(error, VaultSealed)
    assert error.retry_after == 3
