"""LoCoMo's turns as lines, and the questions that an embedded answerer can answer from them."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from finemem_jax import config, corpora
from finemem_jax.baselines._scripted import is_fact
from finemem_jax.benchmarks import memalpha
from finemem_jax.config import AnswererConfig
from finemem_jax.corpora._chunk_questions import chunk_questions
from finemem_jax.env import scoring
from finemem_jax.types import AnswerRequest, Question, Retrieved

LONG = "We drove for hours, and then it rained. " * 6
TURNS = [  # who, what, question, answer, category; an empty question: small talk
    ("Ann", "I went to a support group yesterday.", "When did Ann go to the support group?", "7 May 2023", 2),
    ("Bo", "Good to see you! How are you?", "", "", 0),
    ("Ann", f"My dog is called Oscar. {LONG}", "What is Ann's dog called?", "Oscar", 4),
    ("Bo", "That sounds like a lot of rain.", "", "", 0),
    ("Ann", "Yes, it was.", "", "", 0),
    ("Bo", "Let us talk soon.", "Why would Bo move to a city by the sea?", "he is tired of mountains", 3),
]


def write(folder, conversations=4):
    asked = [
        {"question": q, "answer": a, "evidence": [f"D1:{i}"], "category": c}
        for i, (_, _, q, a, c) in enumerate(TURNS, start=1)
        if q
    ]
    said = [{"speaker": who, "dia_id": f"D1:{i}", "text": text} for i, (who, text, *_) in enumerate(TURNS, start=1)]
    rows = [
        {"conversation": {"session_1_date_time": f"1:00 pm on 8 May, 202{3 + c}", "session_1": said}, "qa": asked}
        for c in range(conversations)
    ]
    (folder / "locomo_x.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))


def build(tmp_path, **options):
    write(tmp_path)
    output = str(tmp_path / "o.parquet")
    given = {"split": "all", "layout": "bare", "chunk_tokens": 60, "chunks": 0, "chunk_questions": 0} | options
    corpora.build(source="locomo", input=str(tmp_path), output=output, **given)
    return list(memalpha.read_file(output))


def lines_of(episode):
    return [chunk.text.split("\n") for chunk in episode.chunks]


def test_every_line_says_its_day_and_who_speaks_and_keeps_to_its_budget(tmp_path):
    (first, *_) = build(tmp_path, line_tokens=24)
    lines = [line for chunk in lines_of(first) for line in chunk]
    assert all(re.match(r"\[8 May 2023\] (Ann|Bo): \S", line) for line in lines)
    assert max(len(re.findall(r"\w+|[^\w\s]", line)) for line in lines) <= 24
    said = " ".join(line.partition(": ")[2] for line in lines)
    assert said == " ".join(" ".join(text.split()) for _, text, *_ in TURNS)


def test_a_question_names_the_lines_of_its_turns_in_the_chunks_that_are_its_evidence(tmp_path):
    for episode in build(tmp_path, line_tokens=24):
        held = lines_of(episode)
        for question in episode.questions:
            assert question.evidence and question.lines
            assert set(question.evidence) == {i for i, chunk in enumerate(held) if set(chunk) & set(question.lines)}
            assert all(any(line in held[i] for i in question.evidence) for line in question.lines)


@pytest.mark.parametrize("answerer", ["spans", "extractive"])
def test_kept_questions_are_right_from_their_lines_and_the_others_are_not(tmp_path, answerer):
    every = build(tmp_path, line_tokens=24)
    kept = build(tmp_path, line_tokens=24, answerable=answerer)
    asks = config.resolve("finemem_jax.answerers", answerer).create(AnswererConfig())

    def is_right(question, lines):
        items = tuple(Retrieved(f"#{i}", i, (i,), line, 1.0) for i, line in enumerate(lines))
        return scoring.token_f1(asks.answer([AnswerRequest(question.text, items)])[0], question.answers) >= 0.5

    found = {(episode.id, question.text) for episode in kept for question in episode.questions}
    assert all(is_right(question, question.lines) for episode in kept for question in episode.questions)
    for episode in every:
        for question in episode.questions:
            ways = [*((line,) for line in question.lines), question.lines]
            assert ((episode.id, question.text) in found) == any(is_right(question, lines) for lines in ways)
    assert 0 < len(found) < sum(len(episode.questions) for episode in every)


def test_one_line_that_is_enough_is_the_evidence(tmp_path):
    (first, *_) = build(tmp_path, line_tokens=24, answerable="spans")
    asked = {question.text: question for question in first.questions}
    assert asked.keys() == {"When did Ann go to the support group?", "What is Ann's dog called?"}
    (line,) = asked["What is Ann's dog called?"].lines
    assert "Oscar" in line and len(asked["What is Ann's dog called?"].evidence) == 1


@pytest.mark.parametrize("noise", [0, 1, 100])
def test_chunks_without_evidence_are_left_out_but_for_noise_in_front(tmp_path, noise):
    every = build(tmp_path, chunk_tokens=24)[0]
    thin = build(tmp_path, chunk_tokens=24, answerable="spans", noise=noise)[0]
    texts = [chunk.text for chunk in every.chunks]
    places = [texts.index(chunk.text) for chunk in thin.chunks]
    assert places == sorted(set(places))
    held = {places[i] for question in thin.questions for i in question.evidence}
    assert set(places) == held | {i for place in held for i in range(max(0, place - noise), place)}


def test_train_and_eval_share_no_conversation(tmp_path):
    train, held_out = (build(tmp_path, split=split, held_out_every=2) for split in ("train", "eval"))
    years = [{re.findall(r"May (\d+)", episode.chunks[0].text)[0] for episode in part} for part in (train, held_out)]
    assert years == [{"2023", "2025"}, {"2024", "2026"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answerable": "spans", "layout": "dialogue"}, "--answerable=spans: only with --source=locomo --layout=bare"),
        ({"answerable": "endpoint"}, "--answerable=endpoint: allowed are"),
        ({"line_tokens": 5}, "no room beside"),
        ({"held_out_every": 1}, "--held-out-every=1"),
    ],
)
def test_what_cannot_be_built_is_one_line(tmp_path, options, message):
    with pytest.raises(config.UserError, match=re.escape(message)):
        build(tmp_path, **options)


def test_scripts_keep_the_lines_that_a_question_names_and_no_other():
    question = Question("When did Ann go?", ("7 May 2023",), lines=("[8 May 2023] Ann: I went yesterday.",))
    assert is_fact(question.lines[0], [question])
    assert not is_fact("Ann did go on 7 May 2023", [question])
    assert is_fact("Ann did go on 7 May 2023", [Question("When did Ann go?", ("7 May 2023",))])


def test_questions_about_chunks_that_come_from_evidence_name_their_lines(tmp_path):
    asked = {q.text: q.lines for q in build(tmp_path, answerable="spans")[0].questions}
    chunk_questions(corpus=str(tmp_path / "o.parquet"), from_evidence=True)
    (first, *_) = memalpha.load(config.DataConfig(path="", eval_path=str(tmp_path / "o.parquet")), "eval", 0)
    about = {q.text: q.lines for chunk in first.chunks for q in chunk.questions}
    assert about == asked != {}


def test_lines_that_are_no_texts_are_named(tmp_path):
    row = {"chunks": ["x"], "data_source": "locomo", "metadata": {}}
    row["questions_and_answers"] = [{"question": "q", "answer": "a", "lines": [3]}]
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(config.UserError, match=r"questions_and_answers\[0\].lines' must be a list of texts"):
        list(memalpha.read_file(str(tmp_path / "a.json")))
