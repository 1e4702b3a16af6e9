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

from weft.hyper.context import ContextNetwork, Read
from weft.tasks import Encoded
from weft.train.answer_logits import language_model


class KeptStates:
    """Owns the states of every chunk and question that it was asked for; there is no end to what it holds."""

    def __init__(self, network: ContextNetwork) -> None:
        self.network = network
        first = min(network.sites, key=lambda site: site.layer)
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
        states = [torch.cat([self._states(row) for row in line]) for line in lines]
        states_BTH = pad_sequence(states, batch_first=True)
        embedding = language_model(self.network.host).get_input_embeddings()
        handle = embedding.register_forward_hook(lambda *_: states_BTH)
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
    def _states(self, row: Encoded) -> Tensor:
        """What the first adapted layer reads of a row: [T, H]."""
        key = tuple(row.ids)
        if key not in self._rows:
            out = self.network.host(
                torch.tensor([row.ids], device=self.network.host.device), output_hidden_states=True
            )
            self._rows[key] = out.hidden_states[self._first][0]
        return self._rows[key]


def _pass_on(states_BTH: Tensor, *_: object, **__: object) -> Tensor:
    return states_BTH
