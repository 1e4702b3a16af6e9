import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer

from weft.errors import MissingExtraError
from weft.evaluate import exact_match, loss, metrics, rouge_l

WORDS = ["running", "runs", "run", "the", "cats", "cat", "a", "7", "b2b", "Nation", "national", "*", "é"]


def slow_rouge(prediction, answers):
    def words(text):
        found = re.findall("[a-z0-9]+", text.lower())
        return [PorterStemmer().stem(word) if len(word) > 3 else word for word in found]

    def common(x, y):
        if not x or not y:
            return 0
        if x[-1] == y[-1]:
            return 1 + common(x[:-1], y[:-1])
        return max(common(x[:-1], y), common(x, y[:-1]))

    best = 0.0
    for answer in answers:
        x, y = words(prediction), words(answer)
        shared = common(x, y)
        if shared:
            precision, recall = shared / len(x), shared / len(y)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@given(
    st.lists(st.sampled_from(WORDS), max_size=6),
    st.lists(st.lists(st.sampled_from(WORDS), max_size=6), min_size=1, max_size=3),
)
def test_rouge_is_the_longest_common_subsequence(prediction, answers):
    texts = [" ".join(answer) for answer in answers]
    assert rouge_l(" ".join(prediction), texts) == pytest.approx(slow_rouge(" ".join(prediction), texts))


@given(st.text("ab \n", max_size=4), st.lists(st.text("ab \n", max_size=4), min_size=1, max_size=3))
def test_exact_match_is_any_answer_stripped(prediction, answers):
    want = 0.0
    for answer in answers:
        if prediction.strip() == answer.strip():
            want = 1.0
    assert exact_match(prediction, answers) == want


def test_exact_match_keeps_case_and_inner_space():
    assert exact_match(" yes\n", ["no", "yes "]) == 1.0
    assert exact_match("Yes", ["yes"]) == 0.0
    assert exact_match("a b", ["a  b"]) == 0.0


def test_rouge_takes_the_best_answer():
    assert rouge_l("the cat", ["a dog", "the cat"]) == 1.0
    assert rouge_l("the cat", ["a dog"]) == 0.0
    assert rouge_l("*", ["*"]) == 0.0


def test_loss_is_the_mean():
    assert loss(6.0, 4) == 1.5


def test_without_rouge_score_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    metrics._scorer.cache_clear()
    with pytest.raises(MissingExtraError, match=r"weft\[eval\]"):
        rouge_l("a", ["a"])
