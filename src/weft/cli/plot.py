"""`weft plot`: a picture of what another verb printed as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from weft.errors import ConfigError, MissingFileError
from weft.files import read_json


def plot(
    kind: Literal["trace"],
    file: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("trace.png"),
    prompt: int = 0,
) -> None:
    """Draw what "weft generate --trace-json" printed: which adapters acted on which token.

    For example:

        weft generate "1Ehtgf" --shift weft/letters-shift --trace-json > trace.json
        weft plot trace trace.json -o trace.png

    Args:
        kind: What the file holds: a trace.
        file: The JSON.
        output: Picture to write, a PNG.
        prompt: Which of its prompts, counted from 0.
    """
    if output.suffix != ".png":
        raise ConfigError(f"the picture is a PNG, {output} should end in .png")
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    values = read_json(file)
    results = values.get("results") if isinstance(values, dict) else None
    if not isinstance(results, list) or not all(_is_traced(one) for one in results):
        raise ConfigError(f"{file} holds no trace; weft generate --trace-json prints one")
    if not 0 <= prompt < len(results):
        raise ConfigError(f"{file} holds {len(results)} prompts, there is no number {prompt}")

    from weft.plot.trace import draw_trace

    draw_trace(results[prompt]["trace"], output)
    print(output)


def _is_traced(one: Any) -> bool:
    tokens = one.get("trace") if isinstance(one, dict) else None
    return isinstance(tokens, list) and all(
        isinstance(token, dict)
        and isinstance(token.get("token"), str)
        and isinstance(token.get("events"), list)
        and "silent" in token
        and isinstance(token.get("acting"), list)
        and all(isinstance(a, dict) and _is_acting(a) for a in token["acting"])
        for token in tokens
    )


def _is_acting(acting: dict[str, Any]) -> bool:
    return isinstance(acting.get("adapter"), str) and isinstance(acting.get("weight"), int | float)
