"""Chat rendering with tiny tokenizers: one character is one token, except the merge "ab"."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from weft.errors import ConfigError, PromptTooLongError
from weft.tasks import Row, fit_rows, render, render_prompt

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
THINKS = CHATML.replace("<|assistant|>{% endif %}", "<|assistant|>[think]{% endif %}")
FORGETS_ANSWER = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'assistant' %}")


def make_tokenizer(
    template: str | None = None, *, bos: bool = False, eos: bool = True
) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<end>", "<bos>", *alphabet, "ab"])}
    inner = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A <end>", special_tokens=[("<bos>", 2), ("<end>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<end>" if eos else None,
        bos_token="<bos>",
        chat_template=template,
    )


def whole(tokenizer, messages) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=False)


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def test_plain_is_description_prompt_completion_end():
    tokenizer = make_tokenizer()
    got = render(tokenizer, Row("cab > ", "bca"), description="sort")
    assert tokenizer.decode(got.prompt_ids) == "sort\ncab > "
    assert tokenizer.decode(got.completion_ids) == "bca<end>"
    assert got.completion_ids[-1] == tokenizer.eos_token_id
    assert render_prompt(tokenizer, "cab > ", description="sort") == got.prompt_ids
    assert tokenizer.decode(render(tokenizer, Row("c", "d")).ids) == "cd<end>"


def test_a_tokenizer_that_frames_texts_gives_only_its_beginning():
    tokenizer = make_tokenizer(bos=True)
    got = render(tokenizer, Row("cab > ", "bca"))
    assert tokenizer.decode(got.ids) == "<bos>cab > bca<end>"
    assert render_prompt(tokenizer, "cab > ") == got.prompt_ids
    assert tokenizer.decode(render_prompt(tokenizer, "cab > ")) == "<bos>cab > "


def test_a_merge_over_the_border_belongs_to_the_completion():
    tokenizer = make_tokenizer()
    got = render(tokenizer, Row("xa", "b"))
    assert got.ids == [*tokenizer.encode("xab"), tokenizer.eos_token_id]
    assert tokenizer.decode(got.prompt_ids) == "x"
    assert tokenizer.decode(got.completion_ids) == "ab<end>"


def test_without_an_end_token_no_answer_can_end():
    with pytest.raises(ConfigError, match="no eos_token"):
        render(make_tokenizer(eos=False), Row("a", "b"))


def test_template_renders_the_whole_and_the_prompt_is_its_beginning():
    tokenizer = make_tokenizer(CHATML)
    row = Row("cab", "abc", history=(("user", "ba"), ("assistant", "ab")))
    got = render(tokenizer, row, description="sort")
    assert got.ids == whole(tokenizer, turns(("system", "sort"), *row.messages))
    assert tokenizer.decode(got.completion_ids) == "abc<end>\n"
    assert got.prompt_ids == render_prompt(tokenizer, row.question, description="sort")
    assert tokenizer.decode(got.prompt_ids).endswith("<|user|>cab<end>\n<|assistant|>")


def test_an_empty_answer_is_just_the_end():
    got = render(make_tokenizer(CHATML), Row("xyz", ""))
    assert make_tokenizer().decode(got.completion_ids) == "<end>\n"


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_a_description_goes_into_the_first_question_where_system_is_not_taken(template):
    tokenizer = make_tokenizer(template)
    row = Row("cab", "abc", history=(("system", "be brief"), ("user", "ba"), ("assistant", "ab")))
    got = tokenizer.decode(render(tokenizer, row, description="sort").ids)
    assert got == (
        "<|user|>sort\n\nbe brief\n\nba<end>\n<|assistant|>ab<end>\n<|user|>cab<end>\n<|assistant|>abc<end>\n"
    )
    assert render(tokenizer, Row("cab", "abc")).ids == whole(
        tokenizer, turns(("user", "cab"), ("assistant", "abc"))
    )


def test_a_description_joins_the_system_message_of_a_chat():
    tokenizer = make_tokenizer(CHATML)
    got = render_prompt(tokenizer, (("system", "be brief"), ("user", "cab")), description="sort")
    assert tokenizer.decode(got) == "<|system|>sort\n\nbe brief<end>\n<|user|>cab<end>\n<|assistant|>"


def test_the_template_is_asked_again_when_it_changes():
    tokenizer = make_tokenizer(CHATML)
    assert "<|system|>" in tokenizer.decode(render_prompt(tokenizer, "a", description="sort"))
    tokenizer.chat_template = REFUSES_SYSTEM
    assert "<|system|>" not in tokenizer.decode(render_prompt(tokenizer, "a", description="sort"))


def test_a_prompt_that_is_no_beginning_of_the_whole_is_masked_up_to_the_difference():
    tokenizer = make_tokenizer(THINKS)
    got = render(tokenizer, Row("cab", "abc"))
    assert got.ids == whole(tokenizer, turns(("user", "cab"), ("assistant", "abc")))
    assert tokenizer.decode(got.completion_ids) == "abc<end>\n"
    assert tokenizer.decode(render_prompt(tokenizer, "cab")).endswith("<|assistant|>[think]")


def test_a_template_that_loses_the_answer_is_refused():
    with pytest.raises(ConfigError, match="no token for the answer 'abc'"):
        render(make_tokenizer(FORGETS_ANSWER), Row("cab", "abc"))


def test_no_turn_at_all_is_refused():
    with pytest.raises(ConfigError, match="no turn to answer"):
        render_prompt(make_tokenizer(CHATML), ())


def test_what_a_template_refuses_is_one_line():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError, match="refuses these turns: roles must alternate"):
        render(make_tokenizer(template), Row("cab", "abc"))


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_plain_text_is_all_completion(template):
    tokenizer = make_tokenizer(template)
    got = render(tokenizer, Row("", "once upon"))
    assert got.prompt_ids == []
    assert tokenizer.decode(got.completion_ids) == "once upon<end>"


def test_too_long_is_an_error_or_is_counted():
    tokenizer = make_tokenizer()
    rows = (Row("c", "d"), Row("c" * 10, "d"), Row("c", "d" * 4))
    with pytest.raises(PromptTooLongError, match="12 tokens, at most 6 fit: 'cccccccccc'"):
        render(tokenizer, rows[1], max_length=6)
    with pytest.raises(PromptTooLongError, match="10 tokens, at most 9"):
        render_prompt(tokenizer, "c" * 10, max_length=9)
    assert len(render(tokenizer, rows[2], max_length=6).ids) == 6
    assert fit_rows(tokenizer, rows, max_length=6) == ((rows[0], rows[2]), 1)
    assert fit_rows(tokenizer, rows, max_length=8, descriptions=["s", "sort"]) == ((rows[0],), 2)
