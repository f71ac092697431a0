"""Metrics: (prediction, gold answers) -> a score in [0, 1]. One function each, named by `Question.metric`.

All compare *normalised words*, case-folded on both sides: `normalise` says how. Matching is by whole words, so gold
"no" is not found in "know", nor "3" in "13" or "3.5". Scripts written without spaces are compared by characters
(`env/words.py`). An empty gold answer matches an empty prediction only.

| metric          | score                                                                                |
|---|---|
| exact_match     | the prediction is one of the answers                                                 |
| boxed_match     | the last \\boxed{…} of the prediction, or all of it without one, is one of the answers |
| substring_match | the words of one of the answers stand in the prediction, in a row                    |
| token_f1        | F1 of the bags of words, best answer                                                 |
| rouge_l         | ROUGE-L F1 with stemming, best answer                                                |
| keyword_recall  | share of the keywords found; every answer is a list split at commas, semicolons, lines |
| parts_recall    | share of the parts found; every answer is a list split at semicolons only            |
| ordered_recall  | the same, where parts count only as far as they are found in the order given          |
| not_said        | 0 if the words of one of the answers stand in the prediction, in a row, else 1        |
| abstention      | 1 if the prediction says that it is not known, by a list of phrases, or says nothing  |

`reference_*` are the published ones of Mem-α, defects included: `env/reference_scoring.py`.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import regex

from finemem_jax.config import UserError, unknown
from finemem_jax.env import reference_scoring
from finemem_jax.env.words import CHARACTER, SPACED, is_special


def score(metric_name: str, prediction: str, answers: Sequence[str]) -> float:
    """Score of `prediction` under the metric of that name. Raises UserError on an unknown name."""
    if metric_name not in METRICS:
        raise UserError(unknown(metric_name, list(METRICS), "metric"))
    return METRICS[metric_name](prediction, answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction has exactly the words of one of the answers."""
    words = normalise(prediction)
    return float(any(words == normalise(answer) for answer in _listed(answers)))


def boxed_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the label in the last \\boxed{…} is one of the answers; without a box, the whole prediction is the label.

    \\text{…} and the like, dollar signs and quotes are taken off; whole numbers compare by value (03 is 3).
    """
    label = _label(prediction if (boxed := last_boxed(prediction)) is None else boxed)
    return float(any(label == _label(answer) for answer in _listed(answers)))


def substring_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if all words of one of the answers stand next to each other, in order, in the prediction."""
    return float(any(_contains(prediction, answer) for answer in _listed(answers)))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over the bags of words, best of the answers."""
    words = normalise(prediction)
    return max((_bag_f1(words, normalise(answer)) for answer in _listed(answers)), default=0.0)


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the longest common subsequence of stemmed words, best of the answers."""
    listed = _listed(answers)
    scorer = _rouge_scorer(all(text.isascii() for text in (prediction, *listed)))
    return max((scorer.score(answer, prediction)["rougeL"].fmeasure for answer in listed), default=0.0)


def keyword_recall(prediction: str, answers: Sequence[str]) -> float:
    """Share of the distinct keywords found in the prediction as whole words; 0 where there are none."""
    return _recall(prediction, re.split(KEYWORD_BORDER, "\n".join(_listed(answers))))


def parts_recall(prediction: str, answers: Sequence[str]) -> float:
    """Share of the distinct parts found in the prediction; commas belong to a part ("Paris, France; 1998")."""
    return _recall(prediction, re.split(PART_BORDER, "\n".join(_listed(answers))))


def ordered_recall(prediction: str, answers: Sequence[str]) -> float:
    """Length of the longest run of parts found one behind the other, as a share of the parts; best answer.

    Gold "sowing; weeding; harvest" and prediction "first the harvest, then sowing and weeding": 2 of 3.
    """
    return max((_ordered_share(prediction, answer) for answer in _listed(answers)), default=0.0)


def not_said(prediction: str, answers: Sequence[str]) -> float:
    """1 unless one of the answers, which were to be forgotten, stands in the prediction. Silence scores 1."""
    return 1.0 - substring_match(prediction, answers)


