"""What is kept of rollouts: plain records, JSON-able. Those that an evaluation counts, and those for people to look at.

Counted: one record per episode, of which the metrics are made. They are saved while an evaluation goes on, so the
table of one that was killed and went on is the table of one that was not: both are computed from the same records.
Scores are counted here; all else is a measure's (`measures/`).

Looked at:
    rollouts.jsonl              a line per group in training: {"step", "episode", "source", "chunks", "samples"}
    heldout/episodes.jsonl      a line per held-out episode: {"episode", "source", "chunks"}
    heldout/WHEN POLICY.jsonl   a line per held-out episode: {"episode", "samples"}, one sample each; WHEN is "before",
                                "after" (the newest evaluation) or "baseline"
A sample holds its steps (raw text, operations with their outcome, what changed in memory) and its answers; a sample of
training also its reward terms and advantages per step, and one whose method writes fast weights its `writes` (FastWrite
of types.py). Memory is not repeated: M_t is M_{t-1} without `removed`, with every item of `written` put in its place or
appended.

What a reader takes for granted is not written: a step's `role` (write) and `chunk` (its place), a retrieved item's
`writers` (the step that wrote it last), what an answer `cited` and its score without some of its items (`subsets`)
where nobody asked. A turn of a model has its `prompt`: how many characters of the prompt of the turn before it begins
with, and the rest; they share instructions and most of memory. Records of older code lack these.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from finemem_jax.config import Config, resolve
from finemem_jax.evaluation.causes import failures
from finemem_jax.evaluation.intervals import bootstrap_interval
from finemem_jax.files import write_json_lines
from finemem_jax.types import (
    WRITE,
    Answer,
    Completion,
    Episode,
    Judge,
    Memory,
    Question,
    Reply,
    Retrieved,
    Rollout,
    Step,
)

HELDOUT = "heldout"
EPISODES = "episodes.jsonl"

_SHOWN_ITEMS = 20  # with more items than this retrieved, only the beginning of each is recorded
_SHOWN_CHARACTERS = 200

Decode = Callable[[Sequence[int]], str]  # tokens -> their text

Measures = Mapping[str, ModuleType]  # files of measures/ by name


@dataclass(frozen=True, slots=True)
class Evaluation:
    # Those of `record_metrics`; after the command `evaluate` those of `interval_metrics`, too. None: nothing to count.
    metrics: dict[str, float | None]
    records: list[dict]  # one per episode
    rollouts: Sequence[Rollout] = ()  # what the records are of; the command keeps the records alone


# --------------------------------------------------------------------------------------------------------------
# What an evaluation counts
# --------------------------------------------------------------------------------------------------------------


def measures(cfg: Config, *, in_training: bool) -> Measures:
    """Those of the config; in_training: but for those that `finemem evaluate` alone takes."""
    found = {name: resolve("finemem_jax.measures", name) for name in cfg.eval.measures}
    return {name: measure for name, measure in found.items() if measure.IN_TRAINING or not in_training}


def episode_record(
    rollout: Rollout, taken: Measures, *, has_model: bool = True, said: Mapping[str, Mapping[str, Any]] | None = None
) -> dict:
    """What the metrics need of one rollout, as plain JSON. said: to a measure by its name, beside the rollout."""
    final, said = rollout.final_answers, said or {}
    return {
        "episode": rollout.episode.id,
        "source": rollout.episode.source,
        "scores": [answer.score for answer in final],
        "kinds": [answer.question.kind for answer in final],
        "measures": {name: m.record(rollout, has_model, **said.get(name, {})) for name, m in taken.items()},
    }


def record_metrics(records: Sequence[Mapping], taken: Measures, cfg: Config) -> dict[str, float | None]:
    """Scores of a set of episode records, with the columns of the measures.

    accuracy             mean over sources of the mean over episodes of the mean score of the final questions; None
                         where not one of them was answered: nothing is known then, least of all 0
    accuracy/KIND        mean over the questions of one kind ("fact", "changed", "label", …)
    source/NAME          mean over the episodes of one source
    missing_answers      questions the answerer failed on; they are in no mean
    """
    by_kind = defaultdict(list)
    for record in records:
        for kind, score in zip(record["kinds"], record["scores"], strict=True):
            if kind and score is not None:
                by_kind[kind].append(score)
    sources = {name: _mean(values) for name, values in _by_source(records).items()}
    return {
        "accuracy": _mean(list(sources.values())) if sources else None,
        **{f"accuracy/{kind}": _mean(values) for kind, values in sorted(by_kind.items())},
        **({f"source/{name}": value for name, value in sources.items()} if len(sources) > 1 else {}),
        **_measured(records, taken, cfg),
        "missing_answers": float(sum(score is None for record in records for score in record["scores"])),
    }


def _measured(records: Sequence[Mapping], taken: Measures, cfg: Config) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, measure in taken.items():
        columns |= measure.metrics([record["measures"][name] for record in records], cfg)
    return columns


def episode_scores(records: Sequence[Mapping]) -> dict[str, list]:
    """Of every episode: its id, source, and the mean score of its final questions, None where none was answered. What
    runs are compared by, episode by episode."""
    answered = [[score for score in record["scores"] if score is not None] for record in records]
    return {
        "episodes": [record["episode"] for record in records],
        "sources": [record["source"] for record in records],
        "scores": [float(np.mean(scores)) if scores else None for scores in answered],
    }


def interval_metrics(records: Sequence[Mapping], *, resamples: int, seed: int) -> dict[str, float]:
    """What `finemem evaluate` adds: how sure the means are.

    low, high              95 % bootstrap interval of `accuracy` over instances; low/SOURCE and high/SOURCE likewise
    episodes, questions    how many
    """
    by_source = _by_source(records)
    names = [name for name, values in by_source.items() for _ in values]
    means = [value for values in by_source.values() for value in values]
    low, high = bootstrap_interval(means, seed=seed, resamples=resamples, sources=names)
    bounds = {"low": low, "high": high} if means else {}
    if len(by_source) > 1:
        for name, values in by_source.items():
            bounds[f"low/{name}"], bounds[f"high/{name}"] = bootstrap_interval(values, seed=seed, resamples=resamples)
    asked = sum(len(record["scores"]) for record in records)
    return {**bounds, "episodes": len(records), "questions": asked}


def full_record(
    rollout: Rollout, taken: Measures, *, has_model: bool = True, said: Mapping[str, Mapping[str, Any]] | None = None
) -> dict:
    """The episode's record with its questions. said: as for `episode_record`."""
    questions = question_records(rollout, taken)
    return {**episode_record(rollout, taken, has_model=has_model, said=said), "questions": questions}


