from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from weft.embed import SentenceEncoder
from weft.errors import CueError, MissingFileError
from weft.types import Description, Examples

TEXTS = ("reverse the letters", "sort the letters from a to z", "write the letters backwards " * 5)


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder()


def cues(*texts: str) -> list[Description]:
    return [Description(text) for text in texts]


def test_vectors_are_the_librarys_own(minilm: SentenceEncoder) -> None:
    e_BD = minilm.encode(cues(*TEXTS))
    assert (e_BD.shape, e_BD.dtype, minilm.dim) == ((3, 384), torch.float32, 384)
    torch.testing.assert_close(e_BD.norm(dim=-1), torch.ones(3))
    likeness = e_BD @ e_BD.T
    assert likeness[0, 2] > likeness[0, 1]


def test_padding_and_order_change_nothing(minilm: SentenceEncoder) -> None:
    together = minilm.encode(cues(*TEXTS))
    alone = torch.cat([minilm.encode(cues(text)) for text in TEXTS])
    backwards = minilm.encode(cues(*TEXTS[::-1])).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together, backwards, atol=1e-6, rtol=0)
    assert minilm.encode([]).shape == (0, 384)


def test_text_past_the_window_is_cut_off(minilm: SentenceEncoder) -> None:
    long = "sort " * 300
    assert torch.equal(*minilm.encode(cues(long, long + "and then reverse")))


def test_it_is_frozen_and_no_part_of_the_state(minilm: SentenceEncoder) -> None:
    minilm.train()
    first, second = minilm.encode(cues(TEXTS[0])), minilm.encode(cues(TEXTS[0]))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not minilm.state_dict()
    weight = torch.ones(384, requires_grad=True)
    (first @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, first[0])


def test_identity_follows_the_weights(minilm: SentenceEncoder, tmp_path: Path) -> None:
    again = SentenceEncoder()
    assert again.identity == minilm.identity
    assert minilm.config() == {"kind": "sentence", "name": "minilm"}
    again._frozen[0].save_pretrained(str(tmp_path / "copy"))
    copy = SentenceEncoder(str(tmp_path / "copy"))
    assert copy.identity == minilm.identity
    assert torch.equal(copy.encode(cues(TEXTS[0])), minilm.encode(cues(TEXTS[0])))
    model: SentenceTransformer = copy._frozen[0]
    next(model.parameters())[0, 0] += 1
    assert copy.identity != minilm.identity


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_blank_descriptions_are_refused(minilm: SentenceEncoder, text: str) -> None:
    with pytest.raises(CueError, match="empty"):
        minilm.encode(cues("sort", text))


@pytest.mark.parametrize("name", ["nobody/nothing", "empty"])
def test_unknown_models_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=f"no sentence encoder '{name}'") as caught:
        SentenceEncoder(name)
    assert "\n" not in str(caught.value)


def test_other_cues_are_refused(minilm: SentenceEncoder) -> None:
    with pytest.raises(CueError, match="got Examples"):
        minilm.encode([Examples((("a", "b"),))])
