"""HaluMem, ConvoMem and BEAM in their published schemas; abstention in LoCoMo and LongMemEval; wrong golds."""

import gzip
import json
import random
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finemem_jax import benchmarks, loading
from finemem_jax.benchmarks import _literals, beam, convomem, halumem, locomo, longmemeval
from finemem_jax.config import Config, DataConfig, UserError
from finemem_jax.corpora import _times
from finemem_jax.env.environment import all_questions, replay
from finemem_jax.env.scoring import score
from tests import fakes
from tests.benchmarks.published import beam_row, convomem_item, convomem_tree, halumem_user
from tests.benchmarks.test_personamem import row as row_of_a_persona
from tests.benchmarks.test_personamem import write_repository
from tests.contracts.test_plugins import check_episode
from tests.corpora.conftest import WRITERS


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --------------------------------------------------------------------------------------------------------------
# HaluMem
# --------------------------------------------------------------------------------------------------------------


def test_a_halumem_user_is_asked_after_each_session_and_distractors_are_only_fed(tmp_path):
    (episode,) = halumem.load(DataConfig(path=lines(tmp_path / "h.jsonl", halumem_user()), chunk_tokens=64), "eval", 0)
    check_episode(episode)
    sessions = [chunk.session for chunk in episode.chunks]
    parts = sessions.count("session 0")
    assert parts > 1 and sessions == ["session 0"] * parts + ["session 1"] * parts + [""]
    assert [chunk.time for chunk in episode.chunks[:: len(episode.chunks) - 1]] == [
        "2025-12-15T06:11:23",
        "2025-12-17T06:11:23",
    ]
    points = [chunk.points for chunk in episode.chunks]
    assert points[: parts - 1] == [None] * (parts - 1) and points[parts : 2 * parts] == [None] * parts
    lives, boat = points[parts - 1]
    assert (lives.text, lives.importance, lives.is_false) == ("Ana lives in Oslo", 0.75, False)
    assert (boat.importance, boat.is_false) == (0.5, True)
    (moved,) = points[-1]
    assert moved.replaces == ("Ana lives in Oslo",) and moved.importance == 1.0
    asked = [(q.text, q.after, q.metric, q.id) for q in episode.questions]
    assert asked == [
        ("Where does Ana live?", parts - 1, "token_f1", "u1/0/0"),
        ("Boat?", parts - 1, "abstention", "u1/0/1"),
        ("And now?", 2 * parts, "token_f1", "u1/3/0"),  # its session has no word: after what was written before it
    ]
    assert episode.questions[0].evidence == tuple(range(parts))
    assert "Rome last week." in episode.chunks[-1].text and len(episode.chunks[-1].points) == 1


def test_a_question_is_asked_of_the_memory_as_it_stands_then(tmp_path, env):
    (episode,) = halumem.load(DataConfig(path=lines(tmp_path / "h.jsonl", halumem_user())), "eval", 0)
    answerer = fakes.LossyAnswerer(benchmarks.resolve("finemem_jax.answerers", "extractive").create(Config().answerer))
    asked_at, steps = [], []

    def ask(requests):
        asked_at.append((len(steps), len(requests)))
        return answerer.submit(requests)

    def write(episode, turn):
        steps.append(turn.chunk)
        return fakes.writer("rag")(episode, turn)

    rollout = replay(env, episode, all_questions(episode), ask, write)()
    assert asked_at == [(1, 2), (3, 1)]
    assert max(item.written_at for item in rollout.final_answers[0].retrieved) == 0
    assert [len(rollout.memory_after(after).items) for after in (0, 1, None)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: u.pop("sessions"), "row 0: field 'sessions' is missing"),
        (lambda u: u.update(sessions=[]), "field 'sessions' must be sessions with a turn"),
        (lambda u: u["sessions"][0]["dialogue"][0].pop("content"), r"sessions\[0\].dialogue\[0\]' must be a turn"),
        (lambda u: u["sessions"][0]["memory_points"][0].pop("memory_content"), "field 'memory_content' is missing"),
        (lambda u: u["sessions"][0]["memory_points"][0].update(importance="high"), "must be a number, at least 0"),
        (lambda u: u["sessions"][0]["questions"][0].update(answer=None), "field 'answer' must be text"),
    ],
)
def test_a_bad_halumem_row_is_named(tmp_path, change, message):
    user = halumem_user()
    change(user)
    with pytest.raises(UserError, match=message):
        halumem.load(DataConfig(path=lines(tmp_path / "h.jsonl", user)), "eval", 0)


