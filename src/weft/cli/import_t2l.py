"""`weft import-t2l`: a released Text-to-LoRA network as a hypernetwork of Weft."""

from __future__ import annotations

from pathlib import Path

from weft.cli.shared.flags import Json, OutputFolder
from weft.cli.shared.screen import print_json, print_pairs


def import_released(
    folder: Path,
    /,
    *,
    output_dir: OutputFolder,
    encoder: str | None = None,
    json: Json = False,
) -> None:
    """Turn a released Text-to-LoRA folder (SakanaAI) into a hypernetwork.

    The folder holds hypermod.pt, args.yaml and adapter_config.json. The pickle
    is read in a process of its own, for plain tensors alone; what comes out
    makes the same adapters and is safetensors. For example:

        weft import-t2l trained_t2l/gemma_2b_t2l --encoder gte-large/ -o gemma-t2l/
        weft adapt "solve the problem step by step" --with gemma-t2l/ -o out/

    Args:
        folder: The released folder.
        output_dir: Folder to write; a hypernetwork that is there is replaced, anything else is refused.
        encoder: The text encoder, a folder or hub id that transformers reads without code of its own; the
            one that args.yaml names unless given.
    """
    from weft.hyper.import_t2l import import_t2l

    hyper = import_t2l(folder, encoder=encoder)
    hyper.save_pretrained(output_dir)
    imported = hyper.provenance["imported"]
    facts = {
        "path": str(output_dir),
        "name": hyper.name,
        "base": hyper.provenance["base_model"],
        "size": imported["size"],
        "trained by": imported["training_task"],
        "modules": hyper.provenance["target_modules"],
        "rank": imported["rank"],
        "sites": len(hyper.sites),
        "parameters": sum(parameter.numel() for parameter in hyper.network.parameters()),
    }
    print_json(facts) if json else print_pairs(facts)
