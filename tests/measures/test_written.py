"""What was written: facts of our own tasks by their words, HaluMem's measures by a judge, against slow formulas."""

from __future__ import annotations

import math
import random

import pytest

from finemem_jax.config import Config, DataConfig, DiaryConfig, EvalConfig, UserError, resolve
from finemem_jax.corpora import build
from finemem_jax.env.environment import all_questions, replay
from finemem_jax.evaluate import evaluate
from finemem_jax.evaluation.records import full_records
from finemem_jax.types import Answer, Chunk, Episode, Judge, Operation, Point, Question, Verdict
from tests import fakes
from tests.corpora.conftest import WRITERS

facts, halumem = (resolve("finemem_jax.measures", name) for name in ("facts", "halumem"))
CFG = Config()


def played(env, chunks, script, questions=()):
    """A rollout over chunks with the operations of a script, {chunk: [(verb, *arguments)]}."""
    names = {"insert": ("content",), "update": ("content", "id"), "delete": ("id",)}

    def write(episode, turn):
        written = script.get(turn.chunk, [])
        return [
            Operation(f"memory_{verb}", dict(zip(names[verb], given, strict=True))) for verb, *given in written
        ] or [Operation("memory_skip")]

    episode = Episode("e", "x", tuple(chunks), tuple(questions))
    answerer = resolve("finemem_jax.answerers", "extractive").create(CFG.answerer)
    return replay(env, episode, all_questions(episode), answerer.submit, write)()


# --------------------------------------------------------------------------------------------------------------
# facts
# --------------------------------------------------------------------------------------------------------------

OLD = Point("Orlov Maya dentist", "fact", value="Orlov", about=("Maya", "dentist"))
NEW = Point("Petrov Maya dentist", "changed", replaces=(OLD.text,), value="Petrov", about=("Maya", "dentist"))
SOFA = Point("red Leo sofa", "fact", value="red", about=("Leo", "sofa"))
ORLOV, RED = ("insert", "Maya's dentist is Orlov."), ("insert", "Leo's sofa is red")
DIARY = (Chunk("a", 0, points=(OLD, SOFA)), Chunk("b", 1, points=(NEW,)), Chunk("c", 2, points=()))


@pytest.mark.parametrize(
    ("script", "expected"),
    [  # stored, right, updated, kept_old, unneeded, outdated
        ({}, (0, 0, 0, 0, 0, 0)),
        ({0: [ORLOV, RED], 1: [("update", "Maya has a new dentist: Petrov", "#1")]}, (1, 1, 1, 0, 0, 0)),
        ({0: [ORLOV], 1: [("insert", "now Petrov Maya dentist")]}, (2 / 3, 2 / 3, 0, 1, 0, 1 / 2)),
        ({0: [("insert", "Maya's dentist is Ivanov"), ("insert", "rain")], 1: []}, (2 / 3, 0, 0, 0, 1, 0)),
        ({1: [("insert", "Petrov, not Orlov, is the dentist of Maya")]}, (1 / 3, 1 / 3, 1, 0, 0, 0)),
        ({0: [("insert", "Leo's dentist is Orlov")], 2: [("insert", "rain")]}, (0, 0, 0, 0, 1, 0)),
    ],
)  # fmt: skip
def test_what_became_of_facts_by_hand(env, script, expected):
    record = facts.record(played(env, DIARY, script), False)
    found = facts.metrics([record], CFG)
    assert found["facts"] == 3
    assert [found[f"facts/{name}"] for name in facts._SHARES] == pytest.approx(list(expected))


def test_a_fact_to_be_forgotten_is_outdated_where_it_stays(env):
    chunks = (Chunk("a", 0, points=(SOFA,)), Chunk("b", 1, points=(Point("no more", "x", replaces=(SOFA.text,)),)))
    keeps = {0: [("insert", "Leo's sofa is red")]}
    for script, outdated in ((keeps, 1.0), (keeps | {1: [("delete", "#1")]}, 0.0)):
        found = facts.metrics([facts.record(played(env, chunks, script), False)], CFG)
        assert (found["facts"], found["facts/outdated"], found["facts/unneeded"]) == (1, outdated, 0.0)


def scored_by(env, baseline, episodes):
    said = resolve("finemem_jax.baselines", baseline).contestant(CFG)
    answerer = resolve("finemem_jax.answerers", "extractive").create(CFG.answerer)
    from finemem_jax.evaluate import evaluate_script

    return facts.metrics([facts.record(r, False) for r in evaluate_script(said, env, answerer, episodes)], CFG)


