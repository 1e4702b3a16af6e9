"""Training a shift: part by part is one whole forward, gradients arrive, a run gives a folder."""

import string
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import weft
from weft.config import load_config
from weft.errors import ConfigError, UnknownNameError
from weft.host import Host
from weft.hyper import Shift, ShiftConfig, Shifter, Speaker
from weft.tasks.chat import plain_ids
from weft.tasks.letters.streams import LetterStreams
from weft.train.shift import ShiftRecipe, split_head, train_shift
from weft.train.streams import encode_stream, read_streams
from weft.types import Bank, Mixture, Term, Tokens

RECIPE = Path(__file__).parents[2] / "recipes/letters/shift.yaml"
NAMES = ("reverse", "double")
TASKS = (*NAMES, "first_two")
PLACES = {"reverse": 0, "double": 1}


@pytest.fixture(scope="module")
def host():
    return Host.from_pretrained("weft/letters", target_modules=["all-linear", "lm_head"])


@pytest.fixture(scope="module")
def library():
    return Bank.stack([weft.load(f"weft/letters-adapters/{name}") for name in NAMES]).to(torch.float32)


@pytest.fixture
def speaker(host):
    torch.manual_seed(0)
    sites, head = split_head(host)
    return Speaker(sites, head, [300], rank=2, scaling=1.0)


@pytest.fixture(scope="module")
def batch(host):
    world = LetterStreams(TASKS, cut=0.5, lines=4)
    streams = [*world.train(0, 2, [2]), *world.train(1, 2, [3])]
    return [encode_stream(host.tokenizer, stream, [300], PLACES) for stream in streams]


@pytest.mark.parametrize("gap", [0, 7])
def test_part_by_part_equals_one_forward_under_the_schedule(host, library, speaker, batch, gap):
    batch = [pieces._replace(gap=gap * (row % 2)) for row, pieces in enumerate(batch)]
    for parameter in speaker.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    told = read_streams(host, batch, speaker.bank(), None, library, [300])
    loss, count = 0.0, 0
    for pieces in batch:
        ids = [i for piece in pieces.pieces for i in piece]
        index = [-1] * len(pieces.pieces[0])
        for piece, wanted in zip(pieces.pieces[1:], pieces.wanted, strict=True):
            index += [wanted if wanted < 2 else -1] * len(piece)
        term = Term(library, Tokens(torch.tensor([index])))
        mixture = Mixture.of(speaker.bank()) + Mixture((term,))
        places = torch.tensor([[k + pieces.gap * (k >= pieces.prompt) for k in range(len(ids))]])
        with torch.no_grad():
            said = host(
                torch.tensor([ids]), mixture, mask_BT=torch.ones(1, len(ids)).long(), position_ids=places
            )
        logits = said.logits[0]
        targets = torch.tensor(ids[pieces.prompt :])
        loss += float(F.cross_entropy(logits[pieces.prompt - 1 : -1], targets, reduction="sum"))
        count += len(targets)
    assert told.tokens == count
    assert float(told.loss.detach()) == pytest.approx(loss, rel=1e-4)


def test_gradients_reach_the_speaker_the_signal_and_the_generator(host, library, speaker, batch):
    sites, head = split_head(host)
    network = Shift(ShiftConfig(), sites, width=head.in_features, count=2)
    for linear in network.generator.head.linear.values():
        torch.nn.init.normal_(linear.weight, std=0.1)
    told = read_streams(host, batch, speaker.bank(), network, library, [300])
    told.loss.backward()
    assert told.shifts == sum(sum(pieces.shifts) for pieces in batch)
    for parameter in (
        speaker.row_CH,
        speaker.b[0],
        network.signal[0].weight,
        network.key_KD,
        network.decay.weight,
        network.generator.trunk.mixer[1].weight,
    ):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    assert all(not p.requires_grad for p in host.module.parameters())


def test_a_run_gives_a_folder_that_generates(host, tmp_path):
    recipe = load_config(
        ShiftRecipe,
        RECIPE,
        [
            f"run.output_dir={tmp_path}/run",
            "run.max_steps=1",
            "streams_per_batch=2",
            "adapters=[reverse, double]",
            "data.tasks=[reverse, double, first_two]",
        ],
    )
    folder = train_shift(recipe, host=host)
    shifter = Shifter.from_pretrained(folder, host=host)
    assert shifter.control == 300
    library = [weft.load(f"weft/letters-adapters/{name}") for name in NAMES]
    text = weft.Engine(host).generate(
        "3Acab\n4Bdob\n >", controller=shifter.controller(library), raw=True, max_new_tokens=8
    )
    assert isinstance(text, str)
    with pytest.raises(UnknownNameError, match=r"no adapter 'rverse' .did you mean reverse"):
        train_shift(recipe.model_copy(update={"adapters": ("rverse",)}), host=host)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["data.tasks=[reverse, double, rverse]"], "rverse"),
        (["data.tasks=[reverse, double]"], "3 to 26 tasks, got 2"),
        (["data.lengths=[2, 9]"], "1 to 6 lines, got 9"),
        (["network.mode=generate", "told_until=0.5"], "a network that generates has none"),
        (["adapters=[reverse, reverse]"], "names 'reverse' twice"),
        (["adapters=[reverse, double]", "told_until=0.5"], "which lacks first_two"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_base_is_read(changed, told, tmp_path):
    tasks = [] if any("data.tasks" in one for one in changed) else ["data.tasks=[reverse, double, first_two]"]
    always = [f"run.output_dir={tmp_path}/run", "run.max_steps=4", f"base={tmp_path}/nowhere"]
    with pytest.raises(ConfigError, match=told):
        train_shift(load_config(ShiftRecipe, RECIPE, [*always, *tasks, *changed]))
    assert not (tmp_path / "run").exists()


def test_a_base_without_its_head_as_a_site_is_refused():
    with pytest.raises(ConfigError, match="writes into the output head"):
        split_head(Host.from_pretrained("weft/letters"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["control=85"], "control token 85 is 't', which texts of the streams hold"),
        (["data.gap=4096", "streams_per_batch=20"], "the base was made for 256; give less data.gap"),
    ],
)
def test_streams_that_the_base_cannot_tell_apart_or_hold_are_refused(changed, told, host, tmp_path):
    always = [f"run.output_dir={tmp_path}/run", "run.max_steps=1", "data.tasks=[reverse, double, first_two]"]
    recipe = load_config(ShiftRecipe, RECIPE, [*always, "adapters=[reverse, double]", *changed])
    with pytest.raises(ConfigError, match=told):
        train_shift(recipe, host=host)


def test_a_prompt_begins_as_generation_begins_it_and_its_parts_have_no_space_of_the_tokenizer():
    stream = LetterStreams(TASKS).train(0, 1, [2])[0]
    letters = [(letter, -2.0) for letter in "▁" + string.printable]
    inner = Tokenizer(models.Unigram([("<unk>", 0.0), ("<bos>", 0.0), *letters], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<bos>")
    tokenizer.eos_token = "/"
    got = encode_stream(tokenizer, stream, [300], PLACES)
    assert list(got.pieces[0][: got.prompt]) == plain_ids(tokenizer, stream.prompt)
    assert got.pieces[0][0] == tokenizer.bos_token_id
    written = [tokenizer.convert_ids_to_tokens(i) for piece in got.pieces for i in piece if i != 300]
    text = "".join(written[got.prompt : -1]).replace("▁", " ")
    assert text == "".join(part.lead + part.text for part in stream.parts)
