"""The model card: a README that the Hugging Face hub can read."""

import json
from typing import Any

import yaml

from weft.types import Adapter


def base_model(adapter: Adapter) -> str:
    """Name of the base as its users know it, a hub id or a path; empty where nobody said."""
    named = (adapter.peft_config.get("base_model_name_or_path"), adapter.provenance.get("base_model"))
    return next((name for name in named if isinstance(name, str) and name), "")


def card(adapter: Adapter) -> str:
    """Markdown with front matter, the adapter's size, and all of its provenance."""
    front: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "weft"],
    }
    if base_model(adapter):
        front["base_model"] = base_model(adapter)
    size = sum(a_RI.numel() + b_OR.numel() for a_RI, b_OR, _ in adapter.factors.values())
    modules = ", ".join(sorted({site.module for site in adapter.sites}))
    lines = [
        "---",
        _yaml(front).rstrip(),
        "---",
        "",
        f"# {adapter.name}",
        "",
        f"A LoRA adapter of {size:,} numbers: {len(adapter.sites)} sites ({modules}), rank {adapter.rank}.",
    ]
    if adapter.base:
        lines += ["", f"It belongs to the base with fingerprint `{adapter.base}`."]
    if adapter.provenance:
        # Indented rather than fenced: a task description may hold a fence of its own.
        rows = _yaml(json.loads(json.dumps(dict(adapter.provenance)))).splitlines()
        lines += ["", "## Provenance", "", *("    " + line for line in rows)]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=110)
