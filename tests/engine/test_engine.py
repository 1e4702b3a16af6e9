import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from checked import unchecked
from decoding import decode
from weft.engine import Engine, Sampling, take_rows
from weft.errors import ConfigError, PromptTooLongError, ShapeError
from weft.host import Host
from weft.rows import AbstractController, Share
from weft.tasks import Encoded
from weft.types import Bank, Dense, Mixture, Term, Tokens, TopK

PROMPTS = ["cab >", "a much longer prompt, to be padded around >", "é", "one two", "漢字 🙂 >"]
BROKEN = "\N{REPLACEMENT CHARACTER}"
CHAIN = "aé漢🙂 bcEND!"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def byte_llama(hidden=32, layers=2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    config.initializer_range = 0.2
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Host(byte_llama(), tokenizer=byte_tokenizer()))


@pytest.fixture(scope="module")
def bank(engine) -> Bank:
    rng = torch.Generator().manual_seed(0)
    sites = engine.host.sites
    return Bank(
        names=("a", "b", "c"),
        a={s: torch.randn(3, 2, s.in_features, generator=rng) * s.in_features**-0.5 for s in sites},
        b={s: torch.randn(3, s.out_features, 2, generator=rng) * 0.2 for s in sites},
    )


@pytest.fixture(scope="module")
def chain() -> Engine:
    """A model that goes on with CHAIN from the byte that comes last, then ends."""
    tokenizer = byte_tokenizer()
    module = byte_llama(hidden=260, layers=1)
    ids = [*tokenizer.encode(CHAIN), 1]
    assert len(set(ids)) == len(ids)
    with torch.no_grad():
        for weight in module.model.layers.parameters():
            weight.zero_()
        module.model.embed_tokens.weight.copy_(torch.eye(258, 260))
        module.lm_head.weight.zero_()
        module.lm_head.weight[ids[1:], ids[:-1]] = 1
    return Engine(Host(module, tokenizer=tokenizer))


def test_one_prompt_is_a_string_and_a_list_is_a_list(engine):
    one = engine.generate(PROMPTS[0], max_new_tokens=8)
    assert isinstance(one, str)
    assert engine.generate([PROMPTS[0]], max_new_tokens=8) == [one]
    assert engine.generate([], max_new_tokens=8) == []


def test_text_is_the_decoded_new_tokens(engine):
    ids = torch.tensor([engine.tokenizer.encode(PROMPTS[0])])
    steps = decode(engine.host, ids, sampling=Sampling(max_new_tokens=20), stop_ids=engine.stop_ids)
    want = engine.tokenizer.decode([s.tokens[0] for s in steps], skip_special_tokens=True)
    assert engine.generate(PROMPTS[0], max_new_tokens=20) == want.rstrip(BROKEN)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "stop": "e"}])
def test_batches_do_not_matter_and_order_is_kept(engine, bank, options):
    chosen = [2, None, 0, 1, 2]
    mixture = Mixture.rows(bank, chosen)
    want = [
        engine.generate(
            prompt,
            mixture=Mixture.rows(bank, [k]),
            max_new_tokens=10,
            **(options | {"seed": options.get("seed", 0) + i}),
        )
        for i, (prompt, k) in enumerate(zip(PROMPTS, chosen, strict=True))
    ]
    for batch_size in (2, 5):
        got = engine.generate(PROMPTS, mixture=mixture, batch_size=batch_size, max_new_tokens=10, **options)
        assert got == want
    assert want != engine.generate(PROMPTS, max_new_tokens=10, **options)


def per_token():
    rng = torch.Generator().manual_seed(1)
    rows, columns = len(PROMPTS), 12
    return {
        "tokens": Tokens(torch.randint(-1, 3, (rows, columns), generator=rng)),
        "one-row": Tokens(torch.randint(-1, 3, (1, columns), generator=rng)),
        "topk": TopK(
            torch.rand(rows, columns, 3, generator=rng).topk(2).indices,
            torch.rand(rows, columns, 2, generator=rng),
        ),
        "dense": Dense(torch.rand(rows, columns, 3, generator=rng)),
    }


