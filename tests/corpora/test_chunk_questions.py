"""`finemem data chunk-questions`: a model writes, the answerer checks, what is dropped is counted."""

import json

import pytest

from finemem_jax import config, corpora, main
from finemem_jax.benchmarks import memalpha
from finemem_jax.config import UserError
from finemem_jax.corpora._chunk_questions import chunk_questions
from finemem_jax.corpora._question_writing import Candidate, is_repeated, read_candidates
from tests.fake_server import FakeServer

CHUNKS = [f"Person {i} lives in Town {i} and owns {i + 20} goats. A goat eats grass." for i in range(6)]


def corpus(tmp_path, name="c.json"):
    rows = [
        {
            "chunks": CHUNKS[start : start + 3],
            "questions_and_answers": [{"question": f"Where does Person {start} live?", "answer": f"Town {start}"}],
            "data_source": "squad",
        }
        for start in (0, 3)
    ]
    path = tmp_path / name
    path.write_text(json.dumps(rows))
    return str(path)


def candidates(i):
    return [
        (f"Where does Person {i} live?", f"Town {i}"),  # of the rows' first chunks also a final question
        (f"How many goats does Person {i} own?", f"{i + 20}"),
        (f"How many goats does Person {i} own now?", f"{i + 20}"),  # repeats the one before
        (f"Who rules Town {i}?", "the king"),  # the answerer does not find it
        ("What does a goat eat?", "grass"),  # can be guessed; and every chunk asks it
        (f"Who is the person in this passage {i}?", f"Person {i}"),  # points at a text nobody sees
        (f"What does the one in Town {i} own?", "goats"),
    ]


ANSWERS = {q: "nobody" if a == "the king" else a for i in range(6) for q, a in candidates(i)}


class Model(FakeServer):
    """Writes the candidates of the chunk it is shown, and answers what it is asked, from the chunk or by guessing."""

    def __init__(self, behave=lambda question, attempt: "ok"):
        super().__init__(behave)
        self.reply = self.say

    def say(self, text):
        if text.startswith("<passage>"):
            i = next(i for i, chunk in enumerate(CHUNKS) if chunk in text)
            entries = [{"question": q, "answer": a} for q, a in candidates(i)]
            return f"<think>[1]</think>Sure:\n```json\n{json.dumps(entries)}\n```"
        shown = any(text in b["messages"][-1]["content"] and "1. Person" in b["messages"][-1]["content"]
                    for b in self.bodies[-1:])  # fmt: skip
        return ANSWERS[text] if shown or ANSWERS[text] == "grass" else "unknown"


def run(server, path, **options):
    return chunk_questions(**({"corpus": path, "url": server.url, "model": "m", "concurrency": 1, "keep": 3} | options))


def stored(path):
    episodes = memalpha.load(config.DataConfig(path=path, eval_path=path), "eval", 0)
    return [[[q.text for q in chunk.questions] for chunk in episode.chunks] for episode in episodes]


def expected(i, guessable=True):
    """What is left of the candidates of chunk i."""
    texts = [] if i % 3 == 0 else [f"Where does Person {i} live?"]
    texts.append(f"How many goats does Person {i} own?")
    if guessable and i % 3 == 0:  # of the later chunks of a row it repeats the first's
        texts.append("What does a goat eat?")
    return [*texts, f"What does the one in Town {i} own?"]


def test_only_verified_distinct_questions_are_kept_and_the_loader_finds_them(tmp_path, capsys):
    path = corpus(tmp_path)
    with Model() as server:
        report = run(server, path)
    assert stored(path) == [[expected(i) for i in row] for row in ((0, 1, 2), (3, 4, 5))]
    count = report.counts["squad"]
    assert count["candidates"] == 42 and count["unusable"] == 6 and count["wrong"] == 6
    assert count["repeated"] == 6 + 2 + 4 and count["kept"] == 18 and count["chunks"] == 6
    assert sum(count[fate] for fate in ("unusable", "repeated", "wrong", "guessable", "over", "kept")) == 42
    report.show()
    assert "6 (14%)" in capsys.readouterr().out
    written = json.loads((tmp_path / "c.chunk_questions.report.json").read_text())
    assert written["counts"]["squad"] == dict(count)


def test_what_can_be_guessed_is_dropped_on_request(tmp_path):
    path = corpus(tmp_path)
    with Model() as server:
        report = run(server, path, drop_guessable=True)
    assert stored(path) == [[expected(i, guessable=False) for i in row] for row in ((0, 1, 2), (3, 4, 5))]
    assert report.counts["squad"]["guessable"] == 6


def test_no_more_than_k_are_kept(tmp_path):
    path = corpus(tmp_path)
    with Model() as server:
        report = run(server, path, keep=2)
    assert [[len(questions) for questions in row] for row in stored(path)] == [[2] * 3] * 2
    assert report.counts["squad"]["over"] == 6


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(tmp_path):
    path = corpus(tmp_path)
    with Model() as server:
        run(server, path)
        asked, first = len(server.seen), (tmp_path / "c.chunk_questions.jsonl").read_bytes()
        run(server, path)
        assert len(server.seen) == asked and (tmp_path / "c.chunk_questions.jsonl").read_bytes() == first


