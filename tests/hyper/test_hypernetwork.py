import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from weft.adapters import load, save
from weft.embed import Cached, HostStates, Joined, Learned, OneHot
from weft.errors import (
    BaseMismatchError,
    ConfigError,
    CueError,
    MissingFileError,
    SaveError,
    ShapeError,
    UnknownNameError,
    WeftError,
    WeightsError,
)
from weft.files import is_name
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.hyper.slug import slug
from weft.types import Bank, Description, Document, Examples, Mixture

NAMES = ("sort the letters", "reverse the letters", "count")


def make(host: Host, *, seed: int = 0, dropout: float = 0.0, **options: object) -> HyperNetwork:
    """A small hypernetwork, moved away from its zero start."""
    torch.manual_seed(seed)
    encoder = OneHot(NAMES)
    config = T2LConfig(rank=2, latent=16, head_in=16, dropout=dropout, **options)
    network = build_t2l(config, host.sites, dim=encoder.dim)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    provenance = {"seed": 7, "recipe": "tiny", "base_model": "weft/pico"}
    return HyperNetwork(encoder, network, base=host.fingerprint, name="tiny", provenance=provenance)


def cues(*texts: str) -> list[Description]:
    return [Description(text) for text in texts]


def test_adapt_is_the_banks_adapter_with_its_scaling_apart(pico_host: Host) -> None:
    hyper = make(pico_host, alpha=8.0)
    adapter = hyper.adapt("count")
    bank = hyper.generate(cues("sort the letters", "count"))
    assert bank.names == ("sort-the-letters", "count")
    assert bank.base == adapter.base == pico_host.fingerprint
    assert bank.sites == adapter.sites == pico_host.sites
    restacked = Bank.stack([adapter])
    for site, (a_RI, b_OR, scaling) in adapter.factors.items():
        assert scaling == 4.0
        assert a_RI.is_contiguous()
        assert b_OR.is_contiguous()
        assert a_RI.untyped_storage().nbytes() == a_RI.nbytes
        torch.testing.assert_close(restacked.a[site][0], bank.a[site][1])
        torch.testing.assert_close(restacked.b[site][0], bank.b[site][1])


def test_adapt_has_no_dropout_and_leaves_the_mode_as_it_was(pico_host: Host) -> None:
    hyper = make(pico_host, dropout=0.5).train()
    first, second = hyper.adapt("count"), hyper.adapt("count")
    assert hyper.training
    assert not hyper.eval().adapt("count").factors[pico_host.sites[0]].b_OR.requires_grad
    assert not hyper.training
    for site in pico_host.sites:
        assert torch.equal(first.factors[site].b_OR, second.factors[site].b_OR)
    with pytest.raises(UnknownNameError):
        hyper.train().adapt("no such task")
    assert hyper.training


def test_an_adapter_tells_where_it_comes_from(pico_host: Host) -> None:
    hyper = make(pico_host)
    assert hyper.adapt("count").name == "count"
    adapter = hyper.adapt(Description("count"), name="mine")
    assert adapter.name == "mine"
    assert adapter.provenance == {
        "hypernetwork": "tiny",
        "description": "count",
        "seed": 7,
        "base_model": "weft/pico",
    }


@pytest.mark.parametrize("options", [{}, {"alpha": 3.0}, {"alpha": 3.0, "use_rslora": True}])
def test_a_peft_folder_of_it_acts_the_same(
    pico_host: Host, tmp_path: Path, options: dict[str, object]
) -> None:
    hyper = make(pico_host, **options)
    save(hyper.adapt("count"), tmp_path / "out")
    ids_BT = torch.arange(3, 15).view(1, -1)
    wanted = pico_host(ids_BT, Mixture.of(hyper.generate(cues("count")))).logits
    found = pico_host(ids_BT, Mixture.of(load(tmp_path / "out", base=pico_host.fingerprint))).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found - pico_host(ids_BT).logits).abs().max() > 1e-3


