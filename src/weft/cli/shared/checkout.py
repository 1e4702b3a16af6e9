"""Folders that lie beside the package in a checkout of Weft, and not inside it."""

from pathlib import Path

from weft.errors import MissingFileError


def checkout_folder(name: str) -> Path:
    """The folder `name` of the checkout. Raises MissingFileError where Weft is installed without one."""
    folder = Path(__file__).parents[4] / name
    if not folder.is_dir():
        raise MissingFileError(
            f"no folder {folder}; {name}/ comes with a checkout of Weft, not with the package"
        )
    return folder
