"""Every source builds rows that load as published ones do, the same bytes each time."""

import argparse
import gzip
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax import config, corpora
from finemem_jax.benchmarks import memalpha
from finemem_jax.corpora import _labelled, conflict
from finemem_jax.corpora._options import BuildOptions

SOURCES = config.plugins("finemem_jax.corpora")
CLASSIFICATION = ("banking77", "clinc150", "nlu", "pubmedqa")
COLUMNS = {
    "instance_id": "int64",
    "prompt": "string",
    "chunks": "string",
    "questions_and_answers": "string",
    "data_source": "string",
    "metadata": "string",
    "num_chunks": "int64",
    "num_questions": "int64",
}
SMALL = {"chunk_tokens": 80, "chunks": 3, "instances": 4, "questions": 6, "chunk_questions": 2}


def build(raw, tmp_path, source, name="out.parquet", **options):
    output = str(tmp_path / name)
    report = corpora.build(source=source, input=raw(source), output=output, **(SMALL | options))
    return report, memalpha.load(config.DataConfig(path=output, eval_path=output), "eval", 0)


def chunk_texts(episodes):
    return "\n".join(chunk.text for episode in episodes for chunk in episode.chunks)


def all_questions(episodes):
    return [
        question
        for episode in episodes
        for part in (episode.questions, *(chunk.questions for chunk in episode.chunks))
        for question in part
    ]


def count_tokens(text):
    return len(re.findall(r"\w+|[^\w\s]", text))


# squality's stories are whole or left out
OPTIONS = {"squality": {"chunks": 10}, "text": {"chunks": 2}}
UNASKED = ("conversations", "text")  # of which questions are made by a model, later


@pytest.fixture(params=SOURCES)
def source(request):
    return request.param


def test_rows_have_the_published_columns_and_load(raw, tmp_path, source):
    report, episodes = build(raw, tmp_path, source, **OPTIONS.get(source, {}))
    table = pyarrow.parquet.read_table(report.output)
    assert {field.name: str(field.type) for field in table.schema} == COLUMNS
    for number, row in enumerate(table.to_pylist()):
        assert row["instance_id"] == number
        assert row["num_chunks"] == len(json.loads(row["chunks"]))
        assert row["num_questions"] == len(json.loads(row["questions_and_answers"])) <= SMALL["questions"]
    assert report.instances == len(episodes) > 0
    assert report.questions == sum(len(episode.questions) for episode in episodes)
    assert (report.questions > 0) == (source not in UNASKED)
    assert all(question.metric == memalpha.source_of(source).metric for question in all_questions(episodes))


def test_two_runs_write_the_same_bytes_and_another_seed_other_ones(raw, tmp_path, source):
    options = OPTIONS.get(source, {})
    first, episodes = build(raw, tmp_path, source, "a.parquet", **options)
    again, _ = build(raw, tmp_path, source, "b.parquet", **options)
    assert Path(first.output).read_bytes() == Path(again.output).read_bytes()
    _, others = build(raw, tmp_path, source, "c.parquet", **options, seed=1)
    assert episodes != others


def test_content_keeps_to_the_token_budget(raw, tmp_path, source):
    _, episodes = build(raw, tmp_path, source, **OPTIONS.get(source, {}), layout="bare")
    lengths = [count_tokens(chunk.text) for episode in episodes for chunk in episode.chunks]
    assert 0 < max(lengths) <= SMALL["chunk_tokens"]
    assert all(len(episode.chunks) <= OPTIONS.get(source, SMALL).get("chunks", 3) for episode in episodes)


def test_evidence_points_to_chunks_that_hold_the_answer(raw, tmp_path, source):
    if source in (*UNASKED, "squality", "hotpotqa"):
        pytest.skip("no annotated evidence, or answers that stand in two chunks together")
    _, episodes = build(raw, tmp_path, source)
    for episode in episodes:
        for question in episode.questions:
            assert question.evidence
            for index in question.evidence:
                assert question.answers[0] in episode.chunks[index].text
        for chunk in episode.chunks:
            assert len(chunk.questions) <= SMALL["chunk_questions"]
            assert all(question.answers[0] in chunk.text for question in chunk.questions)


