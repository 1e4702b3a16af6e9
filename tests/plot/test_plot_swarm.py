"""The picture of a swarm: from what its folder tells."""

import pytest

from weft.errors import ConfigError
from weft.plot.swarm import draw_swarm

EVENTS = [
    {"time": 0.0, "event": "placed", "stages": [[0, 2], [2, 4]]},
    {"time": 0.5, "event": "ready", "worker": 0, "stage": 0, "seconds": 0.5},
    {"time": 0.6, "event": "ready", "worker": 2, "stage": 1, "seconds": 0.6},
    {"time": 1.0, "event": "step", "rows": 2, "tokens": 9, "seconds": 0.1},
    {"time": 1.2, "event": "killed", "worker": 2},
    {"time": 1.3, "event": "lost", "worker": 2, "stage": 1},
    {"time": 2.0, "event": "ready", "worker": 1, "stage": 1, "seconds": 0.7},
    {"time": 2.2, "event": "step", "rows": 2, "tokens": 2, "seconds": 1.1},
]


def test_a_run_with_a_fault_is_drawn(tmp_path):
    draw_swarm(EVENTS, tmp_path / "one.png")
    draw_swarm(EVENTS[:5], tmp_path / "two.png")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one.startswith(b"\x89PNG")
    assert one != two
    draw_swarm(EVENTS, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == one


def test_nothing_is_no_picture(tmp_path):
    with pytest.raises(ConfigError, match="no layers were placed"):
        draw_swarm([], tmp_path / "none.png")
