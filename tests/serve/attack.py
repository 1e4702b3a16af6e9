"""Hostile requests, seeded: none may crash the server, open a file outside, or fail unheard.

`python tests/serve/attack.py --requests 2000` sends so many to a server in this process (`make attack`).
Request i depends on (seed, i) alone, so `--only 17` sends a failing one again.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from hostile import BODIES, NAMES, VALUES
from serving import serving

import weft
from weft.engine.request import Chooser
from weft.files import resolve
from weft.hyper import HyperNetwork
from weft.route import load_library
from weft.serve import Keys, Limits, Scheduler, Shelf, build_app
from weft.serve.keys import Key

ADMIN, USER, SECRET = "sk-admin", "sk-user", "the canary sings"
SECONDS, GROWTH = 30, 500 << 20
"""How long an answer may take, and by how much memory may grow."""


class Target(NamedTuple):
    """A server under attack: its address, the folder that it may load from, and what its log says."""

    url: str
    root: Path
    log: list[str]
    opened: list[str]


class Answer(NamedTuple):
    status: int
    body: bytes


Attack = Callable[[random.Random, Target], list[Answer]]
ATTACKS: list[tuple[Attack, int]] = []


def attack(times: int) -> Callable[[Attack], Attack]:
    """Register an attack that comes so often among a hundred."""

    def register(make: Attack) -> Attack:
        ATTACKS.append((make, times))
        return make

    return register


def _post(target: Target, path: str, body: bytes, key: str = ADMIN, **headers: str) -> Answer:
    told = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    with httpx.Client(base_url=target.url, timeout=SECONDS, headers=told) as client:
        answer = client.post(path, content=body)
        return Answer(answer.status_code, answer.content)


@attack(30)
def wrong_values(rng: random.Random, target: Target) -> list[Answer]:
    """Fields of other types, out of range, missing or unknown."""
    path = rng.choice(list(BODIES))
    body = json.loads(json.dumps(BODIES[path]))
    for _ in range(rng.randint(1, 3)):
        field = rng.choice([*body, "extra", "__proto__"])
        if rng.random() < 0.15:
            body.pop(field, None)
        elif field in ("model", "name", "lora_name", "lora_path") and rng.random() < 0.7:
            body[field] = rng.choice(NAMES)
        else:
            body[field] = rng.choice(VALUES)
    sent = json.dumps(body, ensure_ascii=rng.random() < 0.9)
    return [_post(target, path, sent.encode("utf-8", "surrogatepass"))]


@attack(15)
def damaged_bytes(rng: random.Random, target: Target) -> list[Answer]:
    """JSON with bytes flipped, cut or repeated, or no JSON at all."""
    path = rng.choice(list(BODIES))
    body = bytearray(json.dumps(BODIES[path]).encode())
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(body))
        match rng.randrange(4):
            case 0:
                body[at] = rng.randrange(256)
            case 1:
                del body[at : at + rng.randint(1, 20)]
            case 2:
                body[at:at] = body[: rng.randint(1, 30)]
            case _:
                body[at:at] = rng.choice([b"\xff\xfe", b"\\u0000", b"NaN", b"1e999", b'"\\ud800"', b"{{{{"])
        body = body or bytearray(b"{")
    return [_post(target, path, bytes(body))]


@attack(5)
def deep_json(rng: random.Random, target: Target) -> list[Answer]:
    """Nesting that a recursive reader dies of."""
    depth = rng.choice([100, 5000, 40_000])
    kind = rng.choice([b"[", b'{"a":', b'{"messages":['])
    path = rng.choice(list(BODIES))
    inner = b'{"model":"sort","prompt":' + kind * depth if rng.random() < 0.5 else kind * depth
    return [_post(target, path, inner[:90_000])]


@attack(20)
def hostile_names(rng: random.Random, target: Target) -> list[Answer]:
    """Names as models, in addresses, and as folders to load."""
    name = rng.choice(NAMES)
    if rng.random() < 0.4:
        path = rng.choice(["/v1/completions", "/v1/chat/completions"])
        body = json.dumps({**BODIES[path], "model": name}).encode()
        return [_post(target, path, body)]
    if rng.random() < 0.5:
        paths = [str(target.root.parent / "outside"), "../outside", "link", "inside/../../outside", name]
        sent = {"lora_name": "loaded", "lora_path": rng.choice(paths)}
        return [_post(target, "/v1/load_lora_adapter", json.dumps(sent).encode())]
    raw = name if rng.random() < 0.3 else quote(name, safe="", errors="surrogatepass")
    method = rng.choice(["GET", "DELETE", "PUT", "HEAD"])
    prefix = rng.choice(["/v1/adapters/", "/page/", "/v1/", "/", "//"])
    line = f"{method} {prefix}{raw}?download=true HTTP/1.1\r\n".encode("utf-8", "surrogatepass")
    return raw_answers(target, line + b"Host: 127.0.0.1\r\nAuthorization: Bearer sk-admin\r\n\r\n")


@attack(10)
def hostile_headers(rng: random.Random, target: Target) -> list[Answer]:
    """Requests hidden in requests, broken lines, too many and too long headers, other hosts and keys."""
    body = json.dumps(BODIES["/tokenize"]).encode()
    size = b"Content-Length: %d\r\n" % len(body)
    hidden = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    start = b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-admin\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    tries = [
        start + size + b"Content-Length: 1\r\n\r\n" + body,
        start + size + chunked + b"\r\n0\r\n\r\n" + hidden,
        start + b"Transfer-Encoding : chunked\r\n" + size + b"\r\n" + body + hidden,
        start + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        start + chunked + b"\r\nffffffffffffffffff\r\n" + body,
        start + chunked + b"\r\n-1\r\n" + body,
        start + b"Content-Length: -1\r\n\r\n",
        start + b"Content-Length: 0x10\r\n\r\n" + body,
        start.replace(b"\r\n", b"\n") + b"\n",
        start + b"X: a\r\n b\r\n" + size + b"\r\n" + body,
        start + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        start + b"".join(b"X%d: a\r\n" % i for i in range(5000)) + b"\r\n",
        start.replace(b"127.0.0.1", b"evil.example") + size + b"\r\n" + body,
        start.replace(b"Host: 127.0.0.1\r\n", b"") + size + b"\r\n" + body,
        start.replace(b"sk-admin", b"\xff\xfe\x00") + size + b"\r\n" + body,
        start.replace(b"Bearer sk-admin", b"Basic c2s=") + size + b"\r\n" + body,
        start.replace(b"1.1", b"0.9") + b"\r\n",
        start.replace(b"1.1", b"7.7") + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(rng.randrange(256) for _ in range(100)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        start
        + b"Content-Type: multipart/form-data; boundary="
        + b"-" * 5000
        + b"\r\n"
        + size
        + b"\r\n"
        + body,
        start + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        bytes(rng.randrange(256) for _ in range(rng.randint(1, 300))) + b"\r\n\r\n",
    ]
    return raw_answers(target, rng.choice(tries))


@attack(14)
def damaged_uploads(rng: random.Random, target: Target) -> list[Answer]:
    """Forms with damaged files, pickles, promises of terabytes, and names that climb."""
    folder = resolve("weft/letters-adapters/sort")
    assert folder is not None
    config = bytearray((folder / "adapter_config.json").read_bytes())
    weights = bytearray((folder / "adapter_model.safetensors").read_bytes())
    match rng.randrange(6):
        case 0:
            weights[rng.randrange(len(weights))] ^= 1 << rng.randrange(8)
        case 1:
            weights[:8] = rng.choice([2**40, 2**63 - 1, 0, 7, len(weights)]).to_bytes(8, "little")
        case 2:
            del weights[rng.randrange(len(weights)) :]
        case 3:
            weights = bytearray(rng.choice([b"\x80\x04.", b"PK\x03\x04", b"", b"version https://git-lfs"]))
        case 4:
            values = json.loads(bytes(config))
            values[rng.choice(list(values))] = rng.choice(VALUES)
            config = bytearray(json.dumps(values).encode())
        case _:
            config[rng.randrange(len(config))] = rng.randrange(256)
    name = rng.choice(["sent", "sent", *NAMES[:12]])
    files = {"config": (rng.choice(NAMES[:8]), bytes(config)), "weights": ("../../w", bytes(weights))}
    headers = {"Authorization": f"Bearer {ADMIN if rng.random() < 0.9 else USER}"}
    with httpx.Client(base_url=target.url, timeout=SECONDS, headers=headers) as client:
        answer = client.post("/v1/adapters", data={"name": name}, files=files)
        return [Answer(answer.status_code, answer.content)]


@attack(4)
def endless_bodies(rng: random.Random, target: Target) -> list[Answer]:
    """A gigabyte that is announced, or that just comes; it has to be refused before it is held."""
    form = b"Content-Type: multipart/form-data; boundary=x\r\n" if rng.random() < 0.3 else b""
    path = b"/v1/adapters" if form else rng.choice(list(BODIES)).encode()
    start = b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-admin\r\n" + form
    block = b"x" * 65_536
    if rng.random() < 0.5:
        return raw_answers(target, start + b"Content-Length: 1000000000\r\n\r\n", block)
    chunk = b"%x\r\n" % len(block) + block + b"\r\n"
    return raw_answers(target, start + b"Transfer-Encoding: chunked\r\n\r\n", chunk)


@attack(2)
def dripping(rng: random.Random, target: Target) -> list[Answer]:
    """A body that comes a byte at a time: it gets 408, and nobody waits for it."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"
    return raw_answers(target, head, b"{", wait=0.1)


