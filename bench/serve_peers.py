"""Other servers of SmolLM2 for `bench/serve.py`, each in a process of its own, where they are installed.

llama.cpp: `pip install xllamacpp`; its wheels leave out the newest instructions of a CPU. Float32 weights and
cache, and one adapter for everybody: it mixes no adapters in a batch. vLLM: an environment of its own at
`.venv-vllm`, as `make vllm-check` makes it; float32, as many adapters as we have.
"""

import importlib.util
import multiprocessing
import os
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import httpx
import torch

import weft
from weft.adapters import for_vllm, save_gguf
from weft.host import Host
from weft.host.fetch import _download
from weft.registry import NAMED, brought_to, kept_in
from weft.types import Adapter

MODEL = NAMED["weft/smollm2"]
VLLM = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
CONTEXT, PATIENCE = 128, 900


@contextmanager
def llama_cpp(host: Host, adapter: Adapter, rows: int) -> Iterator[str | None]:
    """The address of llama.cpp's server over the same weights, under one adapter; None where it is not."""
    if importlib.util.find_spec("xllamacpp") is None:
        yield None
        return
    with TemporaryDirectory(prefix="weft-llama-") as name:
        folder = Path(name)
        base = unpacked(folder)
        save_gguf(adapter, folder / "adapter.gguf", host.module.config)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        words = (str(base), str(folder / "adapter.gguf"), rows, torch.get_num_threads(), there)
        server = context.Process(target=_llama, args=words, daemon=True)
        server.start()
        there.close()
        try:
            yield here.recv()
        finally:
            here.close()
            server.join(10)
            server.kill()


def _llama(base: str, adapter: str, rows: int, threads: int, pipe: Any) -> None:
    import xllamacpp  # pyright: ignore[reportMissingImports]

    params = xllamacpp.CommonParams()
    params.model.path = base
    params.n_parallel, params.n_ctx = rows, rows * CONTEXT
    params.warmup, params.verbosity = False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(params)
    pipe.send(server.listening_address)
    try:
        pipe.recv()
    except EOFError:
        return


def unpacked(folder: Path) -> Path:
    """The base as weft/smollm2 has it, as a GGUF file: unpacked, rounded to bfloat16, stored as float32."""
    wheel = brought_to(MODEL)
    with zipfile.ZipFile(wheel if wheel.is_file() else _download(MODEL, folder)) as archive:
        packed = Path(archive.extract(MODEL.source.member, folder))
    reader = gguf.GGUFReader(packed)
    writer = gguf.GGUFWriter(folder / "base.gguf", "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        writer.add_tensor(tensor.name, values.bfloat16().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed.unlink()
    return folder / "base.gguf"


@contextmanager
def vllm(adapters: Sequence[Adapter], names: Sequence[str], rows: int) -> Iterator[str | None]:
    """The address of vLLM's server over the same folder and adapters; None where it is not."""
    if not VLLM.is_file():
        yield None
        return
    with TemporaryDirectory(prefix="weft-vllm-") as folder:
        modules = []
        for name, adapter in zip(names, adapters, strict=True):
            weft.save(for_vllm(adapter), Path(folder) / name)
            modules.append(f"{name}={Path(folder) / name}")
        flags = ["--max-num-seqs", str(rows), "--max-model-len", str(CONTEXT), "--dtype", "float32"]
        flags += ["--no-enable-prefix-caching"]
        lora = ["--enable-lora", "--max-lora-rank", "8", "--max-loras", str(len(names))]
        with vllm_server(str(kept_in(MODEL)), [*flags, *lora, "--lora-modules", *modules], {}) as url:
            yield url


@contextmanager
def vllm_server(base: str, flags: Sequence[str], environment: dict[str, str]) -> Iterator[str]:
    """vLLM's server once it answers; ends with the block. Ends the program where it does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    usual = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    # Not by `vllm serve`, which asks for a package named vllm where it is vllm-cpu that is installed.
    words = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", base]
    words += ["--host", "127.0.0.1", "--port", str(port), *flags]
    server = subprocess.Popen(words, env={**os.environ, **usual, **environment})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(PATIENCE):
            time.sleep(1)
            if server.poll() is not None:
                raise SystemExit(f"vLLM ended with {server.returncode} before it answered")
            try:
                if httpx.get(url + "/health").status_code == 200:
                    break
            except httpx.TransportError:
                continue
        else:
            raise SystemExit(f"vLLM did not answer within {PATIENCE} s")
        yield url
    finally:
        server.terminate()
        server.wait(60)
