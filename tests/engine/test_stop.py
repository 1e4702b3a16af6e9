from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from weft.engine.stop import Text, cut, finish, grow, showable, stop_at

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def grown(ids, decode):
    text = Text()
    for token in ids:
        text = grow(text, token, decode)
        yield text


@given(st.text(max_size=30))
def test_settled_text_only_grows_and_holds_whole_characters(tokenizer, text):
    ids = tokenizer.encode(text).ids
    last = Text()
    for now in grown(ids, tokenizer.decode):
        assert now.settled.startswith(last.settled)
        assert text.startswith(now.settled)
        last = now
    # a real U+FFFD at the end cannot be told from an unfinished character
    assert finish(last, tokenizer.decode) == text.rstrip("\N{REPLACEMENT CHARACTER}")


def test_unfinished_character_is_never_shown(tokenizer):
    ids = tokenizer.encode("aé漢🙂").ids
    for count in range(len(ids)):
        *_, last = grown(ids[: count + 1], tokenizer.decode)
        assert finish(last, tokenizer.decode) in ("a", "aé", "aé漢", "aé漢🙂")


def test_invalid_bytes_come_out_as_the_decoder_writes_them(tokenizer):
    ids = tokenizer.encode("é").ids[:1] + tokenizer.encode("ab").ids
    *_, last = grown(ids, tokenizer.decode)
    assert last.settled == tokenizer.decode(ids) == "\N{REPLACEMENT CHARACTER}ab"


def test_space_dropped_at_the_start_of_a_decode_is_kept_inside():
    # like SentencePiece: a decode loses its leading space
    words = [" sea", " sun", "rise"]

    def decode(ids):
        return "".join(words[i] for i in ids).removeprefix(" ")

    *_, last = grown([0, 1, 2, 1], decode)
    assert last.settled == decode([0, 1, 2, 1]) == "sea sunrise sun"


def first_end(text: str, stop: list[str]) -> str:
    """The slow twin: one character at a time."""
    for end in range(1, len(text) + 1):
        for s in sorted(stop, key=len, reverse=True):
            if text[:end].endswith(s):
                return text[: end - len(s)]
    return text


TEXTS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


@given(TEXTS, STOPS)
@example("aab", ["aab", "a"])
@example("abab", ["abab", "ba"])
def test_cut_is_at_the_stop_string_complete_first(text, stop):
    assert cut(text, stop) == first_end(text, stop)


@given(TEXTS, STOPS, st.lists(st.integers(0, 12), max_size=5))
def test_pieces_do_not_matter_and_nothing_shown_is_taken_back(text, stop, cuts):
    want, shown = cut(text, stop), ""
    for end in [*sorted(cuts), len(text)]:
        part = text[:end]
        if stop_at(part, stop) is not None:
            assert cut(part, stop) == want
            assert want.startswith(shown)
            return
        ready = showable(part, stop)
        assert ready.startswith(shown)
        assert want.startswith(ready)
        shown = ready


@given(TEXTS, STOPS)
def test_what_is_held_back_is_the_least(text, stop):
    """Twin: a suffix is held back exactly when some text after it would make it part of a stop string."""
    if stop_at(text, stop) is None:
        held = [text[i:] for i in range(len(text)) if any(s.startswith(text[i:]) for s in stop)]
        assert showable(text, stop) == text.removesuffix(max(held, key=len, default=""))


def test_stop_string_across_tokens(tokenizer):
    ids = tokenizer.encode("yes\nEND no").ids
    shows = [partial(showable, stop=("\nEND",))(t.settled) for t in grown(ids, tokenizer.decode)]
    assert shows[:6] == ["y", "ye", "yes", "yes", "yes", "yes"]
