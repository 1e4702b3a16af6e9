"""`weft generate`: prompts in, text out."""

import sys

from weft.cli.flags import Flag
from weft.cli.model import ModelFlags, SamplingFlags, load_model
from weft.cli.screen import print_json
from weft.errors import ConfigError


def generate(
    *prompts: str,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    sampling: SamplingFlags = SamplingFlags(),  # noqa: B008
    stream: Flag = False,
    json: Flag = False,
) -> None:
    """Answer prompts with a base model, under adapters or without.

    The chat template of the base is applied, where it has one. Answers come
    one per line, in the order of the prompts. For example:

        weft generate "cab" --adapter out/
        weft generate "cab" "dab" --describe "sort the letters"
        weft generate "cab" --adapter a/ --weight 0.7 --adapter b/ --weight 0.3

    Args:
        prompts: What to answer; without any, every line of standard input is one.
        model: Which base, under which adapters.
        sampling: How the answers are drawn.
        stream: Print an answer while it grows.
        json: Print JSON.
    """
    if stream and json:
        raise ConfigError("--stream prints text while it grows, --json one document; choose one")
    asked = list(prompts) or _lines()
    host, adapters, mixture = load_model(model)

    from weft.engine import Engine

    engine = Engine(host)
    chats = [_turns(model.system, prompt) for prompt in asked]
    options = sampling.options()
    if stream:
        for i, chat in enumerate(chats):
            options["seed"] = sampling.seed + i
            for piece in engine.stream(chat, mixture=mixture, **options):
                print(piece, end="", flush=True)
            print()
        return
    texts = engine.generate(chats, mixture=mixture, **options)
    if json:
        results = [{"prompt": p, "text": text} for p, text in zip(asked, texts, strict=True)]
        print_json({"base": host.name, "adapters": [a.name for a in adapters], "results": results})
    else:
        for text in texts:
            print(text)


def _lines() -> list[str]:
    prompts = [] if sys.stdin.isatty() else [line.strip() for line in sys.stdin if line.strip()]
    if not prompts:
        raise ConfigError("there is no prompt; give one, or write one per line to standard input")
    return prompts


def _turns(system: str | None, prompt: str) -> list[dict[str, str]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]
