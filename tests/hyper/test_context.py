"""Texts in weights: what chunks become, how they go together, and the window that feeds them."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tiny_models import make_llama
from weft.adapters import delta
from weft.engine import Loop, Sampling
from weft.errors import BaseMismatchError, ConfigError, CueError, PromptTooLongError, ShapeError
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork, WindowController
from weft.hyper.accumulator import AccumulatorConfig
from weft.hyper.whiten import Whitening
from weft.rows import Request
from weft.types import Dense, Description, Document, Mixture, Term

CLOSE = {"atol": 3e-4, "rtol": 1e-3}
READERS = {
    "perceiver": {"kind": "perceiver", "rank": 2, "latent": 32},
    "accumulator": {"kind": "accumulator", "rank": 6, "latent": 32},
}


def make_network(host, kind, *, chunk=4, trained=True, rank_budget=64, seed=0, **more):
    config = {"reader": READERS[kind], "chunk": chunk, "rank_budget": rank_budget, **more}
    torch.manual_seed(seed)
    network = ContextNetwork(host, ContextConfig.model_validate(config))
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def tokens(seed, length):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(3, 64, (length,), generator=rng).tolist()


def deltas(adapter):
    return {site: delta(factors) for site, factors in adapter.factors.items()}


@pytest.fixture(params=list(READERS))
def kind(request):
    return request.param


def test_what_has_learned_nothing_changes_nothing(pico_host, kind):
    network = make_network(pico_host, kind, trained=False)
    ids = torch.tensor([tokens(0, 7)])
    bank = network.press([tokens(1, 4)])
    assert torch.equal(pico_host(ids, Mixture.rows(bank, [0])).logits, pico_host(ids).logits)


def test_the_first_gradient_reaches_b_and_the_second_everything(pico_host, kind):
    network = make_network(pico_host, kind, trained=False, gate=8)
    ids = torch.tensor([tokens(0, 7), tokens(5, 7)])

    def backward():
        network.zero_grad()
        bank = network.gather(network.press([tokens(1, 4), tokens(2, 3), tokens(3, 4)]), [2, 1])
        pico_host(ids, Mixture.rows(bank, [0, 1])).logits[..., 5].sum().backward()
        return {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    first = backward()
    assert first
    assert all("head_b" in name or "out_b" in name for name in first)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in first:
                parameter.sub_(0.1 * parameter.grad.sign())
    assert backward() == {name for name, _ in network.named_parameters()}


def test_a_chunk_does_not_depend_on_others_read_beside_it(pico_host, kind):
    network = make_network(pico_host, kind)
    short, long = tokens(1, 2), tokens(2, 4)
    both = network.press([short, long])
    for k, chunk in enumerate((short, long)):
        alone = network.press([chunk])[0]
        for site, wanted in deltas(alone).items():
            torch.testing.assert_close(deltas(both[k])[site], wanted, **CLOSE)
    assert any((deltas(both[0])[s] - deltas(both[1])[s]).abs().max() > 1e-3 for s in network.sites)


def test_documents_add_up_and_one_comes_out_exactly(pico_host, kind):
    network = make_network(pico_host, kind)
    bank = network.press([tokens(k, 4) for k in range(3)])
    documents = [bank[k] for k in range(3)]
    joined = deltas(network.join(documents))
    for site in network.sites:
        wanted = sum(deltas(document)[site] for document in documents)
        torch.testing.assert_close(joined[site], wanted, **CLOSE)
    before = network.join([documents[0], documents[2]])
    network.join(documents)
    after = network.join([documents[0], documents[2]])
    for site, (a_RI, b_OR, scaling) in before.factors.items():
        assert torch.equal(after.factors[site].a_RI, a_RI)
        assert torch.equal(after.factors[site].b_OR, b_OR)
        assert after.factors[site].scaling == scaling


def test_the_state_of_an_accumulator_never_grows_and_a_budget_bounds_the_other(pico_host, kind):
    network = make_network(pico_host, kind, rank_budget=5)
    ranks = {network.adapt_stream(iter(tokens(0, length))).rank for length in (16, 64, 200)}
    assert ranks == {6 if kind == "accumulator" else 5}


def test_a_stream_equals_the_whole_and_is_read_as_it_comes(pico_host, kind):
    network = make_network(pico_host, kind, rank_budget=200)
    ids = tokens(0, 70)
    chunks = list(network.chunks(ids))
    whole = network.gather(network.press(chunks), [len(chunks)])[0]
    streamed = network.adapt_stream(iter(ids))
    for site, wanted in deltas(whole).items():
        torch.testing.assert_close(deltas(streamed)[site], wanted, atol=1e-4, rtol=1e-3)
    read, ahead = 0, []
    taken = 0

    def stream():
        nonlocal taken
        for i in ids * 10:
            taken += 1
            yield i

    learn = network.learn

    def watched(known, chunks):
        nonlocal read
        ahead.append(taken - read)
        read += sum(map(len, chunks))
        return learn(known, chunks)

    network.learn = watched
    network.adapt_stream(stream())
    assert read == 700
    assert max(ahead) <= 64  # never more than 16 chunks of 4 tokens at a time


def with_gate(host, kind, **more):
    """A network whose gate hears some chunks and not others, and some of either."""
    network = make_network(host, kind, gate=8, **more)
    chunks = list(network.chunks(tokens(20, 200)))[:12]
    with torch.no_grad():
        # a steep gate, whose threshold lies in the middle of what it says of these
        network.silence.out.weight.mul_(20)
        raws = torch.stack([raw(network, chunk) for chunk in chunks]).sort().values
        network.silence.out.bias.sub_((raws[5] + raws[6]) / 2)
    heard = [bool(network.hear([chunk])[1] > 0) for chunk in chunks]
    spoken = [chunk for chunk, yes in zip(chunks, heard, strict=True) if yes]
    idle = [chunk for chunk, yes in zip(chunks, heard, strict=True) if not yes]
    assert min(len(spoken), len(idle)) >= 3
    return network, spoken, idle


@torch.no_grad()
def raw(network, chunk):
    """What the gate says before it is cut at 0, as a logit."""
    seen = []
    handle = network.silence.out.register_forward_hook(lambda *call: seen.append(call[2]))
    network.hear([chunk])
    handle.remove()
    return seen[0][0, 0]


def test_an_idle_chunk_is_exactly_nothing(pico_host, kind):
    network, spoken, idle = with_gate(pico_host, kind)
    bank = network.press([*idle, *spoken])
    ids = torch.tensor([tokens(0, 7)])
    plain = pico_host(ids).logits
    for k in range(len(idle)):
        assert all(not b_KOR[k].any() for b_KOR in bank.b.values())
        assert torch.equal(pico_host(ids, Mixture.rows(bank, [k])).logits, plain)
    for k in range(len(idle), len(bank)):
        assert (pico_host(ids, Mixture.rows(bank, [k])).logits - plain).abs().max() > 1e-3


def test_idle_chunks_leave_what_is_known_bit_for_bit_and_take_no_rank(pico_host, kind):
    """However many, before, between and behind; whatever is joined at a time."""
    network, spoken, idle = with_gate(pico_host, kind, rank_budget=400)
    facts = [network.press([chunk])[0] for chunk in spoken[:3]]
    nothing = [network.press([chunk])[0] for chunk in idle[:3]]
    wanted = network.join(facts)
    among = [nothing[0], facts[0], *nothing * 5, *facts[1:], nothing[1]]
    at_once = network.join(among)
    one_by_one = None
    for adapter in among:
        one_by_one = network.join([*([] if one_by_one is None else [one_by_one]), adapter])
    for joined in (at_once, one_by_one):
        assert joined.rank == wanted.rank
    ids = torch.tensor([tokens(0, 7)])
    said = pico_host(ids, Mixture.of(wanted)).logits
    assert torch.equal(pico_host(ids, Mixture.of(at_once)).logits, said)
    if network.additive:
        assert torch.equal(pico_host(ids, Mixture.of(one_by_one)).logits, said)
    assert not torch.equal(said, pico_host(ids).logits)
    silent = network.join(nothing)
    assert torch.equal(pico_host(ids, Mixture.of(silent)).logits, pico_host(ids).logits)


def test_a_gate_that_is_shut_still_learns(pico_host, kind):
    network, _, idle = with_gate(pico_host, kind)
    bank, open_K = network.hear(idle[:2])
    assert not open_K.any()
    ids = torch.tensor([tokens(0, 7), tokens(5, 7)])
    pico_host(ids, Mixture.rows(bank, [0, 1])).logits[..., 5].sum().backward()
    assert network.silence.out.weight.grad.abs().sum() > 0
    # and nothing goes where it has nothing to say
    assert all(not p.grad.any() for n, p in network.named_parameters() if "head_b" in n or "out_b" in n)


def test_a_chunk_ends_behind_a_token_that_ends_one(pico_host, kind):
    with pytest.raises(ConfigError, match=r"ends: -1 is no token of this base"):
        make_network(pico_host, kind, ends=[9, -1])
    network = make_network(pico_host, kind, ends=[9, 8])
    assert list(network.chunks([9, 3, 4, 9, 5, 6, 7, 3, 4, 5, 8, 3])) == [
        [9],
        [3, 4, 9],
        [5, 6, 7, 3],
        [4, 5, 8],
        [3],
    ]
    # an end behind a full chunk is no chunk of its own, and two ends are
    assert list(network.chunks([3, 4, 5, 6, 9, 9, 3, 4, 5, 6])) == [[3, 4, 5, 6, 9], [9], [3, 4, 5, 6]]
    assert max(map(len, network.chunks([3, 4, 5, 6, 9]))) == network.longest
    # so a line means the same wherever it stands
    alone = network.press([[3, 4, 9]])[0]
    among = network.press(list(network.chunks([9, 3, 4, 9, 5])))[1]
    for site, wanted in deltas(alone).items():
        torch.testing.assert_close(deltas(among)[site], wanted, **CLOSE)


def write(host, network, ids, new, *, window, mates=0):
    """Tokens and logits of a row under the window controller, and the most tokens that its cache held."""
    loop = Loop(host)
    controller = WindowController(network, window=window)
    loop.submit(Request("row", tuple(ids)), sampling=Sampling(max_new_tokens=new), controller=controller)
    for mate in range(mates):
        loop.submit(
            Request(f"mate-{mate}", tuple(tokens(50 + mate, 3 + 5 * mate))),
            sampling=Sampling(max_new_tokens=4 + 9 * mate),
            controller=controller if mate % 2 else None,
        )
    said, logits, held = [], [], 0
    while loop.busy:
        for spoken in loop.step():
            if spoken.id == "row":
                said.append(spoken.token_id)
                logits.append(spoken.logits_V)
        held = max([held, *loop.held])
    return said, torch.stack(logits), held


@pytest.mark.parametrize("prompt", [5, 23])
@pytest.mark.parametrize("gated", [False, True])
def test_the_window_equals_an_uncached_replay(pico_host, kind, prompt, gated):
    """The slow twin: one forward over all that was written, told which chunks act on and hide from whom."""
    if gated:
        network, _, _ = with_gate(pico_host, kind, rank_budget=400, ends=list(range(3, 64, 5)))
    else:
        network = make_network(pico_host, kind, rank_budget=400)
    ids, new, window = tokens(0, prompt), 30, 10
    said, logits, held = write(pico_host, network, ids, new, window=window)
    assert held <= window
    whole = [*ids, *said]
    chunks = list(network.chunks(whole))
    ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0).tolist()

    def leave(over):  # how many chunks have to go before so many tokens have gone
        return 0 if over <= 0 else next(k for k, end in enumerate(ends, 1) if end >= over)

    left = leave(prompt - window)  # chunks that were pressed before the prompt was read
    seen = torch.ones(len(whole), len(whole), dtype=torch.bool).tril()
    weight = torch.zeros(1, len(whole), len(chunks))
    start = ends[left - 1] if left else 0
    for column in range(start, len(whole)):
        gone = left if column < prompt else max(leave(column + 1 - window), left)
        seen[column, : ends[gone - 1] if gone else 0] = False
        weight[0, column, :gone] = 1
    seen[:start] |= torch.eye(len(whole), dtype=torch.bool)[:start]
    bank, open_K = network.hear(chunks)
    if gated:
        assert 0 < (open_K > 0).sum() < len(chunks)
    mixture = Mixture((Term(bank, Dense(weight)),))
    with torch.no_grad(), pico_host.running(mixture):
        out = pico_host.module(input_ids=torch.tensor([whole]), attention_mask=seen[None, None])
    torch.testing.assert_close(logits, out.logits[0, prompt - 1 : -1], atol=2e-4, rtol=1e-3)
    assert said == out.logits[0, prompt - 1 : -1].argmax(-1).tolist()


def test_a_row_in_a_window_says_beside_others_what_it_says_alone(pico_host, kind):
    network = make_network(pico_host, kind)
    alone = write(pico_host, network, tokens(0, 17), 25, window=9)
    among = write(pico_host, network, tokens(0, 17), 25, window=9, mates=4)
    assert alone[0] == among[0]
    torch.testing.assert_close(alone[1], among[1], **CLOSE)


def test_a_text_goes_on_past_the_base_s_own_window(kind):
    host = Host(make_llama(max_position_embeddings=16))
    network = make_network(host, kind, rank_budget=6)
    said, _, held = write(host, network, tokens(0, 90), 60, window=12)
    assert len(said) == 60
    assert held <= 12


def test_a_row_over_learned_positions_ends_with_them(kind):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32, eos_token_id=2)
    host = Host(GPT2LMHeadModel(config).eval())
    network = make_network(host, kind)
    said, _, _ = write(host, network, tokens(0, 12), 20, window=12)
    assert len(said) == 20
    with pytest.raises(PromptTooLongError, match="exceed the model's window of 32"):
        write(host, network, tokens(0, 12), 21, window=12)


def test_a_network_is_kept_and_found_again(pico_host, kind, tmp_path):
    network = make_network(pico_host, kind)
    network.save_pretrained(tmp_path / "context")
    again = ContextNetwork.from_pretrained(tmp_path / "context", host=pico_host)
    ids = tokens(0, 9)
    for site, wanted in deltas(network.adapt_stream(ids)).items():
        assert torch.equal(deltas(again.adapt_stream(ids))[site], wanted)
    with pytest.raises(BaseMismatchError, match="context at"):
        ContextNetwork.from_pretrained(tmp_path / "context", host=Host(make_llama(7)))


def test_what_does_not_fit_is_told_in_one_line(pico_host, kind):
    network = make_network(pico_host, kind)
    with pytest.raises(ConfigError, match="a window of 4 tokens is no larger than a chunk of 4"):
        WindowController(network, window=4)
    with pytest.raises(ConfigError, match="the base was made for 128"):
        WindowController(network, window=129)
    with pytest.raises(CueError, match="empty document"):
        network.adapt_stream([])
    with pytest.raises(CueError, match="empty chunk"):
        network.press([[3], []])
    with pytest.raises(ShapeError, match="2 chunks, and documents of"):
        network.gather(network.press([[3], [4]]), [1])
    with pytest.raises(CueError, match="not a description"):
        network.adapt(Description("sort"))
    with pytest.raises(ConfigError, match="no tokenizer"):
        network.generate([Document("a b")])
    with pytest.raises(ConfigError, match="only a language model"):
        ContextNetwork(Host(nn.Sequential(nn.Linear(2, 2))), ContextConfig())


def test_a_document_that_would_not_fit_into_memory_is_refused_before_it_is_read(pico_host):
    class Words:
        def encode(self, text, add_special_tokens):
            return [3] * len(text)

    network = make_network(pico_host, "perceiver")
    network.host.tokenizer = Words()
    try:
        with pytest.raises(CueError, match="makes an adapter of rank 5000, at most 4096"):
            network.generate([Document("x" * 10_000)])
    finally:
        network.host.tokenizer = None


def test_documents_are_heard_together_as_their_chunks_gathered_are(pico_host, kind):
    network, loud, idle = with_gate(pico_host, kind)
    documents = [[loud[0], idle[0], loud[1]], [idle[1]], [loud[2], loud[0]]]
    bank, open_K = network.hear_documents(documents)
    chunks, each_K = network.hear([chunk for document in documents for chunk in document])
    wanted = network.gather(chunks, [3, 1, 2])
    assert torch.equal(open_K, each_K)
    assert 0 < (open_K > 0).sum() < len(open_K)
    assert bank.names == wanted.names
    for d in range(3):
        made = deltas(bank[d])
        for site, right in deltas(wanted[d]).items():
            torch.testing.assert_close(made[site], right, **CLOSE)
    with pytest.raises(ShapeError):
        network.hear_documents([[loud[0]], []])


def test_copied_tokens_are_told_as_the_base_embeds_them(pico_host):
    """Once c is not zero, what is written is made of the embeddings of the text's own tokens."""
    sites = [site for site in pico_host.sites if site.out_features == pico_host.module.config.hidden_size]
    reader = AccumulatorConfig(rank=8, latent=16, copy_tokens=True)
    torch.manual_seed(0)
    network = ContextNetwork(pico_host, ContextConfig(reader=reader), sites=sites)
    chunk = [5, 9, 9, 7]
    assert not any(b_KOR.any() for b_KOR in network.press([chunk]).b.values())
    assert network.reader.copy_SO is not None
    with torch.no_grad():
        network.reader.copy_SO.fill_(1.0)
        bank = network.press([chunk])
    told = torch.nn.functional.layer_norm(
        pico_host.module.get_input_embeddings()(torch.tensor([5, 7, 9])), (bank.b[sites[0]].shape[1],)
    )
    for b_KOR in bank.b.values():
        left = b_KOR[0] - told.mT @ torch.linalg.pinv(told.mT) @ b_KOR[0]
        assert left.abs().max() < 1e-4 < b_KOR.abs().max()


