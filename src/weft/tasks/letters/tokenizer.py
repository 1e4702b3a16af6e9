"""The tokenizer of the letters world: one token per word of a description, one per character of the data.

A word after a space is looked up whole; anything else falls back to single bytes, so every text can be
written. Data stands at the start of a line, so its letters are always separate.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_SPACE = "Ġ"  # how the byte-level alphabet writes a space
_PAD, _END = "<pad>", "<end>"
_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ ' ' + m['content'] + '\n' }}"
    "{% elif m['role'] == 'user' %}{{ m['content'] + ' >' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endif %}{% endfor %}"
)


def build_tokenizer(texts: Iterable[str], *, template: str = _TEMPLATE) -> PreTrainedTokenizerFast:
    """Make the tokenizer whose whole words are those of `texts` (descriptions)."""
    words = sorted({word for text in texts for word in _words(" " + text)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [
        _PAD,
        _END,
        *alphabet,
        _SPACE + ">",
        *(w for w in words if len(w) > 1 and w != _SPACE + ">"),
    ]
    tokenizer = Tokenizer(
        models.WordPiece(
            {token: i for i, token in enumerate(vocabulary)},
            unk_token=_PAD,
            continuing_subword_prefix="",
            max_input_chars_per_word=10_000,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def _words(text: str) -> list[str]:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return [word for word, _ in split if word.startswith(_SPACE)]
