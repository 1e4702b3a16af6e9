"""The store against git-lfs, git-theta and plain git: cold commands, Python's start included.

The adapter is on q, k, v and o of 28 layers of width 1024, rank 8: 224 tensors, 9.2 MB in float32. Every
command is a process of its own; contestants take turns. Bytes are what a commit adds to `.git`. Peers hold
one `adapter_model.safetensors`: adding is `git add` and `git commit`, checking out is `git checkout` of the
file. Those that are not installed are named in a row and skipped.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, WIDTH, RANK = 28, 1024, 8
FILE = "adapter_model.safetensors"
_OUT = {"q_proj": 2048, "k_proj": 1024, "v_proj": 1024, "o_proj": 1024}
Tensors = dict[str, torch.Tensor]


class Peer:
    """One file in a git repository, as people keep adapters today."""

    name = "plain git, one file"
    set_up: tuple[tuple[str, ...], ...] = ()

    def __init__(self, place: Path) -> None:
        self.root = place
        place.mkdir()
        git(place, "init", "-q")
        for words in self.set_up:
            git(place, *words)

    @classmethod
    def is_here(cls) -> bool:
        return True

    def add(self, folder: Path) -> None:
        shutil.copyfile(folder / FILE, self.root / FILE)
        git(self.root, "add", "--all")
        git(self.root, "commit", "-q", "-m", "x")

    def checkout(self, out: Path) -> None:
        (self.root / FILE).unlink()
        git(self.root, "checkout", "-q", "HEAD", "--", FILE)

    def diff(self) -> None:
        git(self.root, "diff", "--stat", "HEAD~1", "HEAD")


class Lfs(Peer):
    name = "git-lfs"
    set_up = (("lfs", "install", "--local"), ("lfs", "track", "*.safetensors"))

    @classmethod
    def is_here(cls) -> bool:
        return subprocess.run(["git", "lfs", "version"], capture_output=True).returncode == 0


class Theta(Peer):
    name = "git-theta"
    set_up = (("lfs", "install", "--local"), ("theta", "install"), ("theta", "track", FILE))

    @classmethod
    def is_here(cls) -> bool:
        return Lfs.is_here() and shutil.which("git-theta") is not None


class Weft(Peer):
    name = "weft"

    def __init__(self, place: Path) -> None:
        self.root = place
        weft("init", str(place))

    def add(self, folder: Path) -> None:
        weft("add", str(folder), "--name", "a", "-m", "x", "--store", str(self.root))

    def checkout(self, out: Path) -> None:
        weft("checkout", "a", "-o", str(out), "--store", str(self.root))

    def diff(self) -> None:
        weft("diff", "HEAD~1", "HEAD", "--json", "--store", str(self.root))


def run(*, repeats: int = 5) -> list[dict[str, object]]:
    """Every row of the table."""
    peers = [kind for kind in (Lfs, Theta, Peer) if kind.is_here()]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            first = make_adapter(dtype)
            second = first | {key: value * 1.01 for key, value in first.items() if ".layers.3." in key}
            folders = [write(Path(place) / f"{name}-{i}", t) for i, t in enumerate((first, second))]
            seconds, stored = _measure(Path(place) / name, [Weft, *peers], folders, repeats)
            for step, goal in (("add", "<= 300"), ("checkout", "<= 300"), ("diff", "<= 200")):
                rows += _times(f"{step}, {name}", seconds[step], goal)
            rows += _sizes(
                f"one layer of {LAYERS} changed, {name}", stored, "<= 350" if dtype == torch.float32 else None
            )
        trained = [write(Path(place) / f"trained-{i}", t) for i, t in enumerate(train())]
        _, stored = _measure(Path(place) / "trained", [Weft, *peers], trained, 1)
        whole = (trained[1] / FILE).stat().st_size
        rows += _sizes(
            "all of a bfloat16 adapter after 8 more steps of training", stored, f"<= {0.85 * whole / 1e3:.0f}"
        )
    for kind in (Lfs, Theta):
        if kind not in peers:
            rows.append(
                _row(f"{kind.name} is not installed: skipped", "", None, kind.name, None, None, [], 0)
            )
    return rows


def make_adapter(dtype: torch.dtype) -> Tensors:
    """Random factors of the usual sizes: initialisation for A, small numbers for B."""
    chance = torch.Generator().manual_seed(0)
    made = {}
    for layer in range(LAYERS):
        for module, out in _OUT.items():
            width = 2048 if module == "o_proj" else WIDTH
            before = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
            made[f"{before}A.weight"] = torch.randn(RANK, width, generator=chance) * width**-0.5
            made[f"{before}B.weight"] = torch.randn(out, RANK, generator=chance) * 0.02
    return {key: value.to(dtype) for key, value in made.items()}


def train() -> list[Tensors]:
    """A bfloat16 adapter before and after 8 steps of Adam, on a random Llama of two layers of that width."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": WIDTH, "intermediate_size": 2048, "num_hidden_layers": 2}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=8))
    model = get_peft_model(base, LoraConfig(r=RANK, target_modules=list(_OUT)))
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


