"""Messages: what was sent arrives, what was damaged is noticed in one line."""

import json
import os
import random
import struct
import tracemalloc
import zlib

import pytest
import torch
import xxhash

from swarm.faults import parts_of
from tiny_models import make_llama
from weft.errors import MessageError
from weft.swarm import Stage
from weft.swarm.message import HEAD_BYTES, LIMIT, Message, decode, encode, receive
from weft.tensor_file import MAX_HEADER

KINDS = (
    "hello",
    "step",
    "join",
    "leave",
    "cut",
    "fill",
    "put",
    "drop",
    "embed",
    "head",
    "read",
    "backward",
    "kill",
)


def message():
    return Message(
        {"kind": "step", "counts": [1, 2], "deep": {"a": [None, True, 0.1]}},
        {"x": torch.randn(2, 3, 4), "h": torch.ones(3, dtype=torch.bfloat16), "none": torch.zeros(0, 2)},
    )


def test_a_message_comes_back():
    sent = message()
    came = decode(encode(sent))
    assert came.fields == sent.fields
    assert came.tensors.keys() == sent.tensors.keys()
    for name, tensor in sent.tensors.items():
        assert came.tensors[name].dtype == tensor.dtype
        assert torch.equal(came.tensors[name], tensor)


CASES = int(os.environ.get("WEFT_FUZZ_CASES", "1000"))


def test_damaged_messages_are_noticed():
    rng = random.Random(0)
    whole = encode(message())
    for _ in range(CASES):
        data = bytearray(whole)
        match rng.randrange(4):
            case 0:
                bit = rng.randrange(8 * len(data))
                data[bit // 8] ^= 1 << bit % 8
            case 1:
                del data[rng.randrange(len(data)) :]
            case 2:
                data += rng.randbytes(1 + rng.randrange(40))
            case 3:
                at = rng.randrange(len(data))
                data[at : at + 8] = bytes(255 - byte for byte in data[at : at + 8])
        with pytest.raises(MessageError) as error:
            decode(bytes(data))
        assert "\n" not in str(error.value)


def framed(header, data, values="{}"):
    """A message whose checksums are right, whatever its values and its header say."""
    text, before = json.dumps(header).encode(), values.encode()
    before += b" " * (-len(before) % 8)
    body = before + len(text).to_bytes(8, "little") + text + data
    first = b"WEFT" + struct.pack("<IQ16s", len(before), len(body), xxhash.xxh3_128_digest(body))
    return first + zlib.crc32(first).to_bytes(4, "little") + body


def test_headers_of_nonsense_are_refused_in_one_line():
    rng = random.Random(0)
    read, told = 0, []
    for _ in range(CASES):
        tensor = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
        header, values = {"x": dict(tensor)}, "{}"
        match rng.randrange(4):
            case 0:
                header["x"][rng.choice(list(tensor))] = value(rng)
            case 1:
                header["x"]["shape"] = [rng.choice((-1, 0, 1, 2, 2**30, 10**30, 0.5)) for _ in range(4)]
            case 2:
                header[rng.choice(("__metadata__", "x", "y"))] = value(rng)
            case 3:
                values = rng.choice(
                    ("", "[]", "{", "{}}", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}')
                )
        try:
            decode(framed(header, bytes(8), values))
            read += 1
        except MessageError as error:
            told.append(str(error))
    assert read < 0.1 * CASES
    assert not any("\n" in text or len(text) > 300 for text in told)


@pytest.mark.parametrize(
    ("shape", "end"), [([2**30, 2**30, 2**30, 0], 0), ([2**30] * 3, 2**90), ([16], 16), ([2**30], 2**30)]
)
def test_tensors_larger_than_their_message_are_refused(shape, end):
    tensor = {"dtype": "U8", "shape": shape, "data_offsets": [0, end]}
    with pytest.raises(MessageError, match="does not lie from 0"):
        decode(framed({"x": tensor}, bytes(min(end, 8))))


def test_nothing_is_allocated_for_what_is_only_announced():
    def head(length, begin=0):
        first = b"WEFT" + struct.pack("<IQ16s", begin, length, bytes(16))
        return first + zlib.crc32(first).to_bytes(4, "little")

    asked = []

    def read(data):
        rest = [data]

        def some(count):
            asked.append(count)
            part, rest[0] = rest[0][:count], rest[0][count:]
            return part

        return some

    with pytest.raises(MessageError, match="announces"):
        receive(read(head(LIMIT + 1)))
    with pytest.raises(MessageError, match="announces"):
        receive(read(head(LIMIT, MAX_HEADER + 8)))
    assert asked == [HEAD_BYTES] * 2
    with pytest.raises(MessageError, match="ends after 0 of"):
        receive(read(head(LIMIT, MAX_HEADER)))
    with pytest.raises(MessageError, match="ends after 0 of"):
        receive(read(head(LIMIT)))
    assert max(asked) <= 1 << 20


def test_what_is_too_large_is_not_sent():
    """Before any tensor is copied: this one would be a terabyte."""
    with pytest.raises(MessageError, match="at most"):
        encode(Message({}, {"x": torch.zeros(1).expand(1 << 38)}))
    least = len('{"a":""}')
    assert decode(encode(Message({"a": "x" * (MAX_HEADER - least)}))).fields.keys() == {"a"}
    with pytest.raises(MessageError, match="at most"):
        encode(Message({"a": "x" * (MAX_HEADER - least + 1)}))


def test_a_message_is_held_once_while_it_is_written():
    sent = Message({"kind": "step"}, {"x": torch.randn(4 << 20), "y": torch.randn(2, 3).T})
    tracemalloc.start()
    try:
        data = encode(sent)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) <= peak < 1.01 * len(data)
    assert torch.equal(decode(data).tensors["y"], sent.tensors["y"])


