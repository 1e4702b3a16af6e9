"""`weft train context` and `weft train stack` on bases of no account: they run, learn, and refuse."""

import json
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from weft.engine import Loop, Sampling
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork, WindowController
from weft.rows import Request
from weft.tasks import Encoded, Row, Task, render_raw, save_task
from weft.tasks.letters.recalls import document_task
from weft.tasks.source import FactsSource, build_source_tokenizer, load_splits
from weft.train.answer_logits import answer_logits
from weft.train.context import ContextRecipe, WindowedConfig, _loss, adapters_of, train_context
from weft.train.kept_states import KeptStates
from weft.train.lessons import encode_texts, lesson_in_window, lesson_of_task, lesson_of_text
from weft.train.packing import pack
from weft.types import Mixture

DATA = {"kind": "facts", "pairs": [1, 2], "documents": 6, "validation_documents": 2, "tokens": 16}
NETWORK = {"reader": {"kind": "accumulator", "rank": 16, "latent": 16}, "chunk": 8}


def make_host():
    tokenizer = build_source_tokenizer(FactsSource.model_validate(DATA), ())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=96,
        initializer_range=0.2,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Host(LlamaForCausalLM(config).eval(), tokenizer=tokenizer, target_modules=["down_proj"])


def recipe(folder, steps, **more):
    values = {
        "run": {"output_dir": str(folder), "max_steps": steps, "logging_steps": 1, "save_steps": 4},
        "base": "made here",
        "data": DATA,
        "network": NETWORK,
        "documents_per_batch": 6,
        "rows_per_document": 2,
        "optimizer": {"learning_rate": 0.02, "lr_scheduler_type": "constant_with_warmup"},
        "distillation": 0.0,
        "completion": 1.0,
    }
    return ContextRecipe.model_validate({**values, **more})


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_it_learns_saves_the_best_and_goes_on_where_it_stopped(tmp_path):
    host = make_host()
    folder = train_context(recipe(tmp_path / "run", 12), host=host)
    curve = losses(tmp_path / "run")
    assert curve[12] < curve[1] - 0.5
    network = ContextNetwork.from_pretrained(folder, host=host)
    assert network.provenance["metrics"]["right"] >= network.provenance["metrics"]["margin"]
    whole, part = tmp_path / "run", tmp_path / "part"
    # stopped after a checkpoint: what follows is the same curve
    train_context(recipe(part, 12), host=host)
    for checkpoint in part.glob("checkpoint-*"):
        assert checkpoint.name == "checkpoint-12"
    assert losses(part) == losses(whole)


def test_distillation_is_zero_at_its_own_entropy_when_the_teacher_knows_no_more(tmp_path):
    """With an empty document in the weights and none in the prompt, student and teacher say the same."""
    host = make_host()
    network = ContextNetwork(host, recipe(tmp_path, 1).network)
    task = load_splits(FactsSource.model_validate(DATA))["train"][0]
    lesson = lesson_of_task(network, task.descriptions[0], task.train)
    assert [row.completion_ids for row in lesson.asked] == [row.completion_ids for row in lesson.told]
    document = host.tokenizer.encode(task.descriptions[0])
    for asked, told in zip(lesson.asked, lesson.told, strict=True):
        assert told.prompt_ids[: len(document)] == document
        assert told.prompt_ids[-len(asked.prompt_ids) :] == asked.prompt_ids
    assert [i for chunk in lesson.chunks for i in chunk] == document
    bank = adapters_of(network, [lesson])
    ids = torch.tensor([lesson.asked[0].ids])
    assert torch.equal(host(ids, Mixture.rows(bank, [0])).logits, host(ids).logits)