@pytest.mark.parametrize("module", [halumem, convomem, beam])
def test_what_is_for_evaluation_has_no_training_split(module, tmp_path):
    with pytest.raises(UserError, match="has no training split"):
        module.load(DataConfig(path=str(tmp_path)), "train", 0)


# --------------------------------------------------------------------------------------------------------------
# ConvoMem
# --------------------------------------------------------------------------------------------------------------


def test_convomem_is_read_in_both_layouts_at_any_depth(tmp_path):
    convomem_tree(tmp_path)
    episodes = convomem.load(DataConfig(path=str(tmp_path)), "eval", 0)
    for episode in episodes:
        check_episode(episode)
    found = {e.source: (e.questions[0].kind, e.questions[0].metric, e.questions[0].evidence) for e in episodes}
    assert found == {
        "convomem_user_evidence": ("2 conversations", "substring_match", (0, 1)),
        "convomem_preference_evidence": ("2 conversations", "llm_judge", (0, 1)),
        "convomem_changing_evidence": ("3 conversations", "substring_match", (1, 2)),  # by the item's own ids
        "convomem_abstention_evidence": ("2 conversations", "abstention", (0, 1)),
    }
    assert len({question.id for episode in episodes for question in episode.questions}) == 4
    assert len(convomem.load(DataConfig(path=str(tmp_path), limit=2), "eval", 0)) == 2
    only = convomem.load(DataConfig(path=str(tmp_path), sources=("convomem_user_evidence",)), "eval", 0)
    assert [episode.source for episode in only] == ["convomem_user_evidence"]
    assert benchmarks.source_of("convomem_implicit_connection_evidence").judge == "convomem"


def test_a_convomem_conversation_may_be_json_text_in_json(tmp_path):
    """It names no evidence of its own, so its flag is read."""
    item = convomem_item()
    texts = [json.dumps(conversation) for conversation in item["conversations"]]
    path = tmp_path / "mixed" / "changing_evidence" / "c.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"evidenceItems": [{**item, "conversations": []}], "conversations": texts}]))
    (episode,) = convomem.load(DataConfig(path=str(tmp_path)), "eval", 0)
    check_episode(episode)


def test_bad_convomem_files_are_named_or_counted(tmp_path, capsys):
    convomem_tree(tmp_path)
    (tmp_path / "z.json").write_text(json.dumps({"something": 1}))
    (tmp_path / "zz.json").write_text(json.dumps({"evidence_items": [convomem_item(conversations=[])]}))
    with pytest.raises(UserError, match=r"z\.json row 0: neither evidence_items nor evidenceItems"):
        convomem.load(DataConfig(path=str(tmp_path)), "eval", 0)
    kept = convomem.load(DataConfig(path=str(tmp_path), on_bad_row="skip"), "eval", 0)
    assert len(kept) == 4 and "2 bad rows of config.data.path=" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------
# BEAM
# --------------------------------------------------------------------------------------------------------------


def check_beam(episode):
    check_episode(episode)
    assert [(q.kind, q.answers, q.rubric) for q in episode.questions] == [
        ("abstention", ("It is not said.",), ("says it isn't said",)),
        ("knowledge_update", ("May",), ("May", "not April")),
        ("summarization", ('A Flask "app"',), ()),
    ]
    assert [chunk.time for chunk in episode.chunks] == ["2024-03-15T00:00:00", "2024-04-02T00:00:00"]
    assert "<User>Flask, and it's due in May." in episode.chunks[1].text


@pytest.mark.parametrize("probing", [repr, json.dumps, lambda questions: questions], ids=["repr", "json", "object"])
def test_beam_reads_its_questions_however_they_were_written(tmp_path, probing):
    path = lines(tmp_path / "500K.jsonl", beam_row(probing), beam_row(probing, conversation_id="8"))
    episodes = beam.load(DataConfig(path=path), "eval", 0)
    assert [(e.id, e.source) for e in episodes] == [("beam_500K-7", "beam_500K"), ("beam_500K-8", "beam_500K")]
    check_beam(episodes[0])


def test_beam_reads_parquet_and_plans_of_sessions(tmp_path):
    chat = beam_row()["chat"]
    row = beam_row(chat=json.dumps({"plan-1": [chat[0]], "plan-2": {"a": [], "b": chat[1]}}))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "10M-00000-of-00001.parquet")
    (episode,) = beam.load(DataConfig(path=str(tmp_path)), "eval", 0)
    assert episode.source == "beam_10M"
    check_beam(episode)