def test_the_gradient_of_a_loss_reaches_every_weight(pico_host: Host) -> None:
    hyper = make(pico_host)
    ids_BT = torch.arange(3, 27).view(2, -1)
    bank = hyper.generate(cues("count", "sort the letters"))
    pico_host(ids_BT, Mixture.rows(bank, [0, 1])).logits.logsumexp(-1).sum().backward()
    for name, parameter in hyper.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_vectors_and_cues_give_the_same_bank(pico_host: Host) -> None:
    hyper = make(pico_host)
    by_cue, by_vector = hyper.generate(cues("count")), hyper(hyper.encode(cues("count")))
    assert by_vector.names == ("row-0",)
    assert all(torch.equal(by_cue.b[site], by_vector.b[site]) for site in by_cue.sites)
    with pytest.raises(ShapeError, match="length 3, got 4"):
        hyper.generate(torch.zeros(1, 4))


def test_a_folder_gives_back_the_same_network(pico_host: Host, tmp_path: Path) -> None:
    hyper = make(pico_host, head={"kind": "S"}, alpha=5.0)
    hyper.fit_normaliser(torch.randn(9, 3))
    hyper.save_pretrained(tmp_path / "h")
    state = torch.get_rng_state()
    again = HyperNetwork.from_pretrained(tmp_path / "h", host=pico_host)
    assert torch.equal(state, torch.get_rng_state())
    assert not again.training
    assert (again.name, again.base, again.provenance) == (hyper.name, hyper.base, hyper.provenance)
    assert again.sites == hyper.sites
    assert again.network.config == hyper.network.config
    wanted = hyper.eval().generate(cues(*NAMES))
    found = again.generate(cues(*NAMES))
    for site in wanted.sites:
        assert torch.equal(found.a[site], wanted.a[site])
        assert torch.equal(found.b[site], wanted.b[site])
    hyper.save_pretrained(tmp_path / "h")
    again.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "h" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_learned_vectors_are_saved_along(pico_host: Host, tmp_path: Path) -> None:
    encoder = Joined([Learned(NAMES, 4), Cached(OneHot(NAMES), tmp_path / "cache")])
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16), pico_host.sites, dim=encoder.dim)
    hyper = HyperNetwork(encoder, network)
    hyper.save_pretrained(tmp_path / "h")
    again = HyperNetwork.from_pretrained(tmp_path / "h")
    assert torch.equal(hyper.encode(cues("count")), again.encode(cues("count")))


def test_an_encoder_that_reads_with_the_base_gets_it_or_loads_it(
    pico_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    core = Tokenizer(models.WordLevel({"?": 0, "count": 1}, unk_token="?"))
    pico_llama.save_pretrained(tmp_path / "base")
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path / "base")
    host = Host.from_pretrained(tmp_path / "base")
    encoder = HostStates(host)
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16), host.sites, dim=encoder.dim)
    hyper = HyperNetwork(encoder, network, base=host.fingerprint)
    hyper.save_pretrained(tmp_path / "h")
    assert not any(key.startswith("encoder") for key in load_file(tmp_path / "h" / "model.safetensors"))
    for again in (
        HyperNetwork.from_pretrained(tmp_path / "h"),
        HyperNetwork.from_pretrained(tmp_path / "h", host=host),
    ):
        assert torch.equal(again.encode(cues("count")), hyper.encode(cues("count")))


def test_the_network_can_be_a_host(pico_host: Host) -> None:
    hyper = make(pico_host)
    outer = Host(hyper.network)
    assert {"trunk.mixer.1", "head.linear.q_proj_32x32"} <= {site.path for site in outer.sites}
    bank = Bank(
        names=("up",),
        a={site: torch.randn(1, 2, site.in_features) for site in outer.sites},
        b={site: torch.randn(1, site.out_features, 2) for site in outer.sites},
    )
    e_BD = torch.eye(3)[:2]
    site = pico_host.sites[0]
    with torch.no_grad(), outer.running(Mixture.rows(bank, [0, None])):
        stacked = hyper.generate(e_BD).b[site]
    plain = hyper.generate(e_BD).b[site]
    torch.testing.assert_close(stacked[1], plain[1])
    assert (stacked[0] - plain[0]).abs().max() > 1e-3


def damage_cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_weights(change: str) -> None:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        name = "network.trunk.mixer.1.weight"
        if change == "nan":
            tensors[name][0, 0] = float("nan")
        elif change == "less":
            del tensors[name]
        elif change == "more":
            tensors[name + "s"] = torch.zeros(1)
        else:
            tensors[name] = torch.zeros(2, 2)
        save_file(tensors, folder / "model.safetensors")

    return damage


