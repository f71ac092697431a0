"""Rollouts as the page takes them: lists without names, every text once and named by its index.

The order of the fields is that of `assets/report/episode.js`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finemem_jax.config import EvidenceConfig
from finemem_jax.evaluation.records import EPISODES
from finemem_jax.files import is_number, parse_line
from finemem_jax.reporting.credit import as_retrieved, compact_flows, group_flows
from finemem_jax.reporting.tables import Scored
from finemem_jax.types import WRITE, Flow


class Notes:
    """What the reader of the page must know of it: what was left out, and what could not be read."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def damaged(self, path: Path, what: str = "the file") -> None:
        self.texts.append(f"Damaged: {what} of {path.name} cannot be read and is left out.")

    def left_out(self, what: str, shown: int, there: int) -> None:
        if shown < there:
            self.texts.append(f"Sampled: {shown:,} of {there:,} {what} are in this file, evenly spaced.")


class Strings:
    """Texts by index, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index: dict[str, int] = {}

    def __call__(self, text: object) -> int:
        text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text)
        return self._index[text]


class HeldOut:
    """The records of heldout/: a line per episode, and of each policy and baseline a line per episode."""

    def __init__(self, folder: Path):
        self.path = folder / EPISODES
        self.episodes = raw_lines(self.path)
        order = {"before": 0, "after": 1, "baseline": 2}
        files = sorted(folder.glob("* *.jsonl"), key=lambda f: (order.get(f.stem.split(" ")[0], 3), f.stem))
        self.columns = {file: raw_lines(file) for file in files}

    def groups(self, budget: int, rules: EvidenceConfig, strings: Strings, notes: Notes) -> list:
        """One group per held-out episode, its columns the policies and the baselines."""
        of_columns = self.columns.values()
        sizes = [len(line) + sum(len(c[i]) for c in of_columns if i < len(c)) for i, line in enumerate(self.episodes)]
        chosen = evenly(sizes, budget)
        groups, unread = [], Counter[Path]()
        for i in chosen:
            episode = _compacted(self.episodes[i], lambda record: compact_group(None, record, [], strings))
            if episode is None:
                unread[self.path] += 1
                continue
            for file, lines in self.columns.items():
                of_episode = partial(_columns, file.stem, episode=episode[1], rules=rules, strings=strings)
                found = _compacted(lines[i], of_episode) if i < len(lines) else []
                unread[file] += found is None
                episode[-1].extend(found or [])
            groups.append(episode)
        for path, count in unread.items():
            if count:
                notes.damaged(path, f"{count} of {len(chosen)} records")
        notes.left_out("held-out episodes", len(chosen), len(self.episodes))
        return groups

    def scored(self) -> dict[str, list[Scored]]:
        """Of every policy and baseline, by the name of its file, what became of each episode's final questions; records
        that cannot be read are left out."""
        sources = [_compacted(line, lambda record: [str(record["source"])]) for line in self.episodes]
        found = {}
        for file, lines in self.columns.items():
            pairs = zip(sources, (_compacted(line, _final) for line in lines), strict=False)
            found[file.stem] = [(source[0], final) for source, final in pairs if source and final is not None]
        return found


def _final(record: Mapping) -> list:
    return [
        (str(a["kind"]), _number(a["score"]), str(a.get("failure") or ""))
        for a in record["samples"][0]["answers"]
        if a["step"] is None
    ]


def _columns(name: str, record: Mapping, *, episode: int, rules: EvidenceConfig, strings: Strings) -> list:
    """The samples of a policy's record, if it is of this episode."""
    if strings(record["episode"]) != episode:
        return []
    samples = record["samples"]
    flows: Sequence = group_flows(samples, as_retrieved(rules)) or [None] * len(samples)
    return [compact_sample(name, sample, (), strings, f) for sample, f in zip(samples, flows, strict=True)]


def training_groups(
    path: Path, budget: int, terms: Sequence[str], rules: EvidenceConfig, strings: Strings, notes: Notes
) -> list:
    """One group per recorded group of training rollouts, its columns the samples."""
    untold = 0

    def compact(record: Mapping) -> list:
        nonlocal untold
        found = group_flows(record["samples"], rules)
        untold += found is None
        flows: Sequence = found or [None] * len(record["samples"])
        samples = [
            compact_sample(f"sample {s['sample']}", s, terms, strings, f)
            for s, f in zip(record["samples"], flows, strict=True)
        ]
        return compact_group(_number(record["step"]), record, samples, strings)

    lines = raw_lines(path)
    chosen = evenly([len(line) for line in lines], budget)
    groups = [group for i in chosen if (group := _compacted(lines[i], compact)) is not None]
    if len(groups) < len(chosen):
        notes.damaged(path, f"{len(chosen) - len(groups)} of {len(chosen)} records")
    notes.left_out("recorded training groups", len(chosen), len(lines))
    if untold and groups:
        notes.texts.append(
            f"Of {untold} of {len(chosen)} training groups it cannot be told which question paid which step: their "
            "records lack what the attribution needs, or their rewards are of other settings."
        )
    return groups