def full_records(
    rollouts: Sequence[Rollout], taken: Measures, cfg: Config, judge: Judge | None, *, has_model: bool = True
) -> list[dict]:
    """The episodes' records with their questions. Measures that ask a judge do so for all of them at once."""
    asking = {name: measure for name, measure in taken.items() if hasattr(measure, "requests")}
    asked: list[dict] = [
        {name: judge.judge(measure.requests(rollout, cfg)) for name, measure in asking.items()} if judge else {}
        for rollout in rollouts
    ]
    if judge and asking:
        judge.settle()
    records = []
    for rollout, futures in zip(rollouts, asked, strict=True):
        said = {name: {"verdicts": [f.result() for f in of_one], "cfg": cfg} for name, of_one in futures.items()}
        records.append(full_record(rollout, taken, has_model=has_model, said=said))
    return records


def question_records(rollout: Rollout, taken: Measures) -> list[dict]:
    """One plain record per final question: what was retrieved, which step wrote it, what was answered, and what the
    measures say of it. Of a long list of items (full_context) only their beginnings are kept."""
    found = [_question_record(rollout, answer) for answer in rollout.final_answers]
    for measure in taken.values():
        if hasattr(measure, "questions"):
            for record, columns in zip(found, measure.questions(rollout), strict=True):
                record |= columns
    return found


