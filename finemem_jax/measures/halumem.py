"""HaluMem's measures of what was written, by a judge: for benchmarks with gold points (`Chunk.points`).

A session is what neighbouring chunks of one name were, or one chunk. Written in it is what memory holds behind it that
one of its turns wrote. Of all gold points but false ones and changes:

halumem/recall        points that were written wholly / points
halumem/weighted      Σ importance x (1 wholly, 1/2 in part) / Σ importance
halumem/target        mean truth (1, 1/2, 0) of the memories all of whose content is gold
halumem/accuracy      mean truth of all memories
halumem/f1            of target and recall
halumem/resisted      points said only to mislead of which nothing was written / such points
halumem/updated       changes taken over rightly / changes; halumem/update_false and update_omitted likewise: the judge
                      sees the 10 items that are nearest to the change
halumem/right, false, omitted    answers by their label, where the judge of answers has these labels

Each comes twice: "(all)" counts what the judge gave no verdict on as a failure, "(valid)" leaves it out. Where the
authors' code and their text differ, the text holds: a change of which the search finds nothing is an omission (they
count it as a point that was not extracted, so that who forgets all loses recall and no updates). What memory should
resist is best resisted by writing nothing: read `resisted` beside `recall`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from finemem_jax.config import Config
from finemem_jax.env.retrieval import open_index
from finemem_jax.types import Chunk, JudgeRequest, MemoryItem, Point, Rollout, Verdict

IN_TRAINING = False
_NAMES = ("recall", "weighted", "target", "accuracy", "f1", "resisted")
_UPDATES = {"updated": "Correct", "update_false": "Hallucination", "update_omitted": "Omission"}
_ANSWERS = {"right": "Correct", "false": "Hallucination", "omitted": "Omission"}
_KINDS = ("all", "valid")
COLUMNS = {f"halumem/{name} ({kind})": ".3f" for name in (*_NAMES, *_UPDATES, *_ANSWERS) for kind in _KINDS}
TABLE = "what was written and updated, by the judge"
_NEAREST = 10


def requests(rollout: Rollout, cfg: Config) -> list[JudgeRequest]:
    """Of every session: its points and false points, its memories, its changes. A change of which no item is found is
    not asked about."""
    return [request for _, request in _asked(rollout, cfg) if request is not None]


def record(rollout: Rollout, has_model: bool, verdicts: Sequence[Verdict] = (), cfg: Config | None = None) -> dict:
    """verdicts: one per request, in their order; none where no judge was asked."""
    found: dict[str, list] = {"points": [], "false": [], "memories": [], "changes": [], "answers": []}
    waiting = iter(verdicts)
    for point, request in _asked(rollout, cfg or Config()) if verdicts or cfg is not None else ():
        verdict = next(waiting) if request is not None else Verdict(0.0, "Omission")
        if request is not None and request.task == "accuracy":
            found["memories"].append([verdict.score, verdict.label.endswith("gold")])
        elif request is None or request.task == "update":
            found["changes"].append(verdict.label if verdict.score is not None else None)
        elif point is not None and point.is_false:
            found["false"].append(verdict.score)
        elif point is not None:
            found["points"].append([point.importance, verdict.score])
    for answer in rollout.final_answers:
        if answer.verdict is not None and answer.verdict.label in ("", *_ANSWERS.values()):
            found["answers"].append(answer.verdict.label or None)
    return found


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    def listed(name: str) -> list:
        return [entry for found in records for entry in found[name]]

    points, false, memories = listed("points"), listed("false"), listed("memories")
    columns: dict[str, float] = {}
    for kind in _KINDS:
        judged = [point for point in points if kind == "all" or point[1] is not None]
        true = [memory for memory in memories if kind == "all" or memory[0] is not None]
        # A memory without a verdict may be gold or not: as a failure it counts among the gold ones
        gold = [memory for memory in true if memory[1] or memory[0] is None]
        resisted = [score for score in false if kind == "all" or score is not None]
        recall = _mean([float(score == 1.0) for _, score in judged])
        target = _mean([score or 0.0 for score, _ in gold])
        weights = sum(importance for importance, _ in judged)
        found = {
            "recall": recall,
            "weighted": sum(w * (score or 0.0) for w, score in judged) / weights if weights else 0.0,
            "target": target,
            "accuracy": _mean([score or 0.0 for score, _ in true]),
            "f1": 2 * recall * target / (recall + target) if recall + target else 0.0,
            "resisted": _mean([float(score == 0.0) for score in resisted]),
            **_shares(listed("changes"), _UPDATES, kind),
            **_shares(listed("answers"), _ANSWERS, kind),
        }
        columns |= {f"halumem/{name} ({kind})": value for name, value in found.items()}
    return columns


def _shares(labels: Sequence[str | None], names: Mapping[str, str], kind: str) -> dict[str, float]:
    counted = [label for label in labels if kind == "all" or label is not None]
    return {name: _mean([float(said == label) for said in counted]) for name, label in names.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _asked(rollout: Rollout, cfg: Config) -> Iterator[tuple[Point | None, JudgeRequest | None]]:
    """(the point, what the judge is asked about it); (None, …) about a memory; (point, None) for a change of which
    nothing is found."""
    turns = {turn.chunk: turn.index for turn in rollout.steps if turn.chunk is not None}
    for session in _sessions(rollout.episode.chunks):
        points = session[-1].points
        memory = rollout.memory_after(session[-1].index)
        if points is None or memory is None:
            continue
        own = {turns[chunk.index] for chunk in session if chunk.index in turns}
        written = [item for item in memory.items if item.written_at in own]
        said = "\n".join(f"- {item.text}" for item in written)
        source = rollout.episode.source
        changes = [point for point in points if point.replaces and not point.is_false]
        for point in points:
            if point not in changes:
                yield point, JudgeRequest(point.text, (), said, point.kind, source, task="integrity")
        gold = tuple(point.text for point in points if not point.is_false)
        talk = tuple(chunk.text for chunk in session)
        for item in written:
            yield None, JudgeRequest(item.text, gold, "", "", source, talk, "accuracy")
        for point in changes:
            near = "\n".join(f"- {item.text}" for item in _nearest(memory.items, point, cfg))
            request = JudgeRequest(point.text, point.replaces, near, point.kind, source, task="update")
            yield point, request if near else None


def _sessions(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    run: list[Chunk] = []
    for chunk in chunks:
        if run and (not chunk.session or chunk.session != run[-1].session):
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def _nearest(items: Sequence[MemoryItem], point: Point, cfg: Config) -> list[MemoryItem]:
    found = open_index([item.text for item in items], cfg.retrieval).search(point.text, _NEAREST)
    return [items[place] for place, _ in found]
