"""The store against git-lfs, git-theta and plain git: cold commands, Python's start included.

Two adapters: q, k, v and o of 28 layers of width 1024, rank 8 (224 tensors, 9.2 MB in float32), and all seven
modules of Llama-3-8B's 32 layers, rank 16 (448 tensors, 84 MB in bfloat16). Every command is a process of its
own; contestants take turns. CPU is user and system time of a command with all that it starts: what holds on
a busy machine. Bytes are what a commit adds to `.git`. Peers hold one `adapter_model.safetensors`: adding is
`git add` and `git commit`, checking out is `git checkout` of the file.

`python bench/peers.py` installs git-theta from PyPI into `.bench/`; git-lfs comes with the system. A peer
that is not there, or that fails, is named in a row.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from bench.peers import THETA
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

FILE = "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]


class Shape(NamedTuple):
    """Layers, rank, and (in, out) of each module."""

    layers: int
    rank: int
    modules: Mapping[str, tuple[int, int]]


SMALL = Shape(
    28,
    8,
    {
        "self_attn.q_proj": (1024, 2048),
        "self_attn.k_proj": (1024, 1024),
        "self_attn.v_proj": (1024, 1024),
        "self_attn.o_proj": (2048, 1024),
    },
)
LARGE = Shape(
    32,
    16,
    {
        "self_attn.q_proj": (4096, 4096),
        "self_attn.k_proj": (4096, 1024),
        "self_attn.v_proj": (4096, 1024),
        "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (4096, 14336),
        "mlp.up_proj": (4096, 14336),
        "mlp.down_proj": (14336, 4096),
    },
)


class Peer:
    """One file in a git repository, as people keep adapters today."""

    name = "plain git"
    version: tuple[str, ...] = ("git", "version")
    set_up: tuple[tuple[str, ...], ...] = ()

    def __init__(self, place: Path) -> None:
        self.root = place
        place.mkdir()
        command(place, "git", "init", "-q")
        for words in self.set_up:
            command(place, "git", *words)

    def add(self, folder: Path) -> None:
        shutil.copyfile(folder / FILE, self.root / FILE)
        command(self.root, "git", "add", "--all")
        command(self.root, "git", "commit", "-q", "-m", "x")

    def checkout(self, out: Path) -> None:
        (self.root / FILE).unlink()
        command(self.root, "git", "checkout", "-q", "HEAD", "--", FILE)

    def diff(self) -> None:
        command(self.root, "git", "diff", "--stat", "HEAD~1", "HEAD")


class Lfs(Peer):
    name = "git-lfs"
    version = ("git", "lfs", "version")
    set_up = (("lfs", "install", "--local"), ("lfs", "track", "*.safetensors"))


class Theta(Peer):
    name = "git-theta"
    version = (str(THETA / "bin" / "python"), "-m", "pip", "show", "git-theta")
    set_up = (("lfs", "install", "--local"), ("theta", "install"), ("theta", "track", FILE))

    def diff(self) -> None:
        command(self.root, "git", "diff", "HEAD~1", "HEAD")


class Weft(Peer):
    name = "weft"

    def __init__(self, place: Path) -> None:
        self.root = place
        self._run("init", str(place))

    def add(self, folder: Path) -> None:
        self._run("add", str(folder), "--name", "a", "-m", "x", "--store", str(self.root))

    def checkout(self, out: Path) -> None:
        self._run("checkout", "a", "-o", str(out), "--store", str(self.root))

    def diff(self) -> None:
        self._run("diff", "HEAD~1", "HEAD", "--json", "--store", str(self.root))

    def _run(self, *words: str) -> None:
        command(self.root.parent, sys.executable, "-m", "weft.cli", "store", *words)


class Took(NamedTuple):
    """Seconds of one step: on the clock, and of all CPUs."""

    wall: float
    cpu: float


class Measured(NamedTuple):
    """What each contestant needed, by its name."""

    took: Mapping[str, Mapping[str, list[Took]]]
    """By step first."""
    first: Mapping[str, int]
    """Bytes that the first version adds."""
    second: Mapping[str, int]
    failed: Mapping[str, str]
    """What a contestant said that could not go on."""


def run(*, repeats: int = 5) -> list[dict[str, object]]:
    """Every row of the table."""
    rows: list[dict[str, object]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, _environment(Path(folder)), clear=True),
    ):
        place = Path(folder)
        versions = {kind: _version(kind) for kind in (Lfs, Theta, Peer)}
        here = [kind for kind, version in versions.items() if version]
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            measured = _measure(place / name, [Weft, *here], _versions_of(SMALL, dtype, place, 3), repeats)
            for step, goal in (("add", "<= 300"), ("checkout", "<= 300"), ("diff", "<= 200")):
                rows += _times(f"{step}, {name}", measured.took[step], goal)
            one = "<= 350" if dtype == torch.float32 else None
            rows += _sizes(f"one layer of {SMALL.layers} changed, {name}", measured.second, one)
            rows += [_failed(f"{name}: {said}", kind) for kind, said in measured.failed.items()]
        trained = [write(place / f"trained-{i}", t, SMALL) for i, t in enumerate(train())]
        measured = _measure(place / "trained", [Weft, *(k for k in here if k is not Theta)], trained, 1)
        goal = f"<= {0.85 * (trained[1] / FILE).stat().st_size / 1e3:.0f}"
        rows += _sizes("all of a bfloat16 adapter after 8 more steps of training", measured.second, goal)
        for dtype in (torch.bfloat16, torch.float32):
            name = f"8B, {str(dtype).removeprefix('torch.')}"
            folders = _versions_of(LARGE, dtype, place, 3)
            measured = _measure(place / name, [Weft, *(k for k in here if k is Lfs)], folders, repeats)
            rows += _times(f"add, {name}", measured.took["add"], None)
            rows += _times(f"checkout, {name}", measured.took["checkout"], "ratio <= 2")
            rows += _sizes(f"first version, {name}", measured.first, None)
            rows += _sizes(f"one layer of {LARGE.layers} changed, {name}", measured.second, None)
        for kind, version in versions.items():
            for row in rows:
                if version and row["peer"] == kind.name:
                    row["peer"] = f"{kind.name} {version}"
            if not version:
                rows.append(_failed("not installed: skipped", kind.name))
    return rows


def make_adapter(shape: Shape, dtype: torch.dtype) -> Tensors:
    """Random factors of the usual sizes: initialisation for A, small numbers for B."""
    chance = torch.Generator().manual_seed(0)
    made = {}
    for layer in range(shape.layers):
        for module, (inner, outer) in shape.modules.items():
            before = f"base_model.model.model.layers.{layer}.{module}.lora_"
            made[f"{before}A.weight"] = torch.randn(shape.rank, inner, generator=chance) * inner**-0.5
            made[f"{before}B.weight"] = torch.randn(outer, shape.rank, generator=chance) * 0.02
    return {key: value.to(dtype) for key, value in made.items()}


def train() -> list[Tensors]:
    """A bfloat16 adapter before and after 8 steps of Adam, on a random Llama of two layers of width 1024."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=1024,
        intermediate_size=2048,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    base = LlamaForCausalLM(config)
    targets = [module.rpartition(".")[2] for module in SMALL.modules]
    model = get_peft_model(base, LoraConfig(r=SMALL.rank, target_modules=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids_BT = torch.randint(512, (4, 32))
    made = []
    for _ in range(2):
        for _ in range(8):
            optimizer.zero_grad()
            model(ids_BT, labels=ids_BT).loss.backward()
            optimizer.step()
        state = get_peft_model_state_dict(model)
        made.append({key: value.detach().to(torch.bfloat16).clone() for key, value in state.items()})
    return made


def write(folder: Path, tensors: Tensors, shape: Shape) -> Path:
    folder.mkdir()
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    targets = [module.rpartition(".")[2] for module in shape.modules]
    config = {"peft_type": "LORA", "r": shape.rank, "lora_alpha": 16, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def command(place: Path, *words: str) -> None:
    subprocess.run(words, cwd=place, check=True, capture_output=True, text=True)


def _environment(place: Path) -> dict[str, str]:
    """A home, an identity and compiled modules for all; git-theta changes the configuration of its user."""
    told = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for role in ("AUTHOR", "COMMITTER"):
        told |= {f"GIT_{role}_NAME": "bench", f"GIT_{role}_EMAIL": "bench@example.org"}
    return told | {
        "HOME": str(place),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_THETA_CHECKPOINT_TYPE": "safetensors",
        "PATH": os.pathsep.join([os.environ["PATH"], str(THETA / "bin")]),
        # Installed packages are compiled; a checkout may be told not to be.
        "PYTHONPYCACHEPREFIX": str(place / "compiled"),
    }


def _version(kind: type[Peer]) -> str | None:
    """First version number that a peer prints, None where it is not there."""
    try:
        done = subprocess.run(kind.version, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    words = done.stdout.replace("/", " ").split()
    return next(word for word in words if word[0].isdigit())


def _versions_of(shape: Shape, dtype: torch.dtype, place: Path, layer: int) -> list[Path]:
    """Folders of an adapter and of the same with one layer changed."""
    first = make_adapter(shape, dtype)
    second = first | {key: value * 1.01 for key, value in first.items() if f".layers.{layer}." in key}
    name = f"{shape.layers}-{dtype}"
    return [write(place / f"{name}-{i}", tensors, shape) for i, tensors in enumerate((first, second))]


def _measure(place: Path, kinds: Sequence[type[Peer]], folders: list[Path], repeats: int) -> Measured:
    took: dict[str, dict[str, list[Took]]] = {step: {} for step in ("add", "checkout", "diff")}
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    failed: dict[str, str] = {}
    for turn in range(repeats + 1):
        for kind in kinds:
            out = place.with_name(f"{place.name}-out")
            side = kind(place.with_name(f"{place.name}-{kind.name}"))
            steps: dict[str, Took] = {}
            try:
                steps["add"] = _time(side.add, folders[0])
                steps["checkout"] = _time(side.checkout, out)
                first[kind.name] = before = size_of(side.root / ".git")
                side.add(folders[1])
                second[kind.name] = size_of(side.root / ".git") - before
                steps["diff"] = _time(side.diff)
            except subprocess.CalledProcessError as error:
                lines = [line.strip() for line in str(error.stderr).splitlines() if "Error" in line]
                failed[kind.name] = f"{' '.join(error.cmd[:2])} fails: {(lines or [str(error)])[0]:.100}"
            if kind is Weft:
                assert (out / FILE).read_bytes() == (folders[0] / FILE).read_bytes()
                shutil.rmtree(out)
            shutil.rmtree(side.root)
            for step, value in steps.items():
                # The first turn fills caches, and does not count.
                took[step].setdefault(kind.name, []).extend([value] if turn else [])
    return Measured(took, first, second, failed)


def _time(call: Callable[..., None], *words: Path) -> Took:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call(*words)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def size_of(folder: Path) -> int:
    """Bytes in the objects of a repository, those of git-lfs included."""
    places = (folder / "objects", folder / "lfs" / "objects")
    return sum(file.stat().st_size for place in places for file in place.rglob("*") if file.is_file())


def _times(what: str, took: Mapping[str, list[Took]], goal: str | None) -> list[dict[str, object]]:
    ours = took["weft"]
    rows = []
    for peer, theirs in took.items():
        if peer != "weft":
            turns = [x.wall / y.wall for x, y in zip(ours, theirs, strict=True)]
            medians = [1e3 * statistics.median(t.wall for t in side) for side in (ours, theirs)]
            cpu = [1e3 * statistics.median(t.cpu for t in side) for side in (ours, theirs)]
            rows.append(_row(what, "ms", medians[0], peer, medians[1], goal, turns, cpu))
    return rows


def _sizes(what: str, stored: Mapping[str, int], goal: str | None) -> list[dict[str, object]]:
    ours = stored["weft"]
    return [
        _row(what, "kB", ours / 1e3, peer, theirs / 1e3, goal, [ours / theirs], [])
        for peer, theirs in stored.items()
        if peer != "weft"
    ]


def _failed(what: str, peer: str) -> dict[str, object]:
    return _row(what, "", None, peer, None, None, [], [])


def _row(
    what: str,
    unit: str,
    ours: float | None,
    peer: str,
    theirs: float | None,
    goal: str | None,
    turns: Sequence[float],
    cpu: Sequence[float],
) -> dict[str, object]:
    """One line of the table; ratios are ours over theirs, the goal is ours unless it names the ratio."""
    return {
        "what": what,
        "unit": unit,
        "weft": None if ours is None else round(ours, 1),
        "peer": peer,
        "peer's": None if theirs is None else round(theirs, 1),
        "ratio": None if not ours or not theirs else round(ours / theirs, 3),
        "min": round(min(turns), 3) if turns else None,
        "max": round(max(turns), 3) if turns else None,
        "CPU": round(cpu[0]) if cpu else None,
        "peer's CPU": round(cpu[1]) if cpu else None,
        "goal": goal,
        "repeats": len(turns),
    }
