"""The plug-in, against a stand-in for the two classes of vLLM that it uses."""

import asyncio
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import torch

import weft
from weft.adapters import concat, load
from weft.serve.vllm import register


@pytest.fixture
def vllm(monkeypatch, tmp_path, store):
    """vLLM 0.32's resolver and registry, and a request that refuses an empty path."""
    resolver, request = ModuleType("vllm.lora.resolver"), ModuleType("vllm.lora.request")

    class LoRAResolver:
        async def resolve_lora(self, base_model_name, lora_name):
            raise NotImplementedError

    class Registry:
        def __init__(self):
            self.resolvers = {}

        def get_supported_resolvers(self):
            return self.resolvers.keys()

        def register_resolver(self, name, one):
            assert isinstance(one, LoRAResolver)
            self.resolvers[name] = one

    class LoRARequest:
        def __init__(self, lora_name, lora_int_id, lora_path="", base_model_name=None):
            assert lora_path
            assert lora_int_id >= 1
            self.lora_name, self.lora_path = lora_name, lora_path

    resolver.LoRAResolver, resolver.LoRAResolverRegistry = LoRAResolver, Registry()
    request.LoRARequest = LoRARequest
    for name, module in {
        "vllm": ModuleType("vllm"),
        "vllm.lora": ModuleType("vllm.lora"),
        "vllm.lora.resolver": resolver,
        "vllm.lora.request": request,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    settings = {
        "FOLDER": str(tmp_path / "out"),
        "STORES": str(store),
        "HYPERNETWORK": "weft/letters-t2l",
        "MAX_LORA_RANK": "16",
        "NAMES": "6",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"WEFT_VLLM_{name}", value)
    return resolver.LoRAResolverRegistry


def asked(registry, name):
    return asyncio.run(registry.resolvers["weft"].resolve_lora("weft/letters", name))


def deltas(adapter):
    return {site.path: f.scaling * f.b_OR.double() @ f.a_RI.double() for site, f in adapter.factors.items()}


def same(folder, wanted):
    found, wanted = deltas(load(folder)), deltas(wanted)
    assert found.keys() == wanted.keys()
    for path, delta in wanted.items():
        torch.testing.assert_close(found[path], delta, atol=1e-6, rtol=1e-5)


def test_the_entry_point_is_ours():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    value = project["entry-points"]["vllm.general_plugins"]["weft"]
    assert EntryPoint("weft", value, "vllm.general_plugins").load() is register


def test_names_become_folders_by_content(vllm, tmp_path):
    register()
    first = vllm.resolvers["weft"]
    register()
    assert vllm.resolvers["weft"] is first
    sort, reverse = (weft.load(f"weft/letters-adapters/{name}") for name in ("sort", "reverse"))
    head, tag = asked(vllm, "store:mine"), asked(vllm, "store:team/mine@first")
    same(head.lora_path, sort)
    same(tag.lora_path, reverse)
    assert head.lora_name == "store:mine"
    assert asked(vllm, "store:mine@HEAD").lora_path == head.lora_path
    blend = asked(vllm, "blend:0.7*store:mine+0.3*store:mine@first")
    same(blend.lora_path, concat([sort, reverse], [0.7, 0.3]))
    made = asked(vllm, "gen:sort the letters")
    same(made.lora_path, weft.HyperNetwork.from_pretrained("weft/letters-t2l").adapt("sort the letters"))
    paths = {one.lora_path for one in (head, tag, blend, made)}
    assert len(paths) == 4
    assert sorted(map(str, (tmp_path / "out").iterdir())) == sorted(paths)


def test_other_names_and_what_vllm_cannot_run_are_left_alone(vllm, tmp_path, monkeypatch, caplog):
    register()
    for name in ("sort", "tree:oak", "route:letters", "shift:letters", "../x", "/etc", ""):
        assert asked(vllm, name) is None
    assert not caplog.records
    for name, told in {
        "store:../x": "is no name",
        "store:nothing": "nothing",
        "store:other/mine": "no store other",
        "blend:1*sort": "store:sort",
        "gen:": "needs a description",
    }.items():
        caplog.clear()
        assert asked(vllm, name) is None, name
        assert told in caplog.text, name
    assert not (tmp_path / "out").exists()


def test_a_rank_above_vllms_another_base_and_too_many_names_are_refused(vllm, monkeypatch, caplog):
    monkeypatch.setenv("WEFT_VLLM_MAX_LORA_RANK", "1")
    register()
    assert asked(vllm, "store:mine") is None
    assert "--max-lora-rank 8" in caplog.text
    for name, value, told in (("BASE", "another", "another"), ("NAMES", "0", "0 names")):
        vllm.resolvers.clear()
        caplog.clear()
        monkeypatch.setenv("WEFT_VLLM_MAX_LORA_RANK", "8")
        monkeypatch.setenv(f"WEFT_VLLM_{name}", value)
        register()
        assert asked(vllm, "store:mine") is None
        assert told in caplog.text
