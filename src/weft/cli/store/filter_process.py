"""`weft store filter-process`: what git calls for safetensors files on their way in and out."""

from pathlib import Path

from weft.store.lfs.filter import filter_process as serve_git


def filter_process() -> None:
    """Keep a single safetensors file in git as a listing, its tensors in a folder.

    Git starts this and speaks to it. To configure, in every clone:

        git config weft.blobs /path/to/a/folder/that/all/share
        git config filter.weft.process "weft store filter-process"
        git config filter.weft.required true
        echo '*.safetensors filter=weft diff=weft -text' >> .gitattributes
    """
    with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as sink:
        serve_git(Path(), source, sink)
