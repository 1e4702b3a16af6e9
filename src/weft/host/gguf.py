"""A GGUF file -> a plain Hugging Face folder: bfloat16 safetensors, tokenizer, chat template.

Transformers reads the file and unpacks its 4-bit blocks, w = scale * q + minimum, each weight then rounded to
bfloat16. Two facts about the tokenizer that it does not take over are given by the caller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from weft.host.bars import no_bars


def convert_gguf(file: Path, folder: Path, *, window: int, single_digits: bool) -> None:
    """Write the model of a GGUF file into a folder; takes some 20 seconds and no network.

    `window` is the most tokens that its tokenizer should give. With `single_digits` numbers are cut into
    digits before byte-level BPE, as SmolLM does it; else "  1" would become " ", " ", "1" where the model was
    trained on "  ", "1".
    """
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with no_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(**source)
        tokenizer.model_max_length = window
        if single_digits:
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