def value(rng, depth=0):
    """Any JSON value, small."""
    kind = rng.randrange(8 if depth < 2 else 6)
    if kind < 6:
        return (None, True, rng.randrange(-2, 5), 2**60, "adapter", rng.random())[kind]
    inside = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return inside if kind == 6 else {str(i): one for i, one in enumerate(inside)}


def test_calls_of_nonsense_are_answered_in_one_line_and_change_no_row():
    """Whole messages whose values are wrong: the stage answers, and its session goes on as it was."""
    stage = Stage(parts_of(make_llama(), [0, 1, 2])[0])
    fence = {"stage": [0, 1], "epoch": 1, "session": 1}
    begin = Message({"kind": "begin", "stage": [0, 1], "epoch": 1})
    stage.answer(begin)
    ids = torch.tensor([[5, 6, 7]])
    step = {"kind": "step", "counts": [3], "shares": [[[], []]], "starts": [0], "live": [1]}
    first = stage.answer(Message({**fence, **step, "position": 0}, {"ids": ids}))
    assert "error" not in first.fields
    rng = random.Random(0)
    tensors = (ids, torch.zeros(1, 3, 32), torch.zeros(0, 1), torch.full((1, 2), 99), torch.zeros(4))
    refused = 0
    for _ in range(CASES):
        fields = {**fence, **step, "kind": rng.choice(KINDS), "position": rng.choice((0, 1, 2, 1, 1))}
        fields |= {"row": 7, "rows": [], "count": 3, "other": 2, "key": "x", "sort": "bank", "fields": {}}
        fields |= {"terms": [], "decided": [], "codec": "none", "start": 0, "length": 1}
        for name in rng.sample(sorted(fields.keys() - {"epoch"}), rng.randrange(1, 4)):
            fields[name] = value(rng)
        if fields["kind"] in ("step", "cut") and rng.random() < 0.5:
            fields["counts"], fields["count"] = [1, 1], 2**40  # calls of the right form that do not fit
        given = {
            name: rng.choice(tensors) for name in rng.sample(("ids", "x", "written", "positions", "grad"), 3)
        }
        if fields["session"] == 1 and fields["position"] == 1:
            given["ids"], fields["stage"] = torch.full((1, 2), 99), fields["stage"]
        answer = stage.answer(decode(encode(Message(fields, given))))
        if "error" in answer.fields:
            refused += 1
            assert "\n" not in answer.fields["text"]
            assert answer.fields["error"] != "Failed", answer.fields["text"]
    assert refused > 0.7 * CASES
    done = stage._sessions[1].done
    after = {**fence, **step, "position": done, "counts": [1]}
    said = stage.answer(Message(after, {"ids": torch.tensor([[8]])}))
    twin = Stage(stage.part)
    twin.answer(begin)
    twin.answer(Message({**fence, **step, "position": 0}, {"ids": ids}))
    want = twin.answer(Message({**after, "position": 1}, {"ids": torch.tensor([[8]])}))
    assert torch.equal(said.tensors["x"], want.tensors["x"])