def _question_record(rollout: Rollout, answer: Answer) -> dict:
    most = _SHOWN_CHARACTERS if len(answer.retrieved) > _SHOWN_ITEMS else None
    whose = {"episode": rollout.episode.id, "source": rollout.episode.source}
    problem = answer.reply.problem if answer.reply is not None else ""  # why it is missing
    return {**whose, **answer_record(answer, {"problem": problem}, most)}


def answer_record(answer: Answer, said: Mapping[str, object], most: int | None = None) -> dict:
    """A question, how it was answered, and what was retrieved for it (which step wrote it; its first `most`
    characters). said: what else there is to say of it."""
    question, reply = answer.question, answer.reply
    if answer.verdict is not None:
        judges = (answer.verdict, *answer.verdict.others)
        said = {**said, "judges": {v.judge: {"score": v.score, "label": v.label} for v in judges}}
    return {
        "question": question.text,
        "kind": question.kind,
        "gold": list(question.answers),
        "metric": question.metric,
        "answer": answer.text,
        "score": answer.score,
        **said,
        "retrieved": [
            {
                "id": item.id,
                "step": item.written_at,
                **({"writers": list(item.writers)} if len(item.writers) > 1 else {}),
                "text": item.text[:most],
                "bm25": round(item.score, 6),
            }
            for item in answer.retrieved
        ],
        **({"cited": list(reply.cited)} if reply is not None and reply.cited is not None else {}),
        **({"subsets": [list(subset) for subset in answer.subsets]} if answer.subsets else {}),
    }


def _by_source(records: Sequence[Mapping]) -> dict[str, list[float]]:
    """Mean score of every episode that has one, by source."""
    by_source = defaultdict(list)
    for record in records:
        scores = [score for score in record["scores"] if score is not None]
        if scores:
            by_source[record["source"]].append(float(np.mean(scores)))
    return dict(sorted(by_source.items()))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


# --------------------------------------------------------------------------------------------------------------
# What people look at
# --------------------------------------------------------------------------------------------------------------


def group_record(
    group: Sequence[Rollout],
    terms: Mapping[str, Sequence[np.ndarray]],
    total: Sequence[np.ndarray],
    advantages: Sequence[np.ndarray],
    prompts: Sequence[Sequence[str]] = (),
) -> dict:
    """A group of training rollouts. terms, total, advantages: of each sample [turns], NaN where missing (null in
    JSON). prompts: of each sample, of each turn, where they are known."""
    samples = []
    for s, rollout in enumerate(group):
        rewards = {name: of_samples[s].tolist() for name, of_samples in terms.items()}
        scored = {"rewards": rewards, "total": total[s].tolist(), "advantage": advantages[s].tolist()}
        samples.append(sample_record(rollout, prompts[s] if prompts else ()) | scored)
    return stream_record(group[0]) | {"samples": samples}


def stream_record(rollout: Rollout) -> dict:
    """What the rollout read."""
    episode = rollout.episode
    return {"episode": episode.id, "source": episode.source, "chunks": [chunk.text for chunk in episode.chunks]}


def prompts_of(rollout: Rollout, decode: Decode) -> list[str]:
    """The prompt of each turn; "" of a script's, which has none."""
    return [decode(step.prompt_tokens) if step.prompt_tokens else "" for step in rollout.steps]


