"""An encoder read at its first token."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from weft.embed import build_encoder
from weft.embed.first_token import FirstToken
from weft.errors import CueError, MissingFileError
from weft.types import Description, Examples

WORDS = ["[PAD]", "[CLS]", "[UNK]", ".", "sort", "the", "letters", "now", "!"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT over nine words."""
    place = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(place)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(place)
    return str(place)


def test_it_is_the_first_state_of_the_ended_text(folder: str) -> None:
    encoder = FirstToken(folder)
    model = BertModel.from_pretrained(folder).eval()
    ids = torch.tensor([[1, 4, 5, 6, 3]])  # [CLS] sort the letters .
    with torch.no_grad():
        first_D = model(ids).last_hidden_state[0, 0]
    e_BD = encoder.encode([Description("  sort the letters "), Description("sort the letters .")])
    torch.testing.assert_close(e_BD[0], first_D / first_D.norm() * 4)
    torch.testing.assert_close(e_BD[1], e_BD[0])


def test_a_text_does_not_depend_on_its_batch(folder: str) -> None:
    encoder = FirstToken(folder)
    texts = [Description(text) for text in ("sort !", "sort the letters now", "the")]
    both = encoder.encode(texts)
    for text, e_D in zip(texts, both, strict=True):
        torch.testing.assert_close(encoder.encode([text])[0], e_D)
    assert (both[0] - both[1]).abs().max() > 0.01


def test_built_from_its_own_config_it_is_the_same(folder: str) -> None:
    encoder = FirstToken(folder)
    assert build_encoder(encoder.config()).identity == encoder.identity
    assert encoder.encode([]).shape == (0, 16)


def test_refusals(folder: str, tmp_path: Path) -> None:
    with pytest.raises(CueError):
        FirstToken(folder).encode([Examples((("a", "b"),))])
    with pytest.raises(MissingFileError, match="code that comes with a model is never run"):
        FirstToken(str(tmp_path))
