"""Fields that clients of OpenAI and vLLM send: served, of no effect, or refused."""

import openai
import pytest
from serving import asked

from weft.serve.schema import ChatRequest

CHAT = {"model": "sort", "messages": asked("decaf"), "temperature": 0, "max_tokens": 12}


def content(client, **fields):
    return client.chat.completions.create(**{**CHAT, **fields}).choices[0].message.content


def test_null_is_a_field_that_is_left_out(http):
    whole = http.post("/v1/chat/completions", json=CHAT).json()
    nulls = dict.fromkeys(
        [*ChatRequest.model_fields, "tools", "functions", "response_format", "user", "best_of"]
    )
    turn = {**asked("decaf")[0], "name": None, "tool_calls": None}
    said = http.post("/v1/chat/completions", json={**nulls, **CHAT, "messages": [turn]})
    assert said.status_code == 200, said.text
    assert said.json()["choices"] == whole["choices"]
    text = {
        "model": "sort",
        "prompt": "decaf",
        **dict.fromkeys(("max_tokens", "echo", "logprobs", "suffix", "best_of")),
    }
    assert http.post("/v1/completions", json=text).json()["usage"]["completion_tokens"] <= 16


def test_fields_of_no_effect_change_nothing(client):
    extra = {"min_tokens": 0, "skip_special_tokens": True, "priority": 1, "chat_template_kwargs": {}}
    said = content(
        client,
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        parallel_tool_calls=True,
        tool_choice="none",
        tools=[],
        response_format={"type": "text"},
        modalities=["text"],
        reasoning_effort="low",
        extra_body=extra,
    )
    assert said == content(client)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"guided_regex": "a*"},
        {"min_tokens": 3},
        {"bad_words": ["a"]},
        {"allowed_token_ids": [5]},
        {"skip_special_tokens": False},
        {"add_generation_prompt": False},
        {"chat_template": "{{ messages }}"},
        {"prompt_logprobs": 1},
        {"echo": True},
        {"add_special_tokens": True},
        {"stop_token_ids": [10**6]},
        {"top_logprobs": 2},
    ],
    ids=str,
)
def test_what_would_change_the_answer_is_refused(client, fields):
    with pytest.raises(openai.BadRequestError, match=next(iter(fields))):
        content(client, extra_body=fields)


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls"),
        ({"role": "tool", "content": "3", "tool_call_id": "c"}, "no role 'tool'"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "only text"),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "a part of the content of user has no text",
        ),
        ({"role": "user"}, "a turn of user has no content; write what it says"),
        ({"role": "user", "content": None}, "a turn of user has no content"),
        ({"role": "user", "content": []}, "a turn of user has no content"),
        ({"role": "system", "content": None}, "a turn of system has no content"),
    ],
    ids=["call", "tool", "image", "null-text", "missing", "null", "no-parts", "system"],
)
def test_turns_that_are_not_served_are_refused(client, turn, told):
    with pytest.raises(openai.BadRequestError, match=told):
        content(client, extra_body={"messages": [*asked("a"), turn]})


def test_an_assistant_may_have_said_nothing(client):
    nothing = {"role": "assistant", "content": None, "tool_calls": []}
    said = [
        content(client, messages=[*asked("a"), turn, *asked("decaf")])
        for turn in (nothing, nothing | {"content": ""})
    ]
    assert said[0] == said[1]


def test_a_text_ends_where_its_request_says(client, http):
    common = {"model": "sort", "prompt": "decaf", "max_tokens": 12, "temperature": 0}
    free = client.completions.create(**common, logprobs=0, extra_body={"ignore_eos": True}).choices[0]
    assert (free.finish_reason, len(free.logprobs.tokens)) == ("length", 12)
    tokens = http.post("/tokenize", json={"prompt": free.text, "add_special_tokens": False}).json()["tokens"]
    later = next(token for token in tokens if token != tokens[0])
    ended = client.completions.create(**common, extra_body={"stop_token_ids": [later]}).choices[0]
    assert ended.finish_reason == "stop"
    assert free.text.startswith(ended.text)
    assert len(ended.text) == tokens.index(later) > 0


def test_a_chat_is_tokenized_as_the_model_reads_it(http):
    chat = http.post("/tokenize", json={"messages": asked("decaf")}).json()
    whole = http.post("/v1/chat/completions", json=CHAT).json()
    assert chat["count"] == whole["usage"]["prompt_tokens"]
    assert http.post("/tokenize", json={}).status_code == 400
    for field in ("add_special_tokens", "continue_final_message", "return_token_strs"):
        refused = http.post("/tokenize", json={"messages": asked("decaf"), field: True})
        assert refused.status_code == 400
        assert field in refused.json()["error"]["message"]
    assert all(one["max_model_len"] == chat["max_model_len"] for one in http.get("/v1/models").json()["data"])


def test_every_event_tells_the_usage_where_that_is_asked(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, last = client.chat.completions.create(**CHAT, stream=True, stream_options=options)
    counts = [event.usage.completion_tokens for event in events]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == last.usage.completion_tokens


def test_next_to_no_heat_is_none_and_a_body_without_its_type_is_told_so(client, http):
    cold = {"extra_body": {"temperature": 1e-7}, "seed": 3}
    assert content(client, **cold) == content(client)
    refused = http.post("/v1/completions", content=b'{"model": "sort", "prompt": "a"}')
    assert refused.status_code == 415
    assert "application/json" in refused.json()["error"]["message"]
