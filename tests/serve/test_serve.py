"""The server, asked by OpenAI's own client over a socket."""

import json
import socket
import threading
import time

import openai
import pytest
import torch
from serving import asked

import weft
from weft.engine import Engine
from weft.types import Mixture


def alone(host, mixture, text):
    return Engine(host).generate(asked(text), mixture=mixture, max_new_tokens=12)


def test_a_chat_says_what_the_engine_says_under_every_kind_of_name(client, host):
    load = {name: weft.load(f"weft/letters-adapters/{name}") for name in ("sort", "reverse")}
    hyper = weft.HyperNetwork.from_pretrained("weft/letters-t2l", host=host)
    bank = weft.Bank.stack(list(load.values()))
    blend = Mixture.dense(bank, torch.tensor([[0.7, 0.3]]))
    wanted = {
        "base": None,
        "weft/letters": None,
        "sort": Mixture.of(load["sort"]),
        "gen:sort the letters": Mixture.of(hyper.adapt("sort the letters")),
        "blend:0.7*sort+0.3*reverse": blend,
    }
    for model, mixture in wanted.items():
        said = client.chat.completions.create(
            model=model, messages=asked("decaf"), temperature=0, max_tokens=12
        )
        assert said.choices[0].message.content == alone(host, mixture, "decaf"), model
        assert said.usage.completion_tokens >= 1
    raw = client.chat.completions.with_raw_response.create(
        model="route:letters", messages=asked("reverse the text"), temperature=0, max_tokens=12
    )
    assert raw.headers["x-weft-adapters"] == "1*reverse"


def test_streams_logprobs_and_usage(client):
    common = {"model": "sort", "messages": asked("decaf"), "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**common, logprobs=True, top_logprobs=2)
    chunks = list(
        client.chat.completions.create(**common, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    tokens = whole.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == text
    assert all(token.logprob == token.top_logprobs[0].logprob for token in tokens)


def test_echo_tells_how_likely_a_prompt_is(client, host):
    ids = host.tokenizer.encode("decaf")
    said = client.completions.create(
        model="sort", prompt=[ids], max_tokens=1, logprobs=1, echo=True, temperature=0
    )
    told = said.choices[0].logprobs
    assert len(told.tokens) == len(ids) + 1
    assert told.token_logprobs[0] is None
    assert told.token_logprobs[-1] == max(told.top_logprobs[-1].values())
    new = host.tokenizer.convert_tokens_to_ids(host.tokenizer.tokenize(told.tokens[-1]))
    again = client.completions.create(
        model="sort", prompt=[ids + new], max_tokens=0, logprobs=1, echo=True, temperature=0
    )
    assert again.choices[0].logprobs.token_logprobs[-1] == pytest.approx(told.token_logprobs[-1], abs=1e-4)


def test_sampling_with_a_seed_is_the_same_alone_and_among_strangers(client):
    common = {"model": "sort", "prompt": "decaf", "max_tokens": 10, "temperature": 1.0, "seed": 7, "n": 2}
    first = [choice.text for choice in client.completions.create(**common).choices]
    models = ["base", "reverse", "double", "gen:keep the vowels", "blend:0.5*sort+0.5*upper"]
    stop = threading.Event()

    def stranger(model):
        while not stop.is_set():
            client.completions.create(model=model, prompt="abcabc", max_tokens=9)

    threads = [threading.Thread(target=stranger, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    among = [[choice.text for choice in client.completions.create(**common).choices] for _ in range(3)]
    stop.set()
    for thread in threads:
        thread.join()
    assert among == [first] * 3


def test_bias_forbids_a_token_and_stop_strings_end(client, host):
    common = {"model": "base", "prompt": "decaf", "max_tokens": 6, "temperature": 0}
    first = client.completions.create(**common, logprobs=0).choices[0]
    token = host.tokenizer.convert_tokens_to_ids(host.tokenizer.tokenize(first.logprobs.tokens[0]))[0]
    biased = client.completions.create(**common, logit_bias={str(token): -100}).choices[0]
    assert biased.text != first.text
    cut = client.completions.create(**common, stop=[first.text[1]]).choices[0]
    assert (cut.text, cut.finish_reason) == (first.text[: first.text.index(first.text[1])], "stop")


def test_what_is_missing_or_wrong_fails_loudly(client, http):
    for model in ("nothing", "blend:0.5*sort+0.5*nothing", "route:none", "store:x@y", "tree:elm", "shift:x"):
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model=model, prompt="a", max_tokens=1)
    for model in ("../../etc/passwd", "gen:", "blend:sort", "zen:x", "store:../x"):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=model, prompt="a", max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model="base", messages=asked("a"), tools=[{"type": "function", "function": {"name": "f"}}]
        )
    with pytest.raises(openai.BadRequestError, match="window"):
        client.completions.create(model="base", prompt="a", max_tokens=10**5)
    assert http.post("/v1/completions", content=b"x" * 200_000).status_code == 413
    json = {"Content-Type": "application/json"}
    assert http.post("/v1/completions", content=b"[" * 50_000, headers=json).status_code == 400
    assert http.get("/health", headers={"Host": "evil.example"}).status_code == 400
    assert http.get("/v1/../../etc/passwd").status_code == 404


def test_keys_limit_what_one_may_do(served):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=served[0] + "/v1", api_key="sk-wrong", max_retries=0).models.list()
    user = openai.OpenAI(base_url=served[0] + "/v1", api_key="sk-user", max_retries=0)
    assert {model.id for model in user.models.list()} == {"weft/letters", "sort"}
    assert (user.models.retrieve("weft/letters").id, user.models.retrieve("sort").id) == (
        "weft/letters",
        "sort",
    )
    with pytest.raises(openai.NotFoundError):
        user.models.retrieve("reverse")
    user.completions.create(model="sort", prompt="cab", max_tokens=60)
    for model in ("reverse", "blend:1*sort+1*reverse", "gen:sort the letters", "route:letters"):
        with pytest.raises(openai.PermissionDeniedError):
            user.completions.create(model=model, prompt="cab", max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="asks for 101 tokens a minute"):
        user.completions.create(model="sort", prompt="cab", max_tokens=101)
    assert user.chat.completions.create(model="sort", messages=asked("cab"), max_tokens=8).choices
    with pytest.raises(openai.RateLimitError) as caught:
        user.completions.create(model="sort", prompt="cab", max_tokens=60)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_adapters_are_made_shown_downloaded_and_removed(client, http):
    made = http.post("/v1/adapters", json={"name": "mine", "description": "sort the letters"})
    assert made.status_code == 201
    assert http.get("/v1/adapters/mine").json() == made.json()
    assert http.get("/v1/adapters/mine?download=true").content[:2] == b"PK"
    common = {"prompt": "decaf", "max_tokens": 8, "temperature": 0}
    said = client.completions.create(model="mine", **common).choices[0].text
    assert said == client.completions.create(model="gen:sort the letters", **common).choices[0].text
    assert http.delete("/v1/adapters/mine").status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="mine", **common)
    told = {"lora_name": "again", "lora_path": "weft/letters-adapters/upper"}
    assert http.post("/v1/load_lora_adapter", json=told).status_code == 200
    assert "again" in {model.id for model in client.models.list()}
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "again"}).status_code == 200
    outside = {"lora_name": "again", "lora_path": "/etc"}
    assert http.post("/v1/load_lora_adapter", json=outside).status_code == 403


