"""What goes wrong around a server: threads, disks, stores, signals and slow clients."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx
import openai
import pytest
from serving import asked

from forked import start_weft
from weft.cli import main


def test_when_the_thread_dies_every_open_request_hears_of_it(served, client, http, monkeypatch):
    """Streams under way, requests that wait and new ones; after a restart all is as before."""
    before = client.completions.create(model="sort", prompt="fedcba", max_tokens=4, temperature=0)
    stream = client.completions.create(model="base", prompt="a", max_tokens=100, n=8, stream=True)
    may, step = threading.Semaphore(3), served.scheduler._loop.step

    def fails():
        if not may.acquire(timeout=0.5):
            raise RuntimeError("no tensors today")
        return step()

    monkeypatch.setattr(served.scheduler._loop, "step", fails)
    heard = []

    def waits():
        try:
            client.completions.create(model="sort", prompt="a", max_tokens=4)
        except openai.InternalServerError as error:
            heard.append(error.status_code)

    threads = [threading.Thread(target=waits) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pytest.raises(openai.APIError, match="scheduler has failed"):
        list(stream)
    for thread in threads:
        thread.join()
    assert heard == [503] * 4
    assert http.get("/health").status_code == 503
    assert http.post("/v1/completions", json={"model": "base", "prompt": "a"}).status_code == 503
    assert http.post("/restart").status_code == 200
    assert http.get("/health").status_code == 200
    again = client.completions.create(model="sort", prompt="fedcba", max_tokens=4, temperature=0)
    assert again.choices[0].text == before.choices[0].text


def test_a_full_disk_is_an_error_of_that_request_alone(http, client, monkeypatch, served):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weft.serve.adapters.save", full)
    monkeypatch.setattr("weft.serve.adapters.shutil.copyfileobj", full)
    shown = http.get("/v1/adapters/sort?download=true")
    sent = http.post(
        "/v1/adapters", data={"name": "full"}, files={"config": ("c", b"{}"), "weights": ("w", b"x")}
    )
    for answer in (shown, sent):
        assert answer.status_code == 507
        assert "No space left on device" in answer.json()["error"]["message"]
    assert client.completions.create(model="sort", prompt="a", max_tokens=2).choices


def test_a_store_that_is_gone_fails_loudly_and_alone(http, client, served, store, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(store, moved)
    try:
        answer = http.post("/v1/completions", json={"model": "store:mine", "prompt": "a", "max_tokens": 2})
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "the store team cannot be read"
        assert client.completions.create(model="sort", prompt="a", max_tokens=2).choices
    finally:
        shutil.move(moved, store)
    assert client.completions.create(model="store:mine", prompt="a", max_tokens=2).choices


def test_slow_bodies_are_not_waited_for(served, http):
    """A body that drips is answered with 408."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
            b"Authorization: Bearer sk-admin\r\n\r\n{"
        )
        begun = time.monotonic()
        answer = slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begun < 20
    assert http.get("/health").status_code == 200


def test_many_idle_connections_keep_nobody_out(served, http):
    host, port = served.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port)), timeout=10) for _ in range(200)]
    try:
        for one in idle:
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nX-A: ")
        assert http.post("/tokenize", json={"prompt": "a"}).status_code == 200
    finally:
        for one in idle:
            one.close()


def test_a_taken_port_is_told_before_anything_is_loaded(http, capsys):
    taken = http.base_url.port
    assert main(["serve", "--base", "nowhere", "--port", str(taken)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"weft: cannot listen on 127.0.0.1 port {taken}: ")
    assert told.count("\n") == 1


def test_two_folders_of_one_name_are_refused(capsys):
    for kind in ("shift", "adapter"):
        assert main(["serve", f"--{kind}", "a/x", f"--{kind}", "b/x", "--port", "0"]) == 1
        assert capsys.readouterr().err == f"weft: two {kind}s have the same folder name, of x; rename one\n"


@pytest.mark.slow
def test_sigterm_lets_open_texts_end_and_then_ends(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    server = start_weft("serve", "--port", str(port), "--library", "weft/letters-adapters", said=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                httpx.get(url + "/health")
                break
            except httpx.TransportError:
                assert server.is_alive(), log.read_text()
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.2)
        line = next(one for one in log.read_text().splitlines() if one.startswith("curl "))
        said = subprocess.run(shlex.split(line), capture_output=True, check=True).stdout
        assert json.loads(said)["choices"][0]["message"]["content"] == "acdef"
        client = openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
        bias = {"0": 0.0}
        stream = client.completions.create(
            model="base", prompt="a", max_tokens=100, n=8, stream=True, logit_bias=bias, seed=1
        )
        pieces = [next(stream)]
        os.kill(server.pid, signal.SIGTERM)
        pieces += list(stream)
        ended = {choice.index for piece in pieces for choice in piece.choices if choice.finish_reason}
        assert ended == set(range(8))
        server.join(120)
        assert server.exitcode in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.join()
    assert "Traceback" not in log.read_text()
    with pytest.raises(httpx.TransportError):
        httpx.get(url + "/health")


def test_chat_bodies_are_checked_before_anything_is_made(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="base", messages=[])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="base", messages=asked("a"), temperature=-1)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="base", messages=asked("a"), max_tokens=0)
