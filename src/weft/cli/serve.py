"""`weft serve`: an OpenAI-compatible server over one base and many adapters."""

from __future__ import annotations

import json
import shlex
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weft.cli.shared.controlled import shifting, speaking
from weft.cli.shared.model import (
    BASE,
    Dtype,
    hypernetwork_for,
    load_adapters,
    open_host,
    open_hypernetwork,
    open_spread,
)
from weft.errors import ConfigError, MissingExtraError

_LOOPBACK = ("127.0.0.1", "localhost")


def serve(
    *,
    base: str = BASE,
    host: str = "127.0.0.1",
    port: int = 8000,
    adapter: tuple[str, ...] = (),
    library: tuple[str, ...] = (),
    router: str = "nearest",
    tree: tuple[str, ...] = (),
    shift: tuple[str, ...] = (),
    store: tuple[Path, ...] = (),
    hypernetwork: Annotated[str | None, Parameter(name="--with")] = None,
    context: str | None = None,
    api_key_file: Path | None = None,
    adapter_root: Path | None = None,
    max_rows: int = 32,
    max_tokens: int | None = None,
    prefix_tokens: int = 0,
    max_loras: int = 32,
    max_lora_rank: int = 64,
    max_cpu_loras: int = 1024,
    device: str = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Serve a base and its adapters to OpenAI's clients.

    The model of a request is a name: base, the name of an adapter, store:NAME@REV,
    gen:TEXT, blend:0.7*A+0.3*B, route:LIBRARY, tree:NAME or shift:NAME. For example:

        weft serve --base weft/letters --library weft/letters-adapters
        curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
            -d '{"model": "gen:sort the letters", "messages": [{"role": "user", "content": "cab"}]}'

    Args:
        base: Folder, hub id or embedded name.
        host: Address to listen on; one that others can reach needs --api-key-file. swarm:NAME listens on
            127.0.0.1 and runs the base over the workers of that swarm.
        port: Port to listen on.
        adapter: Adapter folder, under its own name; may be given several times.
        library: Folder of adapter folders: route:NAME chooses from it, and each adapter has its name.
        router: What chooses from the libraries.
        tree: Folder of a tree, as tree:NAME.
        shift: Folder of a trained shift, as shift:NAME: the model changes its adapters while it answers.
        store: Folder of an adapter store, for store:NAME@REV.
        hypernetwork: The hypernetwork of gen: names; one for the base that ships with Weft unless given.
        context: Context network, for adapters made of documents.
        api_key_file: YAML list of keys with name, role (user, maker, admin), adapters and limits.
        adapter_root: Folder below which /v1/load_lora_adapter may load.
        max_rows: Texts that are written at a time; others wait.
        max_tokens: Room in the caches: texts at a time, times the longest of them; no bound unless given.
        prefix_tokens: Tokens of ended texts that are kept, for prompts that begin alike; 0 keeps none.
        max_loras: Adapters that act at a time.
        max_lora_rank: Largest rank of an adapter.
        max_cpu_loras: Adapters that are kept in memory under names.
        device: Where the base runs.
        dtype: Number type of the base.
    """
    try:
        import uvicorn

        from weft.serve import Keys, Scheduler, Shelf, build_app, server_config
    except ImportError as error:
        raise MissingExtraError(
            f"weft serve needs the extra serve: pip install 'weft[serve]' ({error})"
        ) from None
    from weft.engine.request import Chooser, planted
    from weft.host import compare_copies
    from weft.hyper import ContextNetwork
    from weft.route import load_library, load_tree

    swarm = host if host.startswith("swarm:") else None
    host = _LOOPBACK[0] if swarm is not None else host
    if host not in _LOOPBACK and api_key_file is None:
        raise ConfigError(f"{host} can be reached by others; give --api-key-file, or listen on 127.0.0.1")
    keys = Keys() if api_key_file is None else Keys.read(api_key_file)
    own_libraries, own_trees, own_shifts = (
        _named(kind, folders)
        for kind, folders in (("libraries", library), ("trees", tree), ("shifts", shift))
    )
    _named("adapters", adapter)  # the second would take the place of the first
    own_stores = _named("stores", [str(folder) for folder in store])
    listening = _listen(host, port)  # before the base is loaded: who asks meanwhile waits
    adapters = load_adapters(adapter, [])[0]
    libraries = {name: load_library(folder) for name, folder in own_libraries.items()}
    held = [a for one in libraries.values() for a in one.adapters]
    speakers = [speaking(folder) for folder in shift]
    local = None
    if swarm is None:
        local = open_host(base, device=device, dtype=dtype, adapters=[*adapters, *held, *speakers])
    elif shift or context:
        raise ConfigError("--shift and --context need a base of this process; leave them out over a swarm")
    model = local or open_spread(swarm or "")
    for folder in adapter:
        compare_copies(folder, model)
    base = model.name
    named = hypernetwork or hypernetwork_for(model)
    shelf = Shelf(
        model,
        hypernetwork=open_hypernetwork(named, host=local) if named else None,
        stores={name: Path(folder) for name, folder in own_stores.items()},
        choosers={name: Chooser.over(model, one, router) for name, one in libraries.items()},
        trees={name: planted(load_tree(folder), model) for name, folder in own_trees.items()},
        shifts={n: shifting(folder, local) for n, folder in own_shifts.items()} if local else {},
        reader=ContextNetwork.from_pretrained(context, host=local) if context else None,
        room=max_cpu_loras,
    )
    for one in [*(a for chooser in shelf.choosers.values() for a in chooser.library.adapters), *adapters]:
        if one.name in shelf.names:
            warnings.warn(f"{one.name} names two adapters; requests get the one named last", stacklevel=2)
        shelf.put(one.name, one)
    scheduler = Scheduler(
        model,
        max_rows=max_rows,
        max_tokens=max_tokens,
        prefix_tokens=prefix_tokens,
        slots=max_loras,
        r=max_lora_rank,
    )
    hosts = ("127.0.0.1", "localhost") if host in _LOOPBACK else ("*",)
    app = build_app(scheduler, shelf, keys, adapter_root=adapter_root, hosts=hosts)
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"{base} with {len(shelf.names)} names on {address}/v1, its page on {address}/", flush=True)
    print(_to_copy(address, base, makes=shelf.hypernetwork is not None, keys=keys.given), flush=True)
    uvicorn.Server(server_config(app)).run(sockets=[listening])


def _to_copy(address: str, base: str, *, makes: bool, keys: bool) -> str:
    """A line for curl that is answered."""
    model, text = "base", "Hello"
    if makes:
        letters = base == BASE
        model = "gen:sort the letters" if letters else "gen:Let me have the past tense."
        text = "decaf" if letters else "draw"
    asked = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0}
    key = ' -H "Authorization: Bearer KEY"' if keys else ""
    return (
        f'curl {address}/v1/chat/completions -H "Content-Type: application/json"{key} '
        f"-d {shlex.quote(json.dumps(asked))}"
    )


def _named(kind: str, folders: Sequence[str]) -> dict[str, str]:
    """Folders by the names that requests give them."""
    names = {Path(folder).resolve().name: folder for folder in folders}
    if len(names) < len(folders):
        raise ConfigError(f"two {kind} have the same folder name, of {', '.join(names)}; rename one")
    return names


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host} port {port}: {why}; give another --port or --host"
        ) from None
