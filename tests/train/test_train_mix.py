"""Training a mix: it reads what the loop would write, sources stay frozen, a run gives a folder."""

import random
from pathlib import Path

import pytest
import torch

import weft
from weft.config import load_config
from weft.engine.mixer import Mixer
from weft.errors import ConfigError
from weft.experiments.dynamic.mix import WAYS, MixComparison, answers, measure_mix, sign_test
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork
from weft.rows import Event, Request
from weft.tasks.facts.recalls import draw_fact_recall
from weft.tasks.functions.world import World as Functions
from weft.tasks.letters.world import World
from weft.tasks.source import WordsSource, load_splits
from weft.train.mix import MixRecipe, MixSources, describe, draw, encode_recall, read_recalls, train_mix
from weft.train.streams import head_input
from weft.types import Adapter, Bank, Dense, Factors, Mixture, Term

RECIPE = Path(__file__).parents[2] / "recipes/letters/mix.yaml"


@pytest.fixture(scope="module")
def host():
    return Host.from_pretrained("weft/letters", target_modules=["all-linear", "lm_head"], dtype="float32")


@pytest.fixture
def recipe(host, tmp_path):
    torch.manual_seed(0)
    sites = [site for site in host.sites if site.module == "down_proj"]
    config = {"reader": {"kind": "accumulator", "rank": 4, "latent": 16}, "chunk": 16}
    network = ContextNetwork(host, ContextConfig.model_validate(config), sites=sites)
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path / "context")
    values = [
        f"run.output_dir={tmp_path}/run",
        "run.max_steps=2",
        f"context={tmp_path}/context",
        "operations=[reverse, upper]",
        "questions_per_batch=3",
        "speaker_rank=2",
    ]
    return load_config(MixRecipe, RECIPE, values)


def mixture_of(share):
    return Mixture(tuple(term for adapter, _ in share.adapters for term in Mixture.of(adapter).terms))


def read_states(host, ids, share):
    """Logits, and the state that the head read at the end."""
    with head_input(host.module) as heard:
        logits = host(torch.tensor([ids]), mixture_of(share)).logits[0]
    return logits, heard[0][0, -1]


def loss_under(host, lesson, before, after):
    """Mean nats of a question without a cache: columns before the event under one share, the others after."""
    ids = [*lesson.prompt, *lesson.word, *lesson.answer[:-1]]
    cut = len(lesson.prompt) + len(lesson.word) - 1
    adapters = [adapter for share in (before, after) for adapter, _ in share.adapters]
    weight_1TK = torch.zeros(1, len(ids), len(adapters))
    weight_1TK[0, :cut, : len(before.adapters)] = 1
    weight_1TK[0, cut:, len(before.adapters) :] = 1
    bank = Bank.stack(adapters, names=[str(k) for k in range(len(adapters))])
    logits = host(torch.tensor([ids]), Mixture((Term(bank, Dense(weight_1TK)),))).logits[0]
    targets = torch.tensor([*lesson.word, *lesson.answer])
    return float(torch.nn.functional.cross_entropy(logits[len(lesson.prompt) - 1 :], targets))


def test_a_run_gives_a_mixer_that_says_in_the_loop_what_training_read(host, recipe):
    mixer = Mixer.from_pretrained(train_mix(recipe, host=host), host=host)
    assert mixer.sources == ("context", "stack", "library")
    assert all(b.abs().max() > 0 for b in mixer.speaker.b)
    assert mixer.mix.weigh.weight.abs().max() > 0
    questions = draw(recipe, "test", 2)
    made = MixSources.load(recipe, host)
    lessons = [encode_recall(host, one) for one in questions]
    with torch.no_grad():
        told = read_recalls(host, lessons, made.banks(questions), mixer.speaker.bank(), mixer.mix)
    assert 0 <= told.right <= 1
    assert answers(host, mixer, recipe, questions) == [False, False]  # two steps teach nothing
    # The loop says what training read: every token of a question that was answered rightly by force.
    lesson, banks = lessons[0], made.banks(questions[:1])
    shares = []
    controller = mixer.controller(lambda _: [bank[0] for bank in banks])
    share, state = controller.start(Request("0", tuple(lesson.prompt)))
    with torch.no_grad():
        _, heard = read_states(host, [*lesson.prompt, *lesson.word[:-1]], share)
        shares.append(share)
        event = Event("0", recipe.token, 0, heard, [*lesson.prompt, *lesson.word], 0)
        ((_, change),) = controller.observe([state], [event])
        shares.append(change.share)
        alone = read_recalls(host, [lesson], banks, mixer.speaker.bank(), mixer.mix)
        by_hand = loss_under(host, lesson, *shares)
    assert float(alone.loss) == pytest.approx(by_hand, rel=1e-4)


def test_what_is_fixed_stays_a_plain_sum_and_what_does_not_act_gives_nothing(host, recipe):
    fixed = recipe.model_copy(update={"fixed": 0.5, "sources": ("context", "library")})
    mixer = Mixer.from_pretrained(train_mix(fixed, host=host), host=host)
    weight_BJS = mixer.mix(torch.randn(2, 32), torch.rand(2, 3, len(mixer.mix.sites)) + 1)
    torch.testing.assert_close(weight_BJS, torch.full_like(weight_BJS, 0.5))
    known, stack, library = MixSources.load(fixed, host).banks(draw(fixed, "test", 2))
    assert stack is None
    assert len(known) == len(library) == 2
    assert known.b[known.sites[0]].abs().max() > 0


