"""What a data source is: how its questions are asked and judged, and what other data it overlaps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from finemem_jax.config import UserError
from finemem_jax.env.scoring import normalise
from finemem_jax.types import Episode, Question


@dataclass(frozen=True, slots=True)
class Source:
    """How the questions of a data source are asked and judged."""

    metric: str  # a function of env/scoring.py
    kind: str  # Question.kind
    query_prompt: str = ""
    reference: str = "reference_sub_em"  # what the published evaluation of Mem-α judges it with; "" = not reproduced
    judge: str = ""  # the judge of its authors, a file in judges/; "" = its score needs none


_NUMBERED = (
    "Classify the text below with the rules and labelled examples in your memory. "
    "Answer with the number of its label alone, as \\boxed{number}."
)
_NAMED = (
    "Classify the text below with the labelled examples in your memory. "
    "Answer with the name of its label alone, written as in the examples."
)
_BOOK = "Your memory holds notes on a book. Answer from them."
_PRESENT = "Facts may have changed since they were first said. Answer from the latest that your memory holds."

# The key that a data_source starts with counts; no key is the start of another. `metric` is what Mem-α trains and
# evaluates with, as far as a function of the text can: its LLM judge of LongMemEval became substring_match.
SOURCES = {
    "squad": Source("substring_match", "fact", reference="reference_contains"),
    "hotpotqa": Source("substring_match", "fact", reference="reference_contains"),
    "perltqa": Source("parts_recall", "fact", reference="reference_parts"),
    "lme_train": Source("substring_match", "fact", reference="llm_judge", judge="longmemeval"),
    "longmemeval": Source("substring_match", "fact", reference="llm_judge", judge="longmemeval"),
    "locomo": Source("token_f1", "fact", judge="locomo_mem0"),
    "conversations": Source("substring_match", "fact"),
    "conflict": Source("substring_match", "changed", _PRESENT),
    "ruler_": Source("substring_match", "fact"),
    "icl_": Source("boxed_match", "label", _NUMBERED, reference="reference_boxed"),
    "pubmed": Source("boxed_match", "label", _NUMBERED, reference="reference_boxed"),
    "banking77": Source("exact_match", "label", _NAMED),
    "clinc150": Source("exact_match", "label", _NAMED),
    "nlu": Source("exact_match", "label", _NAMED),
    "booksum": Source("keyword_recall", "summary", _BOOK, reference="reference_keywords"),
    "squality": Source("rouge_l", "summary", _BOOK),
    "infbench_sum": Source("keyword_recall", "summary", _BOOK, reference="reference_keywords"),
    "infbench_qa": Source(
        "rouge_l", "fact", "Answer the question below in as few words as possible.", reference="reference_rouge_l"
    ),
    "eventqa": Source("substring_match", "event", reference="reference_all_contained"),
    "detective": Source("exact_match", "reasoning", reference="reference_boxed_equal"),
    "recsys": Source("parts_recall", "recommendation", reference=""),
    "factconsolidation": Source("substring_match", "changed", _PRESENT),
}

DEFAULT_SOURCE = Source("substring_match", "")  # of a data_source that SOURCES does not know


def source_of(data_source: str) -> Source:
    """The entry of SOURCES for a data_source, DEFAULT_SOURCE where there is none."""
    return next((SOURCES[key] for key in SOURCES if data_source.lower().startswith(key)), DEFAULT_SOURCE)


def with_reference_metrics(episode: Episode, source: Source) -> Episode:
    """The episode, its final questions judged as in the published evaluation (`config.eval.metrics=reference`).

    Raises UserError where that cannot be reproduced."""
    metric = source.reference
    if not metric:
        raise UserError(
            f"config.eval.metrics=reference: Mem-α's evaluation of {episode.source} is not reproduced (there is none, "
            "or it needs its authors' table of titles); leave it out with config.data.sources, or take "
            "config.eval.metrics=strict"
        )
    return replace(episode, questions=tuple(replace(question, metric=metric) for question in episode.questions))


_ALL_OR_NOTHING = ("exact_match", "boxed_match", "substring_match")
_LONGEST_GOLD = 12  # words that an answer may be expected to repeat one by one
# A rubric, what else is acceptable, a second form in brackets, a remark that there is no answer
_DESCRIBES = re.compile(
    r"\buser (would|might|may)( not)? (prefer|appreciate|like)\b|\balso acceptable\b|\(or |\binformation provided\b",
    re.IGNORECASE,
)


def only_a_judge_can_score(question: Question) -> bool:
    """Whether no answer, however right, can be expected to hold one of the gold answers word for word: they describe a
    good answer, or list several, or are whole sentences.

        "The user would prefer responses that suggest …"      "7 days. 8 days is also acceptable."
    """
    return question.metric in _ALL_OR_NOTHING and all(
        _DESCRIBES.search(answer) or len(normalise(answer)) > _LONGEST_GOLD for answer in question.answers
    )


# --------------------------------------------------------------------------------------------------------------
# Contamination
# --------------------------------------------------------------------------------------------------------------

Overlap = tuple[str, tuple[str, ...], str]
"""Start of the data source evaluated, starts of sources whose rows hold its text or questions, and how."""

_OVERLAPS: tuple[Overlap, ...] = (
    (
        "icl_nlu_8296shot",
        ("icl_nlu_8296shot",),
        "Memalpha's rows, validation ones too, ask MemoryAgentBench's own 100 NLU test questions",
    ),
    (
        "icl_trec_coarse_6600shot",
        ("icl_trec_coarse_6600shot",),
        "Memalpha's rows, validation ones too, ask MemoryAgentBench's own 100 TREC-Coarse test questions",
    ),
    (
        "icl_trec_fine_6400shot",
        ("icl_trec_coarse",),
        "TREC-Fine labels the questions that TREC-Coarse shows in training",
    ),
    (
        "longmemeval",
        ("lme_train", "longmemeval"),
        "Memalpha's lme_train is made of LongMemEval's oracle questions, with their evidence sessions",
    ),
    ("ruler_qa1", ("squad",), "ruler_qa1 asks SQuAD's development questions: do not train on its dev articles"),
    ("ruler_qa2", ("hotpotqa",), "ruler_qa2 asks HotpotQA's development questions: do not train on its dev questions"),
    ("icl_banking77_5900shot", ("banking77", "icl_banking77"), "the shots and questions are BANKING77's"),
    ("icl_clinic150_7050shot", ("clinc150", "icl_clinc150"), "the shots and questions are CLINC150's"),
    ("locomo", ("locomo",), "LoCoMo is published in one part: what a corpus was built from it is what is asked here"),
)


def contamination(
    evaluated: Iterable[str], trained: Iterable[str] | None = None, more: Sequence[Overlap] = ()
) -> list[str]:
    """One warning line per evaluated data source that overlaps data one may have trained on.

    trained: the data sources trained on; None = not known, so every overlap on record is stated. Sources are known by
    their names alone: that two rows of the same name come from disjoint parts of it must be seen to elsewhere.
    more: overlaps that are known beside those here.
    """
    known = None if trained is None else sorted(set(trained))
    lines = []
    for source in sorted(set(evaluated)):
        for start, others, why in (*_OVERLAPS, *more):
            if source.lower().startswith(start):
                found = others if known is None else [t for t in known if t.lower().startswith(others)]
                if found:
                    condition = "if trained on " if known is None else "trained on "
                    lines.append(f"contamination: {source}, {condition}{', '.join(found)}: {why}")
    return lines