def test_passages_of_plain_text_are_pressed_up_to_the_window(tmp_path):
    host = make_host()
    network = ContextNetwork(host, recipe(tmp_path, 1).network)
    book = tmp_path / "book.txt"
    book.write_text("the old wind crossed the long road . \n" * 40)
    passages = {
        "texts": [str(book)],
        "per_batch": 3,
        "pressed": 16,
        "window": 4,
        "completion": 6,
        "most_tokens": 300,
    }
    made = recipe(tmp_path / "run", 3, data=None, passages=passages, distillation=1.0, reconstruction=0.5)
    lesson = lesson_of_text(network, made.passages, list(range(26)))
    assert [len(chunk) for chunk in lesson.chunks] == [8, 8]
    assert lesson.asked[0].prompt_ids == [16, 17, 18, 19]
    assert lesson.told[0].ids == list(range(26))
    folder = train_context(made, host=host)
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "run").values())
    assert ContextNetwork.from_pretrained(folder, host=host).additive
    with pytest.raises(ConfigError, match="a passage takes"):
        train_context(
            recipe(tmp_path / "short", 1, data=None, passages={**passages, "pressed": 9999}), host=host
        )
    with pytest.raises(ConfigError, match="most_tokens is 20"):
        encode_texts(host, made.passages.model_copy(update={"most_tokens": 20}))


def test_recipes_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing to read"):
        train_context(recipe(tmp_path, 1, data=None))
    with pytest.raises(ConfigError, match="there is no loss"):
        train_context(recipe(tmp_path, 1, distillation=0.0, completion=0.0, reconstruction=0.0))
    with pytest.raises(ConfigError, match="no split 'validatoin'"):
        train_context(recipe(tmp_path, 1, select_on="validatoin"))
    with pytest.raises(ConfigError, match=r"links has 1 numbers, one for each of 2"):
        train_context(recipe(tmp_path, 1, data={**DATA, "links": [1]}))
    priced = [{"until": 1.0, "category_shares": {}, "silence": 0.1}]
    with pytest.raises(ConfigError, match=r"give network\.gate"):
        train_context(recipe(tmp_path, 1, curriculum=priced))


def test_a_priced_gate_shuts_and_unrelated_questions_pull_the_weights_back_to_the_base(tmp_path):
    host = make_host()
    gated = {**NETWORK, "gate": 8}
    plain = {"until": 1.0, "category_shares": {}}
    heard, apart = {}, {}
    for name, stage in {
        "free": plain,
        "priced": {**plain, "silence": 100.0},
        "kept": {**plain, "unrelated": 6},
    }.items():
        made = recipe(
            tmp_path / name,
            45,
            network=gated,
            curriculum=[stage],
            unrelated={**DATA, "seed": 5},
            unrelated_weight=100.0,
        )
        train_context(made, host=host)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert any("unrelated" in line for line in lines) == (name == "kept")
        network = ContextNetwork.from_pretrained(tmp_path / name / "context", host=host)
        tasks = load_splits(FactsSource.model_validate(DATA))["train"]
        lessons = [lesson_of_task(network, task.descriptions[0], task.train) for task in tasks]
        with torch.no_grad():
            _, open_K = network.hear([chunk for lesson in lessons for chunk in lesson.chunks])
            heard[name] = (open_K > 0).float().mean().item()
            bank = adapters_of(network, lessons)
            ids = torch.tensor([host.tokenizer.encode("the old wind crossed the long road .")])
            said = host(ids, Mixture.rows(bank, [0])).logits.log_softmax(-1)
            apart[name] = (said.exp() * (said - host(ids).logits.log_softmax(-1))).sum().item()
    assert heard["priced"] == 0.0
    assert heard["free"] > 0.5
    assert apart["priced"] == 0.0
    assert apart["kept"] < 0.5 * apart["free"]


def test_questions_that_a_sheet_does_not_answer_pull_its_weights_back_to_the_base(upper_host, tmp_path):
    options = {
        "data": {"kind": "sheets", "facts": [1], "alike": [2], "documents": 4, "validation_documents": 2},
        "raw": True,
        "keep_states": True,
        "rows_per_document": 1,
        "unanswered_weight": 100.0,
    }
    apart = {}
    for unanswered in (0, 8):
        stage = {"until": 1.0, "category_shares": {}, "unanswered": unanswered}
        folder = tmp_path / str(unanswered)
        values = recipe(folder, 30, curriculum=[stage], **options)
        train_context(values, host=upper_host)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert any("unanswered" in line for line in lines) == bool(unanswered)
        network = ContextNetwork.from_pretrained(folder / "context", host=upper_host)
        apart[unanswered] = 0.0
        for task in load_splits(values.data)["train"]:
            row = render_raw(upper_host.tokenizer, task.unanswered[0])
            ids = torch.tensor([row.ids])
            with torch.no_grad():
                said = upper_host(ids, Mixture.of(network.adapt(task.descriptions[0]))).logits.log_softmax(-1)
                base = upper_host(ids).logits.log_softmax(-1)
            places = range(len(row.prompt_ids) - 1, len(row.ids) - 1)
            apart[unanswered] += (base.exp() * (base - said))[0, places].sum().item()
    assert apart[8] < 0.5 * apart[0]


