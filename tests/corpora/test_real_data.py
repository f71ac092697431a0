"""The builders on the real raw data, and BM25 and the metrics on real text."""

import re

import pytest

from finemem_jax import config, corpora
from finemem_jax.benchmarks import memalpha
from finemem_jax.env.retrieval import BM25

# Texts and conversations are the user's own: there are no published ones, and their questions are made later.
SOURCES = [name for name in config.plugins("finemem_jax.corpora") if name not in ("conversations", "text")]


def build(real_data, tmp_path, source, **options):
    output = str(tmp_path / f"{source}-{options.get('split', 'train')}.parquet")
    options = {"instances": 3, "chunk_tokens": 512, "chunks": 0 if source == "squality" else 5} | options
    folder = real_data / {"conflict": "squad"}.get(source, source)
    report = corpora.build(source=source, input=str(folder), output=output, **options)
    return report, memalpha.load(config.DataConfig(path=output, eval_path=output), "eval", 0)


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_builds_and_loads(real_data, tmp_path, source, split):
    report, episodes = build(real_data, tmp_path, source, split=split)
    assert report.instances == len(episodes) > 0
    assert report.questions >= 3 * len(episodes)
    assert source == "squality" or report.chunk_questions > 0


TINY = dict(layout="bare", chunks=4, utterances=4, noise=1, labels_per_instance=4, questions=8, instances=100)


def test_clinc150_train_and_eval_are_disjoint(real_data, tmp_path):
    used = {}
    for split in ("train", "eval"):
        _, episodes = build(real_data, tmp_path, "clinc150", split=split, **TINY)
        shown = [line.split(" => ")[0] for e in episodes for chunk in e.chunks for line in chunk.text.splitlines()]
        asked = [q.text for e in episodes for part in (e, *e.chunks) for q in part.questions]
        assert len(shown) == 100 * 4 * 5 and len(asked) == 100 * (8 + 4 * 5)
        used[split] = {utterance.casefold() for utterance in (*shown, *asked)}
    assert not used["train"] & used["eval"]


def test_clinc150_can_be_answered_from_its_nearest_examples(real_data, tmp_path):
    """The stream is a task: what retrieval finds in a full memory names the label far above chance (1 in 4)."""
    _, episodes = build(real_data, tmp_path, "clinc150", split="eval", **TINY)
    right = total = 0
    for episode in episodes:
        lines = [line for chunk in episode.chunks for line in chunk.text.splitlines() if " => " in line]
        index = BM25(lines)
        for question in episode.questions:
            found = index.search(question.text, 1)
            right += bool(found) and lines[found[0][0]].split(" => ")[1] == question.answers[0]
            total += 1
    assert right / total > 0.6


def test_squad_questions_stand_where_their_evidence_says(real_data, tmp_path):
    _, episodes = build(real_data, tmp_path, "squad", instances=0, chunk_tokens=160)
    assert len(episodes) > 20
    for episode in episodes:
        for question in episode.questions:
            assert all(answer in episode.chunks[question.evidence[0]].text for answer in question.answers)


@pytest.mark.parametrize("idf", ["lucene", "okapi"])
def test_bm25_equals_its_formula_on_real_text(real_data, tmp_path, idf, formula):
    _, episodes = build(real_data, tmp_path, "squad", instances=1, chunks=0, chunk_tokens=60, layout="bare")
    texts = [chunk.text for chunk in episodes[0].chunks][:500]
    assert len(texts) == 500
    for question in episodes[0].questions[:10]:
        expected = formula(texts, question.text, idf)
        got = BM25(texts, idf=idf).search(question.text, 10)
        assert [score for _, score in got] == pytest.approx(sorted(expected, reverse=True)[:10], abs=1e-6)
        assert all(expected[index] == pytest.approx(score, abs=1e-6) for index, score in got)


@pytest.fixture
def formula():
    """BM25 score of every text, straight from the formula."""
    import math

    def scores(texts, query, idf, k1=1.5, b=0.75):
        documents = [re.findall(r"\b\w+\b", text.lower()) for text in texts]
        size, mean = len(documents), sum(map(len, documents)) / len(documents)
        holders = {}
        for document in documents:
            for word in set(document):
                holders[word] = holders.get(word, 0) + 1
        raw = {word: math.log((size - n + 0.5) / (n + 0.5)) for word, n in holders.items()}
        floor = 0.25 * sum(raw.values()) / len(raw)
        result = []
        for document in documents:
            score = 0.0
            for word in re.findall(r"\b\w+\b", query.lower()):
                count = document.count(word)
                if count:
                    positive = math.log(1 + (size - holders[word] + 0.5) / (holders[word] + 0.5))
                    weight = positive if idf == "lucene" else raw[word] if raw[word] >= 0 else floor
                    score += weight * count * (k1 + 1) / (count + k1 * (1 - b + b * len(document) / mean))
            result.append(score)
        return result

    return scores
