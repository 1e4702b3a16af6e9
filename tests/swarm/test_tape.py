"""A coordinator that is started again goes on where the journal ends: no token lost, doubled or different."""

import random

import pytest
import torch

from laws.test_law_remote import check_same, write
from swarm.faults import Schedule, parts_of, spread
from tiny_models import make_bank, make_llama
from weft.errors import ConfigError
from weft.host import Host
from weft.rows import Share
from weft.swarm.message import Message
from weft.swarm.tape import Tape


class Dies(Exception):
    """The coordinator is killed."""


@pytest.fixture(scope="module")
def model():
    return make_llama(num_hidden_layers=4)


def dying(host, at):
    """The host of a coordinator that dies before its `at`-th step is answered."""
    asked, count = host._asked, iter(range(10**9))

    def ask(*arguments):
        if next(count) == at:
            raise Dies
        return asked(*arguments)

    host._asked = ask
    return host


@pytest.mark.parametrize("seed", range(3))
def test_a_coordinator_that_dies_again_and_again(model, tmp_path, seed):
    bank = make_bank(Host(model).sites, 8, 4)
    parts = parts_of(model, [0, 1, 3, 4])
    want = write(spread(parts)[0], bank, temperature=float(seed % 2))
    rng = random.Random(seed)
    deaths = 0
    while True:
        faults = Schedule(seed + deaths, 0.02)
        host = spread(parts, faults, journal=tmp_path / "tape")[0]
        try:
            said = write(dying(host, rng.randrange(1, 12)), bank, temperature=float(seed % 2))
        except Dies:
            deaths += 1
            continue
        finally:
            host.close()
        break
    check_same(said, want)
    assert deaths >= 2


def test_what_was_half_written_is_done_again(model, tmp_path):
    bank = make_bank(Host(model).sites, 8, 4)
    parts = parts_of(model, [0, 2, 4])
    host = spread(parts, journal=tmp_path / "tape")[0]
    want = write(host, bank)
    host.close()
    whole = (tmp_path / "tape").read_bytes()
    (tmp_path / "tape").write_bytes(whole[: len(whole) * 2 // 3])
    host = spread(parts, journal=tmp_path / "tape")[0]
    check_same(write(host, bank), want)
    host.close()
    assert (tmp_path / "tape").read_bytes() == whole


@pytest.mark.parametrize("place", [0, 40])
def test_a_file_that_is_no_journal_or_damaged_is_left_as_it_is(tmp_path, place):
    tape = Tape(tmp_path / "tape")
    for i in range(3):
        tape.add(Message({"i": i}))
    tape.close()
    data = bytearray((tmp_path / "tape").read_bytes())
    data[place] ^= 1
    for broken in (bytes(data), b"notes"):
        (tmp_path / "tape").write_bytes(broken)
        tape = Tape(tmp_path / "tape")
        with pytest.raises(ConfigError, match="damaged at byte 0"):
            tape.hear()
        tape.close()
        assert (tmp_path / "tape").read_bytes() == broken


def test_another_run_and_another_writer_are_refused(model, tmp_path):
    parts = parts_of(model, [0, 2, 4])
    host = spread(parts, journal=tmp_path / "tape")[0]
    host.step(torch.tensor([[5, 6]]), host.new_cache(), [Share()])
    with pytest.raises(ConfigError, match="another run writes the journal"):
        Tape(tmp_path / "tape")
    host.close()
    host = spread(parts, journal=tmp_path / "tape")[0]
    with pytest.raises(ConfigError, match="is of another run"):
        host.step(torch.tensor([[5, 7]]), host.new_cache(), [Share()])
    host.close()


def test_messages_come_back_in_order(tmp_path):
    tape = Tape(tmp_path / "tape")
    for i in range(3):
        tape.add(Message({"i": i}))
    tape.close()
    tape = Tape(tmp_path / "tape")
    assert [tape.hear().fields["i"] for _ in range(2)] == [0, 1]
    assert tape.plays
    assert tape.hear().fields["i"] == 2
    assert tape.hear() is None
    tape.close()
