"""One's own conversations: every usual form is read, sessions stay whole histories, questions are verified."""

from __future__ import annotations

import json
import re

import pytest

from finemem_jax import config, main
from finemem_jax.corpora import _conversation
from finemem_jax.corpora._conversation import Said
from tests.fake_server import FakeServer
from tests.fakes import count_words

SAID = [{"role": "user", "content": "I moved to Oslo."}, {"role": "assistant", "content": "How is it there?"}]
FORMS = {
    "openai.jsonl": json.dumps({"user": "u", "messages": [{"role": "system", "content": "Be kind."}, *SAID]}),
    "parts.json": json.dumps({"user_id": "u", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "I moved to Oslo."}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "[]"}, SAID[1]]}),
    "sharegpt.json": json.dumps([{"user": "u", "conversations": [
        {"from": "human", "value": "I moved to Oslo."}, {"from": "gpt", "value": "How is it there?"}]}]),
    "langsmith.jsonl": json.dumps({"user": "u", "inputs": {"messages": [[
        {"type": "human", "data": {"content": "I moved to Oslo."}}]]}, "outputs": {"output": SAID[1]}}),
    "bare.json": json.dumps(SAID),
    "sessions.jsonl": json.dumps({"user": "u", "sessions": [{"time": "2026-05-08", "messages": SAID}]}),
    "table.csv": "who,said,customer\nuser,I moved to Oslo.,u\nassistant,How is it there?,u\n",
    "plain.txt": "user: I moved to Oslo.\n\nassistant: How is it\nthere?\n",
}  # fmt: skip


