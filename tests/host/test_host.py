from __future__ import annotations

import gc
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import DynamicCache

from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError
from weft.host import Host, sites_of
from weft.rows import Request, Share
from weft.types import AbstractGate, Bank, Decision, Dense, Mixture, Rows, Site, Term, Tokens, TopK

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
IDS = torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(0))


class Once(AbstractGate):
    """Counts how often it decides."""

    def __init__(self, count=3):
        super().__init__()
        self.count, self.calls = count, 0

    def prepare(self, embeddings_BTH, mask_BT):
        self.calls += 1
        assert mask_BT.dtype == torch.bool
        mean = (embeddings_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
        weight = mean[:, : self.count].softmax(-1)
        return {0: Decision("", weight[:, None], Dense(weight))}

    def assign(self, x_BTI, site, state):
        return state[0].assignment, state


class Tilt(AbstractGate):
    """Looks at hidden states."""

    def assign(self, x_BTI, site, state):
        assert x_BTI.shape[-1] == site.in_features
        return Dense(x_BTI[..., :3].softmax(-1)), state


def test_the_module_stays_as_it_was(pico_bank):
    module = make_llama()
    names, before = list(module.state_dict()), {k: v.clone() for k, v in module.state_dict().items()}
    kinds = [type(part) for part in module.modules()]
    host = Host(module)
    bank = pico_bank(3, 4)
    for tensor in (*bank.a.values(), *bank.b.values()):
        tensor.requires_grad_()
    host(IDS, Mixture.rows(bank, [0, 2])).logits.sum().backward()
    assert all(tensor.grad is not None for tensor in (*bank.a.values(), *bank.b.values()))
    assert [type(part) for part in module.modules()] == kinds
    assert list(module.state_dict()) == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_logits_are_those_of_weights_with_the_deltas_folded_in(pico_bank):
    module = make_llama()
    host, bank = Host(module), pico_bank(2, 3)
    weight = torch.tensor([[0.5, 2.0]])
    got = host(IDS, Mixture.dense(bank, weight)).logits
    for site in bank.sites:
        delta = sum(weight[0, k] * bank.b[site][k] @ bank.a[site][k] for k in range(2))
        module.get_submodule(site.path).weight.data += delta
    torch.testing.assert_close(got, module(IDS).logits, **CLOSE)


def test_terms_add_up(pico_host, pico_bank):
    first, second = pico_bank(3, 2), pico_bank(2, 5, seed=1)
    both = Mixture.rows(first, [0, 2]) + Mixture.dense(second, torch.tensor([[1.0, 0.5]]))
    joined = Bank(
        ("x", "y"),
        {s: torch.cat([first.a[s][[0, 2]], second.a[s].flatten(0, 1).expand(2, -1, -1)], 1) for s in first.a},
        {
            s: torch.cat(
                [first.b[s][[0, 2]], torch.cat([second.b[s][0], second.b[s][1] / 2], 1).expand(2, -1, -1)], 2
            )
            for s in first.b
        },
    )
    want = pico_host(IDS, Mixture.rows(joined, [0, 1])).logits
    torch.testing.assert_close(pico_host(IDS, both).logits, want, **CLOSE)


def test_a_bank_of_a_few_sites_changes_those_alone(pico_host, pico_bank):
    whole = pico_bank(1, 3)
    site = pico_host.sites[3]
    part = Bank(whole.names, {site: whole.a[site]}, {site: whole.b[site]})
    zero = {s: b if s == site else torch.zeros_like(b) for s, b in whole.b.items()}
    want = pico_host(IDS, Mixture.of(Bank(whole.names, whole.a, zero))).logits
    assert torch.equal(pico_host(IDS, Mixture.of(part)).logits, want)


def test_banks_that_do_not_fit(pico_host, pico_bank):
    bank = pico_bank(1, 2)
    a, b = torch.zeros(1, 2, 32), torch.zeros(1, 32, 2)
    odd = Site("model.layers.0.self_attn.q_prj", 0, "q_prj", 32, 32)
    with pytest.raises(UnknownNameError, match=r"did you mean model\.layers\.0\.self_attn\.q_proj"):
        pico_host(IDS, Mixture.of(Bank(("x",), {odd: a}, {odd: b})))
    big = Site("model.layers.0.self_attn.k_proj", 0, "k_proj", 32, 32)
    with pytest.raises(ShapeError, match="k_proj"):
        pico_host(IDS, Mixture.of(Bank(("x",), {big: a}, {big: b})))
    with pytest.raises(BaseMismatchError, match=f"adapter-0 belongs to base other.*{pico_host.fingerprint}"):
        pico_host(IDS, Mixture.of(Bank(bank.names, bank.a, bank.b, base="other")))
    mine = Bank(bank.names, bank.a, bank.b, base=pico_host.fingerprint)
    assert torch.equal(pico_host(IDS, Mixture.of(mine)).logits, pico_host(IDS, Mixture.of(bank)).logits)
    narrow = Host(make_llama(), target_modules=["q_proj"])
    with pytest.raises(UnknownNameError, match="no site of this host"):
        narrow(IDS, Mixture.of(bank))
    with pytest.raises(ShapeError, match="3 rows, this batch has 2"):
        pico_host(IDS, Mixture.rows(pico_bank(3, 2), [0, 1, 2]))


def test_banks_are_not_kept(pico_host, pico_bank):
    before = len(pico_host._factors)
    pico_host(IDS, Mixture.of(pico_bank(1, 2)))
    gc.collect()
    assert len(pico_host._factors) <= before


def test_a_failed_forward_leaves_nothing_behind(pico_host, pico_bank):
    base = pico_host(IDS).logits
    with pytest.raises(ShapeError):
        pico_host(IDS, Mixture.rows(pico_bank(3, 2), [0, 1, 2]))
    assert torch.equal(pico_host.module(IDS).logits, base)


def test_a_forward_within_a_forward(pico_host, pico_bank):
    """A mixture in force does not leak into the host's own forward, and comes back after it."""
    mixture = Mixture.of(pico_bank(1, 3))
    with pico_host.running(mixture):
        changed = pico_host.module(IDS).logits
        assert torch.equal(pico_host(IDS).logits, pico_host.module(IDS).logits) is False
        assert torch.equal(pico_host.module(IDS).logits, changed)
    torch.testing.assert_close(changed, pico_host(IDS, mixture).logits)


def test_threads_do_not_share_mixtures(pico_host, pico_bank):
    mixture, found = Mixture.of(pico_bank(1, 3)), []
    with pico_host.running(mixture):
        thread = threading.Thread(target=lambda: found.append(pico_host.module(IDS).logits))
        thread.start()
        thread.join()
    assert torch.equal(found[0], pico_host(IDS).logits)


def test_two_hosts_over_one_module():
    module = make_llama()
    first, second = Host(module), Host(module)
    mixture = Mixture.of(make_bank(first.sites, 1, 2))
    want = first(IDS, mixture).logits
    assert torch.equal(second(IDS, mixture).logits, want)
    assert torch.equal(second(IDS).logits, module(IDS).logits)


def test_cache_and_mask_sizes(pico_host, pico_bank):
    cache = DynamicCache(config=pico_host.module.config)
    pico_host(IDS, Mixture.of(pico_bank(1, 2)), cache=cache)
    with pytest.raises(ShapeError, match=r"the mask is \(2, 1\), expected \(2, 7\): 6 columns in the cache"):
        pico_host(IDS[:, :1], mask_BT=torch.ones(2, 1, dtype=torch.long), cache=cache)
    assert pico_host(IDS).past_key_values is None
    assert pico_host(IDS, use_cache=True).past_key_values.get_seq_length() == 6


def test_per_token_assignments_follow_the_cache(pico_host, pico_bank):
    """Two steps with a cache, one of them beyond the assignment, equal one forward."""
    bank, rng = pico_bank(3, 4), torch.Generator().manual_seed(1)
    weight = torch.rand(2, 5, 3, generator=rng)
    for given in (
        Tokens(torch.randint(-1, 3, (1, 5), generator=rng)),
        TopK(weight.topk(2).indices, weight.topk(2).values),
        Dense(weight),
    ):
        mixture = Mixture((Term(bank, given),))
        want = pico_host(IDS, mixture).logits
        cache = DynamicCache(config=pico_host.module.config)
        got = [pico_host(part, mixture, cache=cache).logits for part in IDS.split([3, 1, 2], 1)]
        torch.testing.assert_close(torch.cat(got, 1), want, **CLOSE)


def test_what_a_gate_decides_travels_with_the_cache(pico_host, pico_bank):
    gate, bank = Once(), pico_bank(3, 4)
    mixture = Mixture((Term(bank, gate),))
    prompt, more = IDS.split([4, 2], 1)
    states = pico_host.prepare(prompt, mixture)
    want = pico_host(IDS, mixture, states=states).logits
    assert gate.calls == 1
    cache = DynamicCache(config=pico_host.module.config)
    got = [pico_host(prompt, mixture, cache=cache).logits]
    got += [pico_host(step, mixture, cache=cache).logits for step in more.split(1, 1)]
    assert gate.calls == 2
    torch.testing.assert_close(torch.cat(got, 1), want, **CLOSE)
    again = pico_host(prompt, mixture, use_cache=True)
    last = pico_host(more, mixture, cache=again.past_key_values).logits
    assert gate.calls == 3
    torch.testing.assert_close(last, want[:, 4:], **CLOSE)


def test_a_gate_that_joins_later_decides_on_the_prompt(pico_host, pico_bank):
    gate, bank = Once(), pico_bank(3, 4)
    mixture = Mixture((Term(bank, gate),))
    prompt, more = IDS.split([4, 2], 1)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    longer = torch.cat([mask, torch.ones(2, 2, dtype=torch.long)], 1)
    caches = [DynamicCache(config=pico_host.module.config) for _ in range(2)]
    first = Mixture((Term(bank, Once()),))
    for cache in caches:
        pico_host(prompt, first, mask_BT=mask, cache=cache)
    got = pico_host(more, mixture, mask_BT=longer, cache=caches[0]).logits
    states = pico_host.prepare(prompt, mixture, mask_BT=mask)
    want = pico_host(more, mixture, mask_BT=longer, cache=caches[1], states=states).logits
    assert torch.equal(got, want)


def test_a_gate_joins_a_cache_begun_by_the_base(pico_host, pico_bank):
    mixture = Mixture((Term(pico_bank(3, 4), Once()),))
    prompt, more = IDS.split([4, 2], 1)
    cache = DynamicCache(config=pico_host.module.config)
    pico_host(prompt, cache=cache)
    got = pico_host(more, mixture, cache=cache).logits
    cache = DynamicCache(config=pico_host.module.config)
    pico_host(prompt, cache=cache)
    want = pico_host(more, mixture, cache=cache, states=pico_host.prepare(prompt, mixture)).logits
    assert torch.equal(got, want)


def test_a_cache_from_elsewhere_has_no_decision(pico_host, pico_bank):
    cache = DynamicCache(config=pico_host.module.config)
    pico_host.module(IDS, past_key_values=cache)
    with pytest.raises(ShapeError, match=r"did not begin this cache; pass states=host\.prepare"):
        pico_host(IDS[:, :1], Mixture((Term(pico_bank(3, 4), Once()),)), cache=cache)


def test_prompts_go_with_their_caches(pico_host, pico_bank):
    before = len(pico_host._prompts)
    for _ in range(3):
        cache = DynamicCache(config=pico_host.module.config)
        pico_host(IDS, Mixture((Term(pico_bank(3, 4), Once()),)), cache=cache)
    del cache
    gc.collect()
    assert len(pico_host._prompts) <= before


def test_gates_of_different_kinds_in_one_mixture(pico_host, pico_bank):
    first, second = pico_bank(3, 4), pico_bank(3, 2, seed=1)
    gates = Once(), Tilt()
    mixture = Mixture((Term(first, gates[0]), Term(second, gates[1], "average")))
    prompt, more = IDS.split([5, 1], 1)
    states = pico_host.prepare(prompt, mixture)
    want = pico_host(IDS, mixture, states=states).logits
    cache = DynamicCache(config=pico_host.module.config)
    got = [pico_host(part, mixture, cache=cache).logits for part in (prompt, more)]
    torch.testing.assert_close(torch.cat(got, 1), want, **CLOSE)


def test_adapters_of_another_precision(pico_bank):
    """As PEFT: computed in the adapter's precision, added in the wider one, returned in the layer's."""
    host, bank = Host(make_llama().bfloat16()), pico_bank(3, 4)
    site = host.sites[0]
    x = torch.randn(2, 5, site.in_features, dtype=torch.bfloat16)
    layer = host.module.get_submodule(site.path)
    with host.running(Mixture.rows(bank, [0, 2])):
        got = layer(x)
    delta = torch.stack([(x[i].float() @ bank.a[site][k].T) @ bank.b[site][k].T for i, k in ((0, 0), (1, 2))])
    torch.testing.assert_close(got, (layer(x) + delta).bfloat16(), atol=0, rtol=0.01)
    assert host(IDS, Mixture.rows(bank, [0, 2])).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [3, 64])
