"""Pictures from files, good and hostile."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from weft.embed import read_image
from weft.errors import ConfigError, CueError, MissingFileError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def written(folder: Path, kind: str, image: Pillow.Image | None = None, **options: object) -> Path:
    file = folder / f"picture.{kind.lower()}"
    (image or Pillow.fromarray(PIXELS)).save(file, format=kind, **options)
    return file


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_pixels_as_they_are(kind: str, tmp_path: Path) -> None:
    assert torch.equal(read_image(written(tmp_path, kind)).pixels_HWC, torch.from_numpy(PIXELS))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_formats_that_lose_something(kind: str, tmp_path: Path) -> None:
    plain = Pillow.new("RGB", (40, 20), (200, 40, 30))
    pixels = read_image(written(tmp_path, kind, plain)).pixels_HWC
    assert pixels.shape == (20, 40, 3)
    assert (pixels.float() - torch.tensor([200.0, 40.0, 30.0])).abs().max() < 12


def test_clear_places_are_white_and_a_photograph_is_upright(tmp_path: Path) -> None:
    clear = Pillow.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert (read_image(written(tmp_path, "PNG", clear)).pixels_HWC == 255).all()
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = read_image(written(tmp_path, "PNG", exif=exif)).pixels_HWC
    assert torch.equal(turned, torch.from_numpy(np.rot90(PIXELS, -1).copy()))


def test_a_large_picture_is_made_smaller(tmp_path: Path) -> None:
    pixels = read_image(written(tmp_path, "PNG", Pillow.new("L", (3000, 300), 7))).pixels_HWC
    assert pixels.shape == (102, 1024, 3)
    assert (pixels == 7).all()


def _png(width: int, height: int) -> bytes:
    """A PNG whose header states a size, with hardly any content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no picture that is read here"),
        (b"sort the letters", "no picture that is read here"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no picture that is read here"),
        (_png(9000, 9000), "9000 x 9000 pixels, at most"),
        (_png(2**31 - 1, 2**31 - 1), "picture"),
        (_png(90, 90), "damaged picture"),
    ],
    ids=["empty", "text", "svg", "postscript", "large", "huge", "short"],
)
def test_what_is_no_picture_is_refused_in_a_line(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(content)
    with pytest.raises(CueError, match=told) as refused:
        read_image(file)
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)


def test_every_cut_and_every_wrong_byte_is_refused_or_read(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        content = io.BytesIO()
        Pillow.fromarray(PIXELS).save(content, format=kind)
        whole = np.frombuffer(content.getvalue(), dtype=np.uint8)
        for _ in range(60):
            hurt = whole[: chance.integers(1, len(whole) + 1)].copy()
            hurt[chance.integers(len(hurt))] = chance.integers(256)
            file = tmp_path / "hurt"
            file.write_bytes(hurt.tobytes())
            with contextlib.suppress(CueError):
                assert read_image(file).pixels_HWC.shape[2] == 3


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(MissingFileError, match="a folder"):
        read_image(tmp_path)
    file = tmp_path / "large.png"
    with file.open("wb") as content:
        content.truncate(40 << 20)
    with pytest.raises(ConfigError, match="bytes, at most"):
        read_image(file)