def test_every_way_is_measured(recipe):
    lines = measure_mix(MixComparison(recipe=recipe, questions=4))
    right = {line.who: line.mean for line in lines if line.what == "questions right"}
    assert right == dict.fromkeys(WAYS, 0.0)  # two steps teach nothing
    p = {line.who: line.mean for line in lines if line.what.startswith("p of a sign test")}
    assert p == dict.fromkeys([way for way in WAYS if way != "mix"], 1.0)


def test_questions_need_their_document_and_say_which_operation_by_a_sign_alone(recipe):
    questions = draw(recipe, "some", 60)
    assert questions == draw(recipe, "some", 60) != draw(recipe, "other", 60)
    for one in questions:
        plus, minus = (World().solve(task, one.word) for task in one.operations)
        assert one.answer == (plus if one.sign == "+" else minus) != (minus if one.sign == "+" else plus)
        assert f"{one.prompt[1:]}{one.word}\n" in one.document
        assert one.word not in one.prompt
    assert {one.sign for one in questions} == {"+", "-"}


@pytest.fixture
def facts(host, recipe, tmp_path):
    """The same over facts and functions of their values, with a library of its own; its sign is the event."""
    sites = [site for site in host.sites if site.module == "up_proj"]
    for seed, name in enumerate(names := ("quote_2", "assign_1")):
        torch.manual_seed(seed)
        factors = {
            s: Factors(torch.randn(2, s.in_features), 0.1 * torch.randn(s.out_features, 2), 1.0)
            for s in sites
        }
        Adapter(factors, base=host.fingerprint, name=name).save_pretrained(tmp_path / "library" / name)
    tokens = tuple(host.tokenizer.encode(f" Task {sign}", add_special_tokens=False)[-1] for sign in "+-")
    changes = {"world": "facts", "operations": names, "library": f"{tmp_path}/library", "token": tokens}
    return MixRecipe.model_validate({**recipe.model_dump(), **changes})


def test_a_mix_is_trained_over_facts_and_functions_too(host, facts):
    mixer = Mixer.from_pretrained(train_mix(facts, host=host), host=host)
    assert mixer.tokens == facts.token
    assert len(set(facts.token)) == 2
    for one in draw(facts, "test", 4):
        lesson = encode_recall(host, one)
        assert lesson.word[-1] == facts.token["+-".index(one.sign)]
        assert not set(facts.token) & {*lesson.word[:-1], *lesson.answer}  # one event, and no other
    known, stack, library = MixSources.load(facts, host).banks(draw(facts, "test", 3))
    assert len(known) == len(stack) == len(library) == 3
    assert library.sites[0].module == "up_proj"
    assert answers(host, mixer, facts, draw(facts, "test", 2)) == [False, False]  # two steps teach nothing


def test_a_token_that_is_not_the_event_is_refused(host, facts):
    with pytest.raises(ConfigError, match="should stand right before an answer"):
        train_mix(facts.model_copy(update={"token": facts.token[:1]}), host=host)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["quote_2"], "two different"),
        (["quote_2", "json_keys"], "json_keys reads json"),
        (["quote_2", "nothing"], "nothing"),
    ],
)
def test_functions_that_a_fact_cannot_be_given_to_are_refused(names, told):
    with pytest.raises(ConfigError, match=told):
        draw_fact_recall(random.Random(0), names, split="train")


def test_answers_that_count_as_right_are_those_that_the_loop_writes(host, recipe):
    operations = ("reverse", "sort", "double", "upper", "swap_ends", "mirror")
    recipe = recipe.model_copy(update={"context": "weft/letters-words", "operations": operations})
    questions = draw(recipe, "both", 24)
    banks = MixSources.load(recipe, host).banks(questions)
    mixer = Mixer.from_pretrained("weft/letters-mix", host=host)
    texts = weft.Engine(host).generate(
        [one.prompt for one in questions],
        controller=mixer.controller(lambda request: [bank[int(request.id)] for bank in banks]),
        raw=True,
        max_new_tokens=20,
    )
    right = [text == one.text for text, one in zip(texts, questions, strict=True)]
    assert answers(host, mixer, recipe, questions) == right
    assert 12 < sum(right) < 24  # both are there


def test_facts_need_their_sheet_and_say_which_function_by_a_sign_alone(facts):
    questions = draw(facts, "some", 40)
    assert questions == draw(facts, "some", 40) != draw(facts, "other", 40)
    for one in questions:
        plus, minus = (Functions().answer(name, one.word) for name in one.operations)
        assert one.answer.endswith(f"\n{plus if one.sign == '+' else minus}")
        assert plus != minus
        assert one.document.endswith(f" {one.word}.")
        assert one.said == f" {one.word}. Task {one.sign}"
        assert one.word not in one.prompt
        assert one.prompt.startswith(f"Task {one.sign} : ")
    assert {one.sign for one in questions} == {"+", "-"}
    names = [one.prompt.split("?")[1].split()[0] for one in questions]
    taught = [one.prompt.split("?")[1].split()[0] for one in draw(facts, "some", 200, training=True)]
    assert not set(names) & set(taught)
    assert describe(facts, "quote_2") == Functions().find("quote_2").descriptions[0]


def test_documents_of_words_are_tasks():
    splits = load_splits(WordsSource(kind="words", words=(1, 3), documents=4, validation_documents=2))
    assert [len(splits[name]) for name in ("train", "validation")] == [8, 4]
    assert {task.category for task in splits["train"]} == {"words-1", "words-3"}
    for task in splits["train"]:
        assert task.descriptions[0] == "".join(f"{row.prompt} >{row.completion}\n" for row in task.test)


def test_the_sign_test_is_exact():
    assert sign_test([True] * 10, [False] * 10) == pytest.approx(2 / 2**10)
    assert sign_test([True, False], [False, True]) == 1
    assert sign_test([True], [True]) == 1