def damage_config(key: str, value: object) -> None:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values[key] = value
        (folder / "config.json").write_text(json.dumps(values))

    return damage


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), MissingFileError, "model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), MissingFileError, "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), ConfigError, "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), ConfigError, "config.json"),
        (damage_cut, WeightsError, "damaged or cut short"),
        (damage_weights("nan"), WeightsError, "network.trunk.mixer.1.weight holds NaN"),
        (damage_weights("less"), WeightsError, "lacks network.trunk.mixer.1.weight"),
        (damage_weights("more"), WeightsError, "did you mean network.trunk.mixer.1.weight"),
        (damage_weights("shape"), WeightsError, r"is \[2, 2\], its config asks for \[64, 16\]"),
        (damage_config("nam", "x"), ConfigError, "unknown key nam .did you mean name"),
        (damage_config("format", 2), ConfigError, "format"),
        (damage_config("encoder", {"kind": "onehot", "names": ["a", "b", "c"]}), WeightsError, "onehot"),
        (damage_config("encoder", {"kind": "one-hot"}), ConfigError, "one-hot"),
    ],
)
def test_damage_is_named_in_one_line(
    pico_host: Host, tmp_path: Path, damage: object, error: type[WeftError], message: str
) -> None:
    make(pico_host).save_pretrained(tmp_path / "h")
    damage(tmp_path / "h")
    with pytest.raises(error, match=message) as caught:
        HyperNetwork.from_pretrained(tmp_path / "h")
    assert "\n" not in str(caught.value)


def test_another_base_is_refused(pico_host: Host, tmp_path: Path) -> None:
    make(pico_host).save_pretrained(tmp_path / "h")
    with pytest.raises(BaseMismatchError, match="trained for"):
        HyperNetwork.from_pretrained(tmp_path / "h", host=Host(nn.Sequential(nn.Linear(2, 2))))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(MissingFileError, match="no hypernetwork folder at nowhere"):
        HyperNetwork.from_pretrained("nowhere")
    with pytest.raises(UnknownNameError, match="no model"):
        HyperNetwork.from_pretrained("weft/nothing-like-it")


def test_saving_spares_what_is_no_hypernetwork(pico_host: Host, tmp_path: Path) -> None:
    hyper = make(pico_host)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SaveError, match=r"thesis\.txt"):
        hyper.save_pretrained(tmp_path / "mine")
    with pytest.raises(SaveError, match="is a file"):
        hyper.save_pretrained(tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_blank_descriptions_are_refused(pico_host: Host) -> None:
    with pytest.raises(CueError, match="empty"):
        make(pico_host).adapt(" \n")


def test_a_copy_reads_the_same_base_and_learns_apart(pico_llama: LlamaForCausalLM) -> None:
    core = Tokenizer(models.WordLevel({"?": 0, "count": 1}, unk_token="?"))
    host = Host(pico_llama, tokenizer=PreTrainedTokenizerFast(tokenizer_object=core))
    encoder = HostStates(host)
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16), host.sites, dim=encoder.dim)
    hyper = HyperNetwork(encoder, network)
    twin = copy.deepcopy(hyper)
    before = twin.adapt("count")
    with torch.no_grad():
        for parameter in hyper.network.parameters():
            parameter.add_(1.0)
    after = twin.adapt("count")
    assert all(torch.equal(after.factors[s].a_RI, before.factors[s].a_RI) for s in before.sites)
    assert torch.equal(twin.encode(cues("count")), hyper.encode(cues("count")))


@pytest.mark.parametrize(
    ("cue", "name"),
    [
        (Description("Sort the letters, from Z to A!"), "sort-the-letters-from-z-to-a"),
        (Description("сортировать"), "cue-adb18e51"),
        (Description("a" * 39 + " bcd"), "a" * 39),
        (Document("Once upon a time"), "once-upon-a-time"),
        (Examples((("cab", "abc"),)), "cab-abc"),
    ],
)
def test_slugs_may_become_part_of_a_path(cue: Description, name: str) -> None:
    assert is_name(slug(cue))
    assert slug(cue) == name
