"""Fisher diagonals and Gram matrices from a model, against one backward per example and label."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tiny_models import make_bank, make_llama
from weft.errors import ConfigError, UnknownNameError
from weft.host import Host
from weft.host.fisher import fisher_diagonal
from weft.host.gram import input_gram
from weft.merging import merge
from weft.types import Bank, Mixture, Site


def batch_of(rows: int = 3, vocabulary: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of five tokens, the last of them padded by one; two or one of each are predicted."""
    ids = torch.randint(3, vocabulary, (rows, 5), generator=torch.Generator().manual_seed(0))
    mask, labels = torch.ones_like(ids), torch.full_like(ids, -100)
    labels[:, 3:] = ids[:, 3:]
    mask[-1, 4] = 0
    labels[-1, 4] = -100
    return ids, mask, labels


@pytest.fixture(scope="module")
def small() -> tuple[Host, Mixture]:
    host = Host(make_llama(vocab_size=12), target_modules=["q_proj", "down_proj"])
    return host, Mixture.of(make_bank(host.sites, 1, 2))


def reference(host: Host, mixture: Mixture, batch: tuple[Tensor, Tensor, Tensor]) -> dict[Site, Tensor]:
    """Gradients of the base's own weights, one example, one position and one label at a time."""
    ids, mask, labels = batch
    total = {s: torch.zeros(s.out_features, s.in_features) for s in host.sites}
    weights = [host.module.get_submodule(s.path).weight.requires_grad_() for s in host.sites]
    for row in range(len(ids)):
        logits = host(ids[row : row + 1], mixture, mask_BT=mask[row : row + 1]).logits[0]
        for t in range(ids.shape[1] - 1):
            if labels[row, t + 1] == -100:
                continue
            log_p = logits[t].log_softmax(-1)
            for token in range(logits.shape[-1]):
                gradients = torch.autograd.grad(log_p[token], weights, retain_graph=True)
                for site, gradient in zip(host.sites, gradients, strict=True):
                    total[site] += float(log_p[token].detach().exp()) * gradient**2 / len(ids)
    for weight in weights:
        weight.requires_grad_(False)
    return total


def test_the_exact_fisher_is_that_of_every_label(small: tuple[Host, Mixture]) -> None:
    host, mixture = small
    found = fisher_diagonal(host, mixture, [batch_of()], labels="exact")
    for site, expected in reference(host, mixture, batch_of()).items():
        torch.testing.assert_close(found[site], expected, rtol=1e-3, atol=1e-6)


def test_the_sampled_fisher_tends_to_the_exact_one(small: tuple[Host, Mixture]) -> None:
    host, mixture = small
    exact = fisher_diagonal(host, mixture, [batch_of()], labels="exact")
    errors = []
    for samples in (4, 400):
        found = fisher_diagonal(host, mixture, [batch_of()], samples=samples, seed=1)
        errors.append(sum(float((found[s] - exact[s]).norm() / exact[s].norm()) for s in exact) / len(exact))
    assert errors[1] < 0.15
    assert errors[1] < errors[0] / 3


def test_rows_and_batches_do_not_mix(small: tuple[Host, Mixture]) -> None:
    # The square of a sum over examples would be no Fisher: this is where such a mistake shows.
    host, mixture = small
    ids, mask, labels = batch_of()
    apart = [(ids[i : i + 1], mask[i : i + 1], labels[i : i + 1]) for i in range(3)]
    together = fisher_diagonal(host, mixture, [batch_of()], labels="exact")
    for site, f_OI in fisher_diagonal(host, mixture, apart, labels="exact").items():
        torch.testing.assert_close(f_OI, together[site], rtol=1e-3, atol=1e-6)


def test_the_same_seed_gives_the_same_fisher_and_no_trace_is_left(small: tuple[Host, Mixture]) -> None:
    host, mixture = small
    before = host(batch_of()[0], mixture).logits
    one, other = (fisher_diagonal(host, mixture, [batch_of()], seed=3) for _ in range(2))
    assert all(torch.equal(one[site], other[site]) for site in host.sites)
    with torch.no_grad():
        assert torch.equal(host(batch_of()[0], mixture).logits, before)
    assert not any(parameter.requires_grad for parameter in host.module.parameters())


def test_gram_matrices_count_shown_tokens_only(small: tuple[Host, Mixture]) -> None:
    host, mixture = small
    ids, mask, labels = batch_of()
    seen: dict[Site, list[Tensor]] = {}

    def keep(site: Site) -> Callable[..., None]:
        return lambda _, inputs, output: seen.setdefault(site, []).append(inputs[0])

    hooks = [host.module.get_submodule(s.path).register_forward_hook(keep(s)) for s in host.sites]
    host(ids, mixture, mask_BT=mask)
    for hook in hooks:
        hook.remove()
    found = input_gram(host, mixture, [(ids, mask, labels)])
    for site in host.sites:
        expected = torch.zeros(site.in_features, site.in_features, dtype=torch.float64)
        for row in range(3):
            for t in range(5):
                if mask[row, t]:
                    x = seen[site][0][row, t].double()
                    expected += torch.outer(x, x)
        torch.testing.assert_close(found[site], expected)


def test_what_is_collected_merges(small: tuple[Host, Mixture], pico_bank: Callable[..., Bank]) -> None:
    host, _ = small
    bank = make_bank(host.sites, 2, 2)
    adapters = [bank[0], bank[1]]
    fishers = [fisher_diagonal(host, Mixture.of(a), [batch_of()], labels="exact") for a in adapters]
    grams = [input_gram(host, Mixture.of(a), [batch_of()]) for a in adapters]
    for merged in (merge("fisher", adapters, fisher=fishers), merge("regmean", adapters, gram=grams)):
        assert merged.sites == host.sites
        assert torch.isfinite(host(batch_of()[0], Mixture.of(merged)).logits).all()


def test_refusals(small: tuple[Host, Mixture]) -> None:
    host, mixture = small
    ids, mask, labels = batch_of()
    with pytest.raises(ConfigError, match="labels is 'true'"):
        fisher_diagonal(host, mixture, [], labels="true")
    with pytest.raises(ConfigError, match="samples is 0"):
        fisher_diagonal(host, mixture, [], samples=0)
    with pytest.raises(ConfigError, match="no batches"):
        fisher_diagonal(host, mixture, [])
    with pytest.raises(ConfigError, match="no batches"):
        input_gram(host, mixture, [])
    with pytest.raises(ConfigError, match="a row predicts nothing"):
        fisher_diagonal(host, mixture, [(ids, mask, torch.full_like(labels, -100))])
    strange = Site("model.layers.0.self_attn.q_prj", 0, "q_prj", 32, 32)
    for collect in (fisher_diagonal, input_gram):
        with pytest.raises(UnknownNameError, match=r"no site of this host \(did you mean"):
            collect(host, mixture, [batch_of()], sites=[strange])
