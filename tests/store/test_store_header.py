import json

import pytest
import torch
from safetensors.torch import save
from store_kit import file_bytes, header_text, lora, tensor

from weft.errors import AdapterFormatError
from weft.tensor_file import MAX_HEADER, build, framed, is_finite, split

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "I64": torch.int64,
    "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip


def test_build_writes_the_librarys_header() -> None:
    shapes = dict(zip(TORCH, [(2, 3), (), (0, 4), (1,), (5,)] * 3, strict=False))
    tensors = {
        f"{prefix}.{dtype}": torch.zeros(shape).to(TORCH[dtype])
        for prefix in ("b", "a", "ä")
        for dtype, shape in shapes.items()
    }
    for metadata in (None, {"format": "pt"}):
        raw = save(tensors, metadata)
        header = split(raw, "file")
        specs = [(f"{p}.{dtype}", dtype, shape) for p in ("a", "ä", "b") for dtype, shape in shapes.items()]
        assert framed(build(specs, metadata).text) == raw[: 8 + len(header.text)]
        assert build(specs, metadata).specs == header.specs


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "C64"])
def test_finite_is_what_torch_says(dtype: str) -> None:
    chance = torch.Generator().manual_seed(0)
    special = [float("nan"), float("inf"), float("-inf"), 0.0, -1.5, torch.finfo(torch.float16).max]
    one = torch.tensor(special).to(TORCH[dtype])
    values = [*one, *torch.randint(0, 256, (2000, one.element_size()), generator=chance, dtype=torch.uint8)]
    if one.element_size() == 1:
        values += list(torch.arange(256, dtype=torch.uint8)[:, None])
    verdicts = set()
    for value in values:
        raw = value if value.dtype == torch.uint8 else value.reshape(1).view(torch.uint8)
        whole = raw.reshape(-1).view(TORCH[dtype])
        # torch.isfinite knows no float8, whose values float32 holds exactly.
        expected = bool(torch.isfinite(whole if whole.is_complex() else whole.double()).all())
        data = bytes(raw.reshape(-1).tolist())
        padding = bytes(3 * len(data))
        assert is_finite(dtype, padding + data + padding) == expected
        verdicts.add(expected)
    assert verdicts == {True, False}


def test_integers_are_always_finite() -> None:
    assert is_finite("I8", b"\xff" * 8)


def spec(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> str:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


@pytest.mark.parametrize(
    ("text", "size", "says"),
    [
        (spec(), 4, None),
        (spec() + "   ", 4, None),
        (spec(shape=[]), 4, None),
        (spec("F4", [8]), 4, None),
        ("{}", 0, None),
        (spec("F4", [7]), 4, "F4"),
        (spec("F5"), 4, "unknown dtype"),
        (spec(["F32"]), 4, "unknown dtype"),
        (spec(shape=[-1]), 4, "impossible shape"),
        (spec(shape=[True]), 4, "impossible shape"),
        (spec(shape=[1.0]), 4, "impossible shape"),
        (spec(shape=[1] * 17), 4, "impossible shape"),
        (spec(shape=[1 << 47, 1 << 47]), 4, "needs"),
        (spec(shape=[1 << 60]), 4, "impossible shape"),
        (spec(offsets=[0, 8]), 4, "needs 4"),
        (spec(offsets=[4, 0]), 4, "needs 4"),
        (spec(offsets=[4, 8]), 8, "begins at byte 4"),
        (spec(offsets=[0]), 4, "data_offsets"),
        (spec(), 5, "5 bytes"),
        (spec(), 3, "3 bytes"),
        ('{"a": 1}', 4, "should have a dtype"),
        ('{"": ' + spec()[6:], 4, "no name for a tensor"),
        ('{"\\u001b[2J": ' + spec()[6:], 4, "no name for a tensor"),
        (f'{{"{"x" * 5000}": ' + spec()[6:], 4, "no name for a tensor"),
        ("[]", 0, "keys and values"),
        ('{"__metadata__": {"a": 1}}', 0, "texts"),
        ('{"__metadata__": {"a": "\\ud800"}}', 0, "not valid JSON"),
        (spec()[:-1] + ", " + spec()[1:], 4, "twice"),
        (spec(shape=[float("nan")]), 4, "no JSON value"),
        ("[" * 100_000, 0, "nested too deeply"),
        ("{", 0, "not valid JSON"),
    ],
)
def test_headers_are_checked(text: str, size: int, says: str | None) -> None:
    raw = len(text.encode()).to_bytes(8, "little") + text.encode() + bytes(size)
    if says is None:
        assert split(raw, "file").text == text.encode()
    else:
        with pytest.raises(AdapterFormatError, match=says):
            split(raw, "file")


def test_overlapping_tensors_are_refused() -> None:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"a": one, "b": one | {"data_offsets": [4, 12]}})
    with pytest.raises(AdapterFormatError, match="b begins at byte 4, the tensor before it ends at 8"):
        split(len(text).to_bytes(8, "little") + text.encode() + bytes(12), "file")


def test_the_length_of_a_header_is_checked_before_it_is_read() -> None:
    with pytest.raises(AdapterFormatError, match="cut short"):
        split((1 << 60).to_bytes(8, "little") + b"{}", "file")
    with pytest.raises(AdapterFormatError, match="cut short"):
        split(b"abc", "file")
    size = MAX_HEADER + 1
    with pytest.raises(AdapterFormatError, match=f"header of {size} bytes"):
        split(size.to_bytes(8, "little") + bytes(size), "file")


def test_tensors_out_of_order_are_read_in_the_order_of_their_bytes() -> None:
    tensors = dict(reversed(lora().items())) | {"empty": tensor(0, 0, 3)}
    header = split(file_bytes(tensors, header_text(tensors)), "file")
    assert sorted(s.name for s in header.specs) == sorted(tensors)
    assert [s.begin for s in header.specs] == sorted(s.begin for s in header.specs)
