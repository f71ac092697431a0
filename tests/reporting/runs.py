"""A run's folder without training: the records are made by the product from real values, the texts are nasty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finemem_jax import config
from finemem_jax.config import Config, RewardsConfig, resolve
from finemem_jax.evaluation.records import group_record, write_heldout
from finemem_jax.files import JsonLines, write_atomically
from finemem_jax.types import Answer, Chunk, Episode, Question, Retrieved, Rollout
from tests import fakes

NASTY = "</script><script>window.hacked = 1</script> \"double\" 'single' & \u202ereversed\u202c \u0007 <b>bold</b>"
TERMS = ("format", "chunk_qa", "evidence", "compression")


def rollout(episode: int, *, score: float = 1.0, questions: int = 3, steps: int = 3, sample: int = 0, nasty: str = ""):
    """Writes one fact a step and is asked about the last of them; question j retrieves the item of step j % steps."""
    texts = [[f"fact {t} of {episode}{f' {nasty}' if nasty and t == 0 else ''}"] for t in range(steps)]
    played = fakes.rollout(texts, sample=sample)
    items = played.steps[-1].memory_after.items
    asked = [Question(f"what is {j} of {episode}?", (f"fact {j}",), kind="fact") for j in range(questions)]
    answers = []
    for j, question in enumerate(asked):
        item = items[j % steps]
        retrieved = (Retrieved(item.id, item.written_at, item.writers, item.text, 1.5),)
        answers.append(Answer(question, retrieved, f"answer {j} {nasty}", 0.0 if j == 0 else score))
    chunk = Answer(Question("about chunk 1?", ("yes",)), (), "yes", 1.0, chunk=1)
    source = "squad" if episode % 3 else "pubmed <i>"
    chunks = tuple(Chunk(f"chunk {t} of episode {episode} {nasty}", t) for t in range(steps))
    told = Episode(f"episode-{episode}", source, chunks, tuple(asked))
    return Rollout(told, 0, sample, played.steps, (*answers, chunk))


def write_run(
    workdir: Path,
    *,
    episodes: int = 4,
    questions: int = 3,
    nasty: str = NASTY,
    steps: int = 5,
    paid: bool = False,
    policies: Sequence[str] = ("T=1", "greedy"),
) -> Path:
    """Held-out episodes before, after and of a baseline; `steps` training steps with one group of 4 samples each.

    paid: whether evidence is what the answers give; otherwise it is drawn like the other terms."""
    cfg = config.to_dict(Config())
    cfg |= {"name": f"run {nasty}", "train": cfg["train"] | {"steps": steps}}
    write_atomically(workdir / "config.json", json.dumps(cfg))
    metrics = JsonLines(workdir / "metrics.jsonl", keep_below=0)
    timings = JsonLines(workdir / "timings.jsonl", keep_below=0)
    evaluations = JsonLines(workdir / "evaluations.jsonl", keep_below=0)
    log = JsonLines(workdir / "rollouts.jsonl", keep_below=0)
    rng = np.random.default_rng(0)
    for step in range(steps):
        rewards = {f"reward/{name}": rng.random() for name in ("total", *TERMS)}
        shares = {f"share/{name}": rng.random() for name in TERMS}
        found = {"accuracy": rng.random(), "memory_tokens": 50 * rng.random()}
        sure = {"accuracy_low": found["accuracy"] / 2, "accuracy_high": (found["accuracy"] + 1) / 2}
        metrics.write(step, {**found, **sure, **rewards, **shares})
        timings.write(step, {"seconds/rollout": 3.0, "seconds/update": 1.0, "engine/occupancy": 0.9})
        group = [rollout(step, sample=s, score=s / 3, nasty=nasty) for s in range(4)]
        terms = {name: rng.random((4, 3)) for name in TERMS}
        terms["chunk_qa"][0, 1] = np.nan  # the answerer failed
        if paid:
            term = resolve("finemem_jax.rewards", "evidence")
            terms["evidence"] = np.stack([term.turn_rewards(r, RewardsConfig(), fakes.count_words) for r in group])
        log.write(step, group_record(group, terms, sum(terms.values()), rng.normal(size=(4, 3))))
    table = {"oracle": {"accuracy": 0.9, "accuracy/fact": 0.9, "memory_tokens": 30.0}}
    for when, at, accuracy in (("before", 0, 0.25), ("after", steps, 0.5)):
        for policy in policies:
            row = {"accuracy": accuracy, "accuracy/fact": accuracy, "memory_tokens": 40.0}
            evaluations.write(at, {"policy": policy, **row})
            table[f"{when} {policy}"] = row
        score = 1.0 if when == "after" else 0.0
        played = [rollout(e, score=score, questions=questions, nasty=nasty) for e in range(episodes)]
        write_heldout(workdir, when, dict.fromkeys(policies, played), episodes)
    oracle = [rollout(e, questions=questions, nasty=nasty) for e in range(episodes)]
    write_heldout(workdir, "baseline", {"oracle": oracle}, episodes)
    write_atomically(workdir / "results.json", json.dumps(table))
    return workdir
