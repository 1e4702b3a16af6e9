"""The server and the engine over a spread host say what they say over a local one."""

import pytest
from fastapi.testclient import TestClient

import weft
from swarm.faults import Schedule, parts_of, spread
from weft.host import Host
from weft.serve import Scheduler, Shelf, build_app


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
