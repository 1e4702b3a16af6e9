import pytest
import torch

from weft.engine import Engine, nll
from weft.evaluate import Answer, answer_questions, ask
from weft.evaluate.answer import read
from weft.route import TreeGate, full
from weft.tasks import Row, collate
from weft.types import Mixture, Term


@pytest.fixture(scope="module")
def engine(planted) -> Engine:
    return Engine(planted.host)


def questions(planted, description=None):
    """Every test row of every task, and its task."""
    asked = [
        (n, ask(planted.host.tokenizer, row, description))
        for n, task in enumerate(planted.tasks)
        for row in task.test
    ]
    return [n for n, _ in asked], [question for _, question in asked]


def slow_nll(planted, question, mixture):
    """One row, token by token, without padding."""
    ids, total = list(question.encoded.prompt_ids), 0.0
    for token in question.encoded.completion_ids:
        logits = planted.host.forward(torch.tensor([ids]), mixture).logits[0, -1]
        total -= logits.log_softmax(-1)[token].item()
        ids.append(token)
    return total


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_shortcut_gives_what_decoding_gives(planted, engine, shift, described):
    tasks, asked = questions(planted, "say first" if described else None)
    mixture = Mixture.rows(planted.bank, [(n + shift) % 4 for n in tasks])
    fast = answer_questions(engine, asked, mixture, max_new_tokens=8, batch_size=7)
    slow = answer_questions(engine, asked, mixture, max_new_tokens=8, batch_size=7, shortcut=False)
    assert [found.text for found in fast] == [found.text for found in slow]
    texts = engine.generate([q.prompt_ids for q in asked], mixture=mixture, max_new_tokens=8)
    assert [found.text for found in slow] == texts


def test_the_shortcut_decodes_only_what_is_open(planted, engine, monkeypatch):
    tasks, asked = questions(planted)
    decoded = []
    generate = Engine.generate

    def spy(self, prompts, **options):
        decoded.extend(prompts)
        return generate(self, prompts, **options)

    monkeypatch.setattr(Engine, "generate", spy)
    adapters = [n if i % 2 else -1 for i, n in enumerate(tasks)]
    found = answer_questions(
        engine, asked, Mixture.rows(planted.bank, torch.tensor(adapters)), max_new_tokens=8, batch_size=7
    )
    right = [row.completion for task in planted.tasks for row in task.test]
    assert [f.text for f in found][1::2] == right[1::2]
    assert sorted(decoded) == sorted(q.prompt_ids for q in asked[::2])


def test_losses_are_those_of_single_rows(planted, engine):
    tasks, asked = questions(planted)
    found = answer_questions(
        engine, asked, Mixture.rows(planted.bank, tasks[::-1]), max_new_tokens=8, batch_size=3
    )
    for n, question, got in zip(tasks[::-1], asked, found, strict=True):
        want = slow_nll(planted, question, Mixture.rows(planted.bank, [n]))
        assert got.nll == pytest.approx(want, abs=1e-4)
        assert got.tokens == len(question.encoded.completion_ids)


def test_reading_agrees_with_the_engine(planted, engine):
    tasks, asked = questions(planted)
    batch = collate([q.encoded for q in asked], pad_id=0, side="left")
    mixture = Mixture.rows(planted.bank, tasks)
    reading = read(planted.host, batch, mixture)
    want = nll(planted.host, batch.ids_BT, batch.labels_BT, mixture, mask_BT=batch.mask_BT)
    torch.testing.assert_close(reading.nll_B, want)
    torch.testing.assert_close(engine.nll([q.encoded for q in asked], mixture=mixture), want)


def test_the_reference_does_not_choose_its_own_adapter(planted, engine):
    """A gate per sequence sees the prompt when an answer is read, as it does when one is decoded."""
    _, asked = questions(planted)
    gate = TreeGate(full(2), planted.host.module.config.hidden_size, scope="sequence", descent="soft", seed=3)
    mixture = Mixture((Term(planted.bank, gate.eval().requires_grad_(False)),))
    found = answer_questions(engine, asked, mixture, max_new_tokens=8, batch_size=7)
    for question, got in zip(asked, found, strict=True):
        prompt, completion = question.encoded
        states = planted.host.prepare(torch.tensor([prompt]), mixture)
        ids = torch.tensor([prompt + completion])
        logits = planted.host.forward(ids, mixture, states=states).logits[0, len(prompt) - 1 : -1]
        want = -logits.log_softmax(-1)[range(len(completion)), completion].sum().item()
        assert got.nll == pytest.approx(want, abs=1e-4)


def test_agreement_counts_leading_tokens(planted, engine):
    """Against greedy decoding of one row at a time, over the base, which is wrong somewhere."""
    _, asked = questions(planted)
    batch = collate([q.encoded for q in asked], pad_id=0, side="left")
    agreed = read(planted.host, batch, None).agreed_B.tolist()
    for question, got in zip(asked, agreed, strict=True):
        ids, want = list(question.encoded.prompt_ids), 0
        for token in question.encoded.completion_ids:
            if planted.host.forward(torch.tensor([ids])).logits[0, -1].argmax().item() != token:
                break
            ids.append(token)
            want += 1
        assert got == want


def test_an_answer_longer_than_allowed_is_cut_as_decoding_cuts_it(planted, engine):
    tasks, asked = questions(planted)
    mixture = Mixture.rows(planted.bank, tasks)
    for tokens in (1, 2, 3, 4):
        fast = answer_questions(engine, asked, mixture, max_new_tokens=tokens, batch_size=32)
        slow = answer_questions(engine, asked, mixture, max_new_tokens=tokens, batch_size=32, shortcut=False)
        assert fast == slow


def test_a_prompt_that_is_written_otherwise_is_decoded(planted, engine):
    """Where generation would start from other tokens, the reading proves nothing."""
    row = planted.tasks[0].test[0]
    question = ask(planted.host.tokenizer, row, None)
    other = question._replace(prompt_ids=ask(planted.host.tokenizer, Row("zz", "ab"), None).prompt_ids)
    mixture = Mixture.rows(planted.bank, [2])
    got = answer_questions(engine, [other], mixture, max_new_tokens=8, batch_size=1)[0]
    assert got.text == engine.generate(other.prompt_ids, mixture=mixture, max_new_tokens=8)


def test_progress_counts_every_row_once(planted, engine):
    tasks, asked = questions(planted)
    heard = []
    adapters = torch.tensor([n if i % 2 else -1 for i, n in enumerate(tasks)])
    mixture = Mixture.rows(planted.bank, adapters)
    answer_questions(engine, asked, mixture, max_new_tokens=8, batch_size=6, progress=heard.append)
    assert sum(heard) == len(asked)
    assert answer_questions(engine, [], None, max_new_tokens=8, batch_size=6) == []
    assert isinstance(answer_questions(engine, asked[:1], None, max_new_tokens=2, batch_size=1)[0], Answer)
