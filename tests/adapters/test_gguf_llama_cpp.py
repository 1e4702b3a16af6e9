"""llama.cpp under our GGUF adapters says what Weft says: SmolLM2, greedy, the same weights in float32.

Runs where xllamacpp is installed (`pip install xllamacpp`) and weft/smollm2 and its GGUF file were fetched.
"""

from pathlib import Path

import pytest
import torch

import weft
from weft.adapters import save_gguf
from weft.engine import Engine
from weft.registry import NAMED, brought_to, kept_in
from weft.types import Adapter, Factors, Mixture

xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install xllamacpp")

pytestmark = pytest.mark.slow
MODEL = NAMED["weft/smollm2"]
PROMPTS = ("The capital of France is", "Once upon a time there was a")
NEW = 16


@pytest.fixture(scope="module")
def base_file(tmp_path_factory) -> Path:
    """The base as our folder has it: each weight unpacked and rounded to bfloat16, stored as float32."""
    if not kept_in(MODEL).is_dir() or not brought_to(MODEL).is_file():
        pytest.skip(f"needs weft/smollm2, and its wheel at {brought_to(MODEL)}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2]))
        from bench.serve_peers import unpacked

        return unpacked(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def host():
    return weft.Host.from_pretrained("weft/smollm2", dtype="float32")


def made(host) -> Adapter:
    """Random changes of every matrix, of unequal ranks and scalings, a tenth as large as what they change."""
    chance = torch.Generator().manual_seed(0)
    factors = {}
    for k, site in enumerate(host.sites):
        rank = 2 + k % 3
        a_RI = torch.randn(rank, site.in_features, generator=chance)
        b_OR = torch.randn(site.out_features, rank, generator=chance)
        weight = host.module.get_submodule(site.path).weight
        size = 0.1 * float(weight.norm()) / float((b_OR @ a_RI).norm())
        factors[site] = Factors(a_RI, b_OR * size, 1.0 + k % 2)
    return Adapter(factors, base=host.fingerprint, name="made")


def says(base_file: Path, prompts: list[list[int]], lora: Path | None = None) -> list[str]:
    params = xllamacpp.CommonParams()
    params.model.path = str(base_file)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, 0
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if lora is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    server = xllamacpp.Server(params)
    asked = {"max_tokens": NEW, "temperature": 0, "cache_prompt": False}
    return [server.handle_completions({"prompt": ids, **asked})["choices"][0]["text"] for ids in prompts]


def test_greedy_answers_are_equal(base_file, host, tmp_path):
    engine = Engine(host)
    ids = [engine.prompt_ids(prompt, raw=True) for prompt in PROMPTS]
    plain = engine.generate(list(PROMPTS), raw=True, max_new_tokens=NEW)
    assert says(base_file, ids) == plain
    adapter = made(host)
    save_gguf(adapter, tmp_path / "a.gguf", host.module.config)
    ours = engine.generate(list(PROMPTS), raw=True, mixture=Mixture.of(adapter), max_new_tokens=NEW)
    assert all(one != other for one, other in zip(ours, plain, strict=True))
    assert says(base_file, ids, tmp_path / "a.gguf") == ours