def test_copied_alone_a_text_is_told_by_pointers_and_by_its_tokens_wherever_it_is_asked(pico_host):
    """The last row of A gives 1 on average, the last column of B is c' times the sum of the embeddings."""
    width = pico_host.module.config.hidden_size
    sites = [site for site in pico_host.sites if site.out_features == width]
    reader = AccumulatorConfig(rank=8, latent=16, copy_tokens="only", topics=True)
    torch.manual_seed(0)
    network = ContextNetwork(pico_host, ContextConfig(reader=reader, chunk=4), sites=sites)
    chunks = [tokens(seed, 4) for seed in range(12)]
    network.fit_whitening(chunks)
    read = network.read(chunks)
    assert network.reader.copy_SO is not None
    assert network.reader.topic_SO is not None
    with torch.no_grad():
        network.reader.topic_SO.fill_(0.5)
        one, two = network.press([[5, 9, 9, 7]]), network.press([[6, 8]])
        told = torch.nn.functional.layer_norm(
            pico_host.module.get_input_embeddings()(torch.tensor([5, 9, 9, 7])), (width,)
        )
    for site in sites:
        answer_BT = read.inputs[site] @ one.a[site][0, -1]
        assert answer_BT.mean().item() == pytest.approx(1, abs=1e-4)
        assert not one.b[site][..., :-1].any()
        # gates are half open at the start; the network's scaling is folded into b
        wanted = 0.5 * 0.5 * told.sum(0) * network.config.reader.scaling
        torch.testing.assert_close(one.b[site][0, :, -1], wanted, **CLOSE)
    both = deltas(network.join([one[0], two[0]]))
    for site in sites:
        torch.testing.assert_close(both[site], deltas(one[0])[site] + deltas(two[0])[site], **CLOSE)
    with pytest.raises(ValueError, match="give copy_tokens: only"):
        AccumulatorConfig(topics=True, copy_tokens=True)


