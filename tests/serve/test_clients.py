"""Clients that people have: openai in its three ways, LangChain, lm-eval, Open WebUI's check, curl."""

import asyncio
import json
import shutil
import subprocess

import httpx
import openai
import pytest
import torch
from serving import asked

import weft


def test_openai_asynchronous_and_streaming(served, client):
    async def both():
        async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="sk-admin") as client:
            common = {"messages": asked("decaf"), "temperature": 0, "max_tokens": 8}
            one, other = await asyncio.gather(
                client.chat.completions.create(model="sort", **common),
                client.chat.completions.create(model="reverse", **common),
            )
            stream = await client.chat.completions.create(model="sort", **common, stream=True)
            pieces = [piece.choices[0].delta.content or "" async for piece in stream]
            return one.choices[0].message.content, other.choices[0].message.content, "".join(pieces)

    sort, reverse, streamed = asyncio.run(both())
    assert sort == streamed != reverse


def test_curl_gets_an_answer_as_the_page_says(served):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    body = {"model": "gen:sort the letters", "messages": asked("decaf"), "temperature": 0, "max_tokens": 8}
    command = ["curl", "-sS", "-H", "Authorization: Bearer sk-admin", "-H", "Content-Type: application/json"]
    url = served.url + "/v1/chat/completions"
    said = subprocess.run([*command, url, "-d", json.dumps(body)], check=True, capture_output=True).stdout
    assert json.loads(said)["choices"][0]["message"]["content"]
    streamed = subprocess.run(
        [*command, "-N", url, "-d", json.dumps({**body, "stream": True})], check=True, capture_output=True
    ).stdout
    assert streamed.endswith(b"data: [DONE]\n\n")


def test_open_webui_finds_models_and_its_check_of_a_connection_passes(served):
    """GET {url}/models with the key; data[].id is what people choose from, and errors are JSON."""
    headers = {"Authorization": "Bearer sk-admin", "Content-Type": "application/json"}
    with httpx.Client(base_url=served.url + "/v1", headers=headers) as web:
        told = web.get("/models").json()
        assert told["object"] == "list"
        assert {"weft/letters", "sort", "route:letters", "shift:letters"} <= {
            one["id"] for one in told["data"]
        }
        assert all({"id", "object", "created", "owned_by"} <= one.keys() for one in told["data"])
        wrong = web.get("/models", headers={"Authorization": "Bearer no"})
        assert (wrong.status_code, "error" in wrong.json()) == (401, True)


def test_langchain_chats_and_streams(served):
    langchain = pytest.importorskip("langchain_openai", reason="the extra clients is not installed")
    model = langchain.ChatOpenAI(
        base_url=served.url + "/v1",
        api_key="sk-admin",
        model="sort",
        temperature=0,
        max_tokens=8,
        stream_usage=True,
    )
    said = model.invoke("decaf")
    pieces = list(model.stream("decaf"))
    assert "".join(piece.content for piece in pieces) == said.content != ""
    used = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert said.usage_metadata["output_tokens"] == used[-1]["output_tokens"]
    told = model.bind(logprobs=True).invoke("decaf").response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in told) == said.content


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_eval_measures_what_its_own_model_measures(served, host):
    """Log-likelihoods to 1e-4 and the same greedy texts, of the base and of an adapter that PEFT runs."""
    pytest.importorskip("lm_eval", reason="the extra clients is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from peft import PeftModel

    from weft.files import resolve

    pairs = [("decaf", " acdef"), ("sort cab", " abc"), ("the letters", " sort"), ("a", "b")]
    folder = resolve("weft/letters-adapters/sort")
    assert folder is not None
    plain = weft.Host.from_pretrained("weft/letters")
    theirs = {
        "base": plain.module,
        "sort": PeftModel.from_pretrained(weft.Host.from_pretrained("weft/letters").module, str(folder)),
    }
    for name, module in theirs.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", "sk-admin")
            ours = LocalCompletionsAPI(
                model=name,
                base_url=served.url + "/v1/completions",
                tokenizer_backend="remote",
                auth_token="sk-admin",
                batch_size=2,
                max_length=plain.window,
            )
            asks = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
            got = ours.loglikelihood(asks)
            until = {"until": ["\n"], "max_gen_toks": 8, "temperature": 0, "do_sample": False}
            texts = ours.generate_until([Instance("generate_until", {}, ("decaf", until), 0)])
        local = HFLM(
            pretrained=module, tokenizer=plain.tokenizer, batch_size=1, device="cpu", backend="causal"
        )
        want = local.loglikelihood(asks)
        torch.testing.assert_close(
            torch.tensor([one for one, _ in got]), torch.tensor([one for one, _ in want]), atol=1e-4, rtol=0
        )
        assert [greedy for _, greedy in got] == [greedy for _, greedy in want]
        assert texts == local.generate_until([Instance("generate_until", {}, ("decaf", until), 0)])
