"""The web page at `/`: files that ship with Weft, served from memory under a strict policy.

The page is a client of the API like any other. Nothing is loaded from elsewhere and nothing is inline. A name
in an address is looked up in a table: it never becomes a path.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from weft.serve.service import Refused

router = APIRouter()

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = {
    file.name: (file.read_bytes(), _KINDS[file.name.rpartition(".")[2]])
    for file in files("weft.serve").joinpath("page").iterdir()
    if file.is_file()
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def index() -> Response:
    """The page."""
    return _answer("index.html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """A part of the page. 404 for any other name."""
    return _answer(name)


def _answer(name: str) -> Response:
    if name not in _FILES:
        raise Refused(404, f"no page {name!r:.80}", "not_found")
    body, kind = _FILES[name]
    return Response(body, media_type=f"{kind}; charset=utf-8", headers=_HEADERS)
