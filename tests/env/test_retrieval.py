"""BM25 against its formula, written out in plain loops."""

import collections
import itertools
import json
import math
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finemem_jax import main
from finemem_jax.config import UserError
from finemem_jax.env import retrieval
from finemem_jax.env.retrieval import BM25

WORDS = "anna bob cat dog elm fig gold hat ink jam kite lamp moon nut oak pear".split()


def reference_scores(texts, query, idf, k1=1.5, b=0.75, epsilon=0.25):
    """Score of every text, straight from the formula."""
    documents = [re.findall(r"\b\w+\b", text.lower()) for text in texts]
    size = len(documents)
    mean = sum(map(len, documents)) / size
    holders = collections.Counter(word for document in documents for word in set(document))
    if idf == "lucene":
        idfs = {w: math.log(1 + (size - n + 0.5) / (n + 0.5)) for w, n in holders.items()}
    else:
        raw = {w: math.log((size - n + 0.5) / (n + 0.5)) for w, n in holders.items()}
        average = sum(raw.values()) / len(raw)
        idfs = {w: value if value >= 0 else epsilon * average for w, value in raw.items()}
    scores = []
    for document in documents:
        score = 0.0
        for word in re.findall(r"\b\w+\b", query.lower()):
            if word in document:
                count = document.count(word)
                score += idfs[word] * count * (k1 + 1) / (count + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


def assert_equals_reference(texts, query, idf, k, **settings):
    expected = reference_scores(texts, query, idf, **settings)
    got = BM25(texts, idf=idf, **settings).search(query, k)
    for index, score in got:
        assert score == pytest.approx(expected[index], abs=1e-6)
    assert len({index for index, _ in got}) == len(got)
    eligible = [s for s in expected if s > 0] if idf == "lucene" else expected
    assert [score for _, score in got] == pytest.approx(sorted(eligible, reverse=True)[:k], abs=1e-6)
    for (first, a), (second, b) in itertools.pairwise(got):
        assert a > b or (a == b and first < second), "best first, ties by insertion order"


def some_texts(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("idf", ["lucene", "okapi"])
@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 500])
def test_scores_and_order_equal_the_formula(count, idf):
    texts = some_texts(count, seed=count)
    for query in ("gold", "Gold, gold moon!", "anna bob cat dog", "no such thing", ""):
        for k in (1, 5, count + 3):
            assert_equals_reference(texts, query, idf, k)


@pytest.mark.parametrize("idf", ["lucene", "okapi"])
def test_k1_and_b_are_used(idf):
    texts = some_texts(20, seed=1)
    assert_equals_reference(texts, "gold moon", idf, 5, k1=0.9, b=0.4)
    assert BM25(texts, k1=0.9, b=0.4).search("gold moon", 1) != BM25(texts).search("gold moon", 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=90),
    st.lists(st.sampled_from([*WORDS, "unseen"]), max_size=4).map(" ".join),
    st.integers(1, 8),
)
def test_any_memory_equals_the_formula(texts, query, k):
    if not any(texts):
        return  # the formula divides by the mean length
    for idf in ("lucene", "okapi"):
        assert_equals_reference(texts, query, idf, k)


@pytest.mark.parametrize("idf", ["lucene", "okapi"])
def test_an_empty_memory_retrieves_nothing(idf):
    assert BM25([], idf=idf).search("gold", 3) == []
    assert BM25(["gold"], idf=idf).search("gold", 0) == []


def test_wordless_items_do_not_divide_by_zero():
    assert BM25(["", "?!"]).search("gold", 3) == []
    assert BM25(["", "?!"], idf="okapi").search("gold", 3) == [(0, 0.0), (1, 0.0)]


def test_lucene_retrieves_nothing_without_a_shared_word_and_okapi_the_first_items():
    texts = ["red hat", "blue hat", "green hat"]
    assert BM25(texts).search("moon", 2) == []
    assert BM25(texts, idf="okapi").search("moon", 2) == [(0, 0.0), (1, 0.0)]