def test_unrelated_questions_need_tasks(tmp_path):
    stage = {"until": 1.0, "category_shares": {}, "unrelated": 2}
    with pytest.raises(ConfigError, match="give the tasks in unrelated"):
        train_context(recipe(tmp_path, 1, curriculum=[stage]), host=make_host())


def listen(host, monkeypatch):
    """The tokens that steps of a host read from now on, and the positions that they are read at."""
    read, places, step = [], [], host.step

    def watched(ids_BT, cache, shares, **options):
        def note(_, given, named):
            places.extend(named.get("position_ids", given[-1])[0].tolist())

        read.extend(ids_BT[0].tolist())
        handle = host.module.model.rotary_emb.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return step(ids_BT, cache, shares, **options)
        finally:
            handle.remove()

    monkeypatch.setattr(host, "step", watched)
    return read, places


@pytest.mark.parametrize("window", [19, 24, 41])
def test_training_presents_what_the_window_controller_holds(window, monkeypatch):
    """Token by token, position by position and in what acts: else what was learned answers nothing there."""
    host = Host.from_pretrained("weft/letters", dtype="float32", target_modules=["down_proj", "v_proj"])
    config = {"reader": {"kind": "accumulator", "rank": 8, "latent": 16}, "chunk": 16, "ends": [200]}
    torch.manual_seed(0)
    network = ContextNetwork(host, ContextConfig.model_validate(config)).eval()
    with torch.no_grad():
        for out_b in network.reader.out_b.values():
            out_b.normal_()
    controller, checked = WindowController(network, window=window), 0
    for number in range(6):
        task = document_task(f"law/{number}", words=1, idle=2, after=9)
        row = task.test[0]
        lesson = lesson_in_window(network, task.descriptions[0], row, window=window)
        prompt_ids = network.tokens(f"{task.descriptions[0]}{row.prompt} >")
        loop = Loop(host)
        loop.submit(
            Request("row", tuple(prompt_ids)), sampling=Sampling(max_new_tokens=3), controller=controller
        )
        said, logits, (read, places) = [], [], listen(host, monkeypatch)
        while loop.busy:
            for spoken in loop.step():
                said.append(spoken.token_id)
                logits.append(spoken.logits_V)
        monkeypatch.undo()
        (asked,) = lesson.asked
        assert read[: len(asked.prompt_ids)] == asked.prompt_ids
        left = len(prompt_ids) - len(asked.prompt_ids)
        assert places == list(range(left, left + len(read)))
        room = window + 1 - len(asked.prompt_ids)  # the answer's tokens before the next chunk leaves
        packed = pack([[Encoded(asked.prompt_ids, said)]], pad_id=0, share_prefix=False)
        with torch.no_grad():
            bank = network.gather(network.press(lesson.chunks), [len(lesson.chunks)])
            trained = answer_logits(host, Mixture.rows(bank, [0]), packed).logits_NV
            bare = answer_logits(host, None, packed).logits_NV
        torch.testing.assert_close(torch.stack(logits[:room]), trained[:room], atol=1e-3, rtol=1e-3)
        assert not torch.allclose(bare[:room], trained[:room], atol=1e-2)
        checked += min(room, 3)
    assert checked > 6


def test_a_document_of_which_nothing_leaves_its_window_is_refused():
    host = make_host()
    network = ContextNetwork(host, ContextConfig.model_validate(NETWORK))
    row = document_task("short", words=1).test[0]
    with pytest.raises(ConfigError, match=r"nothing of a document leaves a window of 24 tokens"):
        lesson_in_window(network, "A >cab\n", row, window=24)


