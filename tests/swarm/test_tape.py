"""A coordinator that is started again goes on where the journal ends: no token lost, doubled or different."""

import os
import random
import resource
import signal

import pytest
import torch

from laws.test_law_remote import check_same, write
from swarm.faults import Schedule, parts_of, spread
from tiny_models import make_bank, make_llama
from weft.errors import ConfigError, SaveError
from weft.host import Host
from weft.rows import Share
from weft.swarm import SwarmHost
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


def test_a_pipe_is_no_journal(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SaveError, match="is a pipe or a terminal"):
        Tape(tmp_path / "pipe")


def test_a_run_whose_journal_is_refused_takes_the_stages_from_nobody(model, tmp_path):
    parts = parts_of(model, [0, 1, 3, 4])
    host, places = spread(parts, journal=tmp_path / "tape")
    host.step(torch.tensor([[5]]), host.new_cache(), [Share()])
    epochs = [place.stage.epoch for place in places]
    with pytest.raises(ConfigError, match="another run writes"):
        SwarmHost(
            [lambda failed, at=place: at.connect(lambda: None, failed) for place in places],
            journal=tmp_path / "tape",
        )
    assert [place.stage.epoch for place in places] == epochs
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


def test_a_full_disk_is_told_and_costs_no_token(model, tmp_path, monkeypatch):
    """The step that the journal refuses is not given; the same step is done again when there is room."""
    bank, parts = make_bank(Host(model).sites, 2, 4), parts_of(model, [0, 2, 4])
    ids, more = torch.tensor([[5, 6, 7]]), torch.tensor([[8]])
    said = []
    for fails in (False, True):
        host = spread(parts, journal=tmp_path / f"tape {fails}")[0]
        cache, shares = host.new_cache(), [Share.of(bank[0])]
        said.append([host.step(ids, cache, shares).logits_BV])
        if fails:
            whole = (tmp_path / "tape True").read_bytes()
            # the size is bounded as a full disk bounds it: in the midst of a message
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, resource.RLIM_INFINITY))
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            try:
                with pytest.raises(SaveError, match="tape True cannot be written: File too large"):
                    host.step(more, cache, shares)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                signal.signal(signal.SIGXFSZ, before)
            assert (tmp_path / "tape True").read_bytes() == whole
            assert cache.lengths == [3]
        said[-1].append(host.step(more, cache, shares).logits_BV)
        host.close()
    assert all(torch.equal(one, other) for one, other in zip(*said, strict=True))
    assert (tmp_path / "tape True").read_bytes() == (tmp_path / "tape False").read_bytes()


def test_a_device_without_room_is_told(model):
    host = spread(parts_of(model, [0, 2, 4]), journal="/dev/full")[0]
    with pytest.raises(SaveError, match="/dev/full cannot be written: No space left"):
        host.step(torch.tensor([[5, 6]]), host.new_cache(), [Share()])
    host.close()


def test_a_journal_is_of_its_base_and_its_adapters(model, tmp_path):
    bank, ids = make_bank(Host(model).sites, 2, 4), torch.tensor([[5, 6]])
    host = spread(parts_of(model, [0, 2, 4]), journal=tmp_path / "tape")[0]
    host.step(ids, host.new_cache(), [Share.of(bank[0])])
    host.close()
    other = parts_of(make_llama(1, num_hidden_layers=4), [0, 2, 4])
    for parts, share in ((parts_of(model, [0, 2, 4]), Share.of(bank[1])), (other, Share.of(bank[0]))):
        host = spread(parts, journal=tmp_path / "tape")[0]
        with pytest.raises(ConfigError, match="is of another run"):
            host.step(ids, host.new_cache(), [share])
        host.close()