def _compacted(line: bytes, compact: Callable[[Mapping], list]) -> list | None:
    """What `compact` makes of a line's record; None of one that is damaged, however its content is not as expected."""
    record = parse_line(line)
    try:
        return None if record is None else compact(record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _numbers(values: Any) -> list | None:
    return None if values is None else [_number(value) for value in values]


def _number(value: Any) -> float | None:
    """The value, where the page needs a number."""
    if value is None or is_number(value):
        return value
    raise TypeError(f"not a number: {value!r}")


def compact_group(step: float | None, episode: Mapping, samples: list, strings: Strings) -> list:
    chunks = [strings(chunk) for chunk in episode["chunks"]]
    return [step, strings(episode["episode"]), strings(episode["source"]), chunks, samples]


def compact_sample(
    label: str, sample: Mapping, terms: Sequence[str], strings: Strings, flows: Sequence[Flow] | None = None
) -> list:
    rewards = sample.get("rewards", {})
    rewards = [_numbers(rewards.get(name)) for name in terms] if rewards else 0
    scored = [rewards, _numbers(sample["total"]), _numbers(sample["advantage"])] if rewards else [0, 0, 0]
    final = [answer for answer in sample["answers"] if answer["step"] is None]
    paid = iter(compact_flows(flows, len(final)) if flows is not None else [0] * len(final))
    prompts = Prompts(strings)
    return [
        strings(label),
        [compact_step(step, strings, prompts) for step in sample["steps"]],
        [compact_answer(a, strings, next(paid) if a["step"] is None else 0) for a in sample["answers"]],
        *scored,
    ]


class Prompts:
    """The prompts of a sample, each as recorded: how many characters of the one before it begins with, and the rest.
    The page counts in UTF-16."""

    def __init__(self, strings: Strings):
        self._strings, self._last = strings, ""

    def __call__(self, recorded: list | None) -> list[int] | int:
        if recorded is None:
            return 0
        same, rest = recorded
        kept = self._last[:same]
        self._last = kept + str(rest)
        return [len(kept.encode("utf-16-le", "surrogatepass")) // 2, self._strings(str(rest))]


def compact_step(step: Mapping, strings: Strings, prompts: Prompts) -> list:
    operations = [
        [
            strings(o["name"]),
            [[strings(key), strings(value)] for key, value in o["arguments"].items()],
            strings(o["status"]),
            int(o["ok"]),
            strings(o["item"]) if o["item"] else None,
            [strings(item) for item in o["evicted"]],
        ]
        for o in step["operations"]
    ]
    written = [[strings(w["id"]), _number(w["step"]), strings(w["text"])] for w in step["written"]]
    removed = [strings(item) for item in step["removed"]]
    is_cut = int(step["finish"] == "length")
    role = step.get("role", WRITE)
    found = [strings(step["text"]), is_cut, operations, removed, written, _number(step["memory_tokens"])]
    about = step.get("chunk")
    rest = [
        prompts(step.get("prompt")),
        strings(role) if role != WRITE else 0,
        int(about) + 1 if about is not None else 0,
    ]
    while rest and rest[-1] == 0:
        rest.pop()
    return found + rest


def compact_answer(answer: Mapping, strings: Strings, flow: list | int = 0) -> list:
    found = [
        _number(answer["step"]),
        strings(answer["question"]),
        strings(answer["kind"]),
        [strings(gold) for gold in answer["gold"]],
        strings(answer["answer"]),
        _number(answer["score"]),
        strings(answer.get("failure") or ""),
        [compact_item(item, strings) for item in answer["retrieved"]],
    ]
    return [*found, flow] if flow else found


def compact_item(item: Mapping, strings: Strings) -> list:
    found = [strings(item["id"]), _number(item["step"]), strings(item["text"]), _number(item["bm25"])]
    return [*found, _numbers(item["writers"])] if "writers" in item else found


def evenly(sizes: Sequence[int], budget: int) -> list[int]:
    """Indices, evenly spaced from first to last, as many as fit the budget; at least one."""
    count = len(sizes)
    while count > 1:
        chosen = [round(i * (len(sizes) - 1) / (count - 1)) for i in range(count)]
        if sum(sizes[i] for i in chosen) <= budget:
            return chosen
        count = min(count - 1, int(count * 0.95))
    return list(range(min(len(sizes), 1)))


def raw_lines(path: Path) -> list[bytes]:
    """Whole lines; a half-written last one is left out."""
    return read_bytes(path).split(b"\n")[:-1]


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
