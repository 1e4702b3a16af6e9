"""One adapter, many adapters: folders in and out, exact sums, truncation, inner products, folding."""

from weft.adapters.base import OnMismatch, check_one_base, on_host, on_one_base
from weft.adapters.base_copies import check_copies, has_copies
from weft.adapters.check import check_factors, check_finite, check_fits
from weft.adapters.concat import concat, in_float64
from weft.adapters.describe import describe
from weft.adapters.fingerprint import fingerprint, stored_as
from weft.adapters.fold import Folded, delta, fold
from weft.adapters.gguf_file import save_gguf
from weft.adapters.hub import push
from weft.adapters.inner import cosine, inner, norm, squared_norms
from weft.adapters.peft_folder import load, load_each, save
from weft.adapters.provenance import descriptions_of, inherited
from weft.adapters.site import site_at
from weft.adapters.truncate import Spectrum, spectrum, truncate, truncation_error
from weft.adapters.vllm_folder import VLLM_RANKS, for_vllm
from weft.adapters.weights import tensor_bytes

__all__ = [
    "VLLM_RANKS",
    "Folded",
    "OnMismatch",
    "Spectrum",
    "check_copies",
    "check_factors",
    "check_finite",
    "check_fits",
    "check_one_base",
    "concat",
    "cosine",
    "delta",
    "describe",
    "descriptions_of",
    "fingerprint",
    "fold",
    "for_vllm",
    "has_copies",
    "in_float64",
    "inherited",
    "inner",
    "load",
    "load_each",
    "norm",
    "on_host",
    "on_one_base",
    "push",
    "save",
    "save_gguf",
    "site_at",
    "spectrum",
    "squared_norms",
    "stored_as",
    "tensor_bytes",
    "truncate",
    "truncation_error",
]
