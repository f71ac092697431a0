"""Dataset repositories, read through `datasets`: names on a (local) hub, folders laid out as one, and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finemem_jax.benchmarks import longmemeval, memalpha, memory_agent_bench
from finemem_jax.config import DataConfig, UserError
from tests.benchmarks.test_memalpha import many, row, texts
from tests.fake_hub import FakeHub

README = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: first.parquet
  - split: validation
    path: second.parquet
- config_name: large
  data_files: "*.parquet"
---
# A corpus
"""

# Loads what its arguments name and prints the first text of every chunk. A process of its own: `datasets` reads the
# address of the hub when it is imported.
LOAD = """
import sys
from finemem_jax.benchmarks import memalpha
from finemem_jax.config import DataConfig, UserError
for name in sys.argv[1:]:
    for split in ("train", "eval"):
        try:
            episodes = memalpha.load(DataConfig(path=name), split, 0)
            print(split, sorted(episode.chunks[0].text for episode in episodes))
        except UserError as error:
            print(error)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """`datasets` keeps copies of what it prepares: here, and not at home."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def load_by_names(hub_url: str, home: Path, *names: str) -> tuple[list[str], str]:
    """What LOAD prints for the names, and what stands on stderr."""
    environment = {**os.environ, "HF_ENDPOINT": hub_url, "HF_HOME": str(home)}
    command = [sys.executable, "-c", LOAD, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout.splitlines(), done.stderr


def test_a_name_on_the_hub_loads_with_its_splits_and_an_unknown_one_is_one_line(tmp_path):
    # as published: the training file of one of the corpora is an empty frame
    folder = tmp_path / "repository"
    write(folder / "data" / "test-00000-of-00001.parquet", many("squad", 2))
    pyarrow.parquet.write_table(pyarrow.table({}), folder / "data" / "train-00000-of-00001.parquet")
    other = tmp_path / "other"
    write(other / "first.parquet", many("squad", 3))
    write(other / "second.parquet", many("nlu", 1))
    (other / "README.md").write_text(README)
    with FakeHub({"us/half-empty": folder, "us/several": other}) as hub:
        said, errors = load_by_names(hub.url, tmp_path / "home", "us/half-empty", "us/several:small", "us/none")
        asked = len(hub.served)
        again, _ = load_by_names(hub.url, tmp_path / "home", "us/several:small")
    assert said[0].startswith("config.data.path=us/half-empty: ") and "no data" in said[0]
    assert said[1] == "eval ['squad 0', 'squad 1']"
    assert said[2:4] == ["train ['squad 0', 'squad 1', 'squad 2']", "eval ['nlu 0']"] == again
    assert len(said) == 6 and said[4] == said[5] and "config.data.path=us/none: not on disk" in said[4]
    assert "us/none" in said[4].partition("data set: ")[2] and not errors
    assert not [name for name in hub.served[asked:] if name.endswith(".parquet")]  # kept on disk since the first time


def test_a_folder_laid_out_as_a_repository_loads_by_its_path(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00002.parquet", many("squad", 2))
    write(tmp_path / "data" / "train-00001-of-00002.parquet", many("nlu", 1))
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", many("locomo", 1))
    cfg = DataConfig(path=str(tmp_path))
    assert sorted(texts(memalpha.load(cfg, "train", 0))) == ["nlu 0", "squad 0", "squad 1"]
    (held_out,) = memalpha.load(cfg, "eval", 0)
    assert (held_out.id, held_out.chunks[0].text) == ("locomo-0", "locomo 0")


def test_the_readme_of_a_folder_decides_which_files_are_which_split(tmp_path):
    write(tmp_path / "first.parquet", many("squad", 3))
    write(tmp_path / "second.parquet", many("nlu", 1))
    (tmp_path / "README.md").write_text(README)
    small = DataConfig(path=f"{tmp_path}:small")
    assert sorted(texts(memalpha.load(small, "train", 0))) == ["squad 0", "squad 1", "squad 2"]
    assert texts(memalpha.load(small, "eval", 0)) == ["nlu 0"]
    with pytest.raises(UserError, match=r"config\.data\.path=.*: Config name is missing") as error:
        memalpha.load(DataConfig(path=str(tmp_path)), "train", 0)
    assert "\n" not in str(error.value)


def test_splits_of_other_names_are_one_benchmark(tmp_path):
    questions = {"questions": ["Where?"], "answers": [["Oslo"]]}
    for split, source in (("Accurate_Retrieval", "ruler_qa1_197K"), ("Conflict_Resolution", "factconsolidation_sh_6k")):
        rows = [{"context": f"Ann lives in Oslo. {source}", "metadata": {"source": source}, **questions}]
        write(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    episodes = memory_agent_bench.load(DataConfig(eval_path=str(tmp_path)), "eval", 0)
    assert {(e.source, e.questions[0].kind) for e in episodes} == {
        ("ruler_qa1_197K", "accurate_retrieval"),
        ("factconsolidation_sh_6k", "conflict_resolution"),
    }


def test_json_files_of_a_repository_load_too(tmp_path):
    record = {
        "question_id": "q1",
        "question_type": "single-session-user",
        "question": "How many lamps?",
        "answer": 3,
        "haystack_dates": ["2023/05/01 (Mon) 10:00"],
        "haystack_sessions": [[{"role": "user", "content": "I bought 3 lamps.", "has_answer": True}]],
    }
    (tmp_path / "data").mkdir()
    records = [record, record | {"question_id": "q2", "answer": "three of them"}]
    (tmp_path / "data" / "test.json").write_text(json.dumps(records))
    first, second = longmemeval.load(DataConfig(eval_path=str(tmp_path)), "eval", 0)
    assert first.questions[0].answers == ("3",) and second.questions[0].answers == ("three of them",)
    assert "3 lamps" in first.chunks[0].text and first.questions[0].evidence == (0,)


def test_a_bad_row_of_a_repository_is_named_with_its_split_and_field(tmp_path):
    write(tmp_path / "data" / "train.parquet", [row(), row(chunks=["x", " "])])
    with pytest.raises(UserError, match=r"train row 1: field 'chunks\[1\]' must be text"):
        memalpha.load(DataConfig(path=str(tmp_path)), "train", 0)


def test_an_empty_folder_and_chunk_questions_that_would_be_ignored_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.path=.*without readable data set") as error:
        memalpha.load(DataConfig(path=str(tmp_path)), "train", 0)
    assert "\n" not in str(error.value)
    write(tmp_path / "data" / "train.parquet", [row()])
    (tmp_path / "data" / "train.chunk_questions.jsonl").write_text('{"row": 0, "chunk": 0, "questions": []}\n')
    with pytest.raises(UserError, match=r"chunk_questions\.jsonl lies beside .*; give the folder .*data itself"):
        memalpha.load(DataConfig(path=str(tmp_path)), "train", 0)