def raw_answers(target: Target, sent: bytes, more: bytes = b"", *, wait: float = 0.0) -> list[Answer]:
    """Send bytes, then `more` again and again until the server answers or closes; the status that comes."""
    host, port = target.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        try:
            connection.sendall(sent)
            if more:
                connection.setblocking(False)
                begun, total = time.monotonic(), 0
                while total < 1 << 30 and time.monotonic() - begun < SECONDS:
                    try:
                        total += connection.send(more)
                        time.sleep(wait)
                    except BlockingIOError:
                        time.sleep(0.005)
                    try:
                        if connection.recv(1, socket.MSG_PEEK) is not None:
                            break
                    except BlockingIOError:
                        pass
            said = b""
            with suppress(TimeoutError):  # what was sent may be half a request
                connection.settimeout(SECONDS if more else 5)
                while (piece := connection.recv(65_536)) and len(said) < 1 << 20:
                    said += piece
                    connection.settimeout(0.2)  # connections stay open after an answer
        except (ConnectionError, BrokenPipeError):
            return [Answer(0, b"")]
    return [Answer(int(said[9:12]) if said.startswith(b"HTTP/") else 0, said)]


@contextmanager
def under_attack(folder: Path) -> Iterator[Target]:
    """A server over the letters that may load from one folder, with a secret right beside it."""
    root = folder / "root"
    weft.save(weft.load("weft/letters-adapters/upper"), root / "inside")
    weft.save(weft.load("weft/letters-adapters/upper"), folder / "outside")
    (folder / "outside" / "README.md").write_text(SECRET)
    (root / "link").symlink_to(folder / "outside")
    host = weft.Host.from_pretrained("weft/letters")
    library = load_library("weft/letters-adapters")
    shelf = Shelf(
        host,
        hypernetwork=HyperNetwork.from_pretrained("weft/letters-t2l", host=host),
        choosers={"letters": Chooser.over(host, library, "nearest")},
    )
    for adapter in library.adapters:
        shelf.put(adapter.name, adapter)
    keys = Keys(
        [
            Key(
                key=ADMIN, name="ann", role="admin", rows=256, tokens_per_minute=10**9, makes_per_minute=10**6
            ),
            Key(key=USER, name="uwe", adapters=("sort",)),
        ]
    )
    limits = Limits(body=100_000, upload=2_000_000, seconds=1.0)
    scheduler = Scheduler(host, max_rows=8, slots=8, r=8)
    app = build_app(scheduler, shelf, keys, adapter_root=root, limits=limits, hosts=["127.0.0.1"])
    log, opened, going = _Log(), [], [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if going and event == "open" and isinstance(arguments[0], str | bytes):
            opened.append(
                arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
            )

    sys.addaudithook(audit)
    for name in ("weft.serve", "uvicorn.error"):
        logging.getLogger(name).addHandler(log)
    try:
        with serving(app) as url:
            yield Target(url, root, log.lines, opened)
    finally:
        going.clear()
        for name in ("weft.serve", "uvicorn.error"):
            logging.getLogger(name).removeHandler(log)


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def run(
    target: Target, requests: int, *, seed: int = 0, only: int | None = None
) -> tuple[Counter[str], list[str]]:
    """Send so many hostile requests; how often each was answered how, and what is wrong."""
    kinds = [make for make, times in ATTACKS for _ in range(times)]
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    for number in range(requests) if only is None else (only,):
        rng = random.Random(f"{seed}/{number}")
        make = rng.choice(kinds)
        try:
            answers = make(rng, target)
        except httpx.HTTPError as error:
            wrong.append(f"{number} {make.__name__}: no answer: {type(error).__name__}")
            continue
        for status, body in answers:
            which = f" (request {number}: {target.log[-1][-200:]!r})" if status == 500 and target.log else ""
            seen[f"{make.__name__} {status}{which}"] += 1
            wrong += [f"{number} {make.__name__}: {what}" for what in complaints(target, status, body)]
    if httpx.get(target.url + "/health").status_code != 200:
        wrong.append("the server is not well afterwards")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    if grown > GROWTH:
        wrong.append(f"memory grew by {grown >> 20} MB")
    outside = [path for path in target.opened if "outside" in path or path.startswith("/etc/passwd")]
    wrong += [f"a file outside was opened: {path}" for path in sorted(set(outside))[:5]]
    wrong += [
        f"the log has a failure of the server itself: {line[-300:]}" for line in target.log if "ASGI" in line
    ]
    return seen, wrong


def complaints(target: Target, status: int, body: bytes) -> Iterator[str]:
    """What is wrong with one answer."""
    if b"Traceback" in body or SECRET.encode() in body or b"root:x:" in body:
        yield f"the answer tells too much: {body[:200]!r}"
    if status == 500:
        ids = [word for word in body.decode(errors="replace").replace('"', " ").split() if len(word) == 32]
        if not any(id in line for id in ids for line in target.log):
            yield f"a 500 without an id in the log: {body[:200]!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, under_attack(Path(folder)) as target:
        begun = time.monotonic()
        seen, wrong = run(target, options.requests, seed=options.seed, only=options.only)
        for what, times in sorted(seen.items()):
            print(f"{times:6d}  {what}")
        failed = sum(times for what, times in seen.items() if " 500" in what)
        seconds = time.monotonic() - begun
        print(f"{sum(seen.values())} answers in {seconds:.0f} s, {failed} of them 500")
        print("\n".join(wrong) or "nothing is wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
