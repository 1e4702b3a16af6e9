"""The measurements of texts in weights, on a base and a network of no account."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.experiments.dynamic.context import ContextComparison, measure_context
from weft.experiments.dynamic.stack import rank_correlation
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork
from weft.tasks.facts.documents import document_task, draw_sheet, questions, write_document
from weft.tasks.source import FactsSource, build_source_tokenizer


def test_every_fact_stands_in_the_document_and_every_question_has_its_answer():
    chance = random.Random(0)
    sheet = draw_sheet(chance, pairs=5, links=3)
    text = write_document(chance, sheet, tokens=120, first=60)
    for name, thing in sheet.has.items():
        assert f" {name} {thing} ." in text
        assert text.index(f" {name} {thing} .") < text.index(" the", len(text) // 2)
    answers = {row.prompt: row.completion for row in questions(chance, sheet, absent=2, said=2)}
    assert len(answers) == 12
    for name, friend in sheet.knows.items():
        assert answers[f" friend {name}"] == f" {sheet.has[friend]}"
    absent = [prompt for prompt, answer in answers.items() if answer == " none"]
    assert len(absent) == 2
    assert not any(prompt.strip() in {*sheet.has, *sheet.knows} for prompt in absent)
    assert document_task("a", pairs=2) == document_task("a", pairs=2)
    assert document_task("a", pairs=2) != document_task("b", pairs=2)


def test_what_is_measured_of_an_untrained_network(tmp_path):
    tokenizer = build_source_tokenizer(FactsSource(kind="facts"), ())
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    host = Host.from_pretrained(tmp_path / "base", target_modules=["down_proj"])
    config = {"reader": {"kind": "accumulator", "rank": 4, "latent": 16}, "chunk": 8}
    network = ContextNetwork(host, ContextConfig.model_validate(config))
    network.save_pretrained(tmp_path / "context")
    recipe = ContextComparison.model_validate(
        {
            "base": str(tmp_path / "base"),
            "networks": {"additive": [str(tmp_path / "context")]},
            "trained": 16,
            "times": [1, 4],
            "needles": [1],
            "documents": 3,
            "window": 12,
        }
    )
    lines = {(line.what, line.who): line.values for line in measure_context(recipe, lambda _: None)}
    assert ("1 of 1 facts in 4x", "weights alone, additive") in lines
    assert ("1 of 1 facts in 4x", "full context") in lines
    assert lines["logits that are equal bit for bit after it was in and out", "additive"] == (1.0,)
    for length in ("1x", "32x"):
        (held,) = lines[f"tokens held in the cache at most, {length}", "additive"]
        assert 4 <= held <= 12
    # what has learned nothing changes no answer
    plain = lines["facts in the window, no adapter", "additive"]
    assert lines["facts in the window, noise in the weights", "additive"] == plain


def test_rank_correlation_is_spearman_s():
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 90.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert rank_correlation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == 0
    assert rank_correlation([1.0, 1.0, 2.0, 2.0], [0.0, 1.0, 1.0, 1.0]) == pytest.approx(0.5773502692)