def test_autocast(pico_host, pico_bank, rank):
    bank = pico_bank(3, rank, scale=0.05)
    tensors = (*bank.a.values(), *bank.b.values())
    for tensor in tensors:
        tensor.requires_grad_()
    for assignment in (Rows(torch.tensor([2, 0])), Tokens(torch.randint(-1, 3, (2, 6)))):
        mixture = Mixture((Term(bank, assignment),))
        with torch.autocast("cpu", torch.bfloat16):
            low = pico_host(IDS, mixture).logits
        low.float().square().mean().backward()
        assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in tensors)
        high = pico_host(IDS, mixture).logits
        assert (low - high).abs().mean() < 0.05 * high.abs().mean()


def test_any_module_can_be_a_host():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    host = Host(module)
    assert (host.window, host.dtype, host.device.type) == (None, torch.float32, "cpu")
    bank = make_bank(host.sites, 3, 2)
    x = torch.randn(3, 6)
    by_row = [[0, 1, 2], [2, None, 0]]
    for index in by_row:
        want = []
        for row, k in enumerate(index):
            h = x[row : row + 1]
            for site in host.sites:
                layer = module.get_submodule(site.path)
                delta = 0 if k is None else bank.b[site][k] @ bank.a[site][k]
                h = h @ (layer.weight + delta).T + layer.bias
                h = torch.tanh(h) if site == host.sites[0] else h
            want.append(h)
        with host.running(Mixture.rows(bank, index)):
            torch.testing.assert_close(module(x), torch.cat(want))
            assert module(x[:, None, None].expand(-1, 2, 5, -1)).shape == (3, 2, 5, 4)
    with host.running(Mixture.rows(bank, [1])):
        assert module(x[0]).shape == (4,)
    with host.running(Mixture((Term(bank, Once()),)), embeddings_BTH=x[:, None]):
        assert module(x).shape == (3, 4)


