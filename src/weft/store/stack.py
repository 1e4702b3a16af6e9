"""An adapter as another one and new columns: the parent's own blobs, and the new rows of A and columns of B.

    A = [A_parent; A_new]     B = [B_parent, B_new]

The parent's tensors are named by their ids in the new adapter's folder, so they stay whatever becomes of the
parent, and git stores them once.
"""

from weft.errors import ShapeError
from weft.store.folder import Parts, read_tensor
from weft.store.git import Git
from weft.store.layout import ADAPTERS, TENSORS, file_of
from weft.store.pieces import cut, join, piece_file, pieces_of
from weft.store.pointer import read_tensors
from weft.store.stored import Stored
from weft.tensor_file import start_of


def new_columns(git: Git, below: Stored, parts: Parts, source: str) -> dict[str, bytes]:
    """The files that an adapter has beyond those of the one below it.

    Raises ShapeError where it is not that one with new columns, to the bit.
    """
    where = f"{ADAPTERS}/{below.name}/{TENSORS}"
    pieces = pieces_of(below.tensors, where)
    lacks = next((file for file in pieces if file not in parts.tensors), None)
    if lacks is not None:
        raise ShapeError(f"{source} lacks {lacks.removesuffix('.safetensors')}, which {below.name} has")
    held = {file: read_tensor(file, blob, where)[1] for file, blob in read_tensors(git, below.tensors, where)}
    fresh = {}
    for file, blob in parts.tensors.items():
        if file not in pieces:
            fresh[file] = blob
            continue
        name, values = read_tensor(file, blob, source)
        new = cut(name, join(name, [held[piece] for piece in pieces[file]], where), values, source)
        if new is not None:
            start = start_of(name, new.dtype, new.shape)
            fresh[piece_file(file_of(name), len(pieces[file]))] = start + new.raw
    if not fresh:
        raise ShapeError(f"{source} is {below.name} itself and has no new columns")
    return fresh
