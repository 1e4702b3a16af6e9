"""An activated LoRA says what PEFT says: in the prompt, in generation, and where it is never invoked."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tiny_models import make_llama
from weft.adapters import load
from weft.engine import Activated, Loop, Sampling
from weft.errors import AdapterFormatError, ConfigError, UnsupportedAdapterError
from weft.host import Host
from weft.rows import Request

NEW = 10
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def peft_of(tokens):
    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj", "down_proj"],
        task_type="CAUSAL_LM",
        alora_invocation_tokens=list(tokens),
    )
    torch.manual_seed(1)
    model = get_peft_model(make_llama(), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def spoken(host, controller, prompts):
    loop = Loop(host)
    tokens, logits = {}, {}
    for id, ids in prompts.items():
        loop.submit(Request(id, ids), sampling=Sampling(max_new_tokens=NEW), controller=controller)
        for said in loop.step():  # rows join late
            tokens.setdefault(said.id, []).append(said.token_id)
            logits.setdefault(said.id, []).append(said.logits_V)
    while loop.busy:
        for said in loop.step():
            tokens.setdefault(said.id, []).append(said.token_id)
            logits.setdefault(said.id, []).append(said.logits_V)
    return tokens, {id: torch.stack(rows) for id, rows in logits.items()}


def test_in_the_prompt_logits_and_tokens_are_those_of_peft(tmp_path):
    model = peft_of([7, 9])
    model.save_pretrained(tmp_path)
    host = Host(make_llama())
    prompts = {
        "once": (20, 30, 7, 9, 40),
        "last": (7, 9, 20, 7, 9),
        "first": (7, 9, 33, 21),
        "never": (20, 9, 7, 30),
    }
    tokens, logits = spoken(host, Activated(host, load(tmp_path, activated=True)), prompts)
    for id, ids in prompts.items():
        said = model.generate(
            input_ids=torch.tensor([ids]),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        torch.testing.assert_close(logits[id], torch.cat(said.logits), atol=1e-4, rtol=1e-4)
        assert tokens[id] == said.sequences[0, len(ids) :].tolist()
    with torch.no_grad(), model.disable_adapter():
        plain = model(torch.tensor([prompts["once"]])).logits[0, -1]
    assert (plain - logits["once"][0]).abs().max() > 0.1
    with torch.no_grad(), model.disable_adapter():
        plain = model(torch.tensor([prompts["never"]])).logits[0, -1]
    torch.testing.assert_close(plain, logits["never"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2])
def test_written_by_the_model_it_acts_as_peft_does_over_the_whole(tmp_path, length):
    host = Host(make_llama())
    ids = (20, 30, 41)
    # What the base says by itself: some of it is made the invocation.
    loop = Loop(host)
    loop.submit(Request("0", ids), sampling=Sampling(max_new_tokens=NEW))
    said = []
    while loop.busy:
        said += [spoken.token_id for spoken in loop.step()]
    place = next(i for i in range(2, NEW) if not set(said[i : i + length]) & {*ids, *said[:i]})
    invocation = said[place : place + length]
    model = peft_of(invocation)
    model.save_pretrained(tmp_path)
    tokens, logits = spoken(host, Activated(host, load(tmp_path, activated=True)), {"0": ids})
    written = tokens["0"]
    assert written[: place + length] == said[: place + length]
    # PEFT takes the last invocation of a text, so what is compared ends before the next one.
    again = [i for i in range(place + 1, NEW) if written[i : i + length] == invocation]
    end = again[0] if again else NEW
    assert end >= place + length + 2
    whole, heard = [*ids, *written[:end]], logits["0"][:end]
    with torch.no_grad():
        want = model(input_ids=torch.tensor([whole[:-1]])).logits[0, len(ids) - 1 :]
    torch.testing.assert_close(heard[place + length :], want[place + length :], atol=1e-4, rtol=1e-4)
    with torch.no_grad(), model.disable_adapter():
        plain = model(input_ids=torch.tensor([whole[:-1]])).logits[0, len(ids) - 1 :]
    torch.testing.assert_close(heard[: place + length], plain[: place + length], atol=1e-5, rtol=1e-5)
    assert (plain - want)[place + length :].abs().max() > 0.1


def test_it_is_run_by_its_controller_alone(tmp_path):
    peft_of([7, 9]).save_pretrained(tmp_path / "a")
    with pytest.raises(UnsupportedAdapterError, match="alora_invocation_tokens is"):
        load(tmp_path / "a")
    peft_of([7, 99]).save_pretrained(tmp_path / "b")
    host = Host(make_llama())
    with pytest.raises(ConfigError, match="invoked by token 99, the vocabulary has 64"):
        Activated(host, load(tmp_path / "b", activated=True))
    text = (tmp_path / "a" / "adapter_config.json").read_text()
    (tmp_path / "a" / "adapter_config.json").write_text(text.replace("    7,\n    9\n", '    "x"\n'))
    with pytest.raises(AdapterFormatError, match="should be a list of token ids"):
        load(tmp_path / "a", activated=True)