class Experts(nn.Module):
    """Sends some tokens, flattened, through a linear layer of their own."""

    def __init__(self, config):
        super().__init__()
        self.one = nn.Linear(32, 32)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1]).clone()
        flat[::3] = self.one(flat[::3])
        return flat.view(x.shape)


def test_tokens_whose_row_nobody_knows():
    module = make_llama()
    module.model.layers[0].mlp = Experts(None)
    host = Host(module)
    bank = make_bank(host.sites, 3, 2)
    assert any(site.path.endswith("mlp.one") for site in host.sites)
    assert not torch.equal(host(IDS, Mixture.rows(bank, [1])).logits, host(IDS).logits)
    host(IDS, Mixture((Term(bank, Tilt()),)))
    with pytest.raises(ShapeError, match=r"mlp\.one sees tokens without their rows"):
        host(IDS, Mixture.rows(bank, [0, 1]))
    with pytest.raises(ShapeError, match=r"mlp\.one sees 4 of 6 tokens"):
        host(IDS, Mixture((Term(bank, (Tokens(torch.zeros(1, 6, dtype=torch.long)))),)))


def test_positions_are_not_sent_to_a_model_that_takes_none():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(64, 8), nn.Linear(8, 64)

        def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False):
            return self.head(self.embed(input_ids) * attention_mask[..., None])

    host = Host(Bag())
    assert host(IDS, mask_BT=torch.ones_like(IDS)).shape == (2, 6, 64)
    bank = make_bank(sites_of(host.module), 3, 2)
    with pytest.raises(ConfigError, match="this module has none"):
        host(IDS, Mixture((Term(bank, Once()),)), mask_BT=torch.ones_like(IDS))


