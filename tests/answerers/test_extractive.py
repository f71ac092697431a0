"""What the embedded answerer can do, and what it says when it cannot."""

from __future__ import annotations

import pytest

from finemem_jax.answerers.extractive import create
from finemem_jax.config import AnswererConfig
from finemem_jax.types import AnswerRequest, Retrieved


def ask(question, *texts, scores=None):
    items = tuple(Retrieved(f"#{i}", 0, (0,), t, (scores or [1.0] * len(texts))[i]) for i, t in enumerate(texts))
    return create(AnswererConfig()).answer([AnswerRequest(question, items)])[0]


@pytest.mark.parametrize(
    ("question", "texts", "expected"),
    [
        ("what is Maya's dentist?", ["now Maya's dentist is Orlov"], "Orlov"),
        ("what is Maya's dentist?", ["Maya's dentist is Orlov", "Maya's dentist is Petrov"], "Orlov"),  # the best item
        ("what is Zara's bus?", ["Rain fell. Zara's bus is forty. It was late."], "forty"),  # the best sentence
        ("who wrote Emma?", ["in 1815 Emma was by Jane Austen"], "Jane Austen"),  # the longest run, in one piece
        ("anything?", [], ""),
        ("what is red?", ["red is"], ""),
        ("中国的首都是哪里？", ["东京很大。北京是中国的首都。"], "北京"),
        ("エイダはどこに住んでいますか", ["エイダは東京に住んでいます"], "東京"),
    ],
)
def test_spans(question, texts, expected):
    assert ask(question, *texts) == expected


def test_labels_are_voted_for_with_the_scores_of_the_examples():
    examples = ["play me jazz => music", "book a seat => travel", "put on folk => music"]
    assert ask("play folk", *examples, scores=[1.0, 1.5, 0.9]) == "music"
    assert ask("play folk", *examples, scores=[1.0, 2.5, 0.9]) == "travel"


def test_the_published_layout_of_labels_is_read():
    assert ask("is it cold", "Sentence: will it rain\nLabel: 7", "Sample: x\nLabels: 3", scores=[2.0, 1.0]) == "7"


def test_a_labelled_example_that_is_not_the_best_item_does_not_vote():
    assert ask("what is Maya's pet?", "Maya's pet is goat", "play jazz => music") == "goat"


def test_it_is_deterministic_on_ties():
    assert ask("x", "a => one", "b => two") == "one"
