"""Evaluation: metrics, the control conditions, comparisons with confidence intervals, reports."""

from weft.evaluate.answer import Answer, Question, answer_questions, ask
from weft.evaluate.compare import compare, compare_controls
from weft.evaluate.conditions import CONDITIONS, Condition, build_conditions, tell_too
from weft.evaluate.controls import CONTROLS, build_controls, mean_adapter, random_like
from weft.evaluate.diversity import mean_cosine
from weft.evaluate.intervals import Interval, bootstrap, interval, p_value, task_means
from weft.evaluate.metrics import METRICS, exact_match, loss, rouge_l
from weft.evaluate.options import Options
from weft.evaluate.recipe import EvalRecipe, evaluate
from weft.evaluate.report import (
    Comparison,
    Report,
    Result,
    SplitReport,
    to_dict,
    to_markdown,
    to_text,
    write_report,
)
from weft.evaluate.retrieval import ranks, retrieval
from weft.evaluate.rows import RowsReport, evaluate_rows
from weft.evaluate.wordings import Wordings, derangement, draw_wordings, gibberish

__all__ = [
    "CONDITIONS",
    "CONTROLS",
    "METRICS",
    "Answer",
    "Comparison",
    "Condition",
    "EvalRecipe",
    "Interval",
    "Options",
    "Question",
    "Report",
    "Result",
    "RowsReport",
    "SplitReport",
    "Wordings",
    "answer_questions",
    "ask",
    "bootstrap",
    "build_conditions",
    "build_controls",
    "compare",
    "compare_controls",
    "derangement",
    "draw_wordings",
    "evaluate",
    "evaluate_rows",
    "exact_match",
    "gibberish",
    "interval",
    "loss",
    "mean_adapter",
    "mean_cosine",
    "p_value",
    "random_like",
    "ranks",
    "retrieval",
    "rouge_l",
    "task_means",
    "tell_too",
    "to_dict",
    "to_markdown",
    "to_text",
    "write_report",
]
