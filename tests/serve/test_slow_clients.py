"""Clients that are slow to ask, to send or to listen lose their place; those that are only slow do not."""

import asyncio
import socket
import time

import httpx
import pytest
from serving import serving
from starlette.responses import Response

import weft
from weft.serve import Keys, Limits, Scheduler, Shelf, build_app
from weft.serve.body import WholeBody, _read

KEY = b"Host: 127.0.0.1\r\nAuthorization: Bearer sk-admin\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
UPLOAD = b"POST /v1/adapters HTTP/1.1\r\n" + KEY + FORM + b"Content-Length: 1000000\r\n\r\n"


@pytest.fixture(scope="module")
def host():
    """One of its own: a scheduler gives its host another pool."""
    return weft.Host.from_pretrained("weft/letters")


@pytest.fixture(scope="module")
def address(host):
    """A server that waits for half a second."""
    shelf = Shelf(host)
    limits = Limits(body=10_000, upload=2_000_000, seconds=0.5)
    with serving(build_app(Scheduler(host), shelf, limits=limits), seconds=0.5) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def dripping(connection, piece):
    """Send a piece until the other end has spoken or closed; what it said, and after how many seconds."""
    begun = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() - begun < 20:
        try:
            connection.sendall(piece)
            said = connection.recv(4096)
        except TimeoutError:
            continue
        except ConnectionError:
            said = b""
        return said, time.monotonic() - begun
    raise AssertionError("nobody lost patience")


def test_headers_that_never_end_are_cut_off(address):
    with socket.create_connection(address, timeout=10) as slow:
        slow.sendall(b"POST /tokenize HTTP/1.1\r\n" + KEY)
        said, seconds = dripping(slow, b"X-A: a\r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert 0.3 < seconds < 5


def test_a_connection_that_says_nothing_is_closed(address):
    with socket.create_connection(address, timeout=10) as mute:
        assert mute.recv(10) == b""


def test_the_headers_of_a_second_request_are_timed_too(address):
    with socket.create_connection(address, timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\n" + KEY + b"\r\n")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
        said, _ = dripping(slow, b"GET /health HTTP/1.1\r\nX-A: a\r\n")
        assert said.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


def test_headers_within_their_time_and_two_requests_at_once_are_answered(address):
    with socket.create_connection(address, timeout=10) as client:
        for piece in (b"GET /health HT", b"TP/1.1\r\n", KEY, b"\r\n"):
            client.sendall(piece)
            time.sleep(0.05)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        client.sendall((b"GET /health HTTP/1.1\r\n" + KEY + b"\r\n") * 2)
        said = b""
        while said.count(b"HTTP/1.1 200 ") < 2:
            piece = client.recv(4096)
            assert piece
            said += piece


@pytest.fixture
def large(host, address):
    """A server whose one answer is larger than what sockets hold."""

    def read(pause, pieces):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            client.settimeout(20)
            client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            client.sendall(b"GET /large HTTP/1.1\r\n" + KEY + b"\r\n")
            total = 0
            for _ in range(pieces):
                time.sleep(pause)
                total += len(client.recv(1 << 20))
            try:
                while piece := client.recv(1 << 20):
                    total += len(piece)
                    if total > SIZE:
                        break
            except ConnectionError:
                pass
            return total

    app = build_app(Scheduler(host), Shelf(host))
    app.add_api_route("/large", lambda: Response(b"x" * SIZE))
    with serving(app, seconds=0.5) as url:
        yield read


SIZE = 32 << 20


def test_an_answer_that_nobody_reads_is_given_up(large):
    assert large(pause=6.0, pieces=1) < SIZE


def test_a_slow_reader_gets_its_answer_whole(large):
    assert large(pause=0.1, pieces=20) > SIZE


def test_two_uploads_that_drip_lose_their_places(address):
    """A third one waits for its turn no longer than they may drip."""
    slow = [socket.create_connection(address, timeout=10) for _ in range(2)]
    try:
        for one in slow:
            one.sendall(UPLOAD + b"--x")
        time.sleep(0.25)
        sent = {"data": {"name": "x"}, "files": {"config": b"{}", "weights": b"{}"}}
        answer = httpx.post(f"http://127.0.0.1:{address[1]}/v1/adapters", **sent, timeout=20)
        assert answer.status_code == 400, answer.text  # it was read, and is no adapter
        for one in slow:
            assert one.recv(4096).startswith(b"HTTP/1.1 408 ")
    finally:
        for one in slow:
            one.close()


def test_an_upload_whose_turn_does_not_come_may_come_again():
    leave = asyncio.Event()

    async def app(scope, receive, send):
        await leave.wait()

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def both():
        told = []

        async def send(message):
            told.append(message)

        whole = WholeBody(app, keys=Keys(), limits=Limits(seconds=0.2, uploads=1))
        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        scope = {"type": "http", "path": "/v1/adapters", "headers": headers}
        first = asyncio.create_task(whole(scope, receive, send))
        await asyncio.sleep(0)
        await whole(scope, receive, send)
        leave.set()
        await first
        return told

    start, _ = asyncio.run(both())
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"1"


@pytest.mark.parametrize(
    ("piece", "rate", "comes"),
    [(1000, 10_000, True), (10, 10_000, False), (1000, None, False), (1000, 10**9, False)],
)
def test_a_body_has_the_more_time_the_more_of_it_has_come(piece, rate, comes):
    """Forty pieces in a second, where a fifth of one is free and another one is earned by 2,000 bytes."""

    async def read():
        left = 40

        async def receive():
            nonlocal left
            left -= 1
            await asyncio.sleep(0.025)
            return {"type": "http.request", "body": b"x" * piece, "more_body": left > 0}

        return await _read(receive, 10**6, 0.2, rate)

    if comes:
        assert len(asyncio.run(read()) or b"") == 40 * piece
    else:
        with pytest.raises(TimeoutError):
            asyncio.run(read())


def test_a_client_of_too_large_a_body_reads_why(address):
    """As often as it tries, although it is still sending when it is refused."""
    for _ in range(5):
        answer = httpx.post(f"http://127.0.0.1:{address[1]}/tokenize", content=b"x" * 8_000_000, timeout=20)
        assert answer.status_code == 413
        assert "at most 10000 bytes" in answer.json()["error"]["message"]
