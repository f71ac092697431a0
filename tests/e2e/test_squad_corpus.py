"""From raw SQuAD to a table: a corpus is built, loads as a published row does, trains, and baselines read it."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest

from finemem_jax import config, evaluate, main, train
from finemem_jax.benchmarks import memalpha
from finemem_jax.evaluation.causes import CAUSES
from finemem_jax.files import read_lines
from tests.corpora.conftest import WRITERS

# name and Arrow type of the columns of the published rows
PUBLISHED = {
    "instance_id": "int64",
    "prompt": "string",
    "chunks": "string",
    "questions_and_answers": "string",
    "data_source": "string",
    "metadata": "string",
    "num_chunks": "int64",
    "num_questions": "int64",
}


@pytest.fixture(scope="module", params=["made up", "real"])
def corpus(request, tmp_path_factory):
    """Folder with train.parquet and eval.parquet, built by the command, in chunks of the tiny policy's size."""
    folder = tmp_path_factory.mktemp("squad")
    if request.param == "made up":
        raw = folder / "raw"
        raw.mkdir()
        WRITERS["squad"](raw)
    else:
        raw = request.getfixturevalue("real_data") / "squad"
    for split in ("train", "eval"):
        given = ["data", "build", "--source=squad", f"--input={raw}", f"--output={folder / split}.parquet"]
        given += [f"--split={split}", "--tokenizer=embedded:warm_start", "--chunk-tokens=64", "--chunks=3"]
        assert main.main([*given, "--instances=4", "--questions=6", "--layout=bare"]) == 0
    return folder


def test_its_rows_are_as_published(corpus):
    for split in ("train", "eval"):
        table = pyarrow.parquet.read_table(corpus / f"{split}.parquet")
        assert {field.name: str(field.type) for field in table.schema} == PUBLISHED
        for row in table.to_pylist():
            pairs = json.loads(row["questions_and_answers"])
            assert all(isinstance(chunk, str) for chunk in json.loads(row["chunks"]))
            assert all(set(pair) == {"question", "answer"} for pair in pairs)
            assert row["data_source"] == "squad" and isinstance(json.loads(row["metadata"]), dict)
            assert (row["num_chunks"], row["num_questions"]) == (len(json.loads(row["chunks"])), len(pairs))
    episodes = memalpha.load(config.DataConfig(path=str(corpus)), "train", 0)
    assert {question.metric for episode in episodes for question in episode.questions} == {"substring_match"}


@pytest.mark.slow
def test_it_trains_and_its_baselines_are_evaluated_on_it(corpus, tmp_path, request):
    if "real" in request.node.name:
        pytest.skip("the made-up corpus is enough for a run; real figures are in docs/results.md")
    cfg = config.to_dict(main.load_config("configs/quickstart.py", []))
    cfg["data"] |= {"name": "memalpha", "path": str(corpus)}
    cfg["train"] |= {"steps": 2, "episodes": 2, "mini_batches": 1, "group_size": 2, "eval_every": 0}
    cfg["train"]["checkpoint_every"] = 2
    cfg["eval"] |= {"episodes": 2, "temperatures": (0.0,), "baselines": ("store_all",)}
    cfg["engine"] |= {"slots": 4}
    cfg["memory"] |= {"max_item_tokens": 128, "max_tokens": 1024}  # paragraphs, as lines of this corpus are
    cfg["mesh"]["data"] = 1
    run = tmp_path / "run"
    train.train(config.from_ml_collections(cfg), run)
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 1]
    assert all("reward/chunk_qa" in line and line["missing_rewards"] == 0 for line in lines)

    # every baseline, those of a policy too: tests/e2e/test_evaluate.py
    baselines = ("no_memory", "recent_k", "store_all", "full_context", "rag", "oracle")
    cfg["eval"] |= {"baselines": baselines, "recent_k": 1, "episodes": 0}
    found = evaluate.evaluate(config.from_ml_collections(cfg), tmp_path / "evaluation", given=str(run))
    assert set(found) == {*cfg["eval"]["baselines"], "greedy"}
    scores = {name: evaluation.metrics["accuracy"] for name, evaluation in found.items()}
    # every answer stands beside the words of its question, so who keeps the text answers all, and who forgets, some
    assert scores["store_all"] == scores["full_context"] == scores["rag"] == scores["oracle"] == 1, scores
    assert scores["no_memory"] == 0 < scores["recent_k"] < 1, scores
    causes = {name: [found[name].metrics[f"failure/{c}"] for c in CAUSES] for name in ("no_memory", "recent_k")}
    questions = found["no_memory"].metrics["questions"]
    assert causes["no_memory"] == [questions, 0, 0, 0]
    assert causes["recent_k"] == [round(questions * (1 - scores["recent_k"])), 0, 0, 0]  # forgotten, not missed
    assert found["no_memory"].metrics["memory_tokens"] == 0 < found["rag"].metrics["memory_tokens"]