def sample_record(rollout: Rollout, prompts: Sequence[str] = ()) -> dict:
    """One rollout, without its episode. prompts: of each turn, where they are known.

    An answer's `step` is the chunk's index for a chunk question, null for a final one; its `failure` is where a wrong
    one comes from (evaluation/causes.py)."""
    before = {}
    steps = []
    for step in rollout.steps:
        steps.append(_step_record(len(steps), step, before) | _prompt_record(len(steps), prompts))
        before = {item.id: item for item in step.memory_after.items}
    causes = iter(failures(rollout))  # of the final questions
    answers = [
        {"step": a.chunk, **answer_record(a, {"failure": next(causes) if a.chunk is None else ""})}
        for a in rollout.answers
    ]
    writes = {"writes": [dataclasses.asdict(write) for write in rollout.writes]} if rollout.writes else {}
    return {"sample": rollout.sample, "steps": steps, "answers": answers, **writes}


def _prompt_record(place: int, prompts: Sequence[str]) -> dict:
    if not prompts or not prompts[place]:
        return {}
    before = next((prompt for prompt in reversed(prompts[:place]) if prompt), "")
    pairs = enumerate(zip(before, prompts[place], strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(prompts[place])))
    return {"prompt": [same, prompts[place][same:]]}


def _step_record(place: int, step: Step, before: Mapping[str, object]) -> dict:
    memory: Memory = step.memory_after
    after = {item.id: item for item in memory.items}
    return {
        **({"role": step.role} if step.role != WRITE else {}),
        **({"chunk": step.chunk} if step.chunk not in (None, place) else {}),
        "text": step.text,
        "finish": step.completion.finish,
        "operations": [
            {
                "name": operation.name,
                "arguments": operation.arguments,
                "status": outcome.status,
                "ok": outcome.ok,
                "item": outcome.item,
                "evicted": list(outcome.evicted),
            }
            for operation, outcome in zip(step.operations, step.outcomes, strict=True)
        ],
        "removed": [name for name in before if name not in after],
        "written": [
            {"id": item.id, "step": item.written_at, "text": item.text, "kind": item.kind}
            for item in memory.items
            if before.get(item.id) != item
        ],
        "memory_tokens": memory.tokens(),
    }


def read_sample(record: Mapping) -> Rollout:
    """The inverse of `sample_record`, of what rewards are made of but for memory and tokens: the roles of its turns and
    its answers. Raises KeyError, TypeError or ValueError where the record is not one."""
    steps = tuple(
        Step(t, (), Completion((), (), step["finish"]), step["text"], (), (), _NO_MEMORY, step.get("role", WRITE))
        for t, step in enumerate(record["steps"])
    )
    answers = tuple(
        Answer(
            Question(answer["question"], tuple(answer["gold"]), answer["metric"], answer["kind"]),
            tuple(
                Retrieved(i["id"], i["step"], tuple(i.get("writers", (i["step"],))), i["text"], i["bm25"])
                for i in answer["retrieved"]
            ),
            answer["answer"],
            answer["score"],
            chunk=answer["step"],
            reply=Reply(answer["answer"], cited=tuple(answer["cited"])) if "cited" in answer else None,
            subsets=tuple((bits, score) for bits, score in answer.get("subsets", ())),
        )
        for answer in record["answers"]
    )
    return Rollout(Episode("", "", (), ()), 0, record["sample"], steps, answers)


_NO_MEMORY: Any = None  # what a record says of memory is a list of changes


def write_heldout(
    workdir: Path, when: str, policies: Mapping[str, Sequence[Rollout]], limit: int, decode: Decode | None = None
) -> None:
    """Writes the first `limit` rollouts of every policy of an evaluation, by name, with their prompts where they can be
    decoded; files are replaced as a whole."""
    if not limit:
        return
    for name, rollouts in policies.items():
        chosen = rollouts[:limit]
        write_json_lines(workdir / HELDOUT / EPISODES, [stream_record(rollout) for rollout in chosen])
        records = []
        for rollout in chosen:
            prompts = prompts_of(rollout, decode) if decode is not None else ()
            records.append({"episode": rollout.episode.id, "samples": [sample_record(rollout, prompts)]})
        write_json_lines(workdir / HELDOUT / f"{when} {re.sub('[^A-Za-z0-9_.=-]', '-', name)}.jsonl", records)