def abstention(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction says that the answer is not known, or is empty; the gold answers do not matter.

    By a list of phrases: "The man was unknown to her" scores 1, and a roundabout "nobody ever told me" 0. A judge knows
    better."""
    words = normalise(prediction)
    text = f" {' '.join(words)} "
    return float(not words or any(phrase in text for phrase in _NOT_KNOWN))


# Normalised: no apostrophes, no articles.
_NOT_KNOWN = tuple(
    f" {phrase} "
    for phrase in (
        "unknown,not known,dont know,do not know,doesnt know,does not know,not mentioned,no mention,never mentioned,"
        "not specified,not stated,not provided,not given,not available,not discussed,not said,isnt said,doesnt say,"
        "does not say,didnt say,did not say,no information,not enough information,insufficient information,"
        "cannot be determined,cant be determined,cannot determine,cannot answer,cant answer,cannot be answered,"
        "unable to answer,unanswerable,no record,no answer,not sure"
    ).split(",")
)


# Commas and semicolons, the ones of Arabic and of East Asian scripts among them, and lines.
KEYWORD_BORDER, PART_BORDER = r"[,،、，;؛；\n]", r"[;؛；\n]"

_STRICT = (
    exact_match,
    boxed_match,
    substring_match,
    token_f1,
    rouge_l,
    keyword_recall,
    parts_recall,
    ordered_recall,
    not_said,
)
METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    **{metric.__name__: metric for metric in _STRICT},
    "abstention": abstention,
    **reference_scoring.METRICS,
}


# --------------------------------------------------------------------------------------------------------------
# Normalised words
# --------------------------------------------------------------------------------------------------------------

_APOSTROPHE = re.compile(r"['’`]")
_ABBREVIATION_DOT = re.compile(r"(?<=\b[^\W\d_])\.(?=[^\W\d_]\b)")  # the dots inside "u.s.a"
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
# A number keeps its decimal point, and its minus where that is not a hyphen, as in "2010-2011".
_NUMBER = r"(?:(?<!\S)-)?\d++\.\d++(?!\.?\d)|(?<!\S)-\d++"
_NORMAL_WORD = re.compile(rf"{_NUMBER}|[^\W_]++")
_LETTERS = rf"{CHARACTER}|[{SPACED}--[_\p{{M}}\u200c\u200d]][{SPACED}--_]*+"  # in scripts without spaces, one
_SPECIAL_WORD = regex.compile(rf"(?V1){_NUMBER}|{_LETTERS}")
_ARTICLES = frozenset(("a", "an", "the"))


@functools.lru_cache(maxsize=1 << 12)
def normalise(text: str) -> tuple[str, ...]:
    """The words of `text` that metrics compare.

    Unicode-compatible forms and case are folded; articles, apostrophes, thousands commas and the dots of abbreviations
    are dropped; every other sign ends a word, the underscores of labels included. A text that is nothing but articles
    or signs stays as it is.

        "The card_arrival!"       -> ("card", "arrival")
        "It's $1,234.50 in U.S."  -> ("its", "1234.50", "in", "us")
        "A"                       -> ("a",)
        "+"                       -> ("+",)
        "北京 is 3.5°"             -> ("北", "京", "is", "3.5")
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _THOUSANDS_COMMA.sub("", _ABBREVIATION_DOT.sub("", _APOSTROPHE.sub("", folded)))
    words = tuple((_SPECIAL_WORD if is_special(plain) else _NORMAL_WORD).findall(plain))
    return tuple(word for word in words if word not in _ARTICLES) or words or tuple(folded.split())


def _listed(answers: Sequence[str]) -> Sequence[str]:
    """`answers`, where a lone string is one answer, not a sequence of letters."""
    return (answers,) if isinstance(answers, str) else answers


def _contains(text: str, part: str) -> bool:
    """Whether the normalised words of `part` stand in a row in those of `text`. Nothing contains an empty part."""
    wanted, words = normalise(part), normalise(text)
    if not wanted:
        return not words
    if set(wanted) <= _ARTICLES:  # gold "A": normalise has dropped it from a longer text
        words = tuple(text.casefold().translate(_TO_SPACES).split())
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


_TO_SPACES = str.maketrans(dict.fromkeys(string.punctuation, " "))


def _bag_f1(prediction: tuple[str, ...], answer: tuple[str, ...]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    common = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * common / (len(prediction) + len(answer))


def _recall(prediction: str, parts: Sequence[str]) -> float:
    wanted = {normalise(part): part for part in parts if normalise(part)}  # distinct, blanks dropped
    return sum(_contains(prediction, part) for part in wanted.values()) / len(wanted) if wanted else 0.0


def _ordered_share(prediction: str, answer: str) -> float:
    parts = [words for part in re.split(PART_BORDER, answer) if (words := normalise(part))]
    text = f" {' '.join(normalise(prediction))} "
    # ends[n]: where, at the earliest, a chain of n parts found in order ends
    ends = [0]
    for words in parts:
        part = f" {' '.join(words)} "
        for n in range(len(ends) - 1, -1, -1):
            found = text.find(part, ends[n])
            if found < 0:
                continue
            end = found + len(part) - 1  # the space behind it may stand before the next part
            if n + 1 == len(ends):
                ends.append(end)
            else:
                ends[n + 1] = min(ends[n + 1], end)
    return (len(ends) - 1) / len(parts) if parts else 0.0


@functools.cache
def _rouge_scorer(is_ascii: bool) -> Any:
    from rouge_score import rouge_scorer  # imports nltk, which takes a second that other metrics need not pay

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True, tokenizer=None if is_ascii else _RougeWords())


class _RougeWords:
    """The words of a text for ROUGE: those of the package's own tokenizer, which knows ASCII letters and digits alone,
    and the words of other scripts."""

    def __init__(self) -> None:
        from nltk.stem import porter

        self._stem = porter.PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        return [
            self._stem(word) if word.isascii() and len(word) > 3 else word
            for word in _ROUGE_WORD.findall(unicodedata.normalize("NFKC", text).lower())
        ]


_ROUGE_WORD = regex.compile(rf"(?V1){_LETTERS}")


# --------------------------------------------------------------------------------------------------------------
# Boxed labels
# --------------------------------------------------------------------------------------------------------------

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|texttt|boxed)\s*+\{([^{}]*+)\}")


def last_boxed(text: str) -> str | None:
    """What the last \\boxed{…} holds, up to its own closing brace; the whole text where there is no closed box.

    The last, because a policy that repeats the instruction ("put it in \\boxed{label}") answers after that.
    """
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*+\{", text)][-_BOXES:]):
        depth = 1
        for position in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start:position]
    return None


_BOXES = 8  # looked at, from the end: a text of nothing but open boxes must not take quadratic time
_WRAPPERS = 4  # unwrapped, one in the other, for the same reason


def _label(text: str) -> tuple[str, ...]:
    """The normalised label: wrappers unwrapped, whole numbers by value."""
    for _ in range(_WRAPPERS):
        text = _WRAPPED.sub(r"\1", text)
    words = normalise(text.replace("$", " "))
    if len(words) == 1 and re.fullmatch(r"-?[0-9]{1,18}", words[0]):
        return (str(int(words[0])),)
    return words
