"""The scoring of the published Mem-α evaluation, defects included, to compare with its tables:
`--config.eval.metrics=reference`. What we score with otherwise is `env/scoring.py`.

Each follows the scorer that made the published table of its own agent (`evaluate_agent_results.py` there, with
`llm_agent/metrics.py` for MemoryAgentBench); `benchmarks/_sources.py` says which judges which data source. Mem-α's
training reward and its evaluation of baselines use other functions for some sources (in training, keywords are split
at every comma and infbench_sum is judged by ROUGE-L; the baselines' icl_* by SubEM), so its own columns are not all
comparable.

| metric                | score, and what is wrong with it                                                        |
|---|---|
| reference_contains    | the first gold answer stands in the prediction, lower-cased, as a string: "no" in "know" |
| reference_parts       | the same; a gold with ";" is split, and its lower-cased parts are looked for in the prediction *as written*: "paris" is not in "Paris" |
| reference_boxed       | the first \\boxed{…}, up to its first brace, must be digits and equal the gold: an echoed instruction counts, \\boxed{03} is wrong |
| reference_boxed_equal | the first \\boxed{…}, or all of the prediction, is the gold, letter by letter (detective questions) |
| reference_sub_em      | a gold answer, normalised, stands in the prediction or in its parsed answer as a string: "3" in "13" |
| reference_all_contained | every gold element stands in the prediction, lower-cased (event questions)           |
| reference_keywords    | share of the keywords that stand in the prediction, as strings; a lone gold is split at ", " |
| reference_rouge_l     | ROUGE-L F1 with stemming, best gold answer, the better of the prediction and its parsed answer |

The *parsed answer* is the rest of the line behind the first "Answer:", or else the first line (nothing, where the
prediction begins with a line break).

What cannot be told apart here is whether a lone gold was written as a string or as a list of one. Read as the data
sources have it: a string for keywords (a list of one keyword would not be split), one element for event questions (a
string would be looked for letter by letter), the string itself for detective questions (a list never equals an answer,
so everything would be wrong). Gold entries without text are dropped when rows are read. The recall@5 of
recommendations needs the published table of titles: those questions are refused (`with_reference_metrics`).

A judge's reply counts as yes if it holds "yes" and not "no": `judged_yes("Yes, it is known")` is False.
"""  # noqa: E501 (a table row)

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANSWER = re.compile(r"answer:([^\n]*)", re.IGNORECASE)
_REPEATED = re.compile(r"answer:", re.IGNORECASE)


def after_thought(prediction: str) -> str:
    """What the reference scores: the text between the first </think> and the next; "Empty" where a thought is open."""
    if "</think>" in prediction:
        prediction = prediction.split("</think>")[1].strip()
    return "Empty" if "<think>" in prediction else prediction


def reference_contains(prediction: str, answers: Sequence[str]) -> float:
    return float(bool(answers) and answers[0].lower() in after_thought(prediction).lower())


def reference_parts(prediction: str, answers: Sequence[str]) -> float:
    if not answers or ";" not in answers[0]:
        return reference_contains(prediction, answers)
    written, parts = after_thought(prediction), answers[0].split(";")
    return sum(part.strip().lower() in written for part in parts) / len(parts)


def reference_boxed(prediction: str, answers: Sequence[str]) -> float:
    label = _unquoted(_boxed(prediction))
    return float(bool(answers) and re.fullmatch(r"\d+", label) is not None and label == _unquoted(answers[0]))


def reference_boxed_equal(prediction: str, answers: Sequence[str]) -> float:
    return float(bool(answers) and _boxed(prediction) == answers[0])


def reference_sub_em(prediction: str, answers: Sequence[str]) -> float:
    read = [_normalised(text) for text in _readings(prediction)]
    return float(any(_normalised(answer) in text for answer in answers for text in read))


def reference_all_contained(prediction: str, answers: Sequence[str]) -> float:
    written = after_thought(prediction).lower()
    return float(bool(answers) and all(answer.lower() in written for answer in answers))


def reference_keywords(prediction: str, answers: Sequence[str]) -> float:
    keywords = answers[0].split(", ") if len(answers) == 1 else answers
    written = after_thought(prediction).lower()
    return sum(keyword.lower() in written for keyword in keywords) / len(keywords) if keywords else 0.0


def reference_rouge_l(prediction: str, answers: Sequence[str]) -> float:
    scorer = _rouge_scorer()
    scores = [scorer.score(answer, text)["rougeL"].fmeasure for answer in answers for text in _readings(prediction)]
    return max(scores, default=0.0)


def judged_yes(reply: str) -> float:
    """The reference's reading of its judge."""
    said = reply.lower()
    return float("yes" in said and "no" not in said)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    metric.__name__: metric
    for metric in (
        reference_contains,
        reference_parts,
        reference_boxed,
        reference_boxed_equal,
        reference_sub_em,
        reference_all_contained,
        reference_keywords,
        reference_rouge_l,
    )
}


def _boxed(prediction: str) -> str:
    written = after_thought(prediction)
    _, _, boxed = written.partition("\\boxed{")
    label, closing, _ = boxed.partition("}")
    return (label if closing else written).strip()


def _unquoted(text: str) -> str:
    return text.strip("\"'").strip()


def _normalised(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _readings(prediction: str) -> tuple[str, str]:
    """The prediction, and its parsed answer: the prefix is taken off once more where it is repeated."""
    written = after_thought(prediction)
    found = _ANSWER.search(written)
    line = (found.group(1) if found else written.split("\n", 1)[0]).strip()
    repeated = _REPEATED.match(line)
    return written, line[repeated.end() :].strip() if repeated else line


@functools.cache
def _rouge_scorer() -> Any:
    """The package's own, whose words are the letters and digits of ASCII; `scoring.rouge_l` knows other scripts."""
    from rouge_score import rouge_scorer  # imports nltk, which takes a second that other metrics need not pay

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
