"""Fits the weights of the `spans` answerer: finemem_jax/assets/spans.json.

    finemem data build --source=locomo --input=RAW --output=T.parquet --split=train --held-out-every=2 --layout=bare \
      --chunk-tokens=1024 --chunks=1 --chunk-questions=0 --instances=0
    python launch/fit_spans.py T.parquet finemem_jax/assets/spans.json

For every question that no date answers, the spans of the sentences that retrieval finds, in a memory of all lines that
hold answers and in one of all lines, are scored by token F1. The weights minimise

    - sum over questions of log sum over spans of p(span) F1(span)^2  +  PENALTY |weights|^2

where p is the softmax of the spans' scores.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse

from finemem_jax.answerers import _span_features as features
from finemem_jax.answerers import spans
from finemem_jax.benchmarks import memalpha
from finemem_jax.config import RetrievalConfig
from finemem_jax.env import scoring
from finemem_jax.env.retrieval import open_index

PENALTY = 1.0
RETRIEVED = 3
OTHERS = 100  # spans of little worth that are looked at per question: drawn, and weighed for all there are
LITTLE = 0.34
MOST_GOOD = 80


def read(corpus):
    """Yields (question, its golds, the items retrieved)."""
    for episode in memalpha.read_file(corpus):
        everything = [line for chunk in episode.chunks for line in chunk.text.split("\n")]
        held = {line for question in episode.questions for line in question.lines}
        for memory in ([line for line in everything if line in held], everything):
            index = open_index(memory, RetrievalConfig())
            for question in episode.questions:
                if question.kind in ("single_hop", "multi_hop"):
                    yield question, tuple(memory[i] for i, _ in index.search(question.text, RETRIEVED))


def example(question, items, rng):
    """(features of each span, F1 of each, log of how many spans it stands for); None where no span is worth much."""
    asked = features.read_question(question.text)
    if asked.is_when:
        return None
    sentences = list(spans.candidates(asked, items))
    found, scores = [], []
    for number, candidate in enumerate(sentences):
        words = candidate.sentence.words
        for i in range(len(words)):
            for j in range(i, min(i + features.LONGEST, len(words))):
                found.append((number, i, j))
                scores.append(scoring.token_f1(" ".join(words[i : j + 1]), question.answers))
    scores = np.array(scores)
    if not len(scores) or scores.max() < 0.5:
        return None
    good, others = np.flatnonzero(scores >= LITTLE)[:MOST_GOOD], np.flatnonzero(scores < LITTLE)
    drawn = rng.choice(others, min(OTHERS, len(others)), replace=False)
    rows = []
    for place in (*good, *drawn):
        number, i, j = found[place]
        candidate = sentences[number]
        row = Counter(features.features_of(candidate.sentence, i, j, asked))
        rows.append(row | dict(candidate.values))
    stands_for = np.log(len(others) / max(len(drawn), 1)) if len(drawn) else 0.0
    counts = np.concatenate([np.zeros(len(good)), np.full(len(drawn), stands_for)])
    return rows, scores[[*good, *drawn]], counts


def fit(examples):
    used = sorted({name for rows, _, _ in examples for row in rows for name in row})
    names = {name: i for i, name in enumerate(used)}
    entries = [
        (number, names[name], value)
        for number, row in enumerate(row for rows, _, _ in examples for row in rows)
        for name, value in row.items()
    ]
    rows, columns, values = zip(*entries, strict=True)
    matrix = scipy.sparse.csr_matrix((np.array(values, float), (rows, columns)))
    worth = np.concatenate([scores for _, scores, _ in examples]) ** 2
    counts = np.concatenate([counts for _, _, counts in examples])
    sizes = [len(scores) for _, scores, _ in examples]
    of, firsts = np.repeat(np.arange(len(sizes)), sizes), np.cumsum([0, *sizes[:-1]])

    def loss(weights):
        score = matrix @ weights + counts
        p = np.exp(score - np.maximum.reduceat(score, firsts)[of])
        p /= np.add.reduceat(p, firsts)[of]
        expected = np.add.reduceat(p * worth, firsts)
        gradient = matrix.T @ (p - p * worth / expected[of]) + 2 * PENALTY * weights
        return PENALTY * weights @ weights - np.log(expected).sum(), gradient

    start = np.zeros(len(names))
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 80})
    return {name: round(float(found.x[i]), 2) for name, i in names.items() if abs(found.x[i]) >= 0.05}


def main(corpus, output):
    examples = []
    for number, (question, items) in enumerate(read(corpus)):
        found = example(question, items, np.random.default_rng(number))
        if found is not None:
            examples.append(found)
    weights = fit(examples)
    Path(output).write_text(json.dumps(weights, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{output}: {len(weights)} weights from {len(examples)} questions of {corpus}")


if __name__ == "__main__":
    main(*sys.argv[1:])
