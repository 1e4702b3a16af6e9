"""A stage behind a port, and what a coordinator does not put up with."""

import contextlib
import os
import socket
import threading
import time

import pytest
import torch

from gate_once import Once
from swarm.faults import FaultyLink, Place, parts_of, spread
from tiny_models import make_llama
from weft.engine import Loop, Sampling
from weft.errors import ConfigError, ShapeError, WorkerError
from weft.host import Host, Pool
from weft.rows import Request, Share
from weft.swarm import LocalLink, Stage, SwarmHost, TcpLink, Worker, listen, serve, worker
from weft.types import Adapter, Factors, Term


@pytest.fixture
def served():
    """A stage behind a port of this process."""
    stage = Stage(parts_of(make_llama(), [0, 2])[0])
    with listen() as listener:
        thread = threading.Thread(target=serve, args=(stage.answer, listener), daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        assert not thread.is_alive()


def test_noise_ends_one_connection_in_one_line_and_no_other(served, caplog):
    host = SwarmHost([lambda failed: TcpLink(served)])
    cache = host.new_cache()
    host.step(torch.tensor([[5, 6]]), cache, [Share()])
    with socket.create_connection(served) as noise:
        noise.settimeout(5)
        noise.sendall(os.urandom(200))
        with contextlib.suppress(ConnectionResetError):  # the bytes after the head were not read
            assert noise.recv(1) == b""
    assert ["damaged head" in line for line in caplog.messages] == [True]
    want = Host(make_llama())
    theirs = want.new_cache()
    want.step(torch.tensor([[5, 6]]), theirs, [Share()])
    there = host.step(torch.tensor([[7]]), cache, [Share()]).logits_BV
    torch.testing.assert_close(there, want.step(torch.tensor([[7]]), theirs, [Share()]).logits_BV)
    host.close()


def test_nobody_there_is_told_in_one_line():
    with listen() as listener:
        address = listener.getsockname()
    with pytest.raises(WorkerError, match=r"no worker at 127\.0\.0\.1"):
        SwarmHost([lambda failed: TcpLink(address)], tries=2)


def test_a_call_that_cannot_be_sent_is_tried_so_often_and_no_more():
    stage, told, sent = Stage(parts_of(make_llama(), [0, 2])[0]), [], []

    class Link(LocalLink):
        def send(self, message):
            if message.fields["kind"] == "step":
                sent.append(message)
                raise WorkerError("the connection has ended")
            super().send(message)

    def connect(failed):
        told.append(failed)
        return Link(stage)

    host = SwarmHost([connect], tries=6)
    with pytest.raises(WorkerError, match="is lost: the connection has ended"):
        host.step(torch.tensor([[5, 6]]), host.new_cache(), [Share()])
    assert told == [0, 1, 2, 3, 4, 5]
    assert len(sent) == 6


def test_stages_that_make_no_base_are_refused():
    _, two = parts_of(make_llama(num_hidden_layers=4), [0, 2, 4])
    with pytest.raises(ConfigError, match="do not make a base of 4 layers"):
        spread([two])


def test_a_worker_of_another_base_does_not_take_a_place():
    one, two = parts_of(make_llama(num_hidden_layers=4), [0, 2, 4])
    _, stranger = parts_of(make_llama(1, num_hidden_layers=4), [0, 2, 4])
    with pytest.raises(ConfigError, match="the stages have base"):
        spread([one, stranger])
    host, places = spread([one, two])
    cache = host.new_cache()
    host.step(torch.tensor([[5, 6]]), cache, [Share()])
    places[1].stage = Stage(stranger)
    host.close()
    with pytest.raises(WorkerError, match="another base than the one that was here before"):
        host.step(torch.tensor([[7]]), cache, [Share()])
    assert cache.lengths == [2]
    places[1].stage = Stage(two)
    after = host.step(torch.tensor([[7]]), cache, [Share()]).logits_BV
    local = Host(make_llama(num_hidden_layers=4))
    want = local.step(torch.tensor([[5, 6, 7]]), local.new_cache(), [Share()]).logits_BV
    torch.testing.assert_close(after, want, atol=1e-5, rtol=1e-5)


def test_a_worker_whose_weights_differ_where_no_fingerprint_looks_is_refused():
    model, other = make_llama(), make_llama()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[1, 1] += 1e-3
    (part,), (stranger,) = parts_of(model, [0, 2]), parts_of(other, [0, 2])
    assert part.base == stranger.base
    host, places = spread([part])
    places[0].stage = Stage(stranger)
    host.close()
    with pytest.raises(WorkerError, match="another weights than the one that was here before"):
        host.step(torch.tensor([[7]]), host.new_cache(), [Share()])


def test_an_old_coordinator_is_refused():
    (part,) = parts_of(make_llama(), [0, 2])
    place = Place(part)
    old, new = (SwarmHost([lambda failed: FaultyLink(place, lambda: None)]) for _ in range(2))
    new.step(torch.tensor([[5]]), new.new_cache(), [Share()])
    with pytest.raises(WorkerError, match="another coordinator has taken it over"):
        old.step(torch.tensor([[5]]), old.new_cache(), [Share()])


def test_one_that_was_taken_over_lets_its_rows_leave_and_takes_nothing_back(pico_bank):
    (part,) = parts_of(make_llama(), [0, 2])
    place, bank = Place(part), pico_bank(1, 4)
    runs = []
    for _ in range(2):
        loop = Loop(SwarmHost([lambda failed: FaultyLink(place, lambda: None)]))
        loop.submit(Request("a", (5, 6), Share.of(bank[0])), sampling=Sampling(max_new_tokens=8))
        runs.append(loop.run())
        next(runs[-1])
    old, new = runs
    with pytest.raises(WorkerError, match="another coordinator has taken it over"):
        next(old)
    assert len(list(new)) == 7


def test_a_worker_without_layers_is_asked_again():
    (part,) = parts_of(make_llama(), [0, 2])
    empty, place = Place(part), Place(part)
    empty.stage = Worker("weft/letters")
    host = SwarmHost([lambda failed: (place if failed else empty).connect(lambda: None, failed)])
    assert host.fingerprint == part.base
    with pytest.raises(WorkerError, match="this worker has no layers yet"):
        SwarmHost([lambda failed: empty.connect(lambda: None, failed)])


def test_gates_are_refused_before_a_row_begins(pico_bank):
    (part,) = parts_of(make_llama(), [0, 2])
    loop = Loop(spread([part])[0])
    bank = pico_bank(2, 4)
    loop.submit(Request("a", (5, 6), Share(terms=(Term(bank, Once(32, 2)),))))
    with pytest.raises(ConfigError, match="on a local host"):
        loop.step()
    assert not loop.busy
    wild = Adapter({s: Factors(f.a_RI, f.b_OR, 1e308) for s, f in bank[0].factors.items()}, name="wild")
    loop.submit(Request("b", (5, 6), Share.of(wild)))
    with pytest.raises(ShapeError, match="wild holds NaN or infinity"):
        loop.step()


def test_a_full_pool_lets_rows_wait(pico_bank):
    (part,) = parts_of(make_llama(), [0, 2])
    stage = Stage(part, pool=Pool(part.sites, slots=2, r=4))
    host = SwarmHost([lambda failed: LocalLink(stage)])
    loop, bank = Loop(host), pico_bank(4, 4)
    for k in range(4):
        loop.submit(Request(str(k), (5, 6 + k), Share.of(bank[k])), sampling=Sampling(max_new_tokens=3))
    seen = []
    while loop.busy:
        loop.step()
        seen.append(loop.active)
    assert max(seen) == 2


def test_silent_strangers_do_not_keep_others_out(served, monkeypatch):
    """They take every connection and say nothing: after a while they are sent away."""
    monkeypatch.setattr(worker, "_FIRST_SECONDS", 0.5)
    strangers = [socket.create_connection(served) for _ in range(worker._CONNECTIONS)]
    try:
        ends = time.monotonic() + 10
        while time.monotonic() < ends:
            with contextlib.suppress(WorkerError):
                host = SwarmHost([lambda failed: TcpLink(served)], tries=1)
                break
            time.sleep(0.1)
        time.sleep(0.6)  # one that has spoken may be silent for longer
        assert host.step(torch.tensor([[5]]), host.new_cache(), [Share()]).logits_BV.shape == (1, 64)
        assert [seat.recoveries for seat in host.seats] == [1]
        host.close()
    finally:
        for stranger in strangers:
            stranger.close()