@pytest.mark.parametrize("name", ["tokens", "one-row", "topk", "dense"])
def test_a_per_token_assignment_speaks_of_the_prompts_own_tokens(engine, bank, name):
    mixture = Mixture((Term(bank, per_token()[name]),))
    prompts = [engine.tokenizer.encode(p) for p in PROMPTS]
    encoded = [Encoded(ids, [5, 6]) for ids in prompts]
    texts, losses = [], []
    for i, ids in enumerate(prompts):
        alone = take_rows(mixture, torch.tensor([i]))
        ids_BT = torch.tensor([ids])
        ten = Sampling(max_new_tokens=10)
        steps = decode(engine.host, ids_BT, mixture=alone, sampling=ten, stop_ids=engine.stop_ids)
        new = [step.tokens[0] for step in steps]
        texts.append(engine.tokenizer.decode(new, skip_special_tokens=True).rstrip(BROKEN))
        losses.append(engine.nll([encoded[i]], mixture=alone).item())
    for batch_size in (2, 5):
        assert engine.generate(PROMPTS, mixture=mixture, batch_size=batch_size, max_new_tokens=10) == texts
        got = engine.nll(encoded, mixture=mixture, batch_size=batch_size)
        torch.testing.assert_close(got, torch.tensor(losses), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("stop", [(), ("E", "t7"), ("a", "b", "c")])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_what_generate_returns(engine, bank, stop, seed):
    options = {"temperature": 1.5, "top_k": 100, "seed": seed, "stop": stop, "max_new_tokens": 40}
    mixture = Mixture.rows(bank, [1])
    pieces = list(engine.stream(PROMPTS[1], mixture=mixture, **options))
    assert "".join(pieces) == engine.generate(PROMPTS[1], mixture=mixture, **options)
    assert all(pieces)


def test_characters_come_whole(chain):
    assert list(chain.stream("a")) == list(CHAIN[1:])
    assert chain.generate("a") == CHAIN[1:]


@pytest.mark.parametrize("count", range(1, 10))
def test_a_character_cut_by_the_limit_is_left_out(chain, count):
    whole = CHAIN[1:].encode()[:count].decode(errors="ignore")
    assert chain.generate("a", max_new_tokens=count) == whole
    assert "".join(chain.stream("a", max_new_tokens=count)) == whole


def test_a_stop_string_ends_the_text_and_never_shows(chain):
    assert chain.generate("a", stop="END") == "é漢🙂 bc"
    assert list(chain.stream("a", stop="END")) == [*"é漢🙂 bc"]
    assert list(chain.stream("a", stop=["cENDx", "漢🙂?"])) == ["é", "漢🙂 ", "b", "cEND!"]
    assert chain.generate("a", stop=["漢🙂", "é"]) == ""
    assert list(chain.stream("a", stop="é")) == []


def test_a_stop_string_of_one_row_leaves_the_others_alone(chain):
    assert chain.generate(["a", "E", "b"], stop="D") == ["é漢🙂 bcEN", "N", "cEN"]
    assert chain.generate(["!", "N"], stop="x") == ["", "D!"]


def test_a_stop_string_ends_the_work(chain):
    forwards = []
    handle = chain.host.module.register_forward_hook(lambda *_: forwards.append(1))
    chain.generate("a", stop="漢")
    handle.remove()
    assert len(forwards) == len("é漢".encode())


def test_a_chat_goes_through_the_template():
    host = Host(byte_llama(), tokenizer=byte_tokenizer())
    host.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    engine = Engine(host)
    chat = [{"role": "user", "content": "hello"}]
    want = engine.generate("[user]hello[assistant]", raw=True, max_new_tokens=12)
    assert engine.generate("hello", max_new_tokens=12) == want
    assert "".join(engine.stream("hello", max_new_tokens=12)) == want
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert engine.generate(parts, max_new_tokens=12) == want
    assert engine.generate(chat, max_new_tokens=12) == want
    assert engine.generate([chat, chat], max_new_tokens=12) == [want, want]
    assert "".join(engine.stream(chat, max_new_tokens=12)) == want


def test_token_ids_are_taken_as_they_are(engine):
    ids = engine.tokenizer.encode(PROMPTS[0])
    want = engine.generate(PROMPTS[0], max_new_tokens=12)
    assert engine.generate(ids, max_new_tokens=12) == want
    assert engine.generate([ids, ids], max_new_tokens=12) == [want, want]


def test_every_end_token_of_the_model_ends_the_text(chain):
    module = chain.host.module
    module.generation_config.eos_token_id = [1, *chain.tokenizer.encode("b")]
    try:
        assert Engine(chain.host).generate("a") == "é漢🙂 "
    finally:
        module.generation_config.eos_token_id = 1


class ByLength(AbstractController):
    """One adapter for prompts of up to ten tokens, another for longer ones."""

    def __init__(self, bank):
        self.bank = bank

    def start(self, request):
        return Share.of(self.bank[0 if len(request.prompt_ids) <= 10 else 1]), None

    def observe(self, states, events):
        return [(None, None)] * len(events)


def test_a_controller_starts_with_every_batch(engine, bank):
    lengths = [len(engine.tokenizer.encode(p)) for p in PROMPTS]
    mixture = Mixture.rows(bank, [0 if n <= 10 else 1 for n in lengths])
    want = engine.generate(PROMPTS, mixture=mixture, max_new_tokens=10)
    for batch_size in (2, 5):
        controller = ByLength(bank)
        assert (
            engine.generate(PROMPTS, controller=controller, batch_size=batch_size, max_new_tokens=10) == want
        )
    streamed = "".join(engine.stream(PROMPTS[1], controller=ByLength(bank), max_new_tokens=10))
    assert streamed == want[1]


def test_nll_follows_order_and_rows(engine, bank):
    rows = [
        Encoded(engine.tokenizer.encode(p), engine.tokenizer.encode(c))
        for p, c in zip(PROMPTS, ["x", "yes", "no way", "é", "12345"], strict=True)
    ]
    chosen = [None, 1, 2, 0, 1]
    want = torch.cat(
        [engine.nll([row], mixture=Mixture.rows(bank, [k])) for row, k in zip(rows, chosen, strict=True)]
    )
    for batch_size in (2, 5):
        got = engine.nll(rows, mixture=Mixture.rows(bank, chosen), batch_size=batch_size)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
    assert (engine.nll(rows) - want).abs().amax() > 0.1
    assert engine.nll([]).shape == (0,)


def test_refusals_are_one_line(engine, bank):
    three = Mixture.rows(bank, [0, 1, 2])
    cases = [
        (ShapeError, "an empty prompt", lambda: engine.generate(["a", ""])),
        (ShapeError, "token id -1 is outside", lambda: engine.generate("a", logit_bias=((-1, 9.0),))),
        (
            ShapeError,
            "3 rows, this batch has 2",
            lambda: engine.generate(["a", "b"], mixture=three),
        ),
        (PromptTooLongError, "window of 128", lambda: engine.generate("a" * 128)),
        (PromptTooLongError, "window of 128", lambda: engine.stream("a" * 128)),
        (ConfigError, "temperature should be", lambda: engine.generate("a", temperature=-1.0)),
        (ConfigError, "no tokenizer", lambda: Engine(Host(byte_llama()))),
    ]
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_turn_that_ends_with_another_token_than_the_end_of_text_stops_there():
    host = Host(byte_llama(), tokenizer=byte_tokenizer())
    host.tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    host.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<turn>{% endfor %}"
    turn = host.tokenizer.convert_tokens_to_ids("<turn>")
    assert Engine(host).stop_ids == {turn, host.tokenizer.eos_token_id}


@pytest.mark.parametrize("end", [[[1]], "</s>", [1, "</s>"], True])
def test_an_end_of_text_that_is_no_token_id_is_refused(end):
    model = byte_llama()
    model.generation_config.eos_token_id = end
    with pytest.raises(ConfigError, match="eos_token_id should be a whole number or a list of them, got"):
        Engine(Host(model, tokenizer=byte_tokenizer()))


def test_what_an_answer_took_is_told(engine):
    said = engine.complete([PROMPTS[0], PROMPTS[1]], max_new_tokens=5)
    assert [answer.text for answer in said] == engine.generate([PROMPTS[0], PROMPTS[1]], max_new_tokens=5)
    for prompt, answer in zip(PROMPTS, said, strict=False):
        assert answer.prompt_tokens == len(engine.prompt_ids(prompt))
        assert 1 <= answer.completion_tokens <= 5
        assert answer.finish_reason == ("length" if answer.completion_tokens == 5 else "stop")


@pytest.mark.parametrize(
    "turn",
    [{"content": "x"}, {"role": "user"}, {"role": "king", "content": "x"}, {"role": "user", "content": 3}],
)
def test_a_turn_without_role_or_text_is_refused(engine, turn):
    with pytest.raises(ConfigError):
        engine.generate([turn])


@pytest.mark.parametrize(
    "option",
    [{"seed": 2**64}, {"seed": -1}, {"temperature": 1e-46}, {"stop": [""]}, {"top_k": 2**64}],
)
def test_options_that_cannot_be_used_are_refused(engine, option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))} should be"):
        engine.generate(PROMPTS[0], **option)


