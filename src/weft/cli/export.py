"""`weft export`: an adapter for llama.cpp or vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft.cli.shared.flags import Json
from weft.cli.shared.model import compare_with_base, load_adapters
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import ConfigError, MissingFileError
from weft.files import resolve
from weft.plain import reason_of


def export(
    adapter: str,
    /,
    *,
    gguf: Path | None = None,
    vllm: Path | None = None,
    base: str | None = None,
    max_lora_rank: int = 16,
    json: Json = False,
) -> None:
    """Write an adapter for llama.cpp, as a GGUF file, or for vLLM, as a folder.

    What the other program would run wrongly, or not at all, is refused by name. For
    example:

        weft export out/ --gguf out.gguf
        llama-cli -m base.gguf --lora out.gguf
        weft export out/ --vllm served/out --max-lora-rank 32

    Args:
        adapter: Adapter folder, or one that ships with Weft.
        gguf: GGUF file to write, in float32; a former file there is replaced.
        vllm: PEFT folder of one rank and one alpha to write; an adapter that is there is replaced.
        base: The base that it is for (folder, hub id or embedded name); what it was made for unless given.
        max_lora_rank: What vLLM is started with.
    """
    if (gguf is None) == (vllm is None):
        raise ConfigError("say what for: --gguf FILE for llama.cpp, or --vllm FOLDER for vLLM")
    from weft.adapters import check_fits, for_vllm, save, save_gguf
    from weft.engine.request import named_base
    from weft.host import sites_of

    (read,), _ = load_adapters([adapter], [])
    name = base or named_base([read])
    if name is None:
        raise ConfigError(f"{adapter} names no base; say which it is for with --base")
    config = _config_of(name)
    compare_with_base([adapter], [read], base)
    check_fits(read, sites_of(config, [site.path for site in read.sites]))
    if gguf is not None:
        save_gguf(read, gguf, config)
    elif vllm is not None:
        read = for_vllm(read, max_lora_rank=max_lora_rank)
        save(read, vllm)
    facts = {"path": gguf or vllm, "base": name, "rank": read.rank, "matrices": len(read.sites)}
    print_json({**facts, "path": str(facts["path"])}) if json else print_pairs(facts)


def _config_of(name: str) -> Any:
    from transformers import AutoConfig

    from weft.host.load import RAISED

    folder = resolve(name)
    try:
        return AutoConfig.from_pretrained(name if folder is None else folder)
    except (OSError, *RAISED) as error:
        raise MissingFileError(
            f"no config of base {name}: {reason_of(error)}; say by --base where it lies"
        ) from error