def built(folder, tmp_path, **options):
    values = {"source": "conversations", "input": str(folder), "output": str(tmp_path / "out.parquet"), "split": "all",
              "chunk_tokens": 64, "chunks": 0, **options}  # fmt: skip
    words = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    assert main.main(["data", "build", *words]) == 0
    return list(config.resolve("finemem_jax.benchmarks", "memalpha").read_file(values["output"]))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_conversation_says_the_same(name, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(FORMS[name])
    (episode,) = built(tmp_path / "in", tmp_path, columns="role=who,content=said,user=customer")
    (chunk,) = episode.chunks
    header = "[Dialogue at timestamp 2026-05-08 00:00]" if name == "sessions.jsonl" else "[Dialogue]"
    assert chunk.text == f"{header}\n<User>I moved to Oslo.\n<Assistant>How is it there?"


def test_a_users_sessions_are_one_history_cut_at_their_borders(tmp_path):
    rows = [
        {"user": "b", "time": "2026-06-01", "messages": [{"role": "user", "content": "Second of b."}]},
        {"user": "a", "time": 1778198400, "messages": [{"name": "Anna", "content": "word " * 80}]},
        {"user": "b", "time": "2026-05-01T10:30:00", "messages": [{"role": "user", "content": "First of b."}],
         "questions": [{"question": "What was first?", "answer": "First of b"}]},
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = built(tmp_path / "in.jsonl", tmp_path)
    assert len(first.chunks) > 1 and all("[Dialogue at timestamp 2026-05-08 00:00]" in c.text for c in first.chunks)
    assert [chunk.text.splitlines()[1] for chunk in second.chunks] == ["<User>First of b.", "<User>Second of b."]
    assert [question.text for question in second.questions] == ["What was first?"]
    lines = built(tmp_path / "in.jsonl", tmp_path, layout="bare")
    assert [chunk.text for chunk in lines[1].chunks] == [
        "[1 May 2026] user: First of b.",
        "[1 June 2026] user: Second of b.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.jsonl", '{"messages": 3}', "row 0: has no messages"),
        ("x.jsonl", '{"messages": [3]}', r"row 0\[0\]: must be a message"),
        ("x.jsonl", '{"messages": [{"role": "user"}]}', r"row 0\[0\]: has no content"),
        ("x.jsonl", '{"messages": [{"content": "x"}]}', "says nobody who speaks"),
        ("x.jsonl", '{"messages": [{"role": "user", "content": 3}]}', "the content must be text"),
        ("x.jsonl", '{"time": [1], "messages": []}', "the time must be text"),
        ("x.jsonl", '{"time": 1e300, "messages": []}', "is no time"),
        ("x.json", "{", "is not JSON"),
        ("x.csv", "a,b\n1,2\n", "no column 'role'"),
        ("x.csv", "role,content\nuser\n", "fewer fields than columns"),
        ("x.txt", "no speaker here\n", "begins with 'no speaker here'"),
        ("x.txt", "\n", "no turn"),
        ("x.pdf", "x", "this source reads"),
        ("x.jsonl", '{"messages": [{"role": "user", "content": "x"}], "questions": [{"question": "q"}]}', "answer"),
    ],
)
def test_what_is_no_conversation_is_one_line_with_its_place(name, content, why, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    out = tmp_path / "out.parquet"
    command = [
        "data",
        "build",
        "--source=conversations",
        f"--input={tmp_path / name}",
        f"--output={out}",
        "--split=all",
    ]
    assert main.main(command) == 2 and not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(why, line)


def test_the_manager_writes_a_session_as_the_corpus_does():
    """The same function, so the same chunks: train = use."""
    turns = _conversation.read_turns(SAID, "x")
    assert turns == [Said("user", "I moved to Oslo."), Said("assistant", "How is it there?")]
    texts = _conversation.written(turns, "1:56 pm on 8 May, 2023", "lines", 12, count_words)
    assert texts == ["[8 May 2023] user: I moved to Oslo.", "[8 May 2023] assistant: How is it there?"]


def test_questions_about_a_history_are_verified_and_what_is_dropped_is_counted(tmp_path):
    """A server that writes questions of every fate, and an answerer without a model that checks them."""
    sessions = ["Anna lives in Rome.", "Bo has a cat named Ferdinand.", "Anna now lives in Oslo, Anna says."]
    rows = [{"user": "u", "messages": [{"name": "Anna", "content": text}]} for text in sessions]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    built(tmp_path / "in.jsonl", tmp_path, layout="bare", chunk_tokens=12)
    written = {
        "Rome": [("In which city did Anna live?", "Rome"), ("Where is it that Anna lives?", "Paris")],
        "Ferdinand": [("What is the cat of Bo named?", "Ferdinand"), ("What is the cat of Bo, named so?", "Ferdinand")],
        "Oslo": [("In the passage, where?", "Oslo"), ("What is the capital of Norway?", "Oslo")],
    }

    def reply(question):
        shown = server.bodies[-1]["messages"][-1]["content"]  # one request at a time
        if "<passage>" in shown:
            (pairs,) = [pairs for word, pairs in written.items() if word in shown]
            return json.dumps([{"question": question, "answer": answer} for question, answer in pairs])
        if "Norway" in question:
            return "Oslo"
        return next((word for word in reversed(written) if word in shown.partition("Question: ")[0]), "unknown")

    with FakeServer() as server:
        server.reply = reply
        corpus, output = tmp_path / "out.parquet", tmp_path / "asked.parquet"
        command = ["data", "questions", f"--corpus={corpus}", f"--output={output}", f"--url={server.url}", "--model=m"]
        command += ["--keep=5", "--chunk-keep=1", "--concurrency=1"]
        assert main.main(command) == 0
        calls = len(server.seen)
        assert main.main(command) == 0 and len(server.seen) == calls  # every reply was kept, for the chunks too
    (episode,) = config.resolve("finemem_jax.benchmarks", "memalpha").read_file(str(output))
    (kept,) = episode.questions
    assert (kept.text, kept.answers, kept.evidence) == ("What is the cat of Bo named?", ("Ferdinand",), (1,))
    about = [json.loads(line) for line in (tmp_path / "asked.chunk_questions.jsonl").read_text().splitlines()]
    assert [len(line["questions"]) for line in about] == [1, 1, 0]
    report = json.loads((tmp_path / "asked.questions.report.json").read_text())
    (counts,) = report["counts"].values()
    fates = ("unusable", "wrong", "superseded", "guessable", "repeated", "kept")
    assert {fate: counts[fate] for fate in fates} == dict.fromkeys(fates, 1) and counts["candidates"] == 6
    for wrong in (f"--output={corpus}", "--output=x.json", "--keep=0"):
        assert main.main([*command, wrong]) == 2
