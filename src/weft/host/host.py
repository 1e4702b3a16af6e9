"""A frozen network that runs under a Mixture."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from weft.errors import BaseMismatchError, MissingFileError, ShapeError, UnknownNameError
from weft.files import nearest, resolve
from weft.host.kernels import concat
from weft.host.sites import ALL_LINEAR, sites_of
from weft.types import AbstractHost, Dense, Mixture, Rows, Site, Tokens, TopK


class Host(AbstractHost):
    """First version: everything through the concat kernel."""

    def __init__(self, module: nn.Module, *, tokenizer: Any = None, target_modules: str | Sequence[str] = ALL_LINEAR, name: str = "") -> None:
        self.module = module.requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.sites = sites_of(module, target_modules)
        self._span: ContextVar[Any] = ContextVar("span", default=None)
        self._fingerprint = ""
        for site in self.sites:
            module.get_submodule(site.path).register_forward_hook(self._hook(site))

    @property
    def fingerprint(self) -> str:
        if not self._fingerprint:
            from weft.adapters import fingerprint

            self._fingerprint = fingerprint(self.module)
        return self._fingerprint

    @property
    def device(self):
        return next(self.module.parameters()).device

    @property
    def dtype(self):
        return next(self.module.parameters()).dtype

    @property
    def window(self):
        return self.module.config.get_text_config().max_position_embeddings

    @classmethod
    def from_pretrained(cls, name_or_path, *, dtype="auto", device="cpu", target_modules=ALL_LINEAR, revision=None, trust_remote_code=False):
        path = resolve(name_or_path) or name_or_path
        module = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, use_safetensors=True).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        return cls(module, tokenizer=tokenizer, target_modules=target_modules, name=str(name_or_path))

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def forward(self, ids_BT, mixture=None, *, mask_BT=None, cache=None, **model_kwargs):
        past = int(cache.get_seq_length()) if cache is not None else 0
        if mask_BT is not None:
            position = (mask_BT.long().cumsum(-1) - 1).clamp(min=0)[:, past : past + ids_BT.shape[1]]
            model_kwargs |= {"attention_mask": mask_BT, "position_ids": position}
        model_kwargs.setdefault("use_cache", cache is not None)
        states = {}
        if mixture is not None:
            for term in mixture.terms:
                states[term.gate] = term.gate.prepare(self.module.get_input_embeddings()(ids_BT), torch.ones_like(ids_BT).bool() if mask_BT is None else mask_BT.bool()[:, : ids_BT.shape[1]])
        with self.running(mixture, offset=past, states=states):
            return self.module(input_ids=ids_BT, past_key_values=cache, **model_kwargs)

    @contextmanager
    def running(self, mixture, *, offset=0, states=None) -> Iterator[None]:
        for term in mixture.terms if mixture else ():
            for site in term.bank.sites:
                if site.path not in {s.path for s in self.sites}:
                    raise UnknownNameError(f"the bank changes {site.path}, which is no site of this host{nearest(site.path, [s.path for s in self.sites])}")
        token = self._span.set((mixture, offset, states or {}))
        try:
            yield
        finally:
            self._span.reset(token)

    def context_fn(self):
        span = self._span.get()

        @contextmanager
        def again():
            token = self._span.set(span)
            try:
                yield
            finally:
                self._span.reset(token)

        return again(), again()

    def gradient_checkpointing_enable(self):
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": self.context_fn})
        self.module.train()

    def _hook(self, site):
        def hook(module, args, output):
            span = self._span.get()
            if span is None or span[0] is None:
                return None
            mixture, offset, states = span
            x = args[0]
            x_BTI = x if x.dim() == 3 else x.reshape(x.shape[0], -1, x.shape[-1])
            for term in mixture.terms:
                if site not in term.bank.a:
                    continue
                a, b = term.bank.a[site], term.bank.b[site]
                x_ = x_BTI.to(a.dtype)
                w = dense(term.gate.assign(x_, site, states.get(term.gate)), len(term.bank), x_, offset)
                if term.combine == "average":
                    w = w.expand(x_.shape[0], x_.shape[1], -1)
                    A = torch.einsum("btk,kri->btri", w, a)
                    B = torch.einsum("btk,kor->btor", w, b)
                    y = torch.einsum("btor,btri,bti->bto", B, A, x_)
                else:
                    y = concat(x_, a, b, w)
                output = (output + y.reshape(output.shape)).to(output.dtype)
            return output
        return hook


def dense(assignment, K, x, offset):
    B, T = x.shape[:2]
    columns = torch.arange(offset, offset + T, device=x.device)
    if isinstance(assignment, Dense):
        w = assignment.weight
        w = w[:, None] if w.dim() == 2 else w[:, columns.clamp(max=w.shape[1] - 1)]
        return w.expand(B, -1, -1).to(x.dtype)
    if isinstance(assignment, Rows):
        index = assignment.index_B[:, None]
    elif isinstance(assignment, Tokens):
        index = assignment.index_BT[:, columns.clamp(max=assignment.index_BT.shape[1] - 1)]
    else:
        c = columns.clamp(max=assignment.index_BTk.shape[1] - 1)
        w = F.one_hot(assignment.index_BTk[:, c] + 1, K + 1)[..., 1:].to(x.dtype)
        return (w * assignment.weight_BTk[:, c, :, None].to(x.dtype)).sum(2).expand(B, -1, -1)
    return F.one_hot(index + 1, K + 1)[..., 1:].to(x.dtype).expand(B, -1, -1)
