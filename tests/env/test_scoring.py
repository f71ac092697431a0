"""Metrics: strict where the reference was lenient by accident, and the same on both sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax.config import UserError
from finemem_jax.env import scoring
from tests.growth import LINEAR, times_longer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The card_arrival!", ("card", "arrival")),
        ("It's $1,234.50 in U.S.", ("its", "1234.50", "in", "us")),
        ("A", ("a",)),
        ("+", ("+",)),
        ("", ()),
        ("2010-2011", ("2010", "2011")),
        ("it is -3.", ("it", "is", "-3")),
        ("at 6:30 a.m.", ("at", "6", "30", "am")),
        ("STRAẞE ﬁn", ("strasse", "fin")),
        ("Answer:Denver", ("answer", "denver")),
    ],
)
def test_normalised_words(text, words):
    assert scoring.normalise(text) == words


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "expected"),
    [
        ("exact_match", "Book Flight", ["book_flight"], 1),
        ("exact_match", "the book flight.", ["x", "book flight"], 1),
        ("exact_match", "book flight please", ["book flight"], 0),
        ("exact_match", "", ["book flight"], 0),
        ("exact_match", "book flight", [], 0),
        ("boxed_match", r"It is \boxed{3}.", ["3"], 1),
        ("boxed_match", r"It is \boxed{\text{3}}.", ["3"], 1),
        ("boxed_match", r"\boxed{ \textbf{03} }", ["3"], 1),
        ("boxed_match", r"$\boxed{3}$", ["3"], 1),
        ("boxed_match", r"put it in \boxed{label}: \boxed{3}", ["3"], 1),
        ("boxed_match", r"\boxed{3} or rather \boxed{4}", ["3"], 0),
        ("boxed_match", r"\boxed{13}", ["3"], 0),
        ("boxed_match", r"\boxed{Card_Arrival}", ["card arrival"], 1),
        ("boxed_match", "3", ["3"], 1),
        ("boxed_match", "the label is 3", ["3"], 0),
        ("boxed_match", r"cut off \boxed{3", ["3"], 0),
        ("boxed_match", r"\boxed{}", ["3"], 0),
        ("substring_match", "I know nothing", ["no"], 0),
        ("substring_match", "Cannot say, not now", ["no"], 0),
        ("substring_match", "No, it is not.", ["no"], 1),
        ("substring_match", "in room 13", ["3"], 0),
        ("substring_match", "about 3.5 km", ["3"], 0),
        ("substring_match", "1,000 people", ["1000"], 1),
        ("substring_match", "He went to the Golden Gate Bridge.", ["golden gate"], 1),
        ("substring_match", "a gate, golden", ["golden gate"], 0),
        ("substring_match", "in the U.S.A. today", ["USA"], 1),
        ("substring_match", "it is option A", ["A"], 1),
        ("substring_match", "it is option B", ["A"], 0),
        ("substring_match", "anything", [""], 0),
        ("substring_match", "", ["x"], 0),
        ("token_f1", "the cat sat", ["cat sat down"], 0.8),
        ("token_f1", "cat cat", ["cat"], 2 / 3),
        ("token_f1", "dog", ["cat", "dog"], 1),
        ("token_f1", "", ["cat"], 0),
        ("token_f1", "no", ["yes"], 0),
        ("rouge_l", "the cat sat on the mat", ["the cat sat on the mat"], 1),
        ("rouge_l", "cats sitting", ["cat sits"], 1),
        ("rouge_l", "a b c d", ["a x b y"], 0.5),
        ("rouge_l", "", ["a"], 0),
        ("keyword_recall", "Bob met ANNA in Oslo", ["Anna, bob, Paris, know"], 0.5),
        ("keyword_recall", "Bob met ANNA", ["Anna", "Bob"], 1),
        ("keyword_recall", "anything", ["anna, , Anna,"], 0),
        ("keyword_recall", "anything", [", "], 0),
        ("parts_recall", "They met in paris, FRANCE", ["Paris, France; 1998"], 0.5),
        ("parts_recall", "paris and france", ["Paris, France"], 0),
        ("ordered_recall", "First sowing, then weeding, at last the harvest.", ["sowing; weeding; harvest"], 1),
        ("ordered_recall", "first the harvest, then sowing and weeding", ["sowing; weeding; harvest"], 2 / 3),
        ("ordered_recall", "harvest, weeding, sowing", ["sowing; weeding; harvest"], 1 / 3),
        ("ordered_recall", "sowing", ["sowing; sowing"], 1 / 2),
        ("ordered_recall", "sowing sowing", ["sowing; sowing"], 1),
        ("ordered_recall", "weed, harvest, weed", ["harvest; weed"], 1),
        ("ordered_recall", "c b a", ["a; b; c", "c; b"], 1),
        ("ordered_recall", "weedings", ["weeding"], 0),
        ("ordered_recall", "", ["a"], 0),
        ("ordered_recall", "anything", [" ; "], 0),
        ("not_said", "it was ORLOV", ["Orlov"], 0),
        ("not_said", "Orlova", ["Orlov"], 1),
        ("not_said", "", ["Orlov"], 1),
    ],
)
def test_scores(metric, prediction, answers, expected):
    assert scoring.score(metric, prediction, answers) == pytest.approx(expected)


# Those that are 1 for the gold itself.
STRICT = sorted(scoring.METRICS.keys() - {"not_said", "abstention"} - {n for n in scoring.METRICS if n[:4] == "refe"})


@pytest.mark.parametrize("metric", STRICT)
def test_case_is_folded_on_both_sides(metric):
    assert scoring.score(metric, "anna smith", ["ANNA SMITH"]) == 1
    assert scoring.score(metric, "ANNA SMITH", ["anna smith"]) == 1


@pytest.mark.parametrize("metric", sorted(scoring.METRICS))
@given(prediction=st.text(), answers=st.lists(st.text(), max_size=3))
def test_every_score_is_a_share(metric, prediction, answers):
    assert 0 <= scoring.score(metric, prediction, answers) <= 1


@pytest.mark.parametrize("metric", STRICT)
def test_a_lone_string_is_one_answer(metric):
    assert scoring.score(metric, "anna", "anna") == 1
    assert scoring.score(metric, "a", "anna") == 0


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(UserError, match="substring_match"):
        scoring.score("substring", "x", ["x"])


@pytest.mark.parametrize("unit", [r"\boxed{", r"\text{", "{", "a.", "1,", "1.", "-"])
def test_hostile_predictions_take_linear_time(unit):
    def score(size):
        for metric in ("exact_match", "boxed_match", "substring_match", "token_f1", "keyword_recall"):
            scoring.score(metric, unit * (size // len(unit)), ["anna"])

    assert times_longer(score, 125_000) < LINEAR
