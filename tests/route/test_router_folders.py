"""Learned routers as folders: the round trip is exact, and what does not fit is told in one line."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from route_library import TASKS
from safetensors.torch import load_file, save_file
from torch import nn

from tiny_models import make_bank
from weft import adapters
from weft.embed import Learned, OneHot
from weft.errors import (
    AdapterFormatError,
    BaseMismatchError,
    ConfigError,
    MissingFileError,
    SaveError,
    ShapeError,
    UnknownNameError,
    WeftError,
    WeightsError,
)
from weft.route import (
    Blend,
    Classifier,
    LayerWeights,
    Nearest,
    Phatgoose,
    Smear,
    Top1,
    XLora,
    load_library,
    load_router,
    routed,
    save_tree,
)
from weft.route.library import select
from weft.types import Adapter, Bank, Dense, Factors, Mixture, Rows, Term

GATES = ["layers", "phatgoose", "smear", "top1", "xlora"]
WEIGHERS = ["blend", "classifier"]
REQUESTS = tuple(TASKS.values())


@pytest.fixture(scope="module")
def bank(pico_host):
    made = make_bank(pico_host.sites, 3, 2)
    return Bank(tuple(TASKS), made.a, made.b, base=pico_host.fingerprint)


def make(kind, bank):
    rng = torch.Generator().manual_seed(1)
    match kind:
        case "layers":
            gate = LayerWeights(3, (0, 1), kind="softmax")
        case "phatgoose":
            vectors = {s: torch.randn(3, s.in_features, generator=rng) for s in bank.sites}
            return Phatgoose(bank, vectors, top_k=2, temperature=0.7)
        case "smear":
            gate = Smear(3, 32, expert_dropout=0.2)
        case "top1":
            gate = Top1(XLora(3, 32, layers=(0, 1), temperature=0.5))
        case "xlora":
            gate = XLora(3, 32, layers=(1,), top_k=2, temperature=0.5)
        case "blend":
            gate = Blend(OneHot(REQUESTS), TASKS, hidden=4, top_k=2)
        case "classifier":
            examples = list(zip(REQUESTS, TASKS, strict=True))
            return Classifier.fit(OneHot(REQUESTS), examples, top_k=2, temperature=0.5)
    for parameter in gate.parameters():
        nn.init.normal_(parameter, generator=rng)
    return gate.eval()


def saved(kind, bank, folder):
    router = make(kind, bank)
    if kind in WEIGHERS:
        router.save_pretrained(folder, base=bank.base, provenance={"seed": 1})
    else:
        router.save_pretrained(folder, bank, provenance={"seed": 1})
    return router


def logits(host, router, bank, kind=""):
    ids_BT = torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(4))
    if isinstance(router, nn.Module) and kind in GATES:
        router = Term(bank, router, "average" if kind == "smear" else "sum")
    with torch.no_grad():
        return host(ids_BT, routed(router, REQUESTS, bank)).logits


@pytest.mark.parametrize("kind", GATES + WEIGHERS)
def test_the_round_trip_is_exact(pico_host, bank, tmp_path, kind):
    router = saved(kind, bank, tmp_path / "router")
    want = logits(pico_host, router, bank, kind)
    assert (want - pico_host(torch.ones(1, 1, dtype=torch.long)).logits[:, :1]).abs().max() > 0.05
    again = load_router(tmp_path / "router", bank, host=pico_host)
    torch.testing.assert_close(logits(pico_host, again, bank), want, atol=0, rtol=0)
    # A library in another order, with an adapter more, is put right; equal but for the order of a sum.
    more = Bank.stack([*(bank[k] for k in (2, 0, 1)), bank[0]], names=["count", "reverse", "upper", "extra"])
    if kind in WEIGHERS:
        with pytest.raises(UnknownNameError, match="does not know adapter 'extra'"):
            load_router(tmp_path / "router", more, host=pico_host)
        more = select(more, ["count", "reverse", "upper"])
    again = load_router(tmp_path / "router", more, host=pico_host)
    torch.testing.assert_close(logits(pico_host, again, more), want, atol=1e-5, rtol=1e-4)
    # Saving what was loaded gives the same bytes.
    copy = again.gate if isinstance(again, Term) else again
    if kind in WEIGHERS:
        copy.save_pretrained(tmp_path / "copy", base=bank.base, provenance={"seed": 1})
    else:
        copy.save_pretrained(tmp_path / "copy", bank, provenance={"seed": 1})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "router" / name).read_bytes()


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("kind", GATES + WEIGHERS)
def test_folders_that_do_not_fit(pico_host, bank, tmp_path, kind):
    folder = tmp_path / "router"
    saved(kind, bank, folder)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)

    def refused(match, error, library=bank):
        with pytest.raises(error, match=match) as caught:
            load_router(folder, library, host=pico_host)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, WeftError)
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)

    edit(folder, base="weft1-other")
    refused("is for base weft1-other", BaseMismatchError)
    edit(folder, options={"surprise": 1})
    refused("options", ConfigError)
    edit(folder, names=["reverse", "reverse", "count"])
    refused("'reverse' twice", ConfigError)
    edit(folder, kind="tree")
    refused("a tree, not a router", ConfigError)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = max(tensors, key=lambda n: tensors[n].dim())
    save_file({n: t for n, t in tensors.items() if n != name}, file)
    refused("lacks", WeightsError)
    save_file(tensors | {"extra": torch.zeros(1)}, file)
    refused("holds extra", WeightsError)
    save_file(tensors | {name: torch.zeros(9, 9)}, file)
    refused("config asks for", WeightsError)
    save_file(tensors | {name: tensors[name] * float("nan")}, file)
    refused("NaN", WeightsError)
    file.write_bytes(file.read_bytes()[:40])
    refused("damaged", WeightsError)
    if kind in GATES:
        refused(
            "weighs adapter 'count', which this library lacks", UnknownNameError, bank.select(torch.arange(2))
        )
        reader = {
            "layers": LayerWeights,
            "phatgoose": Phatgoose,
            "smear": Smear,
            "top1": Top1,
            "xlora": XLora,
        }
        with pytest.raises(ShapeError, match="in an order of its own"):
            reader[kind].from_pretrained(folder, bank.select(torch.tensor([1, 0, 2])))
        with pytest.raises(ConfigError, match=f"holds a {kind}, not a"):
            next(r for k, r in reader.items() if k != kind).from_pretrained(folder, bank)
    else:
        edit(
            folder,
            options=json.loads((folder / "config.json").read_text())["options"] | {"encoder_identity": "x"},
        )
        refused("reads vectors of x", WeightsError)


def test_what_is_not_saved(bank, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    gate = make("smear", bank)
    with pytest.raises(SaveError, match="other files"):
        gate.save_pretrained(tmp_path / "mine", bank)
    with pytest.raises(ShapeError, match="a SMEAR over 3 adapters"):
        gate.save_pretrained(tmp_path / "new", bank.select(torch.arange(2)))
    with torch.no_grad():
        gate.bias_K[0] = float("nan")
    with pytest.raises(ShapeError, match="bias_K of the smear holds NaN"):
        gate.save_pretrained(tmp_path / "new", bank)
    blend = Blend(Learned(REQUESTS, 8), TASKS)
    with pytest.raises(ConfigError, match="encoder learns"):
        blend.save_pretrained(tmp_path / "new")
    with pytest.raises(ConfigError, match="names no adapter"):
        Blend(OneHot(REQUESTS), {}).save_pretrained(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    with pytest.raises(MissingFileError, match="no router folder at nowhere"):
        load_router("nowhere", bank)


def write_library(folder, bank, labels):
    for k, name in enumerate(bank.names):
        told = {"description": labels[name]} if name in labels else {}
        adapters.save(replace(bank[k], provenance=told), folder / name)
    return folder


def test_a_library_from_its_folder(pico_host, bank, tmp_path):
    folder = write_library(tmp_path / "library", bank, TASKS)
    library = load_library(folder)
    assert [a.name for a in library.adapters] == sorted(TASKS)
    assert library.descriptions() == library.labels == TASKS
    index = Nearest(OneHot(REQUESTS))
    for name, text in library.labels.items():
        index.add(name, [text])
    made = library.bank(pico_host)
    mixture = routed(index, REQUESTS, made)
    assert isinstance(mixture.terms[0].gate, Rows)
    want = Mixture.rows(bank, [0, 1, 2])
    ids_BT = torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(pico_host(ids_BT, mixture).logits, pico_host(ids_BT, want).logits)
    index.top_k = 2
    assert isinstance(routed(index, REQUESTS, made).terms[0].gate, Dense)

    shutil.rmtree(folder / "upper")
    write_library(folder, bank.select(torch.tensor([1])), {})
    with pytest.raises(ConfigError, match="adapter upper has no description"):
        load_library(folder).descriptions()
    with pytest.raises(MissingFileError, match="no library at nowhere"):
        load_library("nowhere")
    with pytest.raises(MissingFileError, match="no adapter in"):
        load_library(tmp_path)
    other = write_library(tmp_path / "two", Bank(bank.names, bank.a, bank.b, "weft1-a"), TASKS)
    write_library(other, Bank(("late",), *_one(bank), "weft1-b"), {})
    with pytest.warns(UserWarning, match="left out adapter late: it belongs to base weft1-b"):
        library = load_library(other)
    assert "late" not in [adapter.name for adapter in library.adapters]
    with pytest.raises(BaseMismatchError):
        library.bank(pico_host)
    with pytest.raises(BaseMismatchError):
        library.fitting(pico_host)
    with pytest.raises(BaseMismatchError, match="weft1-b"):
        load_library(other, strict=True)


def _one(bank):
    one: Adapter = bank[0]
    return (
        {s: f.a_RI[None] for s, f in one.factors.items()},
        {s: f.b_OR[None] for s, f in one.factors.items()},
    )


def test_nan_in_a_library_is_found_before_anything_runs(bank, tmp_path):
    folder = write_library(tmp_path / "library", bank, TASKS)
    file = folder / "upper" / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    save_file(tensors | {first: tensors[first] * float("nan")}, file, {"format": "pt"})
    with pytest.raises(AdapterFormatError, match="NaN"):
        load_library(folder, strict=True)
    with pytest.warns(UserWarning, match=r"left out .*upper: .*NaN"):
        library = load_library(folder)
    assert [adapter.name for adapter in library.adapters] == sorted(TASKS.keys() - {"upper"})
    for name in TASKS.keys() - {"upper"}:
        shutil.rmtree(folder / name)
    with pytest.raises(AdapterFormatError, match="NaN"):
        load_library(folder)


def test_hidden_folders_are_no_adapters(bank, tmp_path):
    """A save under way, and the copies of notebooks."""
    folder = write_library(tmp_path / "library", bank, TASKS)
    shutil.copytree(folder / "upper", folder / ".upper.weft-abcd1234")
    shutil.copytree(folder / "upper", folder / ".ipynb_checkpoints")
    (folder / ".ipynb_checkpoints" / "adapter_model.safetensors").write_bytes(b"")
    assert load_library(folder, strict=True).labels == TASKS


def test_an_adapter_of_another_size_is_left_out(pico_host, bank, tmp_path):
    folder = write_library(tmp_path / "library", bank, TASKS)
    site = adapters.site_at(bank.sites[0].path, 3, 5)
    adapters.save(Adapter({site: Factors(torch.ones(1, 3), torch.ones(5, 1), 1.0)}), folder / "aa")
    with pytest.warns(UserWarning, match="left out adapter aa: it changes .* from 3 to 5 features"):
        library = load_library(folder)
    assert len(library.bank(pico_host)) == len(TASKS)


def test_labels_from_a_file(bank, tmp_path):
    folder = write_library(tmp_path / "library", bank, {})
    assert load_library(folder).labels == {}
    (folder / "labels.json").write_text(json.dumps({"upper": "SHOUT", "count": ["count", "how many"]}))
    assert load_library(folder).labels == {"upper": "SHOUT", "count": ("count", "how many")}
    other = tmp_path / "other.json"
    for told, kind, message in (
        ({"uper": "x"}, UnknownNameError, "did you mean upper"),
        ({"upper": 3}, ConfigError, "upper should have a description"),
        (["upper"], ConfigError, "should map names"),
    ):
        other.write_text(json.dumps(told))
        with pytest.raises(kind, match=message):
            load_library(folder, labels=other)


def test_a_tree_is_no_router(pico_host, bank, tmp_path):
    from weft.route import Tree, TreeGate, full

    two = bank.select(torch.arange(2))
    save_tree(Tree(two, TreeGate(full(1), 32)), tmp_path / "tree")
    with pytest.raises(ConfigError, match="describes a tree, not a router"):
        load_router(tmp_path / "tree", bank)
