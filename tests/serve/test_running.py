"""A text that is being written goes on under another name, told over HTTP."""

import json
import time

import pytest

from weft.engine import Loop, Sampling
from weft.engine.request import under
from weft.host import Host
from weft.rows import Request


@pytest.fixture
def slow(served, host, monkeypatch):
    """A server that takes a while for each token: a text is still being written when it is changed."""
    step = host.step

    def late(*args, **kwargs):
        time.sleep(0.15)
        return step(*args, **kwargs)

    monkeypatch.setattr(host, "step", late)


def open_stream(http, **body):
    asked = {"stream": True, "temperature": 0, "messages": [{"role": "user", "content": "abcdefghijkl"}]}
    return http.stream("POST", "/v1/chat/completions", json={**asked, **body}, timeout=120)


def events(stream):
    for line in stream.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def test_the_next_token_is_under_the_new_weights_and_what_was_read_stays(http, host, library, slow):
    before, after = "blend:1*double+0*reverse", "blend:0*double+1*reverse"
    with open_stream(http, model=before, trace=True) as stream:
        told = None
        tokens = []
        for event in events(stream):
            if told is None:
                told = http.patch(f"/v1/running/{event['id']}", json={"model": after}).json()
            tokens += event["choices"][0]["trace"]
            id = event["id"]
    assert told["adapters"] == [["double", 0.0], ["reverse", 1.0]]
    at = told["from"]["0"]
    assert 1 <= at < len(tokens)
    acting = [[one["adapter"] for one in token["acting"]] for token in tokens]
    assert acting == [["double"]] * at + [["reverse"]] * (len(tokens) - at)
    assert "shift" in tokens[at - 1]["events"]
    assert [token["token_id"] for token in tokens] == alone(host, library, at, len(tokens))
    gone = http.patch(f"/v1/running/{id}", json={"model": after})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_running")


def alone(host: Host, library, at: int, count: int) -> list[int]:
    """The same change in a loop of its own."""
    named = {adapter.name: adapter for adapter in library.adapters}
    prompt = host.tokenizer.apply_chat_template(
        [{"role": "user", "content": "abcdefghijkl"}], add_generation_prompt=True, return_dict=False
    )
    loop = Loop(host)
    loop.submit(
        Request("one", tuple(prompt), under(host, [named["double"]])), sampling=Sampling(max_new_tokens=count)
    )
    said = []
    while loop.busy:
        said += [spoken.token_id for spoken in loop.step()]
        if len(said) == at:
            loop.change("one", under(host, [named["reverse"]]))
    return said


def test_a_request_is_changed_by_its_own_key_to_what_that_key_may_use(http, served, slow):
    def refused(model, **more):
        answer = http.patch(f"/v1/running/{id}", json={"model": model}, **more)
        return answer.status_code, answer.json()["error"]["code"]

    with open_stream(http, model="double") as stream:
        told = events(stream)
        id = next(told)["id"]
        assert refused("sort", headers={"Authorization": "Bearer sk-maker"}) == (404, "not_running")
        assert refused("nothing") == (404, "model_not_found")
        assert refused("shift:letters") == (400, "invalid_request")
        assert refused("zen:x") == (400, "invalid_request")
        assert http.patch(f"/v1/running/{id}", json={"model": "gen:sort the letters"}).status_code == 200
        assert next(told)["id"] == id
