"""Every kind of name, against the engine; and what is told of what acted."""

import openai
import pytest
import torch
from serving import asked

import weft
from weft.cli.shared.controlled import shifting
from weft.engine import Engine, Sampling
from weft.engine.loop import Loop
from weft.engine.request import Chooser
from weft.engine.trace import trace_values
from weft.hyper import HyperNetwork
from weft.rows import Request
from weft.types import Mixture

GREEDY = {"temperature": 0, "max_tokens": 12}


def engine_says(host, mixture, text, **options):
    return Engine(host).generate(asked(text), mixture=mixture, max_new_tokens=12, **options)


def says(client, model, text, **options):
    said = client.chat.completions.create(model=model, messages=asked(text), **{**GREEDY, **options})
    return said.choices[0].message.content


def test_a_store_is_asked_at_a_revision(client, host, store):
    for model, name in {
        "store:mine": "sort",
        "store:team/mine@HEAD": "sort",
        "store:team/mine@first": "reverse",
        "blend:1.0*store:mine@first+0.0*sort": "reverse",
    }.items():
        mixture = Mixture.of(weft.load(f"weft/letters-adapters/{name}"))
        assert says(client, model, "decaf") == engine_says(host, mixture, "decaf"), model
    with pytest.raises(openai.BadRequestError, match="revision"):
        says(client, "store:mine@HEAD..first", "decaf")
    for model in ("store:mine@nope", "store:team/nope"):
        with pytest.raises(openai.NotFoundError) as refused:
            says(client, model, "decaf")
        assert str(store) not in str(refused.value)


def test_a_tree_descends(client, host, tree):
    assert says(client, "tree:oak", "decaf") == engine_says(host, tree.mixture, "decaf")


def test_a_library_is_routed_by_the_question(client, host, library):
    chooser = Chooser.over(host, library, "nearest")
    chosen = set()
    for question in ("reverse the text", "sort the letters", "double every letter"):
        share = chooser.share(question)
        chosen.add(share.adapters[0][0].name)
        want = Engine(host).generate([asked(question)], shares=[share], max_new_tokens=12)
        assert says(client, "route:letters", question) == want[0]
    assert len(chosen) > 1


def test_a_shift_changes_the_row_while_it_answers(client, host, served):
    """The embedded shift leaves its control tokens out of the text, and the trace shows every change."""
    controller = shifting("weft/letters-shift", host)
    engine = Engine(host)
    chats = [asked("3Acab"), asked("2Bdog")]
    traced = engine.trace(chats, controller=controller, max_new_tokens=24)
    events = 0
    for chat, want in zip(chats, traced, strict=True):
        common = {"model": "shift:letters", "messages": chat, "temperature": 0, "max_tokens": 24}
        said = client.chat.completions.create(**common, extra_body={"trace": True})
        assert said.choices[0].message.content == engine.generate(
            chat, controller=controller, max_new_tokens=24
        )
        told = said.choices[0].trace
        assert told == trace_values(host.tokenizer, want)
        events += sum(len(one["events"]) for one in told)
        pieces = list(client.chat.completions.create(**common, stream=True, extra_body={"trace": True}))
        streamed = [one for piece in pieces for one in piece.choices[0].trace]
        assert streamed == told
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == said.choices[0].message.content
    assert events


def test_a_shift_that_finds_no_slot_fails_alone(host):
    """The slots are too few for what the row shifts to: it is refused, and its mate goes on."""
    from weft.host import Pool

    before = host.pool
    host.pool = Pool(host.sites, slots=1, r=16, base=host.fingerprint)  # the speaker's own
    try:
        refused = {}
        loop = Loop(host, refused=lambda id, error: refused.update({id: str(error)}))
        ids = tuple(Engine(host).prompt_ids(asked("3Acab")))
        controller = shifting("weft/letters-shift", host)
        loop.submit(Request("shifts", ids), controller=controller, sampling=Sampling(max_new_tokens=24))
        loop.submit(Request("stays", ids), sampling=Sampling(max_new_tokens=24))
        told = [spoken.id for _ in range(24) for spoken in loop.step()]
    finally:
        host.pool = before
    assert "slots" in refused["shifts"]
    assert told.count("stays") == 24
    assert not loop.busy


def test_usage_tells_what_acted(client, host):
    usage = client.chat.completions.create(
        model="blend:0.7*sort+0.3*reverse", messages=asked("decaf"), **GREEDY, extra_body={"weft": True}
    ).usage
    assert [(one["name"], one["weight"]) for one in usage.weft["adapters"]] == [
        ("sort", 0.7),
        ("reverse", 0.3),
    ]
    hashes = [host.pool.key(weft.load(f"weft/letters-adapters/{name}")) for name in ("sort", "reverse")]
    assert [one["sha256"] for one in usage.weft["adapters"]] == hashes
    plain = client.chat.completions.create(model="sort", messages=asked("decaf"), **GREEDY)
    assert not hasattr(plain.usage, "weft")


def test_penalties_are_those_of_the_engine(client, host):
    mixture = Mixture.of(weft.load("weft/letters-adapters/double"))
    plain = says(client, "double", "decaf")
    changed = 0
    for options in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 3.0},
    ):
        extra = {"extra_body": options} if "repetition_penalty" in options else options
        said = says(client, "double", "decaf", **extra)
        assert said == engine_says(host, mixture, "decaf", **options)
        changed += said != plain
    assert changed


def test_embeddings_are_those_of_the_encoder(client):
    texts = ["sort the letters", "turn the text around"]
    told = client.embeddings.create(model="minilm", input=texts)
    from weft.embed import SentenceEncoder
    from weft.types import Description

    want = SentenceEncoder().encode([Description(text) for text in texts])
    got = torch.tensor([one.embedding for one in told.data])
    torch.testing.assert_close(got, want)
    floats = client.embeddings.create(model="minilm", input=texts[0], encoding_format="float")
    torch.testing.assert_close(torch.tensor(floats.data[0].embedding), want[0], atol=1e-6, rtol=1e-5)
    assert told.usage.prompt_tokens > floats.usage.prompt_tokens > 2
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    for wrong in ([], " ", ["a", ""], "a" * 30_000):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="minilm", input=wrong)


def test_descriptions_and_examples_make_what_the_network_makes(http, client, host):
    made = http.post("/v1/adapters", json={"name": "by-text", "description": "sort the letters"}).json()
    hyper = HyperNetwork.from_pretrained("weft/letters-t2l", host=host)
    assert made["sha256"] == host.pool.key(hyper.adapt("sort the letters"))
    assert made["description"] == "sort the letters"
    assert http.delete("/v1/adapters/by-text").status_code == 200