def test_a_server_that_fails_leaves_gaps_that_the_next_run_fills(tmp_path):
    (tmp_path / "whole").mkdir()
    path, whole = corpus(tmp_path), corpus(tmp_path / "whole")
    with Model() as server:
        run(server, whole)

    def fails(text, attempt):  # one chunk's candidates and one verification
        return "400" if CHUNKS[4] in text or text == "How many goats does Person 1 own?" else "ok"

    with Model(fails) as server:
        report = run(server, path)
        assert report.counts["squad"]["missing"] == 2
        assert stored(path)[1][1] == [] and "How many goats does Person 1 own?" not in stored(path)[0][1]
        asked = len(server.seen)
        server.behave = lambda text, attempt: "ok"
        run(server, path)
        again = server.seen[asked:]
    assert (tmp_path / "c.chunk_questions.jsonl").read_bytes() == (
        tmp_path / "whole" / "c.chunk_questions.jsonl"
    ).read_bytes()
    assert len(again) == 1 + 6 + 1  # the chunk, its usable candidates, the other question


def test_a_server_that_is_away_ends_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("finemem_jax.corpora._chunk_questions.PATIENCE_SECONDS", 0.2)
    given = ["data", "chunk-questions", f"--corpus={corpus(tmp_path)}", "--url=http://127.0.0.1:9/v1", "--model=m"]
    assert main.main(given) == 2
    assert "run the same command again" in capsys.readouterr().err


def test_classification_chunks_get_new_texts_of_their_labels(raw, tmp_path):
    path = str(tmp_path / "c.parquet")
    corpora.build(source="nlu", input=raw("nlu"), output=path, instances=1, chunks=2, utterances=3, chunk_tokens=90)
    with FakeServer() as server:
        server.reply = lambda text: (
            '[{"question": "brew a cup", "answer": "iot coffee"}, {"question": "lights on", "answer": "other"}]'
            if text.startswith("<passage>")
            else "iot coffee"
        )
        run(server, path)
        assert "test cases for a classification task" in server.bodies[0]["messages"][0]["content"]
    kept = [questions for row in stored(path) for questions in row]
    assert ["brew a cup"] in kept and not any("lights on" in questions for questions in kept)


# --------------------------------------------------------------------------------------------------------------
# From evidence
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["squad", "hotpotqa", "locomo"])
def test_annotated_evidence_needs_no_model(raw, tmp_path, source):
    path = str(tmp_path / "c.parquet")
    corpora.build(source=source, input=raw(source), output=path, chunk_tokens=80, chunks=3, chunk_questions=1)
    report = chunk_questions(corpus=path, from_evidence=True, keep=3)
    episodes = memalpha.load(config.DataConfig(path=path, eval_path=path), "eval", 0)
    asked = [(chunk, question) for episode in episodes for chunk in episode.chunks for question in chunk.questions]
    assert len(asked) == report.counts[source]["kept"] > 0
    if source != "hotpotqa":  # whose question is answered by two articles together
        assert all(question.answers[0] in chunk.text for chunk, question in asked)
    first = (tmp_path / "c.chunk_questions.jsonl").read_bytes()
    chunk_questions(corpus=path, from_evidence=True, keep=3)
    assert (tmp_path / "c.chunk_questions.jsonl").read_bytes() == first


def test_rows_without_evidence_are_refused_without_a_model(tmp_path):
    with pytest.raises(UserError, match="no row names evidence"):
        chunk_questions(corpus=corpus(tmp_path), from_evidence=True)


def test_the_real_corpora_have_evidence_for_most_chunks(real_data, tmp_path):
    for source in ("squad", "hotpotqa", "locomo"):
        path = str(tmp_path / f"{source}.parquet")
        corpora.build(source=source, input=str(real_data / source), output=path, instances=3, chunk_tokens=512)
        count = chunk_questions(corpus=path, from_evidence=True).counts[source]
        assert count["kept"] > count["chunks"]


# --------------------------------------------------------------------------------------------------------------
# Replies and options
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "questions", "unusable"),
    [
        ('[{"question": "Who?", "answer": "Ann"}]', ["Who?"], 0),
        ('Here:\n```json\n[{"question": "Who?", "answer": "Ann"},]\n```', ["Who?"], 0),
        ('{"questions": [{"question": "How many?", "answer": 3}]}', ["How many?"], 0),
        ('[{"question": "Who?", "answer": "Ann"}, {"question": "Wh', ["Who?"], 1),  # cut off
        ('[{"question": "Who is Ann?", "answer": "Ann"}]', [], 1),
        ('[{"question": "Who?", "answer": "x ' + "x " * 20 + '"}]', [], 1),
        ('[{"question": "What does the above text say?", "answer": "x"}]', [], 1),
        ('["Who?", {"question": "", "answer": "x"}, {"question": ["Who?"], "answer": "x"}]', [], 3),
    ],
)
def test_replies_are_read(reply, questions, unusable):
    reading = read_candidates(reply, labels=False)
    assert ([c.question for c in reading.candidates], reading.unusable) == (questions, unusable)


@pytest.mark.parametrize("reply", ["", "I cannot.", "no [", "[" * 100_000])
def test_replies_without_a_list_are_unreadable(reply):
    reading = read_candidates(reply, labels=False)
    assert reading is None or not reading.candidates


def test_repeats_are_told_by_their_words():
    other = [Candidate("Where was Anna Smith born in May?", "Oslo")]
    assert is_repeated(Candidate("where was Anna Smith born, in May", "Rome"), other)
    assert not is_repeated(Candidate("Where did Anna Smith study?", "Rome"), other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--corpus is missing"),
        ({"corpus": "/no/such/file"}, "no such file"),
        ({"keep": 0}, "--keep=0"),
        ({"min_score": 2.0}, "--min-score=2.0"),
        ({"url": ""}, "--url and --model"),
    ],
)
def test_impossible_options_are_named(tmp_path, options, message):
    given = {"corpus": corpus(tmp_path), "url": "http://x/v1", "model": "m"} | options if options else {}
    with pytest.raises(UserError, match=message):
        chunk_questions(**given)