def write(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir()
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": list(_OUT)}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def _measure(
    place: Path, kinds: list[type[Peer]], folders: list[Path], repeats: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, int]]:
    """Seconds of each step by contestant, and bytes that the second version adds."""
    seconds: dict[str, dict[str, list[float]]] = {step: {} for step in ("add", "checkout", "diff")}
    stored = {}
    for turn in range(repeats + 1):
        for kind in kinds:
            side = kind(place.with_name(f"{place.name}-{kind.name}-{turn}"))
            out = place.with_name(f"{place.name}-out-{turn}")
            took = {"add": _time(side.add, folders[0]), "checkout": _time(side.checkout, out)}
            before = size_of(side.root / ".git")
            side.add(folders[1])
            stored[kind.name] = size_of(side.root / ".git") - before
            took["diff"] = _time(side.diff)
            if kind is Weft:
                assert (out / FILE).read_bytes() == (folders[0] / FILE).read_bytes()
                shutil.rmtree(out)
            shutil.rmtree(side.root)
            for step, value in took.items():
                # The first turn fills caches, and does not count.
                seconds[step].setdefault(kind.name, []).extend([value] if turn else [])
    return seconds, stored


def _time(call: Callable[..., None], *words: Path) -> float:
    start = time.perf_counter()
    call(*words)
    return time.perf_counter() - start


def size_of(folder: Path) -> int:
    """Bytes in the objects of a repository, those of git-lfs included."""
    places = (folder / "objects", folder / "lfs" / "objects")
    return sum(file.stat().st_size for place in places for file in place.rglob("*") if file.is_file())


def _times(what: str, seconds: Mapping[str, list[float]], goal: str) -> list[dict[str, object]]:
    ours = seconds["weft"]
    rows = []
    for peer, theirs in seconds.items():
        if peer != "weft":
            turns = [x / y for x, y in zip(ours, theirs, strict=True)]
            medians = [1e3 * statistics.median(side) for side in (ours, theirs)]
            rows.append(_row(what, "ms", medians[0], peer, medians[1], goal, turns, len(turns)))
    return rows


def _sizes(what: str, stored: Mapping[str, int], goal: str | None) -> list[dict[str, object]]:
    ours = stored["weft"]
    return [
        _row(what, "kB", ours / 1e3, peer, theirs / 1e3, goal, [ours / theirs], 1)
        for peer, theirs in stored.items()
        if peer != "weft"
    ]


def _row(
    what: str,
    unit: str,
    ours: float | None,
    peer: str,
    theirs: float | None,
    goal: str | None,
    turns: list[float],
    repeats: int,
) -> dict[str, object]:
    """One line of the table; the ratio is ours over theirs, the goal is ours alone."""
    return {
        "what": what,
        "unit": unit,
        "weft": None if ours is None else round(ours, 1),
        "peer": peer,
        "peer's": None if theirs is None else round(theirs, 1),
        "ratio": None if not ours or not theirs else round(ours / theirs, 3),
        "min": round(min(turns), 3) if turns else None,
        "max": round(max(turns), 3) if turns else None,
        "goal": goal,
        "repeats": repeats,
    }


def weft(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "weft.cli", "store", *words], check=True, capture_output=True)


def git(place: Path, *words: str) -> None:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@example.org")
    environment = os.environ | {"GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True, env=environment)


if __name__ == "__main__":
    for line in run():
        print(line)