def test_massive_activations_are_no_part_of_what_whitens(pico_host):
    (site, *_) = pico_host.sites
    x_NI = torch.randn(400, site.in_features, generator=torch.Generator().manual_seed(0)) + 1
    sinks = 300 * torch.ones(4, site.in_features)
    clean, mixed = Whitening([site]), Whitening([site])
    clean.fit({site: x_NI})
    mixed.fit({site: torch.cat([x_NI[:200], sinks, x_NI[200:]])})
    torch.testing.assert_close(mixed.norm(site, x_NI), clean.norm(site, x_NI))


def test_a_first_token_without_a_key_has_no_gradient_either(pico_host):
    """At the start nothing stands before it, so its key is 0, whose direction is anything."""
    network = make_network(pico_host, "accumulator", trained=False)
    with torch.no_grad():
        for out_b in network.reader.out_b.values():
            out_b.normal_()
    bank = network.press([tokens(1, 4)])
    pico_host(torch.tensor([tokens(0, 7)]), Mixture.rows(bank, [0])).logits[..., 5].sum().backward()
    assert 0 < network.reader.shift_SJM.grad.abs().max() < 1e3


def test_tokens_are_copied_only_where_the_base_embeds_them(pico_host):
    inner = [site for site in pico_host.sites if site.out_features != pico_host.module.config.hidden_size]
    reader = AccumulatorConfig(rank=8, latent=16, copy_tokens=True)
    with pytest.raises(ConfigError, match="copy_tokens"):
        ContextNetwork(pico_host, ContextConfig(reader=reader), sites=inner)
