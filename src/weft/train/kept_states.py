"""What a frozen base makes of texts that are met again, kept: memory for time.

Below the first adapted layer a question is the same in every step, and a document is so altogether. So a text
that was met before costs the layers above alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weft.errors import ConfigError
from weft.hyper.context import ContextNetwork, Read
from weft.tasks import Encoded
from weft.train.answer_logits import language_model


class KeptStates:
    """Owns the states of every chunk and question that it was asked for; there is no end to what it holds.

    Raises ConfigError for a network with a site outside the decoder layers.
    """

    def __init__(self, network: ContextNetwork) -> None:
        self.network = network
        first = min(network.sites, key=lambda site: site.layer)
        if first.layer < 0:
            raise ConfigError(f"keep_states needs sites in decoder layers alone, {first.path} is in none")
        self._first = first.layer
        folder = first.path[: first.path.index(f".{first.layer}.")]
        self._layers = list(network.host.module.get_submodule(folder).children())
        self._chunks: dict[tuple[int, ...], Read] = {}
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def read(self, chunks: Sequence[Sequence[int]]) -> Read:
        """As `ContextNetwork.read`."""
        keys = [tuple(chunk) for chunk in chunks]
        if new := [key for key in dict.fromkeys(keys) if key not in self._chunks]:
            read = self.network.read(new)
            for place, key in enumerate(new):
                one, length = read.of(torch.tensor([place])), len(key)
                inputs = {site: x_1TI[:, :length].clone() for site, x_1TI in one.inputs.items()}
                self._chunks[key] = Read(
                    one.states_BMTH[:, :, :length].clone(), inputs, one.mask_BT[:, :length]
                )
        kept = [self._chunks[key] for key in keys]
        states = [one.states_BMTH[0].transpose(0, 1) for one in kept]
        return Read(
            pad_sequence(states, batch_first=True).transpose(1, 2),
            {
                site: pad_sequence([one.inputs[site][0] for one in kept], batch_first=True)
                for site in self.network.sites
            },
            pad_sequence([one.mask_BT[0] for one in kept], batch_first=True),
        )

    @contextmanager
    def below(self, lines: Sequence[Sequence[Encoded]]) -> Iterator[None]:
        """Forwards of these lines, packed without a shared prefix, begin at the first adapted layer."""
        self._keep([row for line in lines for row in line])
        states = [torch.cat([self._rows[tuple(row.ids)] for row in line]) for line in lines]
        states_BTH = pad_sequence(states, batch_first=True)
        first = self._layers[self._first]
        handle = first.register_forward_pre_hook(lambda _, given: (states_BTH, *given[1:]))
        skipped = self._layers[: self._first]
        for layer in skipped:
            layer.forward = _pass_on
        try:
            yield
        finally:
            handle.remove()
            for layer in skipped:
                del layer.forward

    @torch.no_grad()
    def _keep(self, rows: Sequence[Encoded]) -> None:
        """Run new rows through the layers below the first adapted one, all at once."""
        new = [key for key in dict.fromkeys(tuple(row.ids) for row in rows) if key not in self._rows]
        if not new:
            return
        ids_BT = pad_sequence([torch.tensor(key) for key in new], batch_first=True)
        seen: list[Tensor] = []
        first = self._layers[self._first]
        handle = first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for layer in self._layers[self._first :]:
            layer.forward = _pass_on
        try:
            language_model(self.network.host).base_model(ids_BT.to(self.network.host.device))
        finally:
            handle.remove()
            for layer in self._layers[self._first :]:
                del layer.forward
        for key, states_TH in zip(new, seen[0], strict=True):  # causal: what pads a row comes after it
            self._rows[key] = states_TH[: len(key)].clone()


def _pass_on(states_BTH: Tensor, *_: object, **__: object) -> Tensor:
    return states_BTH