def test_bad_beam_rows_are_named(tmp_path):
    for change, message in (
        ({"probing_questions": "__import__('os').system('x')"}, "JSON or a Python literal"),
        ({"probing_questions": "{'a': [" * 60}, "nested too deeply"),
        ({"probing_questions": "{}"}, "at least one question"),
        ({"probing_questions": "{'a': [{1: 'x', 'rubric': ['y']}]}"}, "'question' is missing; fields there: 1, rubric"),
        ({"chat": [[{"role": "user", "content": 3}]]}, "messages with role and content"),
        ({"chat": []}, "lists of messages"),
    ):
        path = lines(tmp_path / "b.jsonl", beam_row(**change))
        with pytest.raises(UserError, match=message):
            beam.load(DataConfig(path=path), "eval", 0)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_a_literal_reads_back_what_repr_wrote(value):
    assert _literals.parse(repr(value)) == value
    assert _literals.parse(repr((value,))) == [value]


@given(st.text(alphabet="[]{}(),:'\"\\ 1a.e-", max_size=40))
def test_any_other_text_is_a_value_error(text):
    try:
        _literals.parse(text)
    except ValueError as error:
        assert "\n" not in str(error)


def test_a_long_literal_is_read_in_one_pass():
    text = repr({"a": ["x\\'\"" * 10] * 20000})
    assert len(_literals.parse(text)["a"]) == 20000
    for hostile in ("[" * 10**6, "'" + "\\" * 10**6, "-" * 10**6, "1" * 10**6, "('" * 10**6, "a" * 10**6):
        with pytest.raises(ValueError, match=r"."):
            _literals.parse(hostile)


# --------------------------------------------------------------------------------------------------------------
# Abstention, wrong golds, dates
# --------------------------------------------------------------------------------------------------------------


def test_abstention_is_asked_on_request_and_scored_as_such(tmp_path):
    for name, module in (("locomo", locomo), ("longmemeval", longmemeval)):
        (tmp_path / name).mkdir()
        WRITERS[name](tmp_path / name)
        path = str(tmp_path / name)
        plain, more = (
            [q for e in module.load(DataConfig(eval_path=path, abstention=on), "eval", 0) for q in e.questions]
            for on in (False, True)
        )
        asked = [question for question in more if question.kind == "abstention"]
        assert asked and [question for question in more if question.kind != "abstention"] == plain
        assert {question.metric for question in asked} == {"abstention"}
        assert len({question.id for question in more}) == len(more) and all(question.id for question in more)
        assert score(asked[0].metric, "It's not mentioned.", asked[0].answers) == 1.0
        assert score(asked[0].metric, "In Oslo.", asked[0].answers) == 0.0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("unknown", 1.0),
        ("I don't know.", 1.0),
        ("", 1.0),
        ("The conversation does not say where.", 1.0),
        ("There is not enough information to tell", 1.0),
        ("Orlov", 0.0),
        ("She knows it: Orlov", 0.0),
        ("Known to all", 0.0),
    ],
)
def test_the_cheap_metric_of_abstention(said, expected):
    assert score("abstention", said, ("whatever",)) == expected


def test_questions_with_a_wrong_gold_are_left_out_and_counted(tmp_path, capsys):
    WRITERS["locomo"](tmp_path)
    data = DataConfig(name="locomo", eval_path=str(tmp_path))
    (tmp_path / "wrong.txt").write_text("# known\nconv-1#0\nconv-1#2 says Oslo\n\nconv-9#0\n")
    cfg = Config(data=data)
    before = {q.id for e in loading.load_held_out(cfg) for q in e.questions}
    wrong = DataConfig(name="locomo", eval_path=str(tmp_path), wrong_golds=str(tmp_path / "wrong.txt"))
    after = {q.id for e in loading.load_held_out(Config(data=wrong)) for q in e.questions}
    assert before - after == {"conv-1#0", "conv-1#2"}
    assert "2 questions with a wrong gold answer are left out" in (said := capsys.readouterr().err)
    assert "1 of its 3 ids are of no question here" in said
    with pytest.raises(UserError, match="cannot be read"):
        benchmarks.without_wrong((), str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dec 15, 2025, 06:11:23", "2025-12-15T06:11:23"),
        ("2023/05/20 (Sat) 02:21", "2023-05-20T02:21:00"),
        ("1:56 pm on 8 May, 2023", "2023-05-08T13:56:00"),
        ("12:05 am on 1 June, 2023", "2023-06-01T00:05:00"),
        ("March-15-2024", "2024-03-15T00:00:00"),
        ("2024-02-30", ""),
        ("last summer", ""),
        ("", ""),
    ],
)
def test_dates(text, expected):
    assert _times.iso(text) == expected


