"""MemoryAgentBench in both schemas, LoCoMo and LongMemEval as published; and what overlaps what."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from finemem_jax.benchmarks import contamination, locomo, longmemeval, memory_agent_bench
from finemem_jax.config import DataConfig, UserError
from tests.corpora.conftest import WRITERS

# --------------------------------------------------------------------------------------------------------------
# MemoryAgentBench
# --------------------------------------------------------------------------------------------------------------


def original(source="factconsolidation_sh_6k", **fields):
    """A row in the original schema."""
    facts = "\n\n".join(f"{i}. The capital of land {i} is town {i}." for i in range(60))
    row = {
        "context": f"Here are facts.\n\n{facts}",
        "questions": ["What is the capital of land 3?", "And of land 59?"],
        "answers": [["town 3", "Town 3"], ["town 59"]],
        "metadata": {"source": source, "qa_pair_ids": ["a", "b"], "keypoints": None, "haystack_sessions": None},
    }
    return row | fields


def write(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def load(path, **fields):
    return memory_agent_bench.load(DataConfig(path=path, **fields), "eval", 0)


def test_original_rows_are_cut_and_wrapped_and_keep_every_word(tmp_path):
    (episode,) = load(write(tmp_path / "a.parquet", [original()]), chunk_tokens=100)
    assert len(episode.chunks) > 5 and [chunk.index for chunk in episode.chunks] == list(range(len(episode.chunks)))
    assert all(chunk.text.startswith(f"[Dialogue between User and Assistant on 2024-01-{1 + i:02}") for i, chunk in
               enumerate(episode.chunks))  # fmt: skip
    bodies = [chunk.text.split("\n", 2)[2].rsplit("\n<Assistant>", 1)[0] for chunk in episode.chunks]
    assert "\n\n".join(bodies) == original()["context"]
    assert [(q.answers, q.metric, q.kind) for q in episode.questions] == [
        (("town 3", "Town 3"), "substring_match", "conflict_resolution"),
        (("town 59",), "substring_match", "conflict_resolution"),
    ]
    assert "changed" in episode.query_prompt
    assert (episode,) == load(str(tmp_path / "a.parquet"), chunk_tokens=100)


def test_the_four_competencies_are_read_from_a_folder_of_the_published_files(tmp_path):
    for name, source in [
        ("Accurate_Retrieval", "ruler_qa1_197K"),
        ("Test_Time_Learning", "icl_banking77_5900shot_balance"),
        ("Long_Range_Understanding", "infbench_sum_eng_shots2"),
        ("Conflict_Resolution", "factconsolidation_mh_6k"),
    ]:
        write(tmp_path / f"{name}-00000-of-00001.parquet", [original(source)])
    episodes = load(str(tmp_path))
    found = {episode.source: (episode.questions[0].kind, episode.questions[0].metric) for episode in episodes}
    assert found == {
        "ruler_qa1_197K": ("accurate_retrieval", "substring_match"),
        "icl_banking77_5900shot_balance": ("test_time_learning", "boxed_match"),
        "infbench_sum_eng_shots2": ("long_range_understanding", "rouge_l"),
        "factconsolidation_mh_6k": ("conflict_resolution", "substring_match"),
    }
    assert len({episode.id for episode in episodes}) == 4
    assert [e.source for e in load(str(tmp_path), sources=("ruler_qa1_197K",))] == ["ruler_qa1_197K"]


def test_memalphas_copy_of_the_rows_loads_too(tmp_path):
    row = {
        "chunks": json.dumps(["x", "y"]),
        "questions_and_answers": json.dumps([{"question": "q", "answer": ["a", "b"]}]),
        "data_source": "infbench_sum_eng_shots2",
        "metadata": "{}",
    }
    (episode,) = load(write(tmp_path / "test.parquet", [row]))
    assert [chunk.text for chunk in episode.chunks] == ["x", "y"]
    assert (episode.questions[0].metric, episode.questions[0].kind) == ("keyword_recall", "long_range_understanding")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (original(answers=[["a"]]), r"row 1: field 'answers' must be one entry per question \(2\), got '1 entries'"),
        (original(answers=[["a"], []]), r"row 1: field 'answers\[1\]' must be text or a list of texts"),
        (original(questions=["a", " "]), r"row 1: field 'questions\[1\]' must be text"),
        (original(context=" "), "row 1: field 'context' must be text"),
        (original(metadata={"source": ""}), "row 1: field 'metadata.source' must be a name"),
        ({"text": "x"}, "row 1: neither field 'context'"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path, bad, message):
    (tmp_path / "a.json").write_text(json.dumps([original(), bad]))
    with pytest.raises(UserError, match=message):
        load(str(tmp_path / "a.json"))


def test_there_is_nothing_to_train_on(tmp_path):
    with pytest.raises(UserError, match="no training split"):
        memory_agent_bench.load(DataConfig(path=write(tmp_path / "a.parquet", [original()])), "train", 0)


# --------------------------------------------------------------------------------------------------------------
# LoCoMo and LongMemEval
# --------------------------------------------------------------------------------------------------------------


def test_locomo_conversations_are_whole_episodes_with_evidence(tmp_path):
    WRITERS["locomo"](tmp_path)
    cfg = DataConfig(eval_path=str(tmp_path), chunk_tokens=40)
    episodes = locomo.load(cfg, "eval", 0)
    assert [episode.id for episode in episodes] == [f"locomo-conv-{i}" for i in range(5)]
    for episode in episodes:
        assert len(episode.questions) == 17 and len(episode.chunks) > 3
        assert {question.kind for question in episode.questions} == {"multi_hop", "open_domain"}
        assert {question.metric for question in episode.questions} == {"token_f1"}
        for question in episode.questions[:16]:
            assert any(question.answers[0] in episode.chunks[index].text for index in question.evidence)
    train, held_out = (locomo.load(DataConfig(path=str(tmp_path)), split, 0) for split in ("train", "eval"))
    assert sorted(e.id for e in (*train, *held_out)) == [e.id for e in episodes] and len(held_out) == 1


def test_longmemeval_questions_are_episodes_over_their_own_haystack(tmp_path):
    WRITERS["longmemeval"](tmp_path)
    episodes = longmemeval.load(DataConfig(eval_path=str(tmp_path)), "eval", 0)
    assert len(episodes) == 29 and "longmemeval-q3_abs" not in {episode.id for episode in episodes}
    for episode in episodes:
        (question,) = episode.questions
        assert question.kind in ("temporal-reasoning", "single-session-user")
        assert question.evidence and f"I bought {question.answers[0]} lamps" in episode.chunks[0].text
        assert "[Dialogue at timestamp 2023/05/" in episode.chunks[0].text


def test_the_real_files_load(real_data):
    cfg = DataConfig(eval_path=str(real_data / "longmemeval" / "longmemeval_oracle_sample2.json"), chunk_tokens=512)
    episodes = longmemeval.load(cfg, "eval", 0)
    (episode,) = episodes  # the other record asks for an abstention
    assert episode.questions[0].evidence and len(episode.chunks) > 10
    conversations = locomo.load(DataConfig(eval_path=str(real_data / "locomo" / "locomo_part.json.gz")), "eval", 0)
    assert len(conversations) == 5
    assert sum(len(episode.questions) for episode in conversations) == sum(
        q["category"] != 5
        for c in json.loads(gzip.decompress((real_data / "locomo" / "locomo_part.json.gz").read_bytes()))
        for q in c["qa"]
    )


def first_record(tmp_path, source):
    WRITERS[source](tmp_path)
    (path,) = tmp_path.iterdir()
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    record = json.loads(text)[0] if source == "locomo" else json.loads(text.splitlines()[0])
    path.unlink()
    return record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("haystack_dates"), "row 0: field 'haystack_dates' is missing"),
        (lambda r: r.update(haystack_dates=[]), r"row 0: field 'haystack_dates' must be one per session \(1\)"),
        (lambda r: r.update(answer=""), "row 0: field 'answer' must be text"),
        (lambda r: r["haystack_sessions"][0][1].pop("role"), r"field 'haystack_sessions\[0\]\[1\]' must be a turn"),
    ],
)  # fmt: skip
def test_a_bad_longmemeval_record_is_named(tmp_path, change, message):
    record = first_record(tmp_path, "longmemeval")
    change(record)
    (tmp_path / "a.json").write_text(json.dumps([record]))
    with pytest.raises(UserError, match=message):
        longmemeval.load(DataConfig(eval_path=str(tmp_path)), "eval", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("qa"), "row 0: field 'qa' is missing"),
        (lambda r: r.update(conversation={"speaker_a": "x"}), "field 'conversation' must be an object with session_1"),
        (lambda r: r["conversation"].pop("session_2_date_time"), "row 0: field 'session_2_date_time' is missing"),
        (lambda r: r["conversation"]["session_3"][0].pop("text"), r"field 'conversation.session_3\[0\]' must be"),
        (lambda r: r["qa"].append("x"), r"row 0: field 'qa\[18\]' must be an object"),
        (lambda r: r["qa"][0].pop("category"), r"row 0 qa\[0\]: field 'category' is missing"),
        (lambda r: r["qa"][0].update(category=[1]), r"row 0: field 'qa\[0\].category' must be a number"),
        (lambda r: r["conversation"].update({f"session_{i}": [] for i in range(1, 9)}), "sessions with a turn"),
    ],
)  # fmt: skip
def test_a_bad_locomo_record_is_named(tmp_path, change, message):
    record = first_record(tmp_path, "locomo")
    change(record)
    (tmp_path / "locomo.json").write_text(json.dumps([record]))
    with pytest.raises(UserError, match=message):
        locomo.load(DataConfig(eval_path=str(tmp_path)), "eval", 0)


@pytest.mark.parametrize(("name", "module"), [("locomo", locomo), ("longmemeval", longmemeval)])
def test_lists_and_objects_may_be_json_text(tmp_path, name, module):
    record = first_record(tmp_path, name)
    nested = {key: json.dumps(cell) if isinstance(cell, list | dict) else cell for key, cell in record.items()}
    found = []
    for rows in ([record], [nested]):
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        found.append(module.load(DataConfig(eval_path=str(tmp_path)), "eval", 0))
    assert found[0] == found[1] and found[0][0].questions[0].evidence


def test_a_question_without_evidence_is_asked_all_the_same(tmp_path):
    record = first_record(tmp_path, "locomo")
    del record["qa"][0]["evidence"]
    (tmp_path / "locomo.json").write_text(json.dumps([record]))
    (episode,) = locomo.load(DataConfig(eval_path=str(tmp_path)), "eval", 0)
    assert episode.questions[0].evidence == () and episode.questions[1].evidence


# --------------------------------------------------------------------------------------------------------------
# Contamination
# --------------------------------------------------------------------------------------------------------------


def test_overlaps_are_stated_for_what_was_trained_on():
    evaluated = ["icl_nlu_8296shot_balance", "ruler_qa1_197K", "infbench_sum_eng_shots2", "icl_nlu_8296shot_balance"]
    lines = contamination(evaluated, ["icl_nlu_8296shot_balance", "booksum"])
    assert len(lines) == 1 and "icl_nlu_8296shot_balance, trained on icl_nlu_8296shot_balance" in lines[0]
    assert contamination(evaluated, ["booksum"]) == []
    assert ["ruler_qa1_197K, trained on squad" in line for line in contamination(evaluated, ["squad"])] == [True]


def test_without_knowing_what_was_trained_on_every_overlap_is_stated():
    lines = contamination(["icl_nlu_8296shot_balance", "ruler_qa1_197K", "booksum"])
    assert [line.split(",")[0] for line in lines] == [
        "contamination: icl_nlu_8296shot_balance",
        "contamination: ruler_qa1_197K",
    ]
    assert all("if trained on" in line for line in lines)
