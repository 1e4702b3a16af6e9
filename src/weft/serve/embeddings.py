"""/v1/embeddings: vectors of texts, by the sentence encoder that Weft also describes tasks with."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from fastapi import APIRouter, Request

from weft.errors import ConfigError, UnknownNameError
from weft.serve.schema import EmbeddingRequest
from weft.serve.service import account_of, service_of

router = APIRouter()

NAME = "minilm"
"""What requests call the encoder."""
_LONGEST = 20_000
"""Characters of a text; the encoder reads the first few hundred words."""


@router.post("/v1/embeddings")
async def embed(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
    """Vectors of texts, each of length 1."""
    service, account = service_of(request), account_of(request)
    if body.model != NAME:
        raise UnknownNameError(f"no encoder {body.model!r:.80}; there is {NAME}")
    texts = [body.input] if isinstance(body.input, str) else body.input
    for text in texts:
        if not text.strip() or len(text) > _LONGEST:
            raise ConfigError(f"a text to embed has 1 to {_LONGEST} characters, one has {len(text)}")
    account.begin(1, 0)
    try:
        vectors, read = await asyncio.to_thread(service.shelf.embed, texts)
    finally:
        account.end(1)
    numbers = vectors.tolist()
    if body.encoding_format == "base64":
        numbers = [base64.b64encode(vector.numpy().tobytes()).decode() for vector in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(numbers)]
    used = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": data, "model": body.model, "usage": used}
