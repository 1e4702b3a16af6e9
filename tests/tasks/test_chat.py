"""Chat rendering with tiny tokenizers: one character is one token, except the merge "ab"."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from weft.errors import ConfigError, PromptTooLongError
from weft.tasks import Row, fit_rows, render, render_prompt
from weft.tasks.chat import every_answer, plain_ids, stop_ids

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
THINKS = CHATML.replace("<|assistant|>{% endif %}", "<|assistant|>[think]{% endif %}")
NO_HEADER = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
NO_END = (
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
NEVER_ASKS = "{% for m in messages %}### {{ m.role }}: {{ m.content }}{% endfor %}"
PARTS = CHATML.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")
OTHER_END = CHATML.replace("<end>", "<stop>")
TRIMS = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
CUTS = CHATML.replace("{{ m.content }}", "{{ m.content.split('[/think]')[-1] }}")
NO_THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if loop.last and m.role == 'assistant' %}\n<think>\n\n</think>\n\n{{ m.content }}<end>"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ASKS_ALWAYS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>"
END_IN_WORDS = (
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:"
    "{% else %} {{ m.content }} END\n{% endif %}{% endfor %}"
)
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


@pytest.mark.parametrize("template", [None, CHATML, NO_END])
def test_a_mark_that_is_there_is_not_put_twice(template):
    tokenizer = make_tokenizer(template, bos=True)
    told, bare = (render(tokenizer, Row("cab", answer)) for answer in ("bca<end>", "bca"))
    assert tokenizer.decode(told.completion_ids).count("<end>") == 1
    assert told.completion_ids[-1] == bare.completion_ids[-1] == tokenizer.eos_token_id
    rendered = render(tokenizer, Row("", "<bos>cab<end>"))
    assert tokenizer.decode(rendered.ids) == "<bos>cab<end>"
    assert plain_ids(tokenizer, "<bos>cab") == plain_ids(tokenizer, "cab")


@pytest.mark.parametrize("template", [None, NO_HEADER], ids=["plain", "template"])
@pytest.mark.parametrize("prompt", ["xa", "x ", "x\n"])
def test_training_begins_with_the_ids_that_generation_begins_with(template, prompt):
    # "a" + "b" would be one token, and so might a space with the word behind it
    tokenizer = make_tokenizer(template)
    got = render(tokenizer, Row(prompt, "b c"))
    assert got.prompt_ids == render_prompt(tokenizer, prompt)
    assert tokenizer.decode(got.ids) == f"{prompt}b c<end>"
    assert tokenizer.decode(got.completion_ids) == "b c<end>"


def test_an_answer_of_its_own_gets_no_space_that_the_tokenizer_puts_before_texts():
    inner = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -2.0), *((c, -2.0) for c in "abcx\n")], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="c")
    tokenizer.add_tokens(["xa"])
    got = render(tokenizer, Row("x", "ab"))
    assert got.prompt_ids == render_prompt(tokenizer, "x")
    assert [tokenizer.convert_ids_to_tokens(i) for i in got.completion_ids] == ["a", "b", "c"]


def test_without_an_end_token_no_answer_can_end():
    with pytest.raises(ConfigError, match="no eos_token"):
        render(make_tokenizer(eos=False), Row("a", "b"))


def test_template_renders_the_whole_and_the_prompt_is_its_beginning():
    tokenizer = make_tokenizer(CHATML)
    row = Row("cab", "abc", history=(("user", "ba"), ("assistant", "ab")))
    got = render(tokenizer, row, description="sort")
    # a line break that no answer is ever continued to is no part of it
    assert [*got.ids, *tokenizer.encode("\n")] == whole(tokenizer, turns(("system", "sort"), *row.messages))
    assert tokenizer.decode(got.completion_ids) == "abc<end>"
    assert got.prompt_ids == render_prompt(tokenizer, row.question, description="sort")
    assert tokenizer.decode(got.prompt_ids).endswith("<|user|>cab<end>\n<|assistant|>")


def test_an_empty_answer_is_just_the_end():
    got = render(make_tokenizer(CHATML), Row("xyz", ""))
    assert make_tokenizer().decode(got.completion_ids) == "<end>"


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_a_description_goes_into_the_first_question_where_system_is_not_taken(template):
    tokenizer = make_tokenizer(template)
    row = Row("cab", "abc", history=(("system", "be brief"), ("user", "ba"), ("assistant", "ab")))
    got = tokenizer.decode(render(tokenizer, row, description="sort").ids)
    assert got == (
        "<|user|>sort\n\nbe brief\n\nba<end>\n<|assistant|>ab<end>\n<|user|>cab<end>\n<|assistant|>abc<end>"
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


def test_what_a_template_writes_only_when_asked_to_generate_is_in_both_prompts():
    tokenizer = make_tokenizer(THINKS)
    got = render(tokenizer, Row("cab", "abc"))
    assert got.prompt_ids == render_prompt(tokenizer, "cab")
    assert tokenizer.decode(got.prompt_ids).endswith("<|assistant|>[think]")
    assert tokenizer.decode(got.completion_ids) == "abc<end>"


@pytest.mark.parametrize(
    ("template", "prompt", "completion", "end"),
    [
        (NO_END, "### user:\ncab\n\n### assistant:\n", "abc<end>", "<end>"),
        (NEVER_ASKS, "### user: cab### assistant:", " abc<end>", "<end>"),
        (PARTS, "<|user|>cab<end>\n<|assistant|>", "abc<end>", "<end>"),
        (OTHER_END, "<|user|>cab<stop>\n<|assistant|>", "abc<stop>", "<stop>"),
        (TRIMS, "<|user|>cab<end>\n<|assistant|>", "abc<end>", "<end>"),
        (NO_THOUGHT, "<|user|>cab\n<|assistant|>\n", "abc<end>", "<end>"),
        (ASKS_ALWAYS, "<|user|>cab\n<|assistant|>", "abc<end>", "<end>"),
        (END_IN_WORDS, "Q: cab\nA:", " abc<end>", "<end>"),
    ],
    ids=[
        "no end",
        "header never on its own",
        "parts",
        "an end of its own",
        "trims",
        "an empty thought before it",
        "asks after every chat",
        "an end that is no token",
    ],
)
def test_an_answer_ends_with_a_stop_id_whatever_the_template_writes(template, prompt, completion, end):
    tokenizer = make_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<stop>"]})
    got = render(tokenizer, Row("cab", "abc"))
    assert tokenizer.decode(got.prompt_ids) == prompt
    assert tokenizer.decode(got.completion_ids) == completion
    assert got.prompt_ids == render_prompt(tokenizer, "cab")
    assert tokenizer.decode(got.completion_ids[-1]) == end
    assert got.completion_ids[-1] in stop_ids(tokenizer)
    assert tokenizer.eos_token_id in stop_ids(tokenizer)


def test_a_template_that_ends_no_turn_needs_an_end_of_text():
    with pytest.raises(ConfigError, match="no eos_token"):
        render(make_tokenizer(NO_END, eos=False), Row("cab", "abc"))
    tokenizer = make_tokenizer(OTHER_END, eos=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<stop>"]})
    assert stop_ids(tokenizer) == {render(tokenizer, Row("cab", "abc")).completion_ids[-1]}


def test_a_template_that_loses_turns_or_cuts_the_answer_is_refused():
    with pytest.raises(ConfigError, match="leaves the question or the answer out"):
        render(make_tokenizer(FORGETS_ANSWER), Row("cab", "abc"))
    tokenizer = make_tokenizer(CUTS)
    assert tokenizer.decode(render(tokenizer, Row("cab", "abc")).completion_ids) == "abc<end>"
    with pytest.raises(ConfigError, match=r"does not keep the answer 'ab.*it writes 'c'"):
        render(tokenizer, Row("cab", "ab[/think]c"))
    with pytest.raises(ConfigError, match="row 2: the chat template does not keep"):
        fit_rows(tokenizer, [Row("cab", "abc"), Row("cab", "ab[/think]c")], max_length=99)


def test_named_templates_without_a_default_are_refused_and_a_default_is_taken():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"tool_use": CHATML}
    with pytest.raises(ConfigError, match="templates 'tool_use' and none called default"):
        render_prompt(tokenizer, "cab")
    tokenizer.chat_template = {"tool_use": CHATML, "default": NO_HEADER}
    assert tokenizer.decode(render_prompt(tokenizer, "cab")) == "cab"


def test_what_a_tool_or_a_later_system_turn_says_is_never_left_out():
    tokenizer = make_tokenizer(
        CHATML.replace("messages %}", "messages if m.role in ('user', 'assistant') %}")
    )
    history = (("user", "a"), ("assistant", "b"))
    with pytest.raises(
        ConfigError, match="the chat template leaves out what a tool turn says, '4'; leave such"
    ):
        render(tokenizer, Row("", "c", (), (*history, ("tool", "4"))))
    with pytest.raises(ConfigError, match="leaves out what a system turn says, 'be brief'"):
        render_prompt(tokenizer, (*history, ("system", "be brief"), ("user", "c")))
    for written in ("m.content | trim", "m.content | tojson", "{'output': m.content} | tojson"):
        tokenizer = make_tokenizer(
            CHATML.replace("m.content", f"({written} if m.role == 'tool' else m.content)")
        )
        said = ' {"é": "x\\ny"}\n'
        render(tokenizer, Row("", "c", (), (*history, ("tool", said))))


def test_half_a_character_is_refused():
    with pytest.raises(ConfigError, match="a prompt holds a lone surrogate, character 5 of"):
        render_prompt(make_tokenizer(CHATML), "cab \ud83d")


def test_every_answer_of_a_chat_can_be_trained_on():
    history = (
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
        ("tool", "e"),
    )
    last = Row("", "f", (), history)
    assert every_answer([last, Row("x", "y")]) == (
        Row("a", "b", (), history[:1]),
        Row("c", "d", (), history[:3]),
        last,
        Row("x", "y"),
    )


def test_no_turn_at_all_is_refused():
    with pytest.raises(ConfigError, match="no turn to answer"):
        render_prompt(make_tokenizer(CHATML), ())


def test_what_a_template_refuses_is_one_line():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError, match="refuses a question and an answer: roles must alternate"):
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