def test_lucene_ranks_a_memory_of_one_and_two_items_where_okapi_cannot():
    assert BM25(["gold moon"]).search("gold", 1)[0][1] > 0
    assert BM25(["gold moon"], idf="okapi").search("gold", 1)[0][1] < 0
    assert [index for index, _ in BM25(["moon", "gold gold"]).search("gold", 2)] == [1]


@pytest.mark.parametrize("count", [10, 100])
def test_equal_texts_come_in_the_order_they_were_inserted(count):
    texts = ["moon", *["gold hat"] * count]
    assert [index for index, _ in BM25(texts).search("hat gold", 4)] == [1, 2, 3, 4]


def test_unknown_idf_names_the_known_ones():
    with pytest.raises(UserError, match="lucene"):
        BM25(["gold"], idf="lucen")


def test_small_memories_are_built_without_a_fixed_cost_of_milliseconds():
    """Ten items take a hundredth of the time of a thousand, and not half of it."""
    few, many = ([text * 2 for text in some_texts(count, seed=3)] for count in (10, 1000))

    def build(texts):
        retrieval.forget()
        BM25(texts)

    best = {len(texts): min(_seconds(lambda t=texts: build(t)) for _ in range(20)) for texts in (few, many)}
    assert best[10] < best[1000] / 4


def test_the_benchmark_asks_five_thousand_items_a_hundred_questions_beside_rank_bm25(capsys):
    rank_bm25 = pytest.importorskip("rank_bm25")
    assert main.main(["bench", "retrieval", "--steps=40"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["questions"]) == (5000, 100)
    # The figures are the benchmark's to report: on a busy machine they say little.
    assert found["times_faster_warm"] > 1 and found["times_faster_cold"] > 1
    # with its idf, its scores too, so that both did the same work
    texts = some_texts(300, seed=9)
    theirs = rank_bm25.BM25Okapi([retrieval.split_words(text) for text in texts])
    for question in ("gold moon anna", "hat", "nothing 17"):
        expected = theirs.get_scores(retrieval.split_words(question))
        for index, score in BM25(texts, idf="okapi").search(question, 300):
            assert score == pytest.approx(expected[index], abs=1e-9)


# Letters of scripts with spaces and no marks, and signs: nothing is special about them.
PLAIN = st.text(st.sampled_from("abcXYZ019_ \n.,;'\"éÜßøŁжДλΩאبगｱ’–…€²½".replace("ｱ", "")))


@given(PLAIN)
def test_words_are_those_of_the_regular_expression(text):
    assert retrieval.split_words(text) == re.findall(r"\b\w+\b", text.lower())


def test_every_ascii_sign_splits_words_as_the_regular_expression_does():
    text = "".join(f"A{chr(a)}b{chr(a)}{chr(b)}" for a in range(128) for b in range(128))
    assert retrieval.split_words(text) == re.findall(r"\b\w+\b", text.lower())


def _seconds(action):  # of this process: the machine may be busy with others
    start = time.process_time()
    action()
    return time.process_time() - start


@pytest.mark.parametrize("idf", ["lucene", "okapi"])
def test_a_long_memory_that_changes_step_by_step_equals_the_formula(idf):
    rng = random.Random(5)
    texts = [f"{text} {i}" for i, text in enumerate(some_texts(3000, seed=5))]
    for _ in range(4):
        del texts[rng.randrange(len(texts))]
        texts[rng.randrange(len(texts))] = "gold moon " * rng.randint(1, 3)
        texts += some_texts(3, seed=rng.randrange(1000))
        assert_equals_reference(texts, "gold moon anna", idf, 20)
    assert_equals_reference(texts, "gold nothing 17", idf, 3)


def test_a_step_of_a_long_memory_indexes_what_changed_and_no_more():
    texts = [f"{text} {i}" for i, text in enumerate(some_texts(5000, seed=6))]
    BM25(texts)
    blocks = len(list(retrieval._blocks(texts)))
    assert blocks > 4
    for change in (lambda: texts.append("a new one"), lambda: texts.pop(2500), lambda: texts.insert(700, "changed")):
        change()
        before = retrieval._kept_block.cache_info().misses
        BM25(texts)
        assert retrieval._kept_block.cache_info().misses - before <= 2
