"""PubMedQA's structured abstracts as a classification stream: to which section does a sentence belong?

Input: `ori_pqal.json` as published, or its folder. Labels are numbered as in PubMed-RCT: 0 background, 1 conclusions,
2 methods, 3 objective, 4 results; sections whose title names none of these, or two, are left out. Train and eval
share no abstract. Labels are always numbers, whatever `--labels` says.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from finemem_jax.corpora import _fields, _labelled, _options, _reading
from finemem_jax.types import CountTokens, Episode

_SECTIONS = {
    "background": "BACKGROUND INTRODUCTION CONTEXT HYPOTHESIS RATIONALE",
    "conclusions": "CONCLUSION CONCLUSIONS",
    "methods": "METHOD METHODS METHODOLOGY DESIGN DESIGNS SETTING SETTINGS PATIENT PATIENTS PARTICIPANT PARTICIPANTS "
    "SUBJECTS MATERIAL MATERIALS INTERVENTION INTERVENTIONS MEASURE MEASURES MEASURED MEASUREMENT MEASUREMENTS "
    "POPULATION SOURCE SOURCES EXTRACTION SELECTION COLLECTION PROBANDS",
    "objective": "OBJECTIVE OBJECTIVES OBJECT PURPOSE PURPOSES AIM AIMS GOAL GOALS",
    "results": "RESULT RESULTS FINDINGS",
}
_SECTION_OF_WORD = {word: section for section, words in _SECTIONS.items() for word in words.split()}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s++(?=[A-Z0-9])")
_LEAST_WORDS = 5  # shorter pieces are headings and torn-off halves


def episodes(options: _options.BuildOptions, count_tokens: CountTokens) -> Iterator[Episode]:
    path = _reading.find(options.input, "ori_pqa*.json")[0]
    data = _fields.mapping(_reading.read_json(path), str(path), "the abstracts")
    abstracts = [list(_sentences(data[key], f"{path} abstract {key}")) for key in sorted(data)]
    train, held_out = _options.divide(abstracts)
    pool = _labelled.of_split(itertools.chain(*train), itertools.chain(*held_out), options)
    dataset = _labelled.Dataset(
        data_source="pubmedqa", labels=sorted(_SECTIONS), numbered=True, text_field="Sample", label_field="Labels"
    )
    yield from _labelled.streams(pool, dataset, options, count_tokens)


def _sentences(given: object, where: str) -> Iterator[_labelled.Example]:
    abstract = _fields.mapping(given, where, "the abstract")
    texts, titles = _fields.listed(abstract, "CONTEXTS", where), _fields.listed(abstract, "LABELS", where)
    if len(texts) != len(titles) or not all(isinstance(text, str) for text in (*texts, *titles)):
        raise _fields.wrong(where, "CONTEXTS and LABELS", "as many texts", [texts, titles])
    passages = [*zip(texts, titles, strict=True), (_fields.text(abstract, "LONG_ANSWER", where), "CONCLUSIONS")]
    for text, title in passages:
        named = {_SECTION_OF_WORD[word] for word in re.findall(r"\w+", title.upper()) if word in _SECTION_OF_WORD}
        if len(named) == 1:
            for sentence in _SENTENCE_END.split(text.strip()):
                if len(sentence.split()) >= _LEAST_WORDS:
                    yield _labelled.Example(sentence, min(named))
