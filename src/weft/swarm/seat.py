"""The coordinator's side of one stage: calls in order, answers once, and a new start after a fault.

A call that brings no answer is repeated over a new connection: the stage answers it again without doing it
again. A worker that has forgotten its sessions, or is another one, gets a new epoch and a replay first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from torch import Tensor

from weft import errors
from weft.errors import MessageError, WeftError, WorkerError
from weft.swarm.link import AbstractLink
from weft.swarm.message import Message

Connect = Callable[[int], AbstractLink]
"""Makes a connection to the worker of a stage, told how often in a row that has failed: from 2 on it hangs
or is gone, and whoever owns the workers may put another one in its place. Raises WorkerError."""
Call = Callable[[str, int, Mapping[str, Any], Mapping[str, Tensor]], Message]
"""(kind, session, values, tensors) -> answer."""
_PASSED_ON = ("ShapeError", "ConfigError", "UnknownNameError", "BaseMismatchError", "PoolFullError")


class _LostError(WeftError):
    """The stage does not hold what the coordinator thinks it does."""


class Seat:
    """One stage of a spread host, whoever fills it.

    A step may take `patience` seconds, or ten times the mean where that is more; `tries` failures in a row
    are the end. `replay` brings a stage that holds nothing to where it should be.
    """

    def __init__(self, connect: Connect, *, patience: float = 5.0, tries: int = 6) -> None:
        self._connect = connect
        self._patience, self._tries = patience, tries
        self._link: AbstractLink | None = None
        self._instance = ""
        self._positions: dict[int, int] = {}
        self._serial = 0
        self._mean = 0.0
        self.epoch = 0
        self.place = (0, 0)
        """Its first layer, and the one after its last."""
        self.description: Message | None = None
        self.replay: Callable[[Call], None] | None = None
        self.recoveries = 0
        """How often a worker was brought up to date by a replay, the first time included."""

    def call(
        self, kind: str, session: int, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> Message:
        """The answer to a call, which is done once, whatever happens on the way.

        Raises WorkerError when every try has failed or the worker is not the right one, and what the stage
        says is wrong with the call.
        """
        return self._until_answered(lambda: self._ask(kind, session, fields, tensors))

    def open(self) -> Message:
        """Connect, and say what the stage is. Raises what `call` raises."""
        self._until_answered(lambda: Message({}))
        assert self.description is not None
        return self.description

    @property
    def begun(self) -> bool:
        """Whether the stage holds what it should; if not, a replay comes before the next call."""
        return bool(self._instance)

    def forget(self) -> None:
        """The stage may have gone further than the journal: replay before the next call."""
        self._instance = ""
        self._hang_up()

    def close(self) -> None:
        """End the connection; the worker stays."""
        self._hang_up()

    def _until_answered(self, ask: Callable[[], Message]) -> Message:
        reason: WeftError | None = None
        for failed in range(self._tries):
            try:
                if self._link is None:
                    self._begin(failed)
                return ask()
            except _LostError as error:
                reason = error
                self.forget()
            except (WorkerError, MessageError) as error:
                reason = error
                self._hang_up()
                if isinstance(error, _FinalError):
                    break
            except WeftError:
                if not self._instance:  # a replay that did not come to its end
                    self._hang_up()
                raise
        self.forget()
        raise WorkerError(f"the stage of layers {self.place[0]} to {self.place[1]} is lost: {reason}")

    def _begin(self, failed: int) -> None:
        told = self._greet(failed)
        fresh = told.text("instance")
        if fresh == self._instance:
            return
        self.epoch = max(self.epoch, told.whole("epoch")) + 1
        self._instance = ""
        self._positions.clear()
        begun = self._exchange({"kind": "begin", "stage": list(self.place), "epoch": self.epoch}, {})
        if "error" in begun.fields:  # another coordinator was faster; the next greeting tells its epoch
            raise WorkerError(begun.text("text"))
        if self.replay is not None:
            self.replay(self._replayed(fresh))
        self._instance = fresh
        self.recoveries += 1

    def _greet(self, failed: int) -> Message:
        self._link = self._connect(failed)
        told = self._exchange({"kind": "hello"}, {})
        if "error" in told.fields:
            raise WorkerError(told.text("text"))
        if self.description is not None:
            for name in ("base", "weights", "layers", "first", "last", "dtype", "sites"):
                if told.fields.get(name) != self.description.fields[name]:
                    raise _FinalError(f"the worker has another {name} than the one that was here before")
        self.place = (told.whole("first"), told.whole("last"))
        self.description = told
        return told

    def _replayed(self, fresh: str) -> Call:
        """Calls of a replay to one worker; each is repeated by itself, as long as it is that worker."""

        def call(
            kind: str, session: int, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]
        ) -> Message:
            for failed in range(self._tries):
                try:
                    if self._link is None and self._greet(failed).text("instance") != fresh:
                        raise _LostError("another worker came while this one was brought up to date")
                    return self._ask(kind, session, fields, tensors)
                except _FinalError:
                    raise
                except (WorkerError, MessageError):
                    self._hang_up()
            raise WorkerError("it did not answer while it was brought up to date")

        return call

    def _ask(
        self, kind: str, session: int, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> Message:
        position = self._positions.get(session, 0)
        fence = {"stage": list(self.place), "epoch": self.epoch, "session": session, "position": position}
        answer = self._exchange({**fields, **fence, "kind": kind}, tensors)
        error = answer.fields.get("error")
        if error is None or error in _PASSED_ON:
            self._positions[session] = position + 1
        if error is None:
            return answer
        if error == "OldEpoch":
            raise _FinalError(f"another coordinator has taken it over: {answer.text('text')}")
        if error in _PASSED_ON:
            raise getattr(errors, error)(answer.text("text"))
        raise _LostError(answer.text("text"))

    def _exchange(self, fields: dict[str, Any], tensors: Mapping[str, Tensor]) -> Message:
        assert self._link is not None
        self._serial += 1
        begun = monotonic()
        end = begun + max(self._patience, 10 * self._mean)
        self._link.send(Message({**fields, "serial": self._serial}, tensors))
        while True:
            answer = self._link.receive(max(end - monotonic(), 0.0))
            if answer.fields.get("serial") == self._serial:  # others are late answers to earlier tries
                taken = monotonic() - begun
                self._mean = 0.9 * self._mean + 0.1 * taken if self._mean else taken
                return answer

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class _FinalError(WorkerError):
    """Trying again cannot help."""