def test_no_question_is_asked_both_about_a_chunk_and_at_the_end(raw, tmp_path, source):
    _, episodes = build(raw, tmp_path, source, questions=100, **OPTIONS.get(source, {}))
    asked_about_chunks = 0
    for episode in episodes:
        about = [question.text for chunk in episode.chunks for question in chunk.questions]
        asked_about_chunks += len(about)
        assert not set(about) & {question.text for question in episode.questions}
    assert bool(asked_about_chunks) == (source not in (*UNASKED, "squality"))


def test_no_chunk_questions_when_none_are_wanted(raw, tmp_path, source):
    report, _ = build(raw, tmp_path, source, chunk_questions=0, **OPTIONS.get(source, {}))
    assert report.chunk_questions == 0


def test_train_and_eval_share_neither_text_nor_question(raw, tmp_path, source):
    options = OPTIONS.get(source, {}) | {"layout": "bare", "instances": 30 if source in CLASSIFICATION else 0}
    train = build(raw, tmp_path, source, "train.parquet", split="train", questions=100, **options)[1]
    held_out = build(raw, tmp_path, source, "eval.parquet", split="eval", questions=100, **options)[1]
    if source != "squality":  # which asks the same question of every story
        assert not {q.text for q in all_questions(train)} & {q.text for q in all_questions(held_out)}

    def sentences(episodes):  # those with a number in them, for only these are told apart in the made-up records
        found = re.findall(r"[^\n.]*\d[^\n.]*", re.sub(r" => .*", "", chunk_texts(episodes)))
        return {sentence.strip() for sentence in found if "[Dialogue at" not in sentence}

    assert sentences(train) and sentences(held_out) and not sentences(train) & sentences(held_out)


def test_the_dialogue_layout_dates_every_chunk(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "squad")
    for chunk in episodes[0].chunks:
        header = f"[Dialogue between User and Assistant on 2024-01-0{1 + chunk.index} 00:00]\n<User>"
        assert chunk.text.startswith(header) and "\n<Assistant>" in chunk.text
    assert "<User>" not in chunk_texts(build(raw, tmp_path, "squad", layout="bare")[1])


# --------------------------------------------------------------------------------------------------------------
# Classification streams
# --------------------------------------------------------------------------------------------------------------


def labelled(episodes):
    return [tuple(line.split(" => ")) for line in chunk_texts(episodes).splitlines() if " => " in line]


TINY = {"layout": "bare", "utterances": 4, "noise": 2, "labels_per_instance": 3, "chunks": 4, "instances": 20}


def test_bare_streams_have_the_lines_asked_for(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "clinc150", **TINY)
    assert len(episodes) == 20
    for episode in episodes:
        assert len(episode.chunks) == 4 and len({label for _, label in labelled([episode])}) == 3
        for chunk in episode.chunks:
            lines = chunk.text.splitlines()
            assert sum(" => " in line for line in lines) == 4
            assert sum(line.startswith("train chatter") for line in lines) == 2
    assert labelled(episodes)[0][1] in ("book flight", "pay bill", "tell joke", "set alarm", "play music")


def test_a_marked_example_says_at_its_start_that_it_is_one(raw, tmp_path):
    _, bare = build(raw, tmp_path, "clinc150", **TINY)
    _, marked = build(raw, tmp_path, "clinc150", **TINY | {"layout": "marked"}, name="marked.parquet")
    lines = chunk_texts(bare).splitlines()
    assert chunk_texts(marked).splitlines() == [f"Sentence: {line}" if " => " in line else line for line in lines]
    assert all_questions(marked) == all_questions(bare)


def test_noise_leaves_room_for_examples(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "clinc150", **TINY | {"noise": 30, "utterances": 0}, chunk_tokens=60)
    for chunk in episodes[0].chunks:
        assert count_tokens(chunk.text) <= 60
        assert chunk.text.count("train chatter") >= 5 and chunk.text.count(" => ") >= 2


