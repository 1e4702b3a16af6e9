"""The server and the engine over a spread host say what they say over a local one."""

import pytest
from fastapi.testclient import TestClient

import weft
from swarm.faults import Schedule, parts_of, spread
from weft.host import Host
from weft.serve import Scheduler, Shelf, build_app
from weft.swarm import SwarmHost


@pytest.mark.slow
def test_the_server_over_stages_that_fail():
    local = Host.from_pretrained("weft/letters")
    parts = parts_of(Host.from_pretrained("weft/letters").module, [0, 2, 4, 6])
    faults = Schedule(0, 0.05)
    host, _ = spread(parts, faults, tokenizer=local.tokenizer, name=local.name)
    host.generation_config = local.generation_config
    said = []
    for one in (local, host):
        shelf = Shelf(one)
        shelf.put("sort", weft.load("weft/letters-adapters/sort"))
        with TestClient(build_app(Scheduler(one), shelf)) as client:
            for model in ("sort", local.name):
                body = {"model": model, "messages": [{"role": "user", "content": "dcab"}]}
                options = {"max_tokens": 8, "temperature": 0}
                answer = client.post("/v1/chat/completions", json=body | options)
                assert answer.status_code == 200, answer.text
                said.append(answer.json()["choices"][0]["message"]["content"])
    assert said[:2] == said[2:]
    assert said[0] == "abcd"
    assert sum(faults.counts.values()) > 0


def test_a_server_whose_workers_were_taken_over_says_so_and_serves_the_next():
    parts = parts_of(Host.from_pretrained("weft/letters").module, [0, 2, 4, 6])
    local = Host.from_pretrained("weft/letters")
    host, places = spread(parts, tokenizer=local.tokenizer, name=local.name)
    asked, body = [], {"model": local.name, "prompt": "dcab", "max_tokens": 4, "temperature": 0}

    def taken_over(*arguments):
        asked.append(arguments)
        if len(asked) == 2:
            SwarmHost([lambda failed, at=at: at.connect(lambda: None, failed) for at in places])
        return ask(*arguments)

    ask, host._asked = host._asked, taken_over
    with TestClient(build_app(Scheduler(host), Shelf(host))) as client:
        refused = client.post("/v1/completions", json=body)
        assert refused.status_code == 503
        assert "another coordinator has taken it over" in refused.json()["error"]["message"]
        assert client.get("/health").status_code == 200
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
    with TestClient(build_app(Scheduler(local), Shelf(local))) as client:
        want = client.post("/v1/completions", json=body)
    assert answer.json()["choices"] == want.json()["choices"]