def test_the_diary_knows_its_facts(env):
    diary = DiaryConfig(chunks=6, forgets=2, repeats=1, passing=1, silent=1)
    episodes = [
        resolve("finemem_jax.benchmarks", "diary").load(DataConfig(diary=diary), "eval", 0)[i] for i in range(6)
    ]
    for episode in episodes:
        assert all(
            point.kind == "forgotten" or point.value in chunk.text for chunk in episode.chunks for point in chunk.points
        )
    everything, nothing, perfect = (scored_by(env, name, episodes) for name in ("store_all", "no_memory", "oracle"))
    assert everything["facts/right"] == everything["facts/kept_old"] == 1.0 and everything["facts/updated"] == 0.0
    assert everything["facts/unneeded"] > 0.2 and everything["facts/outdated"] > 0.0
    assert nothing["facts/stored"] == nothing["facts/unneeded"] == 0.0 < nothing["facts"] == everything["facts"]
    assert perfect["facts/updated"] > 0.5 > perfect["facts/unneeded"]


def test_conflict_streams_carry_their_facts_through_the_file(tmp_path, env):
    (tmp_path / "raw").mkdir()
    WRITERS["squad"](tmp_path / "raw")
    out = str(tmp_path / "c.parquet")
    build(
        source="conflict", input=str(tmp_path / "raw"), output=out, split="all", chunks=3, chunk_tokens=80, instances=1
    )
    (episode,) = resolve("finemem_jax.benchmarks", "memalpha").load(DataConfig(eval_path=out), "eval", 0)
    points = [(chunk, point) for chunk in episode.chunks for point in chunk.points]
    assert len(points) > 4 and any(point.replaces for _, point in points)
    assert all(point.text in chunk.text and point.value in point.text for chunk, point in points)
    found = scored_by(env, "store_all", [episode])
    assert found["facts"] == len(points) and found["facts/right"] == found["facts/kept_old"] == 1.0


# --------------------------------------------------------------------------------------------------------------
# HaluMem's
# --------------------------------------------------------------------------------------------------------------


class Script(Judge):
    """Says of every request what it is told to."""

    def __init__(self, say):
        self.say, self.asked, self.settled = say, [], 0

    def judge(self, requests):
        from concurrent.futures import Future

        futures = []
        for request in requests:
            self.asked.append(request)
            futures.append(Future())
            futures[-1].set_result(self.say(request))
        return futures

    def settle(self):
        self.settled += 1


def measured(rollouts, say):
    judge = Script(say)
    records = full_records(rollouts, {"halumem": halumem}, CFG, judge)
    assert judge.settled == 1
    return halumem.metrics([record["measures"]["halumem"] for record in records], CFG), judge


LIVES = Point("Ana lives in Oslo", importance=0.9)
LIES = Point("Ana owns a boat", importance=0.5, is_false=True)
MOVED = Point("Ana lives in Rome", importance=0.8, replaces=(LIVES.text,))
CAT = Point("Ana has a cat", importance=0.3)
SESSIONS = (
    Chunk("Oslo", 0, session="s0"),
    Chunk("boat", 1, session="s0", points=(LIVES, LIES, CAT)),
    Chunk("fed only", 2),
    Chunk("Rome", 3, points=(MOVED,)),
)
WRITTEN = {
    0: [("insert", "Ana: Oslo")],
    1: [("insert", "a boat")],
    2: [("insert", "noise")],
    3: [("insert", "Ana lives at Rome")],
}


def truth(request):
    """Oslo wholly, the cat not, the boat taken in; the boat's memory false and beyond gold; Rome taken over."""
    if request.task == "integrity":
        score = {LIVES.text: 1.0, LIES.text: 0.5, CAT.text: 0.0}[request.question]
        return Verdict(score, f"{2 * score:g}")
    if request.task == "accuracy":
        score, place = {"Ana: Oslo": (1.0, "gold"), "a boat": (0.0, "beyond"), "Ana lives at Rome": (0.5, "gold")}[
            request.question
        ]
        return Verdict(score, f"{2 * score:g} {place}")
    return Verdict(1.0, "Correct")


def test_halumem_by_hand(env):
    found, judge = measured([played(env, SESSIONS, WRITTEN)], truth)
    tasks = [(r.task, r.question) for r in judge.asked]
    assert tasks == [
        ("integrity", "Ana lives in Oslo"), ("integrity", "Ana owns a boat"), ("integrity", "Ana has a cat"),
        ("accuracy", "Ana: Oslo"), ("accuracy", "a boat"), ("accuracy", "Ana lives at Rome"),
        ("update", "Ana lives in Rome"),
    ]  # fmt: skip
    assert judge.asked[0].text == "- Ana: Oslo\n- a boat"  # both turns of the session, and nothing of others
    assert judge.asked[3].rubric == ("Oslo", "boat") and judge.asked[3].answers == (
        "Ana lives in Oslo",
        "Ana has a cat",
    )
    assert "Ana lives at Rome" in judge.asked[6].text and judge.asked[6].answers == ("Ana lives in Oslo",)
    for kind in ("all", "valid"):
        expected = {
            "recall": 1 / 2, "weighted": 0.9 / 1.2, "target": 0.75, "accuracy": 0.5, "resisted": 0.0,
            "f1": 2 * 0.5 * 0.75 / 1.25, "updated": 1.0, "update_false": 0.0, "update_omitted": 0.0,
        }  # fmt: skip
        assert {name: found[f"halumem/{name} ({kind})"] for name in expected} == pytest.approx(expected)


