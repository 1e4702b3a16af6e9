"""Greedy answers of vLLM, under names that Weft's plug-in resolves, against ours: `make vllm-check`.

Three adapters of a store and a blend of two, on weft/smollm2 in float32. Ends with 1 where one differs.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import torch
from bench.serve_peers import vllm_server

import weft
from weft.adapters import concat
from weft.engine import Engine
from weft.files import resolve
from weft.host import Host
from weft.store import Store
from weft.types import Adapter, Factors, Mixture

NEW = 24
PROMPTS = ("The capital of France is", "Once upon a time there was a", "def add(a, b):")


def made(host: Host, seed: int) -> Adapter:
    """Random changes of every matrix, a tenth as large as what they change."""
    chance = torch.Generator().manual_seed(seed)
    factors = {}
    for site in host.sites:
        a_RI = torch.randn(4, site.in_features, generator=chance)
        b_OR = torch.randn(site.out_features, 4, generator=chance)
        size = 0.1 * float(host.module.get_submodule(site.path).weight.norm()) / float((b_OR @ a_RI).norm())
        factors[site] = Factors(a_RI, b_OR * size, 1.0)
    return Adapter(factors, base=host.fingerprint, name=f"made-{seed}")


def filled(folder: Path, adapters: list[Adapter]) -> Path:
    """A store of these adapters."""
    os.environ |= {
        f"GIT_{role}_{what}": "check@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    with Store.init(folder / "store") as store:
        for adapter in adapters:
            weft.save(adapter, folder / adapter.name)
            store.add(folder / adapter.name, name=adapter.name, message=adapter.name)
    return folder / "store"


def environment(store: Path, folder: Path) -> dict[str, str]:
    """What tells the plug-in its part."""
    return {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "weft",
        "WEFT_VLLM_STORES": str(store),
        "WEFT_VLLM_FOLDER": str(folder / "out"),
        "WEFT_VLLM_MAX_LORA_RANK": "8",
    }


def main() -> int:
    """Compare, and print a line for every name."""
    host = Host.from_pretrained("weft/smollm2", dtype="float32")
    base, engine = str(resolve("weft/smollm2")), Engine(host)
    adapters = [made(host, seed) for seed in range(3)]
    wanted = {f"store:{adapter.name}": adapter for adapter in adapters}
    wanted["blend:0.7*store:made-0+0.3*store:made-1"] = concat(adapters[:2], [0.7, 0.3])
    wrong = 0
    flags = ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "2", "--dtype", "float32"]
    flags += ["--enforce-eager", "--max-model-len", "256"]
    with TemporaryDirectory(prefix="weft-vllm-check-") as name:
        folder = Path(name)
        with vllm_server(base, flags, environment(filled(folder, adapters), folder)) as url:
            for model, adapter in wanted.items():
                for prompt in PROMPTS:
                    ids = engine.prompt_ids(prompt, raw=True)
                    mixture = Mixture.of(adapter)
                    ours = engine.generate(prompt, raw=True, mixture=mixture, max_new_tokens=NEW)
                    asked = {"model": model, "prompt": list(ids), "max_tokens": NEW, "temperature": 0}
                    said = httpx.post(url + "/v1/completions", json=asked, timeout=600)
                    theirs = said.json()["choices"][0]["text"] if said.status_code == 200 else said.text
                    wrong += theirs != ours
                    same = "equal" if theirs == ours else f"DIFFERS: {theirs!r} and {ours!r}"
                    print(same, model, repr(prompt), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
