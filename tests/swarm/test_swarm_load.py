"""Parts that are read by themselves: the same weights, and no other layer's; where they are placed."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import make_llama
from weft.errors import ConfigError, MissingFileError
from weft.host import Host
from weft.rows import Share
from weft.swarm import LocalLink, Stage, SwarmHost, load, load_part, speed
from weft.swarm.load import part_bytes
from weft.swarm.speed import Speed, place

TIED = {"tie_word_embeddings": True}


@pytest.fixture(params=[{}, TIED], ids=["untied", "tied"])
def base(request, tmp_path):
    model = make_llama(num_hidden_layers=4, **request.param)
    model.save_pretrained(tmp_path / "base")
    return model, tmp_path / "base"


def spread(folder, cuts, **options):
    parts = [load_part(folder, i, j, **options) for i, j in itertools.pairwise(cuts)]
    stages = [Stage(part) for part in parts]
    return parts, SwarmHost([lambda failed, stage=stage: LocalLink(stage) for stage in stages])


def test_parts_say_what_the_base_says(base):
    model, folder = base
    parts, host = spread(folder, [0, 1, 3, 4])
    local = Host(model)
    assert host.fingerprint == local.fingerprint
    assert host.sites == local.sites
    ids = torch.tensor([[5, 6, 7, 8]])
    said = host.step(ids, host.new_cache(), [Share()]).logits_BV
    torch.testing.assert_close(said, local.step(ids, local.new_cache(), [Share()]).logits_BV)
    assert len({part.weights for part in parts}) == 3
    whole = sum(p.numel() * p.itemsize for p in model.parameters())
    assert max(part.bytes for part in parts) < 0.6 * whole


def test_a_part_reads_its_own_tensors_alone(base, tmp_path):
    """The tensors of other stages may be NaN where nobody samples them, and it does not matter."""
    _, folder = base
    file = folder / "model.safetensors"
    tensors = load_file(file)
    want = load_part(folder, 1, 2).weights
    for name in tensors:
        if ".layers.1." not in name:
            tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, file, {"format": "pt"})
    assert load_part(folder, 1, 2).weights == want


def test_a_base_larger_than_any_worker_runs(base):
    """Twice what a worker takes, in three parts that each fit."""
    model, folder = base
    layers, layer, first, last = part_bytes(folder, "auto")
    limit = 2 * layer + max(first, last)
    assert sum(p.numel() * p.itemsize for p in model.parameters()) > 1.4 * limit
    with pytest.raises(ConfigError, match=r"layers 0 to 4 are \d+ bytes of weights, this worker takes"):
        load_part(folder, 0, layers, memory=limit)
    places = place([Speed(1.0, 1.0, limit)] * 3, layers, layer=layer, first=first, last=last)
    cuts = [0, *(end for _, end in places)]
    _, host = spread(folder, cuts, memory=limit)
    local, ids = Host(model), torch.tensor([[5, 6, 7]])
    said = host.step(ids, host.new_cache(), [Share()]).logits_BV
    torch.testing.assert_close(said, local.step(ids, local.new_cache(), [Share()]).logits_BV)


def test_a_dtype_is_cast_and_the_fingerprint_is_that_of_what_is_stored(base):
    model, folder = base
    part = load_part(folder, 0, 2, dtype="bfloat16")
    assert part.dtype == torch.bfloat16
    assert part.base == Host(model).fingerprint


def test_shards(base):
    model, folder = base
    whole = load_part(folder, 1, 3).weights
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert load_part(folder, 1, 3).weights == whole


def test_what_is_not_there_is_told(base, tmp_path):
    _, folder = base
    with pytest.raises(ConfigError, match="a part cannot have 2 to 9"):
        load_part(folder, 2, 9)
    with pytest.raises(MissingFileError, match="no model nobody/nothing there"):
        load_part("nobody/nothing", 0, 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="a gpt2 is not spread yet"):
        load_part(folder, 0, 1)
    sliding = {**config, "model_type": "mistral", "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(sliding))
    with pytest.raises(ConfigError, match="a base with sliding attention is not spread yet"):
        load_part(folder, 0, 1)
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(MissingFileError, match="missing or damaged"):
        load_part(folder, 0, 1)


def brute(speeds, layers, sizes):
    """The best slowest stage over all divisions."""
    best = None
    for one in range(1, layers):
        for two in range(one + 1, layers):
            cuts = [(0, one), (one, two), (two, layers)]
            held = [(j - i) * sizes["layer"] for i, j in cuts]
            held[0] += sizes["first"]
            held[2] += sizes["last"]
            if any(s.memory is not None and h > s.memory for s, h in zip(speeds, held, strict=True)):
                continue
            times = [(j - i) * s.layer for (i, j), s in zip(cuts, speeds, strict=True)]
            times[2] += speeds[2].head
            best = min(max(times), best if best is not None else max(times))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_placement_is_the_best_there_is(seed):
    rng = torch.Generator().manual_seed(seed)
    times = (torch.rand(3, 2, generator=rng) + 0.1).tolist()
    room = torch.randint(30, 110, (3,), generator=rng).tolist()
    speeds = [Speed(layer, head, memory) for (layer, head), memory in zip(times, room, strict=True)]
    sizes = {"layer": 10, "first": 7, "last": 9}
    want = brute(speeds, 12, sizes)
    if want is None:
        with pytest.raises(ConfigError, match="give them more memory"):
            place(speeds, 12, **sizes)
        return
    got = place(speeds, 12, **sizes)
    slowest = max(
        (j - i) * s.layer + (s.head if j == 12 else 0) for (i, j), s in zip(got, speeds, strict=True)
    )
    assert slowest == pytest.approx(want)


@pytest.mark.parametrize(
    "index",
    [
        b"{",
        b"[]",
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "../model.safetensors"}}',
        b'{"weight_map": {"a": ".."}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_index_is_told_in_one_line(base, index):
    _, folder = base
    (folder / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises((MissingFileError, ConfigError)) as error:
        load_part(folder, 0, 1)
    assert "\n" not in str(error.value)
    assert "index.json" in str(error.value)


def test_an_index_without_end_is_not_read(base, monkeypatch):
    _, folder = base
    monkeypatch.setattr(load, "_INDEX_BYTES", 1000)
    (folder / "model.safetensors.index.json").write_text(" " * 1001)
    with pytest.raises(ConfigError, match="has 1001 bytes, at most 1000 are read"):
        load_part(folder, 0, 1)


@pytest.mark.parametrize(
    "told", [{"num_hidden_layers": 10**9}, {"num_hidden_layers": 3}, {"vocab_size": 10**12}]
)
def test_a_config_of_other_sizes_than_the_weights_is_told_before_anything_is_made(base, told):
    _, folder = base
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **told}))
    for read in (lambda: load_part(folder, 0, 1), lambda: part_bytes(folder, "auto")):
        with pytest.raises(MissingFileError, match="its config says"):
            read()


def test_a_worker_is_measured_in_the_numbers_that_it_will_hold(base, monkeypatch):
    model, folder = base
    model.to(torch.bfloat16).save_pretrained(folder)
    seen = []

    def once(run):
        said = run()
        seen.append(getattr(said, "last_hidden_state", said).dtype)
        return 1.0

    monkeypatch.setattr(speed, "_fastest", once)
    speed.measure(str(folder), "auto", "cpu")
    speed.measure(str(folder), "float32", "cpu")
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2
