"""`weft store textconv`: a safetensors file in lines, for `git diff`."""

from pathlib import Path

from weft.plain import plain
from weft.store.lfs.textconv import textconv as lines_of


def textconv(file: Path, /) -> None:
    """Print one line per tensor: name, dtype, shape, hash.

    For readable diffs of safetensors files, with any git:

        git config diff.weft.textconv "weft store textconv"
        echo '*.safetensors diff=weft' >> .gitattributes

    Args:
        file: A safetensors file, or what stands for one in git.
    """
    print(plain(lines_of(file), keep="\n"), end="")
