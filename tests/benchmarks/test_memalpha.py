"""Rows in the Memalpha format -> episodes: the three encodings, the splits, and what is refused."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finemem_jax.benchmarks import memalpha
from finemem_jax.config import DataConfig, UserError
from finemem_jax.corpora._sources import SOURCES

CHUNKS = ["[Dialogue] The cat is red.", "[Dialogue] The dog is blue."]
PAIRS = [{"question": "Which colour is the cat?", "answer": "red"}, {"question": "And the dog?", "answer": "blue"}]


def row(source="squad", chunks=CHUNKS, pairs=PAIRS, metadata=None, **fields):
    """A row as published: lists as JSON text."""
    row = {
        "instance_id": 0,
        "prompt": "Read.",
        "chunks": json.dumps(chunks),
        "questions_and_answers": json.dumps(pairs),
        "data_source": source,
        "metadata": json.dumps(metadata or {}),
        "num_chunks": len(chunks),
        "num_questions": len(pairs),
    }
    return row | fields


def write(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def load(path, split="eval", seed=0, **fields):
    """Episodes of a file that is whole the split asked for."""
    return memalpha.load(DataConfig(path=path, eval_path=path, **fields), split, seed)


def only(path):
    (episode,) = load(path)
    return episode


def test_json_text_and_native_columns_and_old_answer_lists_load_alike(tmp_path):
    published = only(write(tmp_path / "a.parquet", [row()]))
    native = only(write(tmp_path / "b.parquet", [row() | {"chunks": CHUNKS, "questions_and_answers": PAIRS}]))
    old = [{"question": pair["question"], "answers": [pair["answer"], "another"]} for pair in PAIRS]
    assert published == native == only(write(tmp_path / "c.parquet", [row(pairs=old)]))
    assert [chunk.text for chunk in published.chunks] == CHUNKS
    assert [chunk.index for chunk in published.chunks] == [0, 1]
    assert [(q.text, q.answers) for q in published.questions] == [(p["question"], (p["answer"],)) for p in PAIRS]


def test_json_files_load_as_parquet_does(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(row()) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([row()]))
    expected = only(write(tmp_path / "a.parquet", [row()]))
    assert expected == only(str(tmp_path / "a.jsonl")) == only(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(["a", "b"], ("a", "b")), (7, ("7",)), ([["a"], ["b"]], ("a", "b")), ({"text": ["a"]}, ("a",))],
)
def test_answers_of_every_shape(tmp_path, answer, expected):
    episode = only(write(tmp_path / "a.parquet", [row(pairs=[{"question": "q", "answer": answer}])]))
    assert episode.questions[0].answers == expected


@pytest.mark.parametrize(
    ("source", "metric", "asks_for_box"),
    [
        ("squad", "substring_match", False),
        ("perltqa", "parts_recall", False),
        ("icl_nlu_8296shot_balance", "boxed_match", True),
        ("pubmed-rct", "boxed_match", True),
        ("booksum", "keyword_recall", False),
        ("infbench_sum_eng_shots2", "keyword_recall", False),
        ("ruler_qa1_197K", "substring_match", False),
        ("clinc150", "exact_match", False),
        ("icl_clinc150", "boxed_match", True),
        ("something new", "substring_match", False),
    ],
)
def test_the_data_source_decides_metric_and_query_prompt(tmp_path, source, metric, asks_for_box):
    episode = only(write(tmp_path / "a.parquet", [row(source)]))
    assert {question.metric for question in episode.questions} == {metric}
    assert ("\\boxed" in episode.query_prompt) == asks_for_box


def test_no_data_source_is_the_beginning_of_another():
    assert not [(a, b) for a in SOURCES for b in SOURCES if a != b and b.startswith(a)]


def test_evidence_and_chunk_questions_come_from_the_metadata(tmp_path):
    metadata = {"evidence": [[0], [0, 1]], "chunk_questions": [[{"question": "cq", "answer": ["x", "y"]}], []]}
    episode = only(write(tmp_path / "a.parquet", [row("clinc150", metadata=metadata)]))
    assert [question.evidence for question in episode.questions] == [(0,), (0, 1)]
    (asked,) = episode.chunks[0].questions
    assert (asked.text, asked.answers, asked.metric, asked.evidence) == ("cq", ("x", "y"), "exact_match", (0,))
    assert episode.chunks[1].questions == ()


def test_chunk_questions_beside_the_file_replace_those_of_that_chunk(tmp_path):
    metadata = {"chunk_questions": [[{"question": "old 0", "answer": "x"}], [{"question": "old 1", "answer": "x"}]]}
    path = write(tmp_path / "a.parquet", [row(), row(metadata=metadata)])
    side = {"row": 1, "chunk": 0, "questions": [{"question": "new", "answer": "x"}]}
    (tmp_path / "a.chunk_questions.jsonl").write_text(json.dumps(side) + "\n")
    first, second = load(path)
    assert [[q.text for q in chunk.questions] for chunk in first.chunks] == [[], []]
    assert [[q.text for q in chunk.questions] for chunk in second.chunks] == [["new"], ["old 1"]]


# --------------------------------------------------------------------------------------------------------------
# Splits
# --------------------------------------------------------------------------------------------------------------


def many(source, count):
    return [row(source, chunks=[f"{source} {i}"]) for i in range(count)]


def texts(episodes):
    return [episode.chunks[0].text for episode in episodes]


def test_the_held_out_tenth_is_disjoint_complete_and_independent_of_the_seed(tmp_path):
    path = write(tmp_path / "a.parquet", many("squad", 25) + many("nlu", 3) + many("locomo", 1))
    cfg = DataConfig(path=path)
    train, held_out = (texts(memalpha.load(cfg, split, 0)) for split in ("train", "eval"))
    assert held_out == ["squad 9", "squad 19", "nlu 2"]
    assert sorted(train + held_out) == sorted(texts(load(path)))
    assert texts(memalpha.load(cfg, "eval", 7)) == held_out


def test_training_order_is_fixed_by_the_seed(tmp_path):
    cfg = DataConfig(path=write(tmp_path / "a.parquet", many("squad", 25)))
    first = texts(memalpha.load(cfg, "train", 0))
    assert texts(memalpha.load(cfg, "train", 0)) == first
    other = texts(memalpha.load(cfg, "train", 1))
    assert other != first and sorted(other) == sorted(first)


def test_a_folder_with_both_splits_is_read_as_named(tmp_path):
    write(tmp_path / "train.parquet", many("squad", 3))
    write(tmp_path / "test.parquet", many("hotpotqa", 2))
    (tmp_path / "train.chunk_questions.jsonl").write_text('{"row": 0, "chunk": 0, "questions": []}')
    cfg = DataConfig(path=str(tmp_path))
    assert sorted(texts(memalpha.load(cfg, "train", 0))) == ["squad 0", "squad 1", "squad 2"]
    assert texts(memalpha.load(cfg, "eval", 0)) == ["hotpotqa 0", "hotpotqa 1"]


def test_an_empty_training_frame_leaves_the_test_frame_readable(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row()]).slice(0, 0), tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", many("squad", 2))
    assert texts(memalpha.load(DataConfig(path=str(tmp_path)), "eval", 0)) == ["squad 0", "squad 1"]
    with pytest.raises(UserError, match="no episodes in the train split"):
        memalpha.load(DataConfig(path=str(tmp_path)), "train", 0)


def test_ids_are_unique_over_the_files_of_a_folder(tmp_path):
    for name in ("train-0.parquet", "train-1.parquet"):
        write(tmp_path / name, many("squad", 2))
    episodes = load(str(tmp_path))
    assert [episode.id for episode in episodes] == ["squad-0", "squad-1", "squad-2", "squad-3"]


def test_sources_and_limit_select(tmp_path):
    path = write(tmp_path / "a.parquet", many("squad", 3) + many("nlu", 3))
    assert texts(load(path, sources=("nlu",), limit=2)) == ["nlu 0", "nlu 1"]
    with pytest.raises(UserError, match="data sources found: nlu, squad"):
        load(path, sources=("trec",))


# --------------------------------------------------------------------------------------------------------------
# Refusals
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(chunks=[]), "row 1: field 'chunks' must be at least one chunk"),
        (row(chunks=["x", " "]), r"row 1: field 'chunks\[1\]' must be text"),
        (row() | {"chunks": "not json"}, "row 1: field 'chunks' must be JSON"),
        (row() | {"chunks": None}, "row 1: field 'chunks' is missing"),
        (row() | {"questions_and_answers": "{}"}, "row 1: field 'questions_and_answers' must be a list"),
        (row(pairs=["q"]), r"row 1: field 'questions_and_answers\[0\]' must be an object"),
        (row(pairs=[{"answer": "a"}]), r"row 1: field 'questions_and_answers\[0\].question' must be text"),
        (row(pairs=[{"question": "q"}]), r"row 1: field 'questions_and_answers\[0\].answer'"),
        (row(pairs=[{"question": "q", "answer": " "}]), r"row 1: field 'questions_and_answers\[0\].answer'"),
        (row(metadata={"evidence": [[0]]}), "row 1: field 'metadata.evidence' must be 2 entries"),
        (row(metadata={"evidence": [[0], [2]]}), r"row 1: field 'metadata.evidence\[1\]' must be chunk indices from 0"),
        (row(metadata={"chunk_questions": [[]]}), "row 1: field 'metadata.chunk_questions' must be 2 entries"),
        (row() | {"data_source": ""}, "row 1: field 'data_source'"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "a.parquet", [row(), bad]))


def test_a_row_without_questions_loads(tmp_path):
    assert only(write(tmp_path / "a.parquet", [row(pairs=[])])).questions == ()


@pytest.mark.parametrize("path", ["", "/no/such.parquet", "./nothing", "no-such-folder/deeper/x"])
def test_a_path_that_is_not_there_is_named(path):
    with pytest.raises(UserError, match=r"config\.data\.path"):
        memalpha.load(DataConfig(path=path), "train", 0)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"a\.parquet is not parquet"):
        load(str(tmp_path / "a.parquet"))


def test_a_bad_line_beside_the_file_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", [row()])
    (tmp_path / "a.chunk_questions.jsonl").write_text('{"chunk": 0}\n')
    with pytest.raises(UserError, match=r"a\.chunk_questions\.jsonl row 0: field 'row' is missing"):
        load(path)


# --------------------------------------------------------------------------------------------------------------
# Bad rows and files
# --------------------------------------------------------------------------------------------------------------

BAD = [
    json.dumps(row(chunks=[])),
    json.dumps(row() | {"data_source": 7}),
    '{"data_source": "squad", "chunks": [',  # cut off
    "null",
    json.dumps(row() | {"metadata": {"chunk_questions": [5, []]}}),
    "[" * 5000 + "]" * 5000,
]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_stops_or_is_left_out_as_the_config_says(tmp_path, capsys, bad):
    path = write_lines(tmp_path / "a.jsonl", [json.dumps(row()), bad, json.dumps(row("booksum"))])
    with pytest.raises(UserError, match=r"a\.jsonl row 1: .*; config\.data\.on_bad_row=skip leaves such rows out"):
        load(path)
    episodes = load(path, on_bad_row="skip")
    assert [episode.id for episode in episodes] == ["squad-0", "booksum-2"]  # ids are those of the rows
    said = capsys.readouterr().err
    assert said.startswith("1 bad rows of config.data.eval_path=") and "a.jsonl row 1: " in said
    assert said.count("\n") == 1


def test_all_bad_rows_are_counted_over_all_files(tmp_path, capsys):
    write_lines(tmp_path / "a.jsonl", [BAD[0], json.dumps(row()), BAD[1]])
    write_lines(tmp_path / "b.jsonl", [BAD[3], json.dumps(row())])
    assert [episode.id for episode in load(str(tmp_path), on_bad_row="skip")] == ["squad-1", "squad-4"]
    assert "3 bad rows" in capsys.readouterr().err
    nothing = write_lines(tmp_path / "c.json", [json.dumps([5, row(chunks=[])])])
    with pytest.raises(UserError, match=r"no episodes .* bad rows: 2"):
        load(nothing, on_bad_row="skip")


@pytest.mark.parametrize("action", ["stop", "skip"])
@pytest.mark.parametrize("ending", ["jsonl.gz", "json.gz", "parquet", "json", "jsonl"])
def test_a_file_that_is_cut_off_or_not_text_is_one_line(tmp_path, action, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        content = Path(write(tmp_path / "b.parquet", [row()])).read_bytes()
    else:
        content = json.dumps([row()]).encode("utf-16" if ending in ("json", "jsonl") else "utf-8")
    path.write_bytes((gzip.compress(content) if ending.endswith("gz") else content)[:-20])
    with pytest.raises(UserError, match=rf"a\.{ending} is not "):
        load(str(path), on_bad_row=action)


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path):
    (tmp_path / "a.csv").write_text("chunks,data_source\nx,squad\n")
    with pytest.raises(UserError, match=r"a\.csv: rows are read from \.parquet, \.json, \.jsonl"):
        load(str(tmp_path / "a.csv"))


def test_a_byte_order_mark_is_no_part_of_the_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row()).encode())
    assert only(str(tmp_path / "a.jsonl")).source == "squad"


def test_a_line_separator_in_a_chunk_question_does_not_end_its_line(tmp_path):
    path = write(tmp_path / "a.parquet", [row()])
    entry = {"row": 0, "chunk": 0, "questions": [{"question": "a\u2028b?", "answer": "x"}]}
    (tmp_path / "a.chunk_questions.jsonl").write_text(json.dumps(entry, ensure_ascii=False) + "\n", encoding="utf-8")
    assert only(path).chunks[0].questions[0].text == "a\u2028b?"