@pytest.mark.parametrize("id", [64, -1])
def test_a_token_without_an_embedding_is_named(pico_host, id):
    with pytest.raises(
        ShapeError, match=f"token id {id} is outside the vocabulary of 64: the tokenizer knows"
    ):
        pico_host(torch.tensor([[3, id]]))


def test_window_and_name(pico_host):
    assert (pico_host.window, pico_host.name, pico_host.dtype) == (128, "pico", torch.float32)
    assert pico_host.fingerprint == Host(make_llama()).fingerprint != Host(make_llama(seed=1)).fingerprint


def written(host, adapter):
    loop = Loop(host)
    loop.submit(Request("0", (5, 6, 7), Share.of(adapter)), sampling=Sampling(max_new_tokens=6))
    return [spoken.token_id for spoken in loop.run()]


def test_loops_of_several_threads_share_a_pool():
    """A pool that grows for one of them loses nothing that another puts in."""
    bank = make_bank(sites_of(make_llama()), 32, 4)
    alone = Host(make_llama())
    want = {k: written(alone, bank[k]) for k in range(len(bank))}
    for _ in range(3):
        host, got = Host(make_llama()), {}

        def work(places, host=host, got=got):
            got |= {k: written(host, bank[k]) for k in places}

        threads = [threading.Thread(target=work, args=(range(i, 32, 4),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == want


def test_a_pool_begun_in_inference_mode_goes_on_outside(pico_bank):
    host, bank = Host(make_llama()), pico_bank(2, 3)
    with torch.inference_mode():
        first = written(host, bank[0])
    assert written(host, bank[1]) != first == written(host, bank[0])


def test_rows_are_written_under_autocast(pico_host, pico_bank):
    bank = pico_bank(9, 16, scale=0.02)
    for places in ([0], [0, 1], [0, 0, 1], list(range(9))):
        shares = [Share.of(bank[k]) for k in places]
        rows = []
        for low in (True, False):
            cache = pico_host.new_cache()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                pico_host.step(IDS[:1].repeat(len(places), 1), cache, shares)
                rows.append(pico_host.step(IDS[:1, :1].repeat(len(places), 1), cache, shares).logits_BV)
        assert (rows[0] - rows[1]).abs().mean() < 0.05 * rows[1].abs().mean()


def test_gradient_checkpointing_does_not_decode(pico_bank):
    host, adapter = Host(make_llama()), pico_bank(1, 3)[0]
    want = written(host, adapter)
    host.gradient_checkpointing_enable()
    with pytest.raises(ConfigError, match="eval"):
        written(host, adapter)
    host.module.train()
    assert host(IDS, use_cache=True).past_key_values is None
    host.module.eval()
    assert written(host, adapter) == want


def test_an_interrupt_leaves_no_pins(pico_bank, monkeypatch):
    host, bank = Host(make_llama()), pico_bank(2, 3)
    write = host.pool._write

    def interrupted(slot, ready):
        if slot:
            raise KeyboardInterrupt
        write(slot, ready)

    share = Share.of(bank[0], bank[1])
    with monkeypatch.context() as patch:
        patch.setattr(host.pool, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            host.hold(share)
    assert not host.pool.pinned(bank[0])
    assert written(host, bank[1]) == written(Host(make_llama()), bank[1])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by the old name
def test_a_network_that_peft_has_changed_is_refused_until_it_is_taken_back():
    module = make_llama()
    wrapped = get_peft_model(module, LoraConfig(target_modules=["q_proj"]))
    for one in (wrapped, module):
        with pytest.raises(ConfigError, match=r"unload\(\)"):
            Host(one)
    assert Host(wrapped.unload()).fingerprint == Host(make_llama()).fingerprint
