"""The published scoring with its defects: each case is one where the strict metrics say something else, or its rule."""

import pytest

from finemem_jax.benchmarks import with_reference_metrics
from finemem_jax.benchmarks._sources import SOURCES
from finemem_jax.env import scoring
from finemem_jax.env.reference_scoring import judged_yes
from finemem_jax.types import Episode, Question


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "expected"),
    [
        ("contains", "I know nothing", ["no"], 1),  # defect: a string, not words
        ("contains", "in the U.S.A.", ["USA"], 0),  # defect: no normalising
        ("contains", "it is blue", ["red", "blue"], 0),  # defect: the first answer only
        ("contains", "GOLDEN gate", ["Golden Gate"], 1),
        ("contains", "red <think> blue </think> green", ["blue"], 0),
        ("contains", "<think> it is red", ["red"], 0),
        ("contains", "<think> it is red", ["empty"], 1),  # defect: an unclosed thought reads "Empty"
        ("parts", "They met in paris and in Rome", ["Paris; Rome"], 0.5),  # defect: "rome" is not in "Rome"
        ("parts", "It was in Paris", ["paris"], 1),  # without ";" both sides are lower-cased
        ("parts", "", ["a;"], 0.5),  # defect: an empty part is found
        ("boxed", r"\boxed{3}", ["3"], 1),
        ("boxed", r"put it in \boxed{label}: \boxed{3}", ["3"], 0),  # defect: the first box
        ("boxed", r"\boxed{\text{3}}", ["3"], 0),  # defect: up to the first brace
        ("boxed", r"\boxed{03}", ["3"], 0),  # defect: no number
        ("boxed", " '3' ", ["3"], 1),
        ("boxed", "the label is 3", ["3"], 0),
        ("boxed", r"\boxed{card}", ["card"], 0),  # labels must be digits
        ("boxed_equal", r"\boxed{B. the cook}", ["B. the cook"], 1),
        ("boxed_equal", "B", ["A"], 0),
        ("sub_em", "in room 13", ["3"], 1),  # defect: a string, not words
        ("sub_em", "The U.S.A. today", ["usa"], 1),
        ("sub_em", "Answer: the red one\nno, blue", ["red one"], 1),
        ("sub_em", "blue", ["red", "blue"], 1),
        ("sub_em", "anything", ["the"], 1),  # defect: nothing is left of it
        ("all_contained", "He left, then CAME back", ["left", "came"], 1),
        ("all_contained", "He left", ["left", "came"], 0),
        ("keywords", "Bob knows Anna", ["Anna, bob, Paris, know"], 0.75),  # defect: "know" in "knows"
        ("keywords", "anything", ["x,,"], 2 / 3),  # defect: empty keywords are found
        ("keywords", "a b", ["a", "b", "c"], 2 / 3),
        ("rouge_l", "<think>x</think>cats sitting", ["cat sits"], 1),
    ],
)
def test_published_scores(metric, prediction, answers, expected):
    assert scoring.score(f"reference_{metric}", prediction, answers) == pytest.approx(expected)


def test_the_judge_is_read_as_published():
    assert [judged_yes(reply) for reply in ("yes", "Yes.", "no", "", "Yes, it is known")] == [1, 1, 0, 0, 0]


def test_a_sources_questions_get_the_published_metric():
    def metric(source):
        (question,) = with_reference_metrics(Episode("x", source, (), (Question("q", ("a",)),))).questions
        return question.metric

    assert metric("squad") == "reference_contains"
    assert metric("perltqa") == "reference_parts"
    assert metric("icl_nlu_8296shot_balance") == metric("pubmed-rct") == "reference_boxed"
    assert metric("longmemeval_s*") == metric("lme_train") == "llm_judge"
    assert metric("ruler_qa1_197K") == metric("something new") == "reference_sub_em"
    assert metric("infbench_sum_eng_shots2") == metric("booksum") == "reference_keywords"
    assert {source.reference for source in SOURCES.values()} - {"llm_judge"} <= scoring.METRICS.keys()


def test_an_evaluation_is_scored_as_published_on_request(tmp_path):
    """The switch of the command line reaches the questions of the episodes."""
    import json

    from finemem_jax import config, evaluate

    row = {
        "chunks": ["Nobody knows the answer."],
        "questions_and_answers": [{"question": "Who knows the answer?", "answer": "no"}],
        "data_source": "squad",
    }
    (tmp_path / "a.json").write_text(json.dumps([row]))
    scores = {}
    for metrics in ("strict", "reference"):
        cfg = config.default()
        cfg.data.name, cfg.data.eval_path = "memalpha", str(tmp_path / "a.json")
        cfg.model.path, cfg.eval.baselines, cfg.eval.metrics = "embedded:warm_start", ("store_all",), metrics
        found = evaluate.evaluate(config.from_ml_collections(cfg), tmp_path / metrics, policy=False)
        scores[metrics] = found["store_all"].metrics["accuracy"]
    assert scores == {"strict": 0.0, "reference": 1.0}
