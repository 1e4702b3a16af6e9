"""Adapters as raw bytes, plain git, and commits that no honest tool would make."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weft.store.accept import Folding
from weft.store.edit import replaced
from weft.store.git import Git
from weft.store.objects import FILE, Entry, Objects

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "I64": 64,
        "I32": 32, "I16": 16, "BOOL": 8, "F4": 4, "F8_E8M0": 8, "C64": 64}  # fmt: skip
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]


def key(layer: int, half: str = "A") -> str:
    return f"base_model.model.layers.{layer}.q_proj.lora_{half}.weight"


def tensor(seed: int, *shape: int, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    """Finite values of any type: no byte is above 59, so no exponent is full."""
    size = math.prod(shape) * BITS[dtype] // 8
    return dtype, shape, bytes((seed * 31 + i * 7) % 60 for i in range(size))


def lora(seed: int = 0, layers: int = 3, rank: int = 2, width: int = 4) -> dict[str, Any]:
    found = {}
    for layer in range(layers):
        found[key(layer, "A")] = tensor(seed + layer, rank, width)
        found[key(layer, "B")] = tensor(seed + layer + 100, width, rank)
    return found


def header_text(
    tensors: Tensors, metadata: Mapping[str, str] | None = None, indent: int | None = None
) -> str:
    """A header whose tensors lie in the order given; not the library's order, unless that is given."""
    fields: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    return json.dumps(fields, indent=indent)


def file_bytes(tensors: Tensors, text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + b"".join(data for _, _, data in tensors.values())


def write_folder(
    folder: Path,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    *,
    text: str | None = None,
    card: bytes | None = None,
    config: bytes | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = header_text(tensors, metadata) if text is None else text
    (folder / "adapter_model.safetensors").write_bytes(file_bytes(tensors, text))
    (folder / "adapter_config.json").write_bytes(json.dumps(CONFIG).encode() if config is None else config)
    if card is not None:
        (folder / "README.md").write_bytes(card)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def git(folder: Path, *words: str, check: bool = True) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"git {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def is_clean(root: Path) -> bool:
    return not git(root, "status", "--porcelain")


def commit_tree(root: Path, change: Mapping[tuple[str, ...], bytes | Entry | None]) -> str:
    """Move HEAD to a commit with some paths replaced by anything at all; the working folder stays behind."""
    with Git(root) as opened:
        objects = Objects(opened.algorithm)
        entries = {
            path: Entry(FILE, objects.add("blob", value)) if isinstance(value, bytes) else value
            for path, value in change.items()
        }
        head = opened.commit_of("HEAD")
        tree = replaced(opened, objects, opened.tree_of(head), entries)
        opened.keep(objects)
        commit = opened.run("commit-tree", "-p", head, "-m", "made by hand", tree).decode().strip()
        opened.run("update-ref", "HEAD", commit)
    return commit


def run_beside(program: str, *words: object, session: bool = True, **options: Any) -> subprocess.Popen[str]:
    """Start a program of store_loop.py, in a session of its own unless told otherwise."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("store_loop.py")), program, *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=session,
        **options,
    )


BASES = [f"weft1-{number:016x}" for number in range(3)]


def derive(steps: Sequence[Folding], out: Path) -> str:
    """Stands for folding: every step leads to the next base."""
    assert steps[0].parent == BASES[0]
    return BASES[len(steps)]


def wider(tensors: Tensors, more: int, seed: int = 7) -> Tensors:
    """More rows of every A and columns of every B, number by number."""
    found, rng = {}, np.random.default_rng(seed)
    for name, (dtype, shape, raw) in tensors.items():
        width = BITS[dtype] // 8
        old = np.frombuffer(raw, np.uint8).reshape(*shape, width)
        grown = (shape[0] + more, shape[1]) if ".lora_A." in name else (shape[0], shape[1] + more)
        new = rng.integers(0, 60, (*grown, width), dtype=np.uint8)
        for row in range(shape[0]):
            for column in range(shape[1]):
                new[row, column] = old[row, column]
        found[name] = dtype, grown, new.tobytes()
    return found


def combine(
    folders: Sequence[Path], weights: Sequence[float], out: Path, base: str, rank: int | None
) -> float:
    """Stands for a weighted sum: the first folder with a weight in its bytes."""
    shutil.copytree(folders[0], out)
    file = out / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] = len(folders) + (rank or 0)
    file.write_bytes(data)
    return 0.0
