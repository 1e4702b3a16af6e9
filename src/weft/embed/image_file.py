"""A picture from a file, read as what comes from strangers is read: bounded, and refused in one line."""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
import torch

from weft.errors import CueError, MissingExtraError
from weft.plain import reason_of
from weft.reading import read_bytes, shown_path
from weft.types import Image

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_BYTES = 32 << 20
_PIXELS = 64_000_000
_SIDE = 1024


def read_image(path: str | os.PathLike[str]) -> Image:
    """The picture in a PNG, JPEG, WebP, GIF (its first frame) or BMP file, upright, white where it is clear.

    Sides of more than 1024 pixels are made smaller. Raises MissingFileError, ConfigError for a file of more
    than 32 MiB, CueError for one that is no such picture, is damaged or has more than 64 million pixels, and
    MissingExtraError without Pillow.
    """
    try:
        from PIL import Image as Pillow
        from PIL import ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("pictures need the extra image: pip install 'weft[image]'") from error
    content, where = read_bytes(path, _BYTES), shown_path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large and of odd files; both are handled here
            with Pillow.open(io.BytesIO(content), formats=_FORMATS) as picture:
                width, height = picture.size  # from the header; nothing is decoded yet
                if width * height > _PIXELS:
                    raise CueError(f"{where} has {width} x {height} pixels, at most {_PIXELS} are read")
                picture.draft("RGB", (_SIDE, _SIDE))
                upright = ImageOps.exif_transpose(picture).convert("RGBA")
        upright.thumbnail((_SIDE, _SIDE))
        white = Pillow.new("RGBA", upright.size, "white")
        pixels = np.array(Pillow.alpha_composite(white, upright).convert("RGB"))
    except CueError:
        raise
    except UnidentifiedImageError as error:
        raise CueError(f"{where} is no picture that is read here: {', '.join(_FORMATS)}") from error
    except Exception as error:  # a plug-in raises whatever its first wrong byte leads to
        raise CueError(f"{where} is a damaged picture ({reason_of(error)})") from error
    return Image(torch.from_numpy(pixels))
