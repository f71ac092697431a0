"""ConvoMem: conversations of a person with an assistant, then a question, in six categories.

`config.data.eval_path` or `path` is a file or a folder, at any level of the published tree; there is no training split.
Two layouts are read, and may lie beside each other:

    core_benchmark/evidence_questions/CATEGORY/N_evidence/…/*.json   {"evidence_items": […]}: one episode per item, the
                                                                     conversations with its evidence alone
    pre-mixed test cases                                             {"evidenceItems", "conversations", "contextSize"},
                                                                     or a list of them: one episode per case

The data source is the category (convomem_user_evidence, …), `Question.kind` the number of conversations. For
preferences and implicit connections the gold answer is a rubric that only a judge can apply; for abstention it says
that nobody knows. The authors' judge is `config.judge.prompt=convomem`. They mix in fillers without a seed: cases that
are mixed already are what can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finemem_jax import config, corpora, types
from finemem_jax.benchmarks import _splits
from finemem_jax.benchmarks._dialogues import Session, chunked
from finemem_jax.config import UserError
from finemem_jax.corpora import _fields, _reading
from finemem_jax.corpora._sources import Source

_JUDGED = Source("llm_judge", "rubric", reference="", judge="convomem")
SOURCES = {
    "convomem_preference": _JUDGED,
    "convomem_implicit": _JUDGED,
    "convomem_abstention": Source("abstention", "abstention", reference="", judge="convomem"),
    "convomem_changing": Source("substring_match", "changed", reference="", judge="convomem"),
    "convomem": Source("substring_match", "fact", reference="", judge="convomem"),
}
OVERLAPS = (("convomem", ("convomem",), "the pre-mixed cases ask the evidence questions, at several sizes"),)
_CATEGORY = re.compile(r"(?:user|assistant_facts|changing|abstention|preference|implicit_connection)_evidence")


def load(cfg: config.DataConfig, split: str, seed: int) -> Sequence[types.Episode]:
    """All items and cases of the files in their order; no more files are read than `cfg.limit` episodes need."""
    if split == "train":
        raise UserError(
            "config.data.name=convomem has no training split: evaluate on it, and train on another benchmark"
        )
    given = cfg.eval_path or cfg.path
    field = "eval_path" if cfg.eval_path else "path"
    if not given:
        raise UserError(f"config.data.{field} is empty: give a JSON file of ConvoMem, or a folder of them")
    count_tokens, bad = corpora.token_counter(cfg.tokenizer), _splits.BadRows(cfg.on_bad_row)
    kept: list[types.Episode] = []
    for file in _files(given, field):
        for episode in _read(file, cfg.chunk_tokens, count_tokens, bad):
            if not cfg.sources or episode.source in cfg.sources:
                kept.append(episode)
        if cfg.limit and len(kept) >= cfg.limit:
            break
    corpora.keep(count_tokens)
    bad.tell(f"config.data.{field}={given}", "the eval split")
    if not kept:
        raise UserError(f"no episodes at config.data.{field}={given} of config.data.sources={cfg.sources}")
    return tuple(kept[: cfg.limit or None])


def _files(given: str, field: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    found = sorted(file for pattern in ("*.json", "*.json.gz") for file in path.rglob(pattern))
    if not found:
        raise UserError(f"config.data.{field}={given}: no such file, nor a folder with .json files at any depth")
    return found


def _read(
    file: Path, chunk_tokens: int, count_tokens: types.CountTokens, bad: _splits.BadRows
) -> Iterator[types.Episode]:
    content = _reading.read_json(file)
    for number, entry in enumerate(content if isinstance(content, list) else [content]):
        where = f"{file} row {number}"
        try:
            case = _fields.mapping(entry, where, "the row")
            if "evidence_items" in case:
                cases = [
                    ([item], _fields.mapping(item, where, f"evidence_items[{i}]").get("conversations"), f"{number}-{i}")
                    for i, item in enumerate(_fields.listed(case, "evidence_items", where))
                ]
            elif "evidenceItems" in case:
                items = _fields.listed(case, "evidenceItems", where)
                cases = [(items, case.get("conversations"), str(number))]
            else:
                raise UserError(f"{where}: neither evidence_items nor evidenceItems; there: {_fields.names(case)}")
        except UserError as error:
            bad.add(error)
            continue
        for items, conversations, name in cases:
            try:
                yield _episode(items, conversations, file, name, f"{file} row {name}", chunk_tokens, count_tokens)
            except UserError as error:
                bad.add(error)


def _episode(
    items: Sequence[object],
    conversations: object,
    file: Path,
    name: str,
    where: str,
    chunk_tokens: int,
    count_tokens: types.CountTokens,
) -> types.Episode:
    sessions, ids = [], []
    listed = _fields.decoded(conversations or [], where, "conversations", list)
    given = [_fields.mapping(value, where, f"conversations[{i}]") for i, value in enumerate(listed)]
    for i, conversation in enumerate(given):
        ids.append(str(conversation.get("id") or i))
        sessions.append(Session(str(i), "", _turns(conversation, where, f"conversations[{i}]")))
    chunks, places = chunked(sessions, chunk_tokens, count_tokens)
    if not chunks:
        raise _fields.wrong(where, "conversations", "conversations with a message", listed)
    questions, category = [], ""
    for i, value in enumerate(items):
        item = _fields.mapping(value, where, f"items[{i}]")
        category = category or _category(item, file)
        source = next(source for start, source in SOURCES.items() if f"convomem_{category}".startswith(start))
        own = {str(_fields.mapping(c, where, "conversations").get("id")) for c in _list(item.get("conversations"))}
        evidence = {
            chunk
            for place, conversation in enumerate(given)
            if ids[place] in own or (not own and conversation.get("containsEvidence"))
            for chunk in places[str(place)]
        }
        question = types.Question(
            _fields.text(item, "question", where),
            _fields.answers(item.get("answer"), where, "answer"),
            source.metric,
            f"{len(given)} conversations",
            tuple(sorted(evidence)),
        )
        questions.append(replace(question, id=f"{file.parent.name}/{file.name}#{name}.{i}"))
    if not questions:
        raise _fields.wrong(where, "items", "at least one question", items)
    title = f"convomem-{file.parent.name}-{file.name.partition('.')[0]}-{name}"
    return types.Episode(title, f"convomem_{category}", chunks, tuple(questions))


def _turns(conversation: Mapping[str, object], where: str, field: str) -> tuple[tuple[str, str], ...]:
    turns = []
    for i, value in enumerate(_fields.decoded(conversation.get("messages") or [], where, f"{field}.messages", list)):
        message = _fields.mapping(value, where, f"{field}.messages[{i}]")
        speaker, text = message.get("speaker"), message.get("text")
        if not isinstance(speaker, str) or not isinstance(text, str):
            raise _fields.wrong(where, f"{field}.messages[{i}]", "a message with speaker and text", message)
        if text.strip():
            turns.append((speaker.capitalize(), text))
    return tuple(turns)


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _category(item: Mapping[str, object], file: Path) -> str:
    """By the folders above the file, else by what the item says: files of older versions have free words there."""
    for text in (*reversed(file.parts[:-1]), file.name, str(item.get("category") or "").lower().replace(" ", "_")):
        found = _CATEGORY.search(text)
        if found:
            return found.group()
    return "other"