def test_a_stage_reads_some_documents_through_a_window(tmp_path):
    """They are asked beside the others, and the margin that chooses a network is theirs too."""
    host = Host.from_pretrained("weft/letters", dtype="float32", target_modules=["down_proj"])
    stage = {
        "until": 1.0,
        "category_shares": {"words-1": 1},
        "windowed": {"category_shares": {"words-1-after": 2}, "least": 4, "most": 12},
    }
    data = {"kind": "words", "words": [1], "after": 6, "documents": 4, "validation_documents": 2}
    values = {"data": data, "curriculum": [stage], "network": {**NETWORK, "chunk": 16, "ends": [200]}}
    folder = train_context(recipe(tmp_path / "run", 2, **values), host=host)
    network = ContextNetwork.from_pretrained(folder, host=host)
    assert set(network.provenance["metrics"]) >= {"right/words-1", "right/words-1-after"}


@pytest.fixture(scope="module")
def upper_host():
    return Host.from_pretrained("weft/letters", dtype="float32", target_modules=r".*\.[45]\.mlp\.down_proj")


@pytest.fixture(scope="module")
def gpt2_host(upper_host):
    """A base that adds positions behind its embedding."""
    torch.manual_seed(0)
    size = len(upper_host.tokenizer)
    config = GPT2Config(
        vocab_size=size, n_embd=32, n_layer=3, n_head=2, n_positions=128, initializer_range=0.2
    )
    model = GPT2LMHeadModel(config)
    return Host(model.eval(), tokenizer=upper_host.tokenizer, target_modules=r".*\.2\.mlp\.c_proj")


@pytest.mark.parametrize("name", ["upper_host", "gpt2_host"])
def test_kept_states_give_the_same_loss_and_gradient_and_are_made_once(request, name, tmp_path):
    host = request.getfixturevalue(name)
    values = recipe(tmp_path, 1, data={"kind": "sheets", "documents": 4}, raw=True, rows_per_document=2)
    tasks = load_splits(values.data)["train"]
    torch.manual_seed(0)
    network = ContextNetwork(host, values.network)
    with torch.no_grad():
        for out_b in network.reader.out_b.values():
            out_b.normal_(std=0.1)
    lessons = [lesson_of_task(network, task.descriptions[0], task.test, raw=True) for task in tasks]
    kept = KeptStates(network)
    found = []
    for states in (None, kept, kept):
        network.zero_grad()
        loss, _ = _loss(values, network, lessons, [], kept=states)
        loss.backward()
        found.append((loss.detach(), next(iter(network.reader.start_a.values())).grad.clone()))
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6)
    seen = []
    below = next(module for path, module in host.module.named_modules() if path.endswith(".0.mlp"))
    handle = below.register_forward_hook(lambda *_: seen.append(1))
    _loss(values, network, lessons, [], kept=kept)
    assert not seen
    _loss(values, network, lessons, [])
    handle.remove()
    assert seen


def test_states_are_kept_below_decoder_layers_alone(upper_host):
    host = Host.from_pretrained("weft/letters", target_modules=r"lm_head|.*\.5\.mlp\.down_proj")
    with pytest.raises(ConfigError, match="lm_head is in none"):
        KeptStates(ContextNetwork(host, ContextConfig.model_validate(NETWORK)))


def test_the_smallest_window_is_given_first():
    with pytest.raises(ValueError, match="least is 9 and most is 8"):
        WindowedConfig(category_shares={"words-1": 1}, least=9, most=8)


def test_a_raw_recipe_with_kept_states_learns_sheets(upper_host, tmp_path):
    options = {
        "data": {"kind": "sheets", "facts": [1], "documents": 8, "validation_documents": 2},
        "raw": True,
        "keep_states": True,
        "rows_per_document": 1,
    }
    train_context(recipe(tmp_path / "run", 8, **options), host=upper_host)
    curve = losses(tmp_path / "run")
    assert curve[8] < curve[1]


def test_tasks_without_test_rows_are_told_before_the_first_step(tmp_path):
    save_task(Task("one", ("K >cab",), train=(Row("K", "cab"),)), tmp_path / "tasks" / "one")
    data = {"kind": "folder", "path": str(tmp_path / "tasks")}
    with pytest.raises(ConfigError, match="the tasks of train have no test rows"):
        train_context(recipe(tmp_path / "run", 1, data=data, select_on="train"), host=make_host())
    assert not (tmp_path / "run").exists()
