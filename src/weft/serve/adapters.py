"""Routes that show, make, load and remove adapters."""

from __future__ import annotations

import asyncio
import io
import shutil
import zipfile
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from weft.adapters import load, save
from weft.checks import CONFIG, WEIGHTS
from weft.errors import ConfigError, CueError
from weft.files import resolve
from weft.host import compare_copies
from weft.reading import check_text
from weft.serve.body import is_form
from weft.serve.keys import Account
from weft.serve.schema import LoadRequest, MakeRequest
from weft.serve.service import Refused, Service, account_of, service_of
from weft.serve.shelf import Shelf, check_adapter_name
from weft.types import Adapter, Description, Examples

router = APIRouter()


@router.get("/v1/adapters")
async def adapters(request: Request) -> dict[str, Any]:
    """Cards of all adapters on the shelf that this key may use."""
    service, account = service_of(request), account_of(request)
    names = [n for n in service.shelf.names if ":" not in n and account.may_use(n)]
    found = [(name, service.shelf.get(name)) for name in names]
    return {"data": await asyncio.to_thread(lambda: [_card(service.shelf, *one) for one in found])}


@router.post("/v1/adapters", status_code=201)
async def make(request: Request) -> dict[str, Any]:
    """Put an adapter on the shelf: made from a description, examples or a document, or uploaded.

    JSON says what to make it from; a form with the files `config` and `weights` of a PEFT folder brings it.
    """
    service, account = service_of(request), account_of(request, "maker")
    if is_form(request.headers.get("content-type", "")):
        async with request.form(max_files=2, max_fields=2) as form:
            name, config, weights = form.get("name"), form.get("config"), form.get("weights")
            if not (
                isinstance(name, str) and isinstance(config, UploadFile) and isinstance(weights, UploadFile)
            ):
                raise Refused(400, "a form needs a name and the files config and weights", "invalid_request")
            _check_free(service, account, name)
            account.make()
            adapter = await asyncio.to_thread(_uploaded, service.shelf, config.file, weights.file)
    else:
        body = MakeRequest.model_validate_json(await request.body())
        name = body.name
        _check_free(service, account, name)
        account.make()
        adapter = await asyncio.to_thread(_made, service, body)
    _check_free(service, account, name)  # another request may have taken the name while this one was made
    return await asyncio.to_thread(_card, service.shelf, name, service.shelf.put(name, adapter))


def _check_free(service: Service, account: Account, name: str) -> None:
    check_adapter_name(name)
    if not account.may_use(name):
        raise Refused(403, f"this key may not use {name}", "forbidden")
    if name in service.shelf.names and not account.may("admin"):
        raise Refused(409, f"there is an adapter {name} already; choose another name", "exists")


def _made(service: Service, body: MakeRequest) -> Adapter:
    """An adapter from whichever cue a body brings."""
    if bool(body.document) == bool(body.description or body.examples):
        raise CueError("give a description, examples, or a document to make an adapter from")
    if not body.document:
        pairs = tuple(body.examples)
        return service.shelf.make(
            Examples(pairs, body.description) if pairs else Description(body.description)
        )
    reader = service.shelf.reader
    if reader is None:
        raise ConfigError("this server reads no documents; start it with a context network (--context DIR)")
    # A few chunks between two steps: the base reads them, and its tensors belong to the scheduler's thread.
    known, chunks = None, reader.chunks(reader.tokens(body.document))
    while several := list(islice(chunks, 4)):
        known = service.scheduler.call(partial(reader.learn, known, several)).result()
    if known is None:
        raise CueError("there is nothing to read in this document")
    return known


def _uploaded(shelf: Shelf, config: BinaryIO, weights: BinaryIO) -> Adapter:
    """An adapter from the two files of a PEFT folder, which get names of ours; read as any other is."""
    with TemporaryDirectory(prefix="weft-serve-") as folder:
        for source, name in ((config, CONFIG), (weights, WEIGHTS)):
            with (Path(folder) / name).open("wb") as target:
                shutil.copyfileobj(source, target)
        return _read(shelf, folder)


def _read(shelf: Shelf, folder: str | Path) -> Adapter:
    """The adapter of a folder; base weights that it brings are the base's own. Raises what reading raises."""
    compare_copies(folder, shelf.host)
    return load(folder)


@router.get("/v1/adapters/{name}")
async def show(name: str, request: Request, download: bool = False) -> Any:
    """One adapter's card, or with ?download=true its PEFT folder as a zip file."""
    service, account = service_of(request), account_of(request)
    if not account.may_use(name):
        raise Refused(403, f"this key may not use {name}", "forbidden")
    adapter = service.shelf.get(name)
    if not download:
        return await asyncio.to_thread(_card, service.shelf, name, adapter)
    data = await asyncio.to_thread(_zipped, adapter)
    kind = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
    return Response(data, media_type="application/zip", headers=kind)


@router.delete("/v1/adapters/{name}")
async def remove(name: str, request: Request) -> dict[str, Any]:
    """Take an adapter off the shelf; rows that have it go on."""
    service, _ = service_of(request), account_of(request, "admin")
    service.shelf.remove(name)
    return {"name": name, "deleted": True}


@router.post("/v1/load_lora_adapter")
async def load_lora(body: LoadRequest, request: Request) -> Response:
    """Load a folder inside the adapter root, or an adapter that ships with Weft."""
    service, _ = service_of(request), account_of(request, "admin")
    folder = _inside(body.lora_path, request.app.state.adapter_root)
    adapter = await asyncio.to_thread(_read, service.shelf, folder)
    service.shelf.put(body.lora_name, adapter)
    return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.", media_type="text/plain")


@router.post("/v1/unload_lora_adapter")
async def unload_lora(body: LoadRequest, request: Request) -> Response:
    """Take an adapter off the shelf, as vLLM does."""
    service, _ = service_of(request), account_of(request, "admin")
    service.shelf.remove(body.lora_name)
    return Response(
        f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain"
    )


def _inside(path: str, root: Path | None) -> Path:
    if path.startswith("weft/"):
        found = resolve(path)
        if found is not None and not Path(path).is_dir():
            return found
    if root is None:
        raise Refused(403, "this server loads no folders; start it with --adapter-root DIR", "forbidden")
    if "\0" in path or len(path) > 1000 or any(len(part) > 200 for part in path.split("/")):
        raise Refused(403, "a path holds no NUL, and no name of more than 200 characters", "forbidden")
    folder = (root / check_text(path, "a path")).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise Refused(403, "the folder lies outside the adapter root", "forbidden")
    return folder


def _card(shelf: Shelf, name: str, adapter: Adapter) -> dict[str, Any]:
    known = adapter.provenance
    shown = {key: str(value) for key, value in known.items() if key in _SHOWN}
    lineage = {key: known[key] for key in _LINEAGE if key in known}
    return {
        "name": name,
        "rank": adapter.rank,
        "sites": len(adapter.sites),
        "sha256": shelf.sha256(adapter),
        **shown,
        **({"lineage": lineage} if lineage else {}),
    }


_SHOWN = ("description", "hypernetwork", "base_model", "seed")
_LINEAGE = ("method", "parents", "weights", "options", "truncated_to_rank")


def _zipped(adapter: Adapter) -> bytes:
    with TemporaryDirectory(prefix="weft-serve-") as folder:
        save(adapter, Path(folder) / "adapter")
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for file in sorted((Path(folder) / "adapter").iterdir()):
                archive.write(file, file.name)
        return out.getvalue()
