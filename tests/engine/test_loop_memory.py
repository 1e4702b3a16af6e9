"""Memory that requests take is given back."""

from memory_rows import main

from forked import elsewhere


def test_a_thousand_requests_leave_memory_as_it_was(tmp_path):
    first, *_, last = map(int, elsewhere(main, said=tmp_path / "said.txt").split())
    assert last < 1.01 * first
