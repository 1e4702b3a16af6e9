"""A vector of a description and examples."""

import pytest
import torch

from weft.embed import Parts, build_encoder
from weft.errors import CueError
from weft.types import Description, Document, Examples


@pytest.fixture(scope="module")
def encoder() -> Parts:
    made = build_encoder({"kind": "parts", "encoder": {"kind": "sentence"}})
    assert isinstance(made, Parts)
    return made


def test_order_of_examples_means_nothing_and_what_is_missing_is_zero(encoder: Parts) -> None:
    pairs = (("cab", "bac"), ("dog", "god"), ("sun", "nus"))
    told, both, turned, shown, prompts = encoder.encode(
        [
            Description("reverse it"),
            Examples(pairs, "reverse it"),
            Examples(pairs[::-1], "reverse it"),
            Examples(pairs),
            Examples(tuple((prompt, "") for prompt, _ in pairs)),
        ]
    )
    half = encoder.encoder.dim
    assert encoder.dim == len(told) == 2 * half + 2
    torch.testing.assert_close(both, turned)
    assert torch.equal(told[:half], both[:half])
    assert not told[half : 2 * half].any()
    assert not shown[:half].any()
    assert torch.equal(shown[half : 2 * half], both[half : 2 * half])
    assert [vector[-2:].tolist() for vector in (told, both, shown)] == [[1, 0], [1, 1], [0, 1]]
    assert (prompts - shown).abs().max() > 1e-3
    texts = [Description("cab -> bac"), Description("dog -> god"), Description("sun -> nus")]
    torch.testing.assert_close(shown[half : 2 * half], encoder.encoder.encode(texts).mean(0))


def test_it_is_made_again_from_its_config(encoder: Parts) -> None:
    again = build_encoder(encoder.config())
    assert again.identity == encoder.identity == f"parts:({encoder.encoder.identity})"
    assert again.dim == encoder.dim
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_other_cues_and_empty_ones_are_refused(encoder: Parts) -> None:
    with pytest.raises(CueError, match="reads descriptions and examples, got Document"):
        encoder.encode([Document("a text")])
    with pytest.raises(CueError, match="the cue is empty"):
        encoder.encode([Examples((), " ")])