def test_half_a_character_in_a_prompt_is_refused(engine):
    for raw in (False, True):
        with pytest.raises(ConfigError, match="lone surrogate"):
            engine.generate("cab \ud83d", raw=raw)


@pytest.mark.parametrize(
    "prompt",
    [torch.tensor([5, 6]), torch.tensor([[5, 6]]), {"input_ids": [5, 6]}, b"cab", None, [5.0], ["cab"]],
)
def test_what_is_no_prompt_is_refused(engine, prompt):
    told = "a prompt is text, a chat, or a list of token ids"
    with pytest.raises(ConfigError, match=told):
        unchecked(engine.prompt_ids, prompt)
    if isinstance(prompt, dict | bytes):
        with pytest.raises(ConfigError, match=told):
            unchecked(engine.generate, prompt)


@pytest.mark.parametrize("prompt", ["cab", [5, 6], [{"role": "user", "content": "cab"}]])
def test_one_prompt_is_no_list_of_its_parts(engine, prompt):
    for call in (engine.complete, engine.trace):
        with pytest.raises(ConfigError, match="one prompt where a list"):
            unchecked(call, prompt)


def test_a_bias_of_a_token_is_told_by_its_id(engine):
    (first,) = engine.trace([PROMPTS[0]], max_new_tokens=1)
    token = first[0].token_id
    for bias in ([(token, -100.0)], ((token, -100.0),)):
        (other,) = engine.trace([PROMPTS[0]], max_new_tokens=1, logit_bias=bias)
        assert other[0].token_id != token
    with pytest.raises(ShapeError, match="outside the vocabulary"):
        engine.generate(PROMPTS[0], logit_bias=[(10**6, 1.0)])