def test_a_client_that_goes_is_cancelled(served, client):
    stream = client.completions.create(model="base", prompt="a", max_tokens=40, n=8, stream=True)
    next(iter(stream))
    stream.close()
    assert eventually(lambda: served.scheduler.open == 0)


def test_a_client_that_goes_while_it_waits_is_cancelled(served, client, host, monkeypatch):
    """All rows are taken for longer than this test looks; a stream that has not begun is no longer open."""
    step = host.step

    def late(*args, **kwargs):
        time.sleep(0.05)
        return step(*args, **kwargs)

    monkeypatch.setattr(host, "step", late)
    forbidden = {str(id): -100 for id in Engine(host).stop_ids}
    common = {"model": "base", "prompt": "a", "max_tokens": 200, "stream": True}
    stream = client.completions.create(**common, n=8, logit_bias=forbidden)
    next(iter(stream))
    body = json.dumps(common).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-admin\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as waits:
        waits.sendall(head + body)
        assert eventually(lambda: served.scheduler.open == 9)
    assert eventually(lambda: served.scheduler.open == 8)
    stream.close()
    assert eventually(lambda: served.scheduler.open == 0)


def eventually(holds):
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_tokens_metrics_and_health(http):
    tokens = http.post("/tokenize", json={"prompt": "decaf"}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json()["prompt"] == "decaf"
    assert 'weft_requests_total{route="/tokenize",status="200"}' in http.get("/metrics").text
    assert http.get("/health").status_code == 200


def test_a_prompt_that_begins_alike_is_read_on_under_the_same_adapter_alone(client, served):
    text = "a b c d e f g h i j k l m n o p q r"
    common = {"model": "sort", "prompt": text, "max_tokens": 4, "temperature": 0}
    first = client.completions.create(**common).choices[0].text
    before = served.scheduler.reused
    assert client.completions.create(**common).choices[0].text == first
    once = served.scheduler.reused
    assert once > before
    assert client.completions.create(**{**common, "model": "reverse"}).choices
    assert served.scheduler.reused == once


def test_what_can_never_fit_is_refused(client):
    with pytest.raises(openai.BadRequestError, match=r"window|room"):
        client.completions.create(model="base", prompt="a", max_tokens=3999)