def test_every_label_is_shown_and_not_always_in_the_first_chunk(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "clinc150", **TINY)
    assert all(len({label for _, label in labelled([episode])}) == 3 for episode in episodes)
    first = [{line.split(" => ")[1] for line in e.chunks[0].text.splitlines() if " => " in line} for e in episodes]
    assert min(map(len, first)) < 3


def test_questions_are_bare_utterances_that_were_not_shown(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "clinc150", **TINY)
    for episode in episodes:
        shown = dict(labelled([episode]))
        assert len(shown) == 16, "no utterance twice"
        for question in all_questions([episode]):
            assert question.text not in shown and question.answers[0] in shown.values()


def test_the_evidence_of_a_label_are_all_chunks_that_show_it(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "clinc150", **TINY)
    for episode in episodes:
        for question in episode.questions:
            with_label = [c.index for c in episode.chunks if f" => {question.answers[0]}" in c.text]
            assert list(question.evidence) == with_label


def test_train_rows_are_made_of_train_utterances_and_eval_rows_of_the_others(raw, tmp_path):
    for split, parts in (("train", {"train"}), ("eval", {"val", "test"})):
        _, episodes = build(raw, tmp_path, "clinc150", **TINY, split=split, questions=50)
        utterances = [*chunk_texts(episodes).splitlines(), *(q.text for q in all_questions(episodes))]
        assert {utterance.split()[0] for utterance in utterances} == parts


@pytest.mark.parametrize("source", ["clinc150", "nlu"])
def test_coarse_labels_and_numbers(raw, tmp_path, source):
    _, coarse = build(raw, tmp_path, source, layout="bare", label_level="coarse")
    expected = {"clinc150": {"travel", "money", "home"}, "nlu": {"iot", "music"}}[source]
    assert {label for _, label in labelled(coarse)} == expected
    _, numbered = build(raw, tmp_path, source, layout="bare", labels="numbers", name="numbers.parquet")
    assert {episode.source for episode in numbered} == {f"icl_{source}"}
    assert {question.metric for question in all_questions(numbered)} == {"boxed_match"}
    assert all(question.answers[0].isdigit() for question in all_questions(numbered))


def test_ambiguous_section_titles_are_left_out(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "pubmedqa", instances=10, chunk_tokens=400)
    text = chunk_texts(episodes)
    assert "Little is known" in text and "value rose" not in text
    assert set(re.findall(r"Labels: (\d)", text)) == {"0", "1", "2"}


# --------------------------------------------------------------------------------------------------------------
# Questions on documents
# --------------------------------------------------------------------------------------------------------------


def test_unanswerable_and_long_answers_are_dropped(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "squad", chunks=0, questions=1000)
    assert episodes and not any(question.text.startswith("Why") for question in all_questions(episodes))
    with pytest.raises(config.UserError, match="nothing to build"):
        build(raw, tmp_path, "squad", max_answer_words=1)


def test_a_paragraph_over_the_budget_is_cut_and_its_questions_follow_their_answers(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "squad", chunk_tokens=12, chunks=0, layout="bare", questions=1000)
    assert max(count_tokens(chunk.text) for chunk in episodes[0].chunks) <= 12
    for question in episodes[0].questions:
        assert question.answers[0] in episodes[0].chunks[question.evidence[0]].text


def test_both_layouts_of_hotpotqa_give_both_articles_as_evidence(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "hotpotqa", chunks=0, split="all", instances=0, questions=1000)
    assert len(all_questions(episodes)) == 41
    for episode in episodes:
        for question in episode.questions:
            number = question.text.rstrip("?").split()[-1]
            text = "\n".join(episode.chunks[index].text for index in question.evidence)
            assert f"It has alphas in year {number}." in text and f"Beta {number} is a thing." in text
    assert "Gamma" not in chunk_texts(episodes)
    assert "Gamma" in chunk_texts(build(raw, tmp_path, "hotpotqa", noise=1)[1])


