"""Workers as actors of Ray, which places them on the machines of a cluster and starts them again.

Ray launches and restarts; the calls of a swarm never go through it. Its token authentication is on and its
dashboard off. A Ray that is started here calls itself 127.0.0.1, yet its own ports listen on every address:
there the token alone keeps others out. The ports of workers are bound to the address that they are told by.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from weft.errors import MissingExtraError, WorkerError
from weft.plain import reason_of
from weft.swarm.folder import Plan
from weft.swarm.launch import AbstractSlot

_LOG = logging.getLogger("weft.swarm")
_LOOPBACK = "127.0.0.1"
_SECONDS = 2.0
_JOIN_SECONDS = 10.0
_OBJECTS = 80 << 20
"""Bytes of Ray's object store, of which nothing is used; the least that it takes."""


class RaySlot(AbstractSlot):
    """An actor that Ray starts again whenever it dies; `make` asks for one."""

    log = "the logs of Ray on its machine, /tmp/ray/session_latest/logs"

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._actor = make, make()
        self._asked: Any = None
        self._failed = False

    def address(self) -> tuple[str, int] | None:
        """Where its worker listens; None while Ray starts it."""
        import ray
        from ray.exceptions import RayError

        try:
            if self._asked is None:
                self._asked = self._actor.address.remote()
            done, _ = ray.wait([self._asked], timeout=_SECONDS)
            if not done:
                return None
            asked, self._asked = self._asked, None
            return ray.get(asked)
        except RayError as error:  # it died before it answered; Ray starts it again
            self._asked = None
            self._failed = bool(getattr(error, "actor_init_failed", False))  # but then it does not
            if self._failed:
                _LOG.warning("an actor cannot be made: %s", " ".join(str(error).split())[:2000])
            return None

    def dead(self) -> bool:
        """Whether Ray gave it up; a dead one it starts again, and its address tells the new from the old."""
        return self._failed

    def restart(self) -> None:
        """Kill the actor, if it lives; Ray starts it again. One that could not be made is made anew."""
        import ray
        from ray.exceptions import RayError

        self._asked = None
        if self._failed:
            self._actor, self._failed = self._make(), False
            return
        with suppress(RayError):
            ray.kill(self._actor, no_restart=False)

    def close(self) -> None:
        """Kill the actor for good."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            ray.kill(self._actor)


def start_ray(plan: Plan, count: int) -> list[AbstractSlot]:
    """Start Ray, or join the cluster at the plan's address, and ask it for workers.

    Raises MissingExtraError without Ray, WorkerError for a cluster that cannot be joined.
    """
    local = plan.address is None
    if plan.address is not None:
        _check_there(plan.address)
    # Set before the import: Ray reads its mode and its token once.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local and os.environ["RAY_AUTH_MODE"] == "token":
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray needs the extra swarm: pip install 'weft[swarm]'") from error
    # "local": without it Ray would join whatever cluster runs on this machine.
    options: dict[str, Any] = {"address": plan.address or "local"}
    if local:
        options |= {"num_cpus": count, "_node_ip_address": _LOOPBACK, "include_dashboard": False}
        options["object_store_memory"] = _OBJECTS
    try:
        ray.init(**options, log_to_driver=False, namespace="weft")
    except Exception as error:  # Ray raises many kinds
        told = reason_of(error)
        if local:
            raise WorkerError(f"Ray does not start on this machine: {told}") from error
        raise WorkerError(
            f"the Ray cluster at {plan.address} cannot be joined: {told}; it lets in who has its token, in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    wanted = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 0}
    if plan.device != "cpu":
        wanted["num_gpus"] = 1
    made = ray.remote(_Actor).options(scheduling_strategy="DEFAULT" if local else "SPREAD", **wanted)
    return [RaySlot(lambda: made.remote(plan.model_dump(mode="json"), local)) for _ in range(count)]


def _check_there(address: str) -> None:
    """Raise WorkerError where nobody listens: Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():  # what Ray knows itself, such as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_JOIN_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise WorkerError(f"no Ray cluster at {address}: {error}; start it: ray start --head") from error


class _Actor:
    """A worker behind a port of the machine that Ray has chosen."""

    def __init__(self, plan: dict[str, Any], local: bool) -> None:
        import threading

        import ray
        import torch

        from weft.swarm.worker import Worker, listen, serve

        if plan["threads"]:
            torch.set_num_threads(plan["threads"])
        host = _LOOPBACK if local else ray.util.get_node_ip_address()
        listener = listen((host, 0))
        options = {name: plan[name] for name in ("dtype", "device", "memory")}
        worker = Worker(plan["base"], **options)
        threading.Thread(target=serve, args=(worker.answer, listener), daemon=True).start()
        self._address = (host, listener.getsockname()[1])

    def address(self) -> tuple[str, int]:
        """Where the worker listens."""
        return self._address
