"""The answerer of dated notes: how times are resolved, what a span is, and that what it reads is data."""

from __future__ import annotations

import datetime
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finemem_jax.answerers import _dates, _notes
from finemem_jax.answerers import _span_features as features
from finemem_jax.answerers.spans import create, weights
from finemem_jax.config import AnswererConfig
from finemem_jax.types import AnswerRequest, Retrieved
from tests.growth import LINEAR, times_longer

NOTE = datetime.date(2023, 5, 8)  # a Monday


def ask(question, *texts, cites=False):
    items = tuple(Retrieved(f"#{i}", 0, (0,), text, 1.0) for i, text in enumerate(texts))
    (future,) = create(AnswererConfig()).submit([AnswerRequest(question, items, cites=cites)])
    return future.result()


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("I went there yesterday", "7 May 2023"),
        ("the day before yesterday we met", "6 May 2023"),
        ("we leave tomorrow", "9 May 2023"),
        ("we met 10 days ago", "28 April 2023"),
        ("I saw it last week", "the week before 8 May 2023"),
        ("we ran last Fri", "the Friday before 8 May 2023"),
        ("we camped two weekends ago", "two weekends before 8 May 2023"),
        ("the show is next month", "June 2023"),
        ("I quit six months ago", "November 2022"),
        ("I moved three years ago", "2020"),
        ("I learnt it last year", "2022"),
        ("back in 2016 I began", "2016"),
        ("her birthday is on the 3rd of August", "3 August 2023"),
        ("it opened on June 16, 2022, yesterday's hero", "16 June 2022"),
        ("it was on 31 June", ""),
        ("nothing is said", ""),
        ("that may last, next to me", ""),
    ],
)
def test_times_are_resolved_with_the_date_of_the_note(sentence, expected):
    assert _dates.time_of(sentence, NOTE) == expected


def test_without_a_date_a_time_is_given_as_it_was_said():
    assert _dates.time_of("I went there yesterday", None) == "yesterday"
    assert _dates.time_of("I went there in 2016", None) == "2016"


@pytest.mark.parametrize(
    "text",
    [
        "[8 May 2023] Mia: I paint. It helps.",
        "[Dialogue at timestamp 1:56 pm on 8 May, 2023]\n<Mia>I paint. It helps.",
        "2023-05-08, Mia: I paint. It helps.",
        "May 8, 2023 Mia: I paint.\nIt helps.",
    ],
)
def test_headers_of_notes(text):
    assert _notes.read_note(text) == _notes.Note(NOTE, "mia", ("I paint.", "It helps."))


def test_a_text_without_header_is_all_sentences():
    text = "We were there on 8 May 2023 and it rained. Fine."
    assert _notes.read_note(text).sentences == ("We were there on 8 May 2023 and it rained.", "Fine.")


def test_a_date_is_asked_for():
    items = ["[8 May 2023] Mia: I went to a support group yesterday. It rained.", "[9 May 2023] Ann: I like tea."]
    assert ask("When did Mia go to the support group?", *items).text == "7 May 2023"
    assert ask("When did Ann say that she likes tea?", *items).text == "9 May 2023"


def test_a_span_is_asked_for():
    items = ["[8 May 2023] Mia: I am fine. My dog is called Oscar.", "[9 May 2023] Ann: Good to see you!"]
    assert ask("What is Mia's dog called?", *items).text == "Oscar"


def test_nothing_retrieved_is_answered_by_nothing():
    assert ask("When was it?").text == ask("What is it?").text == ask("What is it?", "", "?!").text == ""


def test_it_cites_the_item_that_the_answer_is_from_only_when_asked_to():
    items = ["[9 May 2023] Ann: I like tea.", "[8 May 2023] Mia: My dog is called Oscar."]
    assert ask("What is Mia's dog called?", *items, cites=True).cited == (1,)
    assert ask("What is Mia's dog called?", *items).cited is None


@pytest.mark.parametrize("seed", range(8))
def test_the_best_span_is_the_best_of_all_by_the_sum_of_its_features(seed):
    sentence = features.read_sentence("Well, my old dog Oscar likes to swim, and Luna sleeps. (No?)")
    asked = features.read_question("What does the dog Oscar like to do?")
    spans = {
        (i, j): list(features.features_of(sentence, i, j, asked))
        for i in range(len(sentence.words))
        for j in range(i, min(i + features.LONGEST, len(sentence.words)))
    }
    rng = random.Random(seed)
    table = {name: rng.gauss(0, 1) for name in sorted({name for names in spans.values() for name in names})}
    every = {place: sum(table[name] for name in names) for place, names in spans.items()}
    score, i, j = features.best_span(sentence, asked, table)
    assert score == pytest.approx(max(every.values())) == pytest.approx(every[i, j])


def test_fitted_weights_are_of_features_that_exist():
    kinds = {name.split(" ")[-2] for name in weights() if " " in name and not name.startswith(("overlap", "its"))}
    assert len(weights()) > 100 and {"first", "last", "before", "after", "holds", "words"} <= kinds


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.lists(st.text(max_size=200), max_size=3))
def test_any_text_is_data(question, texts):
    reply = ask(question, *texts, cites=True)
    assert isinstance(reply.text, str) and all(0 <= place < len(texts) for place in reply.cited)
    assert ask(question, *texts, cites=True) == reply


@pytest.mark.parametrize(
    "unit", ["a", "a ", "a. ", "[", "1 may ", "last ", "<a", "“", "\n", "may 1, ", "a:", "9-", "e'"]
)
def test_time_is_linear_in_an_item(unit):
    def read(size):
        text = unit * (size // len(unit))
        note = _notes.read_note(text)
        return [(_dates.time_of(s, NOTE), features.read_sentence(s)) for s in (*note.sentences, text)]

    assert times_longer(read, 4000) < LINEAR