def test_sessions_are_in_the_order_of_their_dates_and_abstentions_left_out(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "longmemeval", chunks=0, split="all", noise=1, questions=1000)
    dates = re.findall(r"\[Dialogue at timestamp ([^\]]*)", chunk_texts(episodes))
    assert dates == sorted(dates) and len(dates) >= 29
    asked = {question.text for question in all_questions(episodes)}
    assert len(asked) == 29 and "How many lamps did I buy in case 3?" not in asked
    assert "[2023/06/01 (Thu) 00:58] How many lamps did I buy in case 2?" in asked


def test_adversarial_questions_are_left_out_and_captions_kept(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "locomo", chunks=0, split="all", questions=1000)
    asked = all_questions(episodes)
    assert {question.text for question in asked} >= {"Both of 0?", "Which film in 0-1?"}
    assert "Never said?" not in {question.text for question in asked}
    assert {question.kind for episode in episodes for question in episode.questions} == {"multi_hop", "open_domain"}
    assert "<Bo>I saw film 0-1. [shares a picture: a cinema]" in chunk_texts(episodes)


def test_a_story_that_does_not_fit_is_left_out(raw, tmp_path):
    with pytest.raises(config.UserError, match="--chunks=2"):
        build(raw, tmp_path, "squality", chunks=2)


