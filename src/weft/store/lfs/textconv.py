"""A safetensors file as lines that `git diff` can compare: one per tensor."""

from pathlib import Path

from weft.checks import MAX_ADAPTER
from weft.errors import AdapterFormatError, MissingFileError
from weft.store.lfs.listing import Listing, listing_of, parse_listing
from weft.store.pointer import parse_pointer


def textconv(file: Path) -> str:
    """Name, dtype, shape and hash of every tensor, by name, after the metadata.

    A safetensors file and its listing give the same lines; a pointer gives its own. Of other content a line
    says what is wrong (an AdapterFormatError), for git breaks off a whole diff where there is an error.
    Raises MissingFileError.
    """
    if not file.is_file():
        raise MissingFileError(f"no such file: {file}")
    try:
        if file.stat().st_size > MAX_ADAPTER:
            raise AdapterFormatError(f"{file.stat().st_size} bytes, at most {MAX_ADAPTER} are read")
        data = file.read_bytes()
        pointer = parse_pointer(data, "this")
        if pointer is not None:
            return f"a pointer to {pointer.size} bytes, sha256 {pointer.sha256}\n"
        return _lines(parse_listing(data, "this") or listing_of(data, "this"))
    except AdapterFormatError as error:
        return f"cannot be read: {error}\n"


def _lines(listing: Listing) -> str:
    metadata = listing.header.metadata or {}
    lines = [f"{key}: {value!r}" for key, value in sorted(metadata.items())]
    lines += [
        f"{spec.name} {spec.dtype} {list(spec.shape)} {listing.sha256[spec.name][:16]}"
        for spec in sorted(listing.header.specs)
    ]
    return "".join(line + "\n" for line in lines)