def test_who_forgets_all_loses_recall_and_updates_and_resists(env):
    """The authors' code counts a change of which nothing is found as a point that was not extracted."""
    found, judge = measured([played(env, SESSIONS, {})], lambda request: Verdict(0.0, "0"))
    assert [r.task for r in judge.asked] == ["integrity"] * 3  # nothing is there to be judged, nor to be found
    assert found["halumem/recall (all)"] == 0.0 and found["halumem/resisted (all)"] == 1.0
    assert (found["halumem/updated (all)"], found["halumem/update_omitted (all)"]) == (0.0, 1.0)


def test_no_verdict_is_a_failure_in_all_and_left_out_of_valid(env):
    def silent(request):
        lost = request.question in (CAT.text, LIES.text, "a boat") or request.task == "update"
        return Verdict(None) if lost else truth(request)

    found, _ = measured([played(env, SESSIONS, WRITTEN)], silent)
    expected = {
        "recall": (1 / 2, 1.0), "weighted": (0.9 / 1.2, 1.0), "target": (0.5, 0.75), "accuracy": (0.5, 0.75),
        "resisted": (0.0, 0.0), "updated": (0.0, 0.0), "update_omitted": (0.0, 0.0),
    }  # fmt: skip
    for name, values in expected.items():
        assert [found[f"halumem/{name} ({kind})"] for kind in ("all", "valid")] == pytest.approx(values), name


def slow(points, false, memories, changes, answers, valid):
    """The definitions, one after the other."""
    judged = [(w, s) for w, s in points if s is not None or not valid]
    full = sum(1 for _, s in judged if s == 1)
    recall = full / len(judged) if judged else 0
    weight = math.fsum(w for w, _ in judged)
    weighted = math.fsum(w * s for w, s in judged if s is not None) / weight if weight else 0
    kept = [(s, g) for s, g in memories if s is not None or not valid]
    gold = [s for s, g in kept if g or s is None]
    target = math.fsum(s for s in gold if s is not None) / len(gold) if gold else 0
    accuracy = math.fsum(s for s, _ in kept if s is not None) / len(kept) if kept else 0
    resisted = [s for s in false if s is not None or not valid]
    names = {"updated": "Correct", "update_false": "Hallucination", "update_omitted": "Omission"}
    labels = [label for label in changes if label is not None or not valid]
    said = [label for label in answers if label is not None or not valid]
    return {
        "recall": recall,
        "weighted": weighted,
        "target": target,
        "accuracy": accuracy,
        "f1": 2 / (1 / recall + 1 / target) if recall and target else 0,
        "resisted": sum(s == 0 for s in resisted) / len(resisted) if resisted else 0,
        **{name: labels.count(label) / len(labels) if labels else 0 for name, label in names.items()},
        **{
            name: said.count(label) / len(said) if said else 0
            for name, label in {"right": "Correct", "false": "Hallucination", "omitted": "Omission"}.items()
        },
    }


def test_halumem_is_its_formulas():
    rng = random.Random(0)
    for _ in range(40):
        score, label = (
            lambda: rng.choice((None, 0.0, 0.5, 1.0)),
            lambda: rng.choice((None, "Correct", "Hallucination", "Omission")),
        )
        parts = {
            "points": [[round(rng.random(), 2), score()] for _ in range(rng.randrange(6))],
            "false": [score() for _ in range(rng.randrange(4))],
            "memories": [[score(), rng.random() < 0.5] for _ in range(rng.randrange(6))],
            "changes": [rng.choice((label(), "Other")) for _ in range(rng.randrange(5))],
            "answers": [label() for _ in range(rng.randrange(5))],
        }
        found = halumem.metrics([parts], CFG)
        for kind in ("all", "valid"):
            expected = slow(*parts.values(), kind == "valid")
            assert {name: found[f"halumem/{name} ({kind})"] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_answers_count_where_the_judge_has_these_labels():
    def answer(label):
        said = Verdict(None if label == "" else float(label == "Correct"), label, "m halumem")
        return Answer(Question("q", ("a",)), (), "x", said.score, verdict=said)

    rollout = fakes.rollout(
        [["a"]], answers=[answer(label) for label in ("Correct", "Omission", "Omission", "", "yes")]
    )
    found = halumem.metrics([halumem.record(rollout, True)], CFG)
    assert found["halumem/right (all)"] == 1 / 4 and found["halumem/right (valid)"] == 1 / 3
    assert found["halumem/omitted (valid)"] == 2 / 3 and found["halumem/false (all)"] == 0.0


def test_a_measure_that_asks_a_judge_needs_one(tmp_path):
    cfg = Config(eval=EvalConfig(measures=("halumem",)))
    with pytest.raises(UserError, match=r"halumem asks a judge: set config\.judge\.name"):
        evaluate(cfg, tmp_path, policy=False)