def test_text_with_questions_must_fit_one_run(tmp_path):
    document = {"text": "One two. " * 100, "questions": [{"question": "q", "answer": "a"}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(document))
    options = dict(source="text", input=str(tmp_path / "d.jsonl"), output=str(tmp_path / "o.parquet"), split="all")
    with pytest.raises(config.UserError, match="--chunks=2"):
        corpora.build(**options, chunk_tokens=50, chunks=2)
    assert corpora.build(**options, chunk_tokens=50, chunks=0).questions == 1


# --------------------------------------------------------------------------------------------------------------
# Conflict streams
# --------------------------------------------------------------------------------------------------------------


def test_a_changed_fact_is_asked_with_its_last_value_and_an_unchanged_one_is_said_once(raw, tmp_path):
    _, episodes = build(raw, tmp_path, "conflict", layout="bare", questions=100, chunk_questions=5)
    kinds = set()
    for episode in episodes:
        lines = [line for chunk in episode.chunks for line in chunk.text.splitlines()]
        said = [line.rpartition(": ") for line in lines]
        for question in episode.questions:
            values = [value for about, _, value in said if about == question.text.rstrip("?")]
            assert (values[-1],) == question.answers
            assert len(set(values)) == len(values) == {"fact": 1, "changed": 2}[question.kind]
            kinds.add(question.kind)
        for chunk in episode.chunks:
            for question in chunk.questions:
                assert f"{question.text.rstrip('?')}: {question.answers[0]}" in chunk.text.splitlines()
    assert kinds == {"fact", "changed"}


def test_the_share_of_changed_facts_is_the_one_asked_for(raw, tmp_path):
    for share, kinds in ((1.0, {"changed"}), (0.4, {"changed", "fact"})):
        _, episodes = build(raw, tmp_path, "conflict", changed_share=share, split="all")
        assert {question.kind for episode in episodes for question in episode.questions} == kinds
    with pytest.raises(config.UserError, match="--changed-share=0"):
        build(raw, tmp_path, "conflict", changed_share=0.0)


# --------------------------------------------------------------------------------------------------------------
# How often a text is counted
# --------------------------------------------------------------------------------------------------------------


class Tally:
    """Counts words, and knows how many characters it was shown."""

    def __init__(self):
        self.seen = 0

    def __call__(self, text):
        self.seen += len(text)
        return len(text.split())


def options(source, chunk_tokens, **more) -> BuildOptions:
    return BuildOptions(source=source, input="", output="x.parquet", chunk_tokens=chunk_tokens, **more)


@pytest.mark.parametrize("noise", [0, 30])
def test_a_long_stream_of_examples_is_counted_a_few_times_whatever_its_chunks_hold(noise):
    pool = [_labelled.Example(f"utterance number {i} of {i % 7}", f"label_{i % 7}") for i in range(2000)]
    chatter = [f"chatter number {i}" for i in range(300)]
    dataset = _labelled.Dataset("made up", [f"label_{i}" for i in range(7)], numbered=False, noise=chatter)
    for chunk_tokens in (100, 10_000):
        tally = Tally()
        asked = options("clinc150", chunk_tokens, chunks=0, instances=1, layout="bare", noise=noise)
        (episode,) = _labelled.streams(pool, dataset, asked, tally)
        assert all(tally(chunk.text) <= chunk_tokens for chunk in episode.chunks)
        assert tally.seen < 8 * sum(len(chunk.text) for chunk in episode.chunks)


def test_a_long_stream_of_facts_is_counted_a_few_times_whatever_its_chunks_hold(tmp_path):
    asked = [
        {"question": f"Who built house {i}?", "answers": [{"text": f"Person {i % 50}", "answer_start": 0}]}
        for i in range(2000)
    ]
    article = {
        "title": "t",
        "paragraphs": [{"context": "c", "qas": [{"id": str(n), **a} for n, a in enumerate(asked)]}],
    }
    (tmp_path / "facts.json").write_text(json.dumps({"data": [article]}))
    for chunk_tokens in (100, 2500):
        tally = Tally()
        asked = replace(options("conflict", chunk_tokens, chunks=4, split="all"), input=str(tmp_path / "facts.json"))
        episodes = list(conflict.episodes(asked, tally))
        text = sum(len(chunk.text) for episode in episodes for chunk in episode.chunks)
        assert text > 10_000 and tally.seen < 4 * 8 * text  # each fact is held against each of the four chunks


@given(st.lists(st.sampled_from(["Rome", "rome", "ROME", "Paris", "paris", "Oslo", "straße", "STRASSE"]), min_size=1))
def test_an_answer_is_changed_into_one_that_differs_in_more_than_case(answers):
    known = conflict._Answers()
    for answer in answers:
        known.add(answer)
    for answer in answers:
        others = [other for other in dict.fromkeys(answers) if other.casefold() != answer.casefold()]
        assert known.others(answer) == len(others)
        for seed in range(8 if others else 0):
            assert known.draw_other(answer, random.Random(seed)) == random.Random(seed).choice(others)


# --------------------------------------------------------------------------------------------------------------
# Options
# --------------------------------------------------------------------------------------------------------------


def test_the_command_line_has_every_option_and_passes_it_on():
    parser = argparse.ArgumentParser()
    corpora.add_arguments(parser)
    given = ["--source=squad", "--input=x", "--output=y.parquet", "--chunk-tokens=7", "--layout=bare"]
    options = corpora.BuildOptions(**vars(parser.parse_args(given)))
    assert options == corpora.BuildOptions(source="squad", input="x", output="y.parquet", chunk_tokens=7, layout="bare")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "squat"}, "did you mean squad"),
        ({"input": "/no/such/folder"}, "no such file or folder"),
        ({"output": "x.json"}, "must end in .parquet"),
        ({"split": "test"}, "--split=test: allowed are train, eval, all"),
        ({"chunk_tokens": 0}, "--chunk-tokens=0: too small"),
        ({"source": "clinc150", "instances": 0}, "--instances=0"),
        ({"source": "clinc150", "labels_per_instance": 9}, "--labels-per-instance=9"),
    ],
)
def test_impossible_options_are_named(raw, tmp_path, options, message):
    source = options.get("source", "squad")
    given = dict(source=source, output=str(tmp_path / "o.parquet"), input="") | options
    given["input"] = given["input"] or (raw(source) if source in SOURCES else "x")
    with pytest.raises(config.UserError, match=re.escape(message)):
        corpora.build(**given)