def test_the_real_files_have_abstention_and_times(real_data):
    path = str(real_data / "locomo" / "locomo_part.json.gz")
    plain, more = (locomo.load(DataConfig(eval_path=path, abstention=on), "eval", 0) for on in (False, True))
    adversarial = sum(
        q["category"] == 5
        for c in json.loads(gzip.decompress((real_data / "locomo" / "locomo_part.json.gz").read_bytes()))
        for q in c["qa"]
    )
    assert sum(len(e.questions) for e in more) - sum(len(e.questions) for e in plain) == adversarial > 100
    assert all(chunk.time.startswith("202") for episode in more for chunk in episode.chunks)
    path = str(real_data / "longmemeval" / "longmemeval_oracle_sample2.json")
    found = longmemeval.load(DataConfig(eval_path=path, abstention=True), "eval", 0)
    assert [e.questions[0].kind == "abstention" for e in found].count(True) == 1 and len(found) == 2


# --------------------------------------------------------------------------------------------------------------
# A million tokens
# --------------------------------------------------------------------------------------------------------------


def _million(name, folder, said):
    """The path of one instance in a benchmark's published schema, in which `said`, 5,000 texts, are said."""
    if name == "halumem":
        user = halumem_user()
        turns = [{"role": "user", "content": t, "timestamp": "", "dialogue_turn": i} for i, t in enumerate(said)]
        user["sessions"] += [user["sessions"][2] | {"dialogue": turns[i : i + 50]} for i in range(0, 5000, 50)]
        return lines(folder / "h.jsonl", user)
    if name == "convomem":
        item = convomem_item()
        told = [[{"speaker": "User", "text": t} for t in said[i : i + 100]] for i in range(0, 5000, 100)]
        item["conversations"] += [{"id": str(i), "messages": messages} for i, messages in enumerate(told)]
        return lines(folder / "c.json", {"evidence_items": [item]})
    if name == "locomo":
        talk = {"speaker_a": "Ann", "speaker_b": "Bo"}
        for i in range(100):
            own = said[i * 50 : i * 50 + 50]
            talk[f"session_{i + 1}_date_time"] = f"1:56 pm on 8 May, {1900 + i}"
            talk[f"session_{i + 1}"] = [
                {"speaker": "Ann", "dia_id": f"D{i + 1}:{j + 1}", "text": t} for j, t in enumerate(own)
            ]
        asked = [{"question": "Where?", "answer": "Oslo", "category": 4, "evidence": ["D7:3"]}]
        path = folder / "locomo10.json"
        path.write_text(json.dumps([{"sample_id": "conv-1", "conversation": talk, "qa": asked}]))
        return str(path)
    turns = [{"role": "user", "content": t} for t in said]
    sessions = [turns[i : i + 50] for i in range(0, 5000, 50)]
    if name == "beam":
        return lines(folder / "1M.jsonl", beam_row(chat=sessions))
    if name == "longmemeval":
        row = {"question_id": "q", "question_type": "multi-session", "question": "Where?", "answer": "Oslo"}
        dates = [f"20{i:02d}/05/20 (Sat) 02:21" for i in range(100)]
        return lines(folder / "m.jsonl", row | {"haystack_dates": dates, "haystack_sessions": sessions})
    root = write_repository(folder, {"benchmark.csv": [row_of_a_persona("eve")]})
    (folder / "data" / "short" / "eve.json").write_text(json.dumps({"chat_history": turns}))
    return f"{root}/benchmark/text/benchmark.csv"


# The peak is the kernel's own of this program: getrusage's begins with that of the process it was started from
_READ = """
import sys, time
from importlib import import_module
from pathlib import Path
from finemem_jax.config import DataConfig
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
module = import_module(f"finemem_jax.benchmarks.{sys.argv[1]}")
started, before = time.process_time(), peak()
(episode,) = module.load(DataConfig(path=sys.argv[2], eval_path=sys.argv[2]), "eval", 0)
used, seconds = peak(), time.process_time() - started
print(sum(len(chunk.text.split()) for chunk in episode.chunks), len(episode.chunks), seconds, used, used - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beam", "convomem", "halumem", "locomo", "longmemeval", "personamem"])
def test_a_million_tokens_are_read_in_bounded_memory(tmp_path, name):
    rng = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    path = _million(name, tmp_path, [" ".join(rng.choices(words, k=200)) for _ in range(5000)])
    done = subprocess.run([sys.executable, "-c", _READ, name, path], capture_output=True, text=True, check=True)
    held, chunks, seconds, peak, grown = map(float, done.stdout.split())
    print(f"{name}: {seconds:.1f} s of CPU time, {peak:.0f} MiB in all, {grown:.0f} MiB of them for reading")
    assert 1_000_000 <= held < 1_100_000 and chunks >= 400
    assert grown < 512  # the file has 6 MB
