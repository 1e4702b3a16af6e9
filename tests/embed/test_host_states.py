import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from weft.embed import HostStates
from weft.errors import ConfigError, CueError, PromptTooLongError
from weft.host import Host
from weft.types import Description, Mixture

TEXTS = ("sort", "reverse the letters", "count all the vowels of it")
TEMPLATE = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
NO_SYSTEM = "{{ raise_exception('first message must be the user') }}"


def tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per character."""
    characters = sorted({*"abcdefghijklmnopqrstuvwxyz <>"})
    core = Tokenizer(models.BPE({c: i + 3 for i, c in enumerate(characters)}, []))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=chat_template)


@pytest.fixture
def host(pico_llama: LlamaForCausalLM) -> Host:
    return Host(pico_llama, tokenizer=tokenizer(), name="pico")


def cues(*texts: str) -> list[Description]:
    return [Description(text) for text in texts]


def test_pools_the_states_of_one_description_after_the_other(host: Host) -> None:
    e_BD = HostStates(host, layers=[0, 1, -1]).encode(cues(*TEXTS))
    assert e_BD.shape == (3, 3 * 2 * 32)
    for text, e_D in zip(TEXTS, e_BD, strict=True):
        ids_BT = torch.tensor([host.tokenizer(text)["input_ids"]])
        assert ids_BT.shape == (1, len(text))
        hidden = host.module(ids_BT, output_hidden_states=True).hidden_states
        wanted = torch.cat(
            [pooled for layer in (0, 1, 2) for pooled in (hidden[layer][0].mean(0), hidden[layer][0, -1])]
        )
        torch.testing.assert_close(e_D, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("pool", "width"), [("mean", 64), ("last", 64), ("mean+last", 128)])
def test_neither_padding_nor_batches_change_a_vector(host: Host, pool: str, width: int) -> None:
    encoder = HostStates(host, pool=pool, batch_size=2)
    assert encoder.dim == width
    together = encoder.encode(cues(*TEXTS))
    alone = torch.cat([encoder.encode(cues(text)) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert encoder.encode([]).shape == (0, width)


def test_reads_the_bare_base(host: Host, pico_bank: object) -> None:
    encoder = HostStates(host)
    plain = encoder.encode(cues("sort"))
    with host.running(Mixture.of(pico_bank(1, 2))):
        assert torch.equal(encoder.encode(cues("sort")), plain)


def test_system_message_goes_through_the_chat_template(pico_llama: LlamaForCausalLM) -> None:
    host = Host(pico_llama, tokenizer=tokenizer(TEMPLATE))
    system = HostStates(host, template="system")
    plain = HostStates(host)
    assert torch.equal(system.encode(cues("sort")), plain.encode(cues("<sort>")))
    assert system.identity != plain.identity


def test_it_is_no_part_of_the_state(host: Host) -> None:
    encoder = HostStates(host)
    encoder.train()
    assert not host.module.training
    assert not encoder.state_dict()
    assert not encoder.encode(cues("sort")).requires_grad


def test_wrong_use_is_refused(pico_llama: LlamaForCausalLM, host: Host) -> None:
    with pytest.raises(ConfigError, match=r"layers are -3 to 2 in this base, got \[7\]"):
        HostStates(host, layers=[7])
    with pytest.raises(ConfigError, match="tokenizer"):
        HostStates(Host(pico_llama))
    with pytest.raises(ConfigError, match="no chat template"):
        HostStates(host, template="system")
    with pytest.raises(ConfigError, match="no system message alone"):
        HostStates(Host(pico_llama, tokenizer=tokenizer(NO_SYSTEM)), template="system").encode(cues("sort"))
    with pytest.raises(CueError, match="empty"):
        HostStates(host).encode(cues(" "))
    with pytest.raises(CueError, match="nothing to read in '!!!'"):
        HostStates(host).encode(cues("!!!"))
    with pytest.raises(PromptTooLongError, match="200 tokens, the base reads at most 128"):
        HostStates(host).encode(cues("a" * 200))