@pytest.mark.parametrize(
    ("source", "name", "content", "message"),
    [
        ("text", "a.csv", b"text,category\nx,y\n", "this source reads .jsonl or .md or .txt files"),
        ("text", "a.txt", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("text", "a.txt.gz", gzip.compress(b"some text " * 99, mtime=0)[:-9], "cannot be read"),
        ("text", "a.jsonl", b'{"text": "x", "questions": [{"question": ["q"], "answer": "a"}]}',
         "line 1: field 'question'"),
        ("nlu", "train.jsonl", b'{"text": "x", "intent": 5}', "row 0: field 'intent' must be text"),
        ("banking77", "train.csv", b"text,category\nx\n", "train.csv line 2: nothing in column category"),
        ("banking77", "train.csv", b"text,category\nx,y,z\n", "train.csv line 2: more cells than"),
        ("banking77", "train.csv", b"words,category\nx,y\n", "train.csv: no column text"),
        ("squad", "a.json", b'{"data": [{"title": "T", "paragraphs": [{"context": "x", "qas": [5]}]}]}',
         "article 0 paragraph 0: field 'qas[0]' must be an object"),
        ("hotpotqa", "a.json", b'[{"question": "q", "answer": "a", "context": [["T"]], "supporting_facts": []}]',
         "row 0: field 'context' must be pairs of title and sentences"),
        ("clinc150", "data_full.json", b'{"train": [["x"]], "val": [], "test": []}',
         "field 'train[0]' must be a list of text"),
        ("pubmedqa", "ori_pqal.json", b'{"7": {"CONTEXTS": ["x"], "LABELS": []}}',
         "abstract 7: field 'CONTEXTS and LABELS'"),
        ("squality", "a.jsonl", b'{"document": "x", "questions": [{"question_text": "q", "responses": []}]}',
         "row 0: field 'questions[0].responses' must be text"),
        ("clinc150", "data_full.json",
         b'{"train": [%s], "val": [["x", "y"]], "test": []}' % b",".join(b'["%d", "_"]' % i for i in range(99)),
         "no answer is given to '"),
        ("locomo", "locomo.json", b'[{"conversation": {"session_1": "x"}, "qa": []}]',
         "row 0: field 'conversation.session_1'"),
        ("longmemeval", "a.json", b'[{"question_id": "a"}]', "row 0: field 'question_type' is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_raw_file_is_one_line(tmp_path, source, name, content, message):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(content)
    given = tmp_path / "raw" / (name if source == "text" else "")
    with pytest.raises(config.UserError, match=re.escape(message)) as raised:
        corpora.build(source=source, input=str(given), output=str(tmp_path / "o.parquet"))
    assert str(tmp_path / "raw") in str(raised.value)


def test_half_an_emoji_does_not_end_a_build(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d is half of one"}\n')
    corpora.build(source="text", input=str(tmp_path / "a.jsonl"), output=str(tmp_path / "o.parquet"), split="all")
    (episode,) = memalpha.read_file(str(tmp_path / "o.parquet"))
    assert "\ufffd is half of one" in episode.chunks[0].text


@pytest.mark.parametrize("name", ["other.json", "a.jsonl"])
def test_input_in_another_format_is_named(tmp_path, name):
    (tmp_path / name).write_text('{"something": "else"}\n')
    source = "squality" if name.endswith("jsonl") else "squad"
    with pytest.raises(config.UserError, match=re.escape(name)):
        corpora.build(source=source, input=str(tmp_path / name), output=str(tmp_path / "o.parquet"))


def test_tokens_are_counted_with_the_tokenizer_given(raw, tmp_path, monkeypatch):
    from finemem_jax.corpora import _build

    monkeypatch.setattr(_build, "token_counter", lambda name: len if name == "characters" else count_tokens)
    _, episodes = build(raw, tmp_path, "squad", layout="bare", tokenizer="characters", chunk_tokens=100)
    assert max(len(chunk.text) for episode in episodes for chunk in episode.chunks) <= 100
