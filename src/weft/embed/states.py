"""The base's own hidden states while it reads the description."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import jinja2
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from weft.embed.text import texts_of
from weft.errors import ConfigError, CueError, PromptTooLongError
from weft.host import Host
from weft.types import AbstractEncoder, Cue

Pool = Literal["mean", "last", "mean+last"]
Template = Literal["plain", "system"]


class HostStates(AbstractEncoder):
    """Hidden states of the bare base at chosen layers, pooled over the description's tokens and concatenated.

    `layers` count as in Hugging Face's `hidden_states`: 0 is the embedding, -1 the last layer; by default the
    middle and the last. `template="system"` writes the description as the chat template's system message.
    Rows are padded on the right, which a causal network does not see. Frozen, float32, no gradient.
    Raises ConfigError for a layer that the base lacks, or when it has no tokenizer or chat template.
    """

    def __init__(
        self,
        host: Host,
        *,
        layers: Sequence[int] | None = None,
        pool: Pool = "mean+last",
        template: Template = "plain",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        if host.tokenizer is None or not isinstance(host.module, PreTrainedModel):
            raise ConfigError("only a language model with its tokenizer can read a description")
        if template == "system" and host.tokenizer.chat_template is None:
            raise ConfigError("the base's tokenizer has no chat template; use template=plain")
        config = host.module.config.get_text_config()
        depth = config.num_hidden_layers
        self.layers = tuple((depth // 2, depth) if layers is None else layers)
        wrong = [layer for layer in self.layers if not -depth - 1 <= layer <= depth]
        if wrong or not self.layers:
            raise ConfigError(f"layers are {-depth - 1} to {depth} in this base, got {list(self.layers)}")
        # In a tuple, so that it is no part of the state: the base follows no train() or state_dict().
        self._frozen = (host,)
        self.pool: Pool = pool
        self.template: Template = template
        self.batch_size = batch_size
        self.dim = config.hidden_size * len(self.layers) * len(pool.split("+"))

    def __deepcopy__(self, memo: dict[int, Any]) -> "HostStates":
        """A copy that reads the same base: that one is frozen, and no host can be copied."""
        memo[id(self._frozen[0])] = self._frozen[0]
        made = memo[id(self)] = type(self).__new__(type(self))
        vars(made).update(copy.deepcopy(vars(self), memo))
        return made

    @property
    def identity(self) -> str:
        """Kind, the base's fingerprint, layers, pooling and template."""
        layers = ",".join(map(str, self.layers))
        return f"host_states:{self._frozen[0].fingerprint}:{layers}:{self.pool}:{self.template}"

    def config(self) -> dict[str, Any]:
        """Kind, the base's name, and the options."""
        return {
            "kind": "host_states",
            "base": self._frozen[0].name,
            "layers": list(self.layers),
            "pool": self.pool,
            "template": self.template,
        }

    @torch.no_grad()
    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """One vector per description, on the base's device.

        Raises CueError for what is not a description, or is empty, PromptTooLongError past the base's window.
        """
        rows = [self._tokens(text) for text in texts_of(cues)]
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        empty = torch.zeros(0, self.dim, device=self._frozen[0].device)
        return torch.cat([empty, *(self._states(batch) for batch in batches)])

    def _tokens(self, text: str) -> list[int]:
        host = self._frozen[0]
        if self.template == "plain":
            ids = host.tokenizer(text)["input_ids"]
        else:
            turns = [{"role": "system", "content": text}]
            try:
                ids = host.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
            except jinja2.TemplateError as error:
                raise ConfigError(
                    f"the chat template takes no system message alone ({error}); use template=plain"
                ) from error
        if not ids:
            raise CueError(f"the base's tokenizer finds nothing to read in {text!r}")
        if host.window is not None and len(ids) > host.window:
            raise PromptTooLongError(
                f"the description has {len(ids)} tokens, the base reads at most {host.window}; shorten it"
            )
        return ids

    def _states(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "B D"]:
        host = self._frozen[0]
        length_B = torch.tensor([len(row) for row in rows], device=host.device)
        ids_BT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(host.device)
        mask_BT = (torch.arange(ids_BT.shape[1], device=host.device) < length_B[:, None]).long()
        hidden = host.forward(ids_BT, mask_BT=mask_BT, output_hidden_states=True).hidden_states
        vectors = []
        for layer in self.layers:
            states_BTH = hidden[layer].float()
            if "mean" in self.pool:
                vectors.append((states_BTH * mask_BT[..., None]).sum(1) / length_B[:, None])
            if "last" in self.pool:
                vectors.append(states_BTH[torch.arange(len(rows), device=host.device), length_B - 1])
        return torch.cat(vectors, -1)
