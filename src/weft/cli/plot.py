"""`weft plot`: a picture of a training, or of what another verb printed as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from weft.cli.shared.flags import Output
from weft.errors import ConfigError, MissingFileError
from weft.files import read_json
from weft.reading import read_json_lines


def plot(
    kind: Literal["run", "trace", "swarm"],
    file: Path,
    /,
    *,
    output: Output | None = None,
    prompt: int = 0,
) -> None:
    """Draw a training, which adapters acted on which token, or who held the stages of a swarm.

    For example:

        weft plot run runs/letters-t2l -o loss.png
        weft generate $'1Ehtgf\\n1-1' --shift weft/letters-shift --trace-json > trace.json
        weft plot trace trace.json -o trace.png
        weft plot swarm S -o swarm.png

    Args:
        kind: What to draw: the run in a folder, a trace, or a swarm.
        file: The folder of the run; or the JSON that "weft generate --trace-json" printed; or the name
            of a swarm.
        output: Picture to write, a PNG; run.png, trace.png or swarm.png unless given.
        prompt: Which prompt of a trace, counted from 0.
    """
    output = output or Path(f"{kind}.png")
    if output.suffix != ".png":
        raise ConfigError(f"the picture is a PNG, {output} should end in .png")
    match kind:
        case "run":
            _draw_run(file, output)
        case "trace":
            _draw_trace(file, output, prompt)
        case "swarm":
            _draw_swarm(str(file), output)
    print(output)


def _draw_run(folder: Path, output: Path) -> None:
    log = folder / "metrics.jsonl"
    if not log.is_file():
        raise MissingFileError(f"{folder} holds no run: there is no metrics.jsonl in it")
    logged = [line for _, line in read_json_lines(log)]
    if not all(isinstance(line.get("step"), int | float) for line in logged):
        raise ConfigError(f"{log} is no log of a run: a line has no step")

    from weft.plot.run import draw_run

    draw_run(logged, output, title=str(folder))


def _draw_trace(file: Path, output: Path, prompt: int) -> None:
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


def _draw_swarm(name: str, output: Path) -> None:
    from weft.plot.swarm import draw_swarm
    from weft.swarm.folder import SwarmFolder

    folder = SwarmFolder(name)
    _ = folder.plan  # an unknown name is told as such
    draw_swarm(list(folder.events()), output)


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
