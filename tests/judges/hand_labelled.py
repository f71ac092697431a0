"""Answers labelled by hand, made so that comparing words fails: paraphrases and sums of what is right, and what shares
all its words with the gold answer and is wrong. right | false (it says something that is not so) | silent (it does not
know, or leaves out what was asked)."""

from __future__ import annotations

from typing import NamedTuple


class Labelled(NamedTuple):
    kind: str  # as LongMemEval calls it, or "abstention"
    question: str
    gold: str
    answer: str
    label: str


_FACT, _TIME, _UPDATE = "single-session-user", "temporal-reasoning", "knowledge-update"
_LIKES, _NONE, _MULTI = "single-session-preference", "abstention", "multi-session"
_LIKES_TRAM = "The user would prefer suggestions that avoid driving, since they sold their car and like trams."
_LIKES_QUIET = "The user would prefer quiet places without music, because of their hearing aid."
_NOT_SAID = "You never told me which bank you use; you only spoke of your insurance."

CASES = tuple(
    Labelled(*case)
    for case in (
        (_FACT, "Where does Maya work?", "at a bakery", "She sells the bread she bakes, in her own shop.", "right"),
        (_FACT, "Where does Maya work?", "at a bakery", "Not at a bakery any more, nor ever: at the docks.", "false"),
        (_FACT, "How many sisters has Leo?", "three", "A trio of them: Ada, Bea and Cleo.", "right"),
        (_FACT, "How many sisters has Leo?", "three", "Three cousins and two sisters.", "false"),
        (_FACT, "How many sisters has Leo?", "3", "thirteen minus ten", "right"),
        (_FACT, "How many sisters has Leo?", "3", "13", "false"),
        (_FACT, "What does Ida drink?", "tea without milk", "black tea", "right"),
        (_FACT, "What does Ida drink?", "tea without milk", "tea with milk, without sugar", "false"),
        (_FACT, "What does Ida drink?", "tea without milk", "Something hot, I am not sure what.", "silent"),
        (_FACT, "Is Tom a vegetarian?", "yes", "He has not touched meat since 2011.", "right"),
        (_FACT, "Is Tom a vegetarian?", "yes", "yes, he knows many, but he eats steak", "false"),
        (_FACT, "Is Tom a vegetarian?", "no", "I know nobody who loves ribs more than he does.", "right"),
        (_FACT, "Is Tom a vegetarian?", "no", "No meat for him, thanks!", "false"),
        (_FACT, "What is the name of the cat?", "Miso", "the one of the Japanese soup", "right"),
        (_FACT, "What is the name of the cat?", "Miso", "Miso is the dog, the cat is Tofu.", "false"),
        (_FACT, "What colour is the door?", "dark blue", "navy", "right"),
        (_FACT, "What colour is the door?", "dark blue", "dark, anything but blue", "false"),
        (_FACT, "Who fixed the roof?", "Anna's brother", "Jan, who is Anna's sibling", "right"),
        (_FACT, "Who fixed the roof?", "Anna's brother", "Anna, the brother was away", "false"),
        (
            _FACT,
            "Who fixed the roof?",
            "Anna's brother",
            "The notes speak of a roof, but of nobody who fixed it.",
            "silent",
        ),
        (_FACT, "How far is the cabin?", "two hours by train", "120 minutes on rails", "right"),
        (_FACT, "How far is the cabin?", "two hours by train", "by car two hours, longer by train", "false"),
        (_FACT, "What did she study?", "law", "She read jurisprudence.", "right"),
        (_FACT, "What did she study?", "law", "Her mother-in-law did not let her study.", "false"),
        (_TIME, "How many days lay between the visits?", "18 days", "nineteen, give or take", "right"),
        (_TIME, "How many days lay between the visits?", "18 days", "about 18 weeks", "false"),
        (_TIME, "When was the concert?", "7 May 2023", "the Sunday before 8 May 2023", "right"),
        (_TIME, "When was the concert?", "7 May 2023", "On 7 June; on 7 May 2023 she bought the ticket.", "false"),
        (
            _TIME,
            "Which came first, the move or the job?",
            "the move",
            "By the time she signed she lived there.",
            "right",
        ),
        (_TIME, "Which came first, the move or the job?", "the move", "the job, then the move", "false"),
        (_TIME, "How long has he had the bike?", "one year", "since twelve months ago", "right"),
        (_TIME, "How long has he had the bike?", "one year", "It is unclear from what is said.", "silent"),
        (_TIME, "When did it rain?", "the day before yesterday", "two days ago", "right"),
        (_TIME, "When did it rain?", "the day before yesterday", "yesterday, and the day before was dry", "false"),
        (_UPDATE, "Where does he live now?", "Rome", "First in Oslo; the Italian capital is home these days.", "right"),
        (_UPDATE, "Where does he live now?", "Rome", "Oslo, after he left Rome", "false"),
        (_UPDATE, "How much does she weigh?", "62 kg", "It was 64, it is two less now.", "right"),
        (_UPDATE, "How much does she weigh?", "62 kg", "64 kg, it was 62 kg once", "false"),
        (_UPDATE, "What is the deadline?", "Friday", "the last working day of the week, not Monday any more", "right"),
        (_UPDATE, "What is the deadline?", "Friday", "Monday (not Friday)", "false"),
        (_UPDATE, "Who is the dentist?", "Petrov", "Nothing of a dentist is on record.", "silent"),
        (_UPDATE, "Who is the dentist?", "Petrov", "Orlov, who took over from Petrov", "false"),
        (
            _LIKES,
            "How should I get to the lake?",
            _LIKES_TRAM,
            "Line 12 goes right there, and you need no car.",
            "right",
        ),
        (
            _LIKES,
            "How should I get to the lake?",
            _LIKES_TRAM,
            "The user would prefer trams; drive, it is quicker.",
            "false",
        ),
        (_LIKES, "How should I get to the lake?", _LIKES_TRAM, "There are many ways to get to a lake.", "silent"),
        (
            _LIKES,
            "Where shall we eat?",
            _LIKES_QUIET,
            "The garden of the library café, where you can hear yourself.",
            "right",
        ),
        (_LIKES, "Where shall we eat?", _LIKES_QUIET, "A quiet start, then live music at the Jazz Cellar!", "false"),
        (_LIKES, "Where shall we eat?", _LIKES_QUIET, "Restaurants differ in price and place.", "silent"),
        (_NONE, "Which bank do I use?", _NOT_SAID, "That has not come up between us.", "right"),
        (_NONE, "Which bank do I use?", _NOT_SAID, "The one that your insurance is with, Norda Bank.", "false"),
        (_NONE, "Which bank do I use?", _NOT_SAID, "I can only find your insurer, no bank.", "right"),
        (_NONE, "Which bank do I use?", _NOT_SAID, "You never told me, you only spoke of it: it is Norda.", "false"),
        (_NONE, "What did Ben's aunt say?", "Ben has no aunt in these talks.", "Of which aunt do you speak?", "right"),
        (
            _NONE,
            "What did Ben's aunt say?",
            "Ben has no aunt in these talks.",
            "That Ben has no talks in mind.",
            "false",
        ),
        (_NONE, "When did I run the marathon?", "A half marathon was all.", "You did 21 km, no full one.", "right"),
        (_NONE, "When did I run the marathon?", "A half marathon was all.", "In May, half of it walking.", "false"),
        (_MULTI, "How many books did I finish?", "five", "Two in May and three in June.", "right"),
        (_MULTI, "How many books did I finish?", "five", "Five in May alone, eight in all.", "false"),
        (_MULTI, "How many books did I finish?", "five", "Two in May, the rest I cannot tell.", "silent"),
        (
            _MULTI,
            "Which countries did we visit?",
            "Peru and Chile",
            "Chile, and its neighbour to the north, Peru",
            "right",
        ),
        (_MULTI, "Which countries did we visit?", "Peru and Chile", "Peru; and Chile we flew over", "false"),
        (_MULTI, "What did the trips cost?", "800 euros", "300 for the first, 500 for the second", "right"),
        (_MULTI, "What did the trips cost?", "800 euros", "800 euros each", "false"),
        (_MULTI, "Who came to both parties?", "Ada", "Only the older Lovelace was at each.", "right"),
        (_MULTI, "Who came to both parties?", "Ada", "Nobody: Ada missed the second.", "false"),
        (_MULTI, "Who came to both parties?", "Ada", "The guests of the second one are not listed.", "silent"),
    )
)
