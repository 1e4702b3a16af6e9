"""One server over the letters for all tests, with something of every kind of name."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import torch
from serving import Served, serving

import weft
from weft.cli.shared.controlled import shifting
from weft.engine.request import Chooser, planted
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork
from weft.route import Library, Tree, TreeGate, full, load_library
from weft.serve import Keys, Limits, Scheduler, Shelf, build_app
from weft.serve.keys import Key
from weft.store import Store

KEYS = (
    Key(key="sk-admin", name="ann", role="admin", rows=256, makes_per_minute=1000),
    Key(key="sk-maker", name="eva", role="maker", makes_per_minute=2),
    Key(key="sk-user", name="uwe", adapters=("sort",), tokens_per_minute=100),
)


@pytest.fixture(scope="session")
def host() -> Host:
    return weft.Host.from_pretrained("weft/letters", target_modules=["all-linear", "lm_head"])


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library("weft/letters-adapters")


@pytest.fixture(scope="session")
def tree(host: Host) -> Tree:
    leaves = [weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "sort")]
    torch.manual_seed(0)
    return Tree(weft.Bank.stack(leaves, names=["leaf-0", "leaf-1"]), TreeGate(full(1), dim=192).eval())


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one adapter, `mine`: tag `first` reverses, the head sorts."""
    folder = tmp_path_factory.mktemp("stores") / "team"
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "Ada")
            patch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
        with Store.init(folder) as store:
            for number, name in enumerate(("reverse", "sort")):
                out = tmp_path_factory.mktemp("adapters") / str(number)
                weft.save(weft.load(f"weft/letters-adapters/{name}"), out)
                store.add(out, name="mine", message=name)
                if not number:
                    subprocess.run(["git", "-C", str(folder), "tag", "first"], check=True)
    return folder


@pytest.fixture(scope="session")
def reader(host: Host) -> ContextNetwork:
    """A context network that has learned nothing but to change something."""
    torch.manual_seed(0)
    config = {"reader": {"kind": "perceiver", "rank": 2, "latent": 32}, "chunk": 4, "rank_budget": 16}
    network = ContextNetwork(host, ContextConfig.model_validate(config))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="session")
def served(host: Host, library: Library, tree: Tree, store: Path, reader: ContextNetwork) -> Iterator[Served]:
    shelf = Shelf(
        host,
        hypernetwork=weft.HyperNetwork.from_pretrained("weft/letters-t2l", host=host),
        reader=reader,
        stores={"team": store},
        choosers={"letters": Chooser.over(host, library, "nearest")},
        trees={"oak": planted(tree, host)},
        shifts={"letters": shifting("weft/letters-shift", host)},
    )
    for adapter in library.adapters:
        shelf.put(adapter.name, adapter)
    scheduler = Scheduler(host, max_rows=8, max_tokens=4000, prefix_tokens=2000, slots=14, r=16)
    limits = Limits(body=100_000, upload=2_000_000, seconds=3.0)
    app = build_app(scheduler, shelf, Keys(KEYS), limits=limits, hosts=["127.0.0.1"])
    with serving(app) as url:
        yield Served(url, scheduler, shelf)


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="sk-admin", max_retries=0) as client:
        yield client


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer sk-admin"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=30) as http:
        yield http
