"""Damaged and hostile folders of adapters, hypernetworks, routers and trees, by seed.

Each case is a sound folder with one to three things wrong. To read it must work, or end in one clear line:
no other exception, no long message, no hang, no gigabyte.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tiny_models import make_bank, make_llama
from weft.adapters import load, save
from weft.embed import OneHot
from weft.errors import WeftError
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.route import (
    Blend,
    Classifier,
    LayerWeights,
    Smear,
    Tree,
    TreeGate,
    XLora,
    full,
    layers_of,
    load_router,
    load_tree,
    save_tree,
)
from weft.types import Bank

KINDS = ("adapter", "hypernetwork", "blend", "classifier", "layers", "smear", "xlora", "tree")
SECONDS, GIGABYTE = 10, 1 << 20
"""Most that a case may take, of processor time and in KiB, as the system counts."""

_TEXTS = (
    "",
    "x",
    "x" * 100_000,
    "\x1b[31m",
    "\ud83d",
    "a\nb",
    "../../x",
    "nul\0",
    "(((a+)+)+)+$",
    "NaN",
    "è" * 300,
)
_NUMBERS = (0, 1, -1, 7, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, 1e39)
_CONSTANTS = (None, True, False, float("nan"), float("inf"))


def make_folders(root: Path) -> tuple[Host, Bank]:
    """A sound folder of every kind."""
    host = Host(make_llama())
    bank = make_bank(host.sites, 2, 2)
    bank = Bank(("a", "b"), bank.a, bank.b, host.fingerprint)
    save(bank[0], root / "adapter")
    encoder = OneHot(["a", "b", "c"])
    network = build_t2l(T2LConfig(latent=16, head_in=16, rank=2), host.sites, dim=3)
    HyperNetwork(encoder, network, base=host.fingerprint).save_pretrained(root / "hypernetwork")
    Blend(encoder, {"a": "a", "b": ["b", "c"]}, hidden=4).save_pretrained(root / "blend")
    Classifier.fit(encoder, [("a", "a"), ("b", "b")]).save_pretrained(root / "classifier")
    LayerWeights(2, layers_of(bank)).save_pretrained(root / "layers", bank)
    Smear(2, 32).save_pretrained(root / "smear", bank)
    XLora(2, 32, layers=layers_of(bank)).save_pretrained(root / "xlora", bank)
    leaves = full(1)
    grown = Bank(tuple(f"leaf-{leaf}" for leaf in leaves), bank.a, bank.b, bank.base)
    save_tree(Tree(grown, TreeGate(leaves, 32, scope="token", layers=layers_of(bank))), root / "tree")
    return host, bank


def reader(kind: str, host: Host, bank: Bank) -> Callable[[Path], Any]:
    """What reads a folder of a kind."""
    match kind:
        case "adapter":
            return lambda folder: save(load(folder), folder.with_name("again"))
        case "hypernetwork":
            return lambda folder: HyperNetwork.from_pretrained(folder, host=host).adapt("a")
        case "tree":
            return lambda folder: load_tree(folder, host=host)
        case _:
            return lambda folder: load_router(folder, bank, host=host)


def damage(folder: Path, chance: random.Random) -> str:
    """Spoil a folder in one to three ways; what was done, for the report."""
    done: list[str] = []
    for _ in range(chance.randint(1, 3)):
        done.append(_one_way(folder, chance))
        if done[-1] == "sparse":  # any other way would read the gigabytes of it
            break
    return "; ".join(done)


def _one_way(folder: Path, chance: random.Random) -> str:
    try:
        return chance.choice(_WAYS)(folder, chance)
    except Exception as error:  # what was spoilt before may leave nothing to spoil
        return f"nothing ({type(error).__name__})"


def run(folder: Path, sound: Path, read: Callable[[Path], Any], seed: int) -> str:
    """One case. Returns `read` or the message; raises AssertionError for anything but one clear line."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    done = damage(folder, random.Random(seed))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = "read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
    except WeftError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"seed {seed}, {done}: {type(error).__name__}: {str(error)[:300]}") from error
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert seconds < SECONDS, f"seed {seed}, {done}: took {seconds:.0f} s"
    assert grown < GIGABYTE, f"seed {seed}, {done}: took {grown / GIGABYTE:.1f} GiB"
    assert said.strip(), f"seed {seed}, {done}: a message without a word"
    assert len(said) < 3000, f"seed {seed}, {done}: a message of {len(said)} characters"
    return said


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 2 else 5)
    if kind < 2:
        return chance.choice(_TEXTS)
    if kind < 4:
        return chance.choice(_NUMBERS)
    if kind < 5:
        return chance.choice(_CONSTANTS)
    if kind == 5:
        return [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 6:
        return {chance.choice(_TEXTS): _value(chance, depth + 1) for _ in range(chance.randrange(3))}
    deep: Any = []
    for _ in range(chance.choice((40, 400))):
        deep = [deep]
    return deep


def _spoil(values: Any, chance: random.Random) -> Any:
    """Change, drop or add something anywhere in JSON values."""
    if isinstance(values, dict) and values and chance.random() < 0.9:
        key = chance.choice(list(values))
        match chance.randrange(6):
            case 0:
                del values[key]
            case 1:
                values[chance.choice(_TEXTS)] = _value(chance)
            case 2:
                values[key] = _value(chance)
            case _:
                values[key] = _spoil(values[key], chance)
        return values
    if isinstance(values, list) and values and chance.random() < 0.8:
        at = chance.randrange(len(values))
        values[at] = _spoil(values[at], chance)
        return values
    return _value(chance)


def _json_file(folder: Path) -> Path:
    return next(
        (file for file in sorted(folder.glob("*config.json")) if file.is_file()), folder / "config.json"
    )


def _tensor_file(folder: Path) -> Path:
    return next(file for file in sorted(folder.glob("*.safetensors")) if file.is_file())


def _config(folder: Path, chance: random.Random) -> str:
    file = _json_file(folder)
    values = _spoil(json.loads(file.read_text()), chance)
    file.write_text(json.dumps(values))
    return f"config {str(values)[:150]!r}"


def _patterns(folder: Path, chance: random.Random) -> str:
    file = _json_file(folder)
    values = json.loads(file.read_text())
    key = chance.choice(("rank_pattern", "alpha_pattern"))
    values[key] = {
        chance.choice(_TEXTS)[:300] + str(k): _value(chance, 2) for k in range(chance.choice((1, 5000)))
    }
    values[chance.choice(("target_modules", "exclude_modules", "layers_to_transform"))] = _value(chance, 1)
    file.write_text(json.dumps(values))
    return f"{key} of {len(values[key])}"


def _header(folder: Path, chance: random.Random) -> str:
    file = _tensor_file(folder)
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    values = json.loads(raw[8 : 8 + size])
    if chance.random() < 0.3:
        values = _spoil(values, chance)
    else:
        key = chance.choice([key for key in values if key != "__metadata__"] or list(values))
        part = chance.choice(("dtype", "shape", "data_offsets"))
        types = ("F64", "F16", "I64", "BOOL", "C64", "F8_E4M3", "U8", "F99")
        values[key][part] = chance.choice(types) if part == "dtype" else _value(chance, 1)
    text = json.dumps(values).encode(errors="surrogatepass")
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    return "header"


def _metadata(folder: Path, chance: random.Random) -> str:
    file = _tensor_file(folder)
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    values = json.loads(raw[8 : 8 + size])
    told = json.dumps(_spoil({"description": "x", "seed": 1, "metrics": {"loss": 1.0}}, chance))
    values["__metadata__"] = {"format": "pt", "weft_provenance": told, "weft_base": chance.choice(_TEXTS)}
    text = json.dumps(values).encode(errors="surrogatepass")
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    return f"metadata {told[:100]!r}"


def _bytes(folder: Path, chance: random.Random) -> str:
    files = [file for file in sorted(folder.iterdir()) if file.is_file()] if folder.is_dir() else []
    if not files:
        return "nothing"
    file = chance.choice(files)
    raw = bytearray(file.read_bytes())
    match chance.randrange(5):
        case 0:
            raw = raw[: chance.randrange(len(raw) + 1)]
        case 1:
            raw += bytes(chance.randrange(256) for _ in range(chance.randrange(1, 50)))
        case 2:
            raw = bytearray(b"\xef\xbb\xbf") + raw
        case 3:
            raw = bytearray(b"[" * 200_000)
        case _:
            for _ in range(chance.choice((1, 1, 3, 50))):
                if raw:
                    raw[chance.randrange(min(len(raw), 4000))] = chance.randrange(256)
    file.write_bytes(raw)
    return f"bytes of {file.name}"


def _numbers(folder: Path, chance: random.Random) -> str:
    file = _tensor_file(folder)
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    number = torch.tensor(chance.choice((float("nan"), float("inf"), 3e38, -3e38))).numpy().tobytes()
    for _ in range(chance.choice((1, 500))):
        if start + 4 <= len(raw):
            at = start + 4 * chance.randrange((len(raw) - start) // 4)
            raw[at : at + 4] = number
    file.write_bytes(raw)
    return "numbers"


def _files(folder: Path, chance: random.Random) -> str:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not files:
        return "nothing"
    file = chance.choice(files)
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    match chance.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            file.symlink_to(file.name)
        case 2:
            file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case 3:
            file.write_bytes(b"")
    return f"file {file.name}"


def _sparse(folder: Path, chance: random.Random) -> str:
    """Tensors of many gigabytes that take no place on the disk, their header in order."""
    file = _tensor_file(folder)
    raw = file.read_bytes()
    values = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    at = 0
    for key in sorted(values):
        if key != "__metadata__":
            shape = [chance.choice((size, size, 10**6, 2**28)) for size in values[key]["shape"]]
            size = 4
            for part in shape:
                size *= part
            values[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(values).encode()
    with file.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + at)
    return "sparse"


_WAYS = (
    _config,
    _config,
    _config,
    _patterns,
    _header,
    _header,
    _metadata,
    _bytes,
    _bytes,
    _numbers,
    _files,
    _sparse,
)
