"""The scoring of the published Mem-α evaluation, defects included, to compare with its tables:
`--config.eval.metrics=reference`. What we score with otherwise is `env/scoring.py`.

Which function judges which data source stands in `benchmarks/_sources.py`; it follows the reference's evaluation of its
own agent. (Its training reward and its evaluation of baselines use other functions for some sources: SubEM for the
baselines' icl_* and ROUGE-L for infbench_sum in training, so its own columns are not all comparable.)

| metric                | score, and what is wrong with it                                                        |
|---|---|
| reference_contains    | the first gold answer stands in the prediction, lower-cased, as a string: "no" in "know" |
| reference_parts       | the same; a gold with ";" is split, and its lower-cased parts are looked for in the prediction *as written*: "paris" is not in "Paris" |
| reference_boxed       | the first \\boxed{…}, up to its first brace, must be digits and equal the gold: an echoed instruction counts, \\boxed{03} is wrong |
| reference_boxed_equal | the first \\boxed{…} equals the gold (detective questions)                              |
| reference_sub_em      | a gold answer, normalised, stands in the prediction as a string: "3" in "13"            |
| reference_all_contained | every gold element stands in the prediction, lower-cased (event questions)           |
| reference_keywords    | share of the keywords that stand in the prediction; an empty keyword counts as found    |
| reference_rouge_l     | ROUGE-L F1 with stemming, best gold answer                                              |

A judge's reply counts as yes if it holds "yes" and not "no": `judged_yes("Yes, it is known")` is False.
The recall@5 of recommendations needs the reference's table of titles and is not reproduced.
"""  # noqa: E501 (a table row)

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BOXED = re.compile(r"\\boxed\{([^}]*)\}")
_ANSWER = re.compile(r"answer:([^\n]*)", re.IGNORECASE)


def after_thought(prediction: str) -> str:
    """What the reference scores: the text behind the first </think>; "Empty" where a thought was never closed."""
    if "</think>" in prediction:
        return prediction.split("</think>", 1)[1]
    return "Empty" if "<think>" in prediction else prediction


def reference_contains(prediction: str, answers: Sequence[str]) -> float:
    return float(bool(answers) and answers[0].lower() in after_thought(prediction).lower())


def reference_parts(prediction: str, answers: Sequence[str]) -> float:
    if not answers or ";" not in answers[0]:
        return reference_contains(prediction, answers)
    written, parts = after_thought(prediction), answers[0].split(";")
    return sum(part.strip().lower() in written for part in parts) / len(parts)


def reference_boxed(prediction: str, answers: Sequence[str]) -> float:
    label = _boxed(prediction)
    return float(bool(answers) and re.fullmatch(r"[0-9]+", label) is not None and label == answers[0])


def reference_boxed_equal(prediction: str, answers: Sequence[str]) -> float:
    return float(bool(answers) and _boxed(prediction) == answers[0].strip())


def reference_sub_em(prediction: str, answers: Sequence[str]) -> float:
    written = after_thought(prediction)
    read = [_normalised(written), _normalised(_parsed(written))]
    return float(any(_normalised(answer) in text for answer in answers for text in read))


def reference_all_contained(prediction: str, answers: Sequence[str]) -> float:
    written = after_thought(prediction).lower()
    return float(bool(answers) and all(answer.lower() in written for answer in answers))


def reference_keywords(prediction: str, answers: Sequence[str]) -> float:
    keywords = answers[0].split(",") if len(answers) == 1 else answers
    written = after_thought(prediction).lower()
    return sum(keyword.strip().lower() in written for keyword in keywords) / len(keywords) if keywords else 0.0


def reference_rouge_l(prediction: str, answers: Sequence[str]) -> float:
    from finemem_jax.env import scoring  # which names these metrics in its table

    return scoring.rouge_l(after_thought(prediction), answers)


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
    found = _BOXED.search(written)
    return (found.group(1) if found else written).strip(" \t\n\r'\"")


def _normalised(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _parsed(text: str) -> str:
    """The rest of the line behind "Answer:", or else the first line; the prefix is taken off once more if repeated."""
    found = _ANSWER.search(text)
    line = found.group(1).strip() if found else next(iter(text.strip().splitlines()), "")
    return line[len("answer:") :].strip() if line.lower().startswith("answer:") else line
