"""PersonaMem-v2 as published: a user's chat history, and what this user should be told, to be chosen among options.

`config.data.path` is a copy of the published repository (`bowen-upenn/PersonaMem-v2`), or one of its CSV files in its
place there; a folder is read as `benchmark/text/train.csv` and `val.csv`, or these two in the folder itself. A row
names its history, JSON, by a path from the repository's root. `config.data.sources=("personamem-128k",)` takes the long
histories in the place of the 32k ones.

An episode is a history, as "Message i (role): text", cut into chunks of `config.data.chunk_tokens`; the first system
message, which describes the persona, is left out. Its questions are the rows on that history. The options are lettered
in an order that the question alone decides. `Question.kind` is the type of preference, with "updated" where an earlier
one was revised and "others" where it is somebody else's; the evidence are the chunks that hold the row's own snippet.

Splits are by persona, which the published ones are not (735 personas are in train.csv and in val.csv): a tenth of the
personas, by a hash of their id, is held out with all rows, whichever file they stand in. With `eval_path`
(benchmark.csv) its rows are evaluated, and no persona of theirs is trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finemem_jax import corpora
from finemem_jax.benchmarks import _literals, _splits
from finemem_jax.config import DataConfig, UserError
from finemem_jax.console import printable, tell
from finemem_jax.corpora import _fields, _reading
from finemem_jax.types import Chunk, CountTokens, Episode, Question

WINDOWS = ("32k", "128k")
QUERY_PROMPT = "Answer with the letter of the option that fits this user best, as \\boxed{letter}."
_SOURCE = "personamem"
_FILES = ("train.csv", "val.csv")
_HELD_OUT = 10  # one persona in so many

_Row = tuple[str, str, Question, list[str]]  # persona, the history's file, the question, texts of its snippet


def load(cfg: DataConfig, split: str, seed: int) -> Sequence[Episode]:
    """The episodes of a split; those of training in an order fixed by `seed`."""
    if split not in ("train", "eval"):
        raise UserError(f"split {split!r}: allowed are train, eval")
    windows = [window for window in WINDOWS if f"{_SOURCE}-{window}" in cfg.sources] or list(WINDOWS[:1])
    field = "eval_path" if split == "eval" and cfg.eval_path else "path"
    bad = _splits.BadRows(cfg.on_bad_row)
    rows = [(window, row) for window in windows for row in _rows(getattr(cfg, field), field, window, bad)]
    if field == "path":
        others = _personas(cfg.eval_path) if cfg.eval_path else None
        rows = [(window, row) for window, row in rows if _is_of(split, row[0], others)]
    count_tokens = corpora.token_counter(cfg.tokenizer)
    episodes = list(_episodes(rows, cfg.chunk_tokens, count_tokens, bad))
    corpora.keep(count_tokens)
    if bad.count:
        said = f"{bad.count} bad rows of config.data.{field}={getattr(cfg, field)} are left out of the {split} split"
        tell(printable(f"{said}, the first: {bad.first}", one_line=True), file=sys.stderr)
    if not episodes:
        raise UserError(f"no episodes in the {split} split of config.data.{field}={getattr(cfg, field)}")
    episodes = episodes[: cfg.limit or None]
    if split == "train":
        random.Random(seed).shuffle(episodes)
    return tuple(episodes)


def _is_of(split: str, persona: str, others: set[str] | None) -> bool:
    """Whether the persona belongs to the split. others: the personas of `eval_path`, where there is one."""
    if others is not None:
        return persona not in others
    is_held_out = hashlib.sha256(f"{_SOURCE} {persona}".encode()).digest()[0] % _HELD_OUT == 0
    return is_held_out == (split == "eval")


def _personas(path: str) -> set[str]:
    return {_persona(row, f"{file}") for file in _files(path, "eval_path") for row in _reading.read_csv(file)}


# --------------------------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------------------------


def _files(path: str, field: str) -> list[Path]:
    """The CSV files at a path."""
    if not path:
        raise UserError(f"config.data.{field} is empty: give a copy of the PersonaMem-v2 repository, or a CSV of it")
    given = Path(path)
    if given.is_file():
        return [given]
    for folder in (given / "benchmark" / "text", given):
        if found := [folder / name for name in _FILES if (folder / name).is_file()]:
            return found
    raise UserError(
        f"config.data.{field}={path}: neither a CSV file nor a folder with {' and '.join(_FILES)}, there or in "
        "benchmark/text"
    )


def _root(file: Path) -> Path:
    """The folder from which a row names its history: where `benchmark` lies, or the file's own."""
    return next((parent.parent for parent in file.parents if parent.name == "benchmark"), file.parent)


def _rows(path: str, field: str, window: str, bad: _splits.BadRows) -> Iterator[_Row]:
    for file in _files(path, field):
        for number, row in enumerate(_reading.read_csv(file)):
            try:
                yield _row(row, f"{file} row {number}", _root(file), window)
            except UserError as error:
                bad.add(error)


def _row(row: Mapping[str, str | None], where: str, root: Path, window: str) -> _Row:
    if _reading.BEYOND in row:
        raise UserError(f"{where}: {_reading.BEYOND}")
    persona, link = _persona(row, where), _fields.text(row, f"chat_history_{window}_link", where)
    history = root / link
    try:
        history = history.resolve()
        is_there = history.is_relative_to(root.resolve()) and history.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        raise _fields.wrong(where, f"chat_history_{window}_link", f"the path of a file in {root}", link)
    asked = _said(row, "user_query", where)
    wrong_ones = _literal(_fields.text(row, "incorrect_answers", where), where, "incorrect_answers")
    right = _fields.text(row, "correct_answer", where)
    if not isinstance(wrong_ones, list) or not all(isinstance(text, str) and text.strip() for text in wrong_ones):
        raise _fields.wrong(where, "incorrect_answers", "a list of texts", wrong_ones)
    if not 0 < len(wrong_ones) < len(string.ascii_lowercase):
        raise _fields.wrong(where, "incorrect_answers", "1 to 25 texts", f"{len(wrong_ones)} texts")
    question = _question(persona, asked, right, wrong_ones, _kind(row))
    return persona, str(history), question, _snippet(row.get("related_conversation_snippet"))


def _persona(row: Mapping[str, str | None], where: str) -> str:
    return _fields.text(row, "persona_id", where).strip()


def _said(row: Mapping[str, str | None], name: str, where: str) -> str:
    """The text of a message: an object with content, as JSON or as a Python literal, or the text itself."""
    text = _fields.text(row, name, where)
    if not text.lstrip().startswith("{"):
        return text.strip()
    message = _literal(text, where, name)
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str) or not content.strip():
        raise _fields.wrong(where, name, "a message with content", text)
    return content.strip()


def _literal(text: str, where: str, name: str) -> object:
    """The value of a cell that is JSON, or else a Python literal; nothing is evaluated."""
    for read in (_fields.loads, _literals.parse):
        with contextlib.suppress(ValueError):
            return _fields.whole(read(text))
    raise _fields.wrong(where, name, "JSON or a Python literal", text)


def _question(persona: str, asked: str, right: str, others: Sequence[str], kind: str) -> Question:
    options = [right, *others]
    random.Random(f"{_SOURCE} {persona} {asked}").shuffle(options)
    letters = string.ascii_lowercase
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip(letters, options, strict=False))
    text = f"{asked}\n\nWhich reply fits this user best?\n{listed}"
    return Question(text, (letters[options.index(right)],), "boxed_match", kind)


def _kind(row: Mapping[str, str | None]) -> str:
    kind = (row.get("pref_type") or "").strip() or "preference"
    is_updated = (row.get("updated") or "").strip().lower() == "true"
    is_of_others = (row.get("who") or "").strip().lower() in ("other", "others")
    return kind + " updated" * is_updated + " others" * is_of_others


def _snippet(cell: str | None) -> list[str]:
    """The texts of the messages that a row's preference was told in; none where the cell is not read so."""
    try:
        found = _literal(cell or "", "", "")
    except UserError:
        return [cell.strip()] if cell and cell.strip() else []
    messages = found if isinstance(found, list) else [found]
    contents = [message.get("content") if isinstance(message, dict) else message for message in messages]
    return [text.strip() for text in contents if isinstance(text, str) and text.strip()]


# --------------------------------------------------------------------------------------------------------------
# Histories
# --------------------------------------------------------------------------------------------------------------


def _episodes(
    rows: Sequence[tuple[str, _Row]], chunk_tokens: int, count_tokens: CountTokens, bad: _splits.BadRows
) -> Iterator[Episode]:
    """One per history and persona, in the order of their first rows."""
    by_history: dict[tuple[str, str, str], list[tuple[Question, list[str]]]] = {}
    for window, (persona, history, question, snippet) in rows:
        by_history.setdefault((window, persona, history), []).append((question, snippet))
    for (window, persona, history), asked in by_history.items():
        try:
            texts = _chunks(Path(history), chunk_tokens, count_tokens)
        except UserError as error:
            bad.add(error)
            continue
        questions = [Question(q.text, q.answers, q.metric, q.kind, _evidence(snippet, texts)) for q, snippet in asked]
        chunks = tuple(Chunk(text, index) for index, text in enumerate(texts))
        name = f"{_SOURCE}-{window}-{persona}-{Path(history).stem}"
        yield Episode(name, f"{_SOURCE}-{window}", chunks, tuple(questions), QUERY_PROMPT)


def _evidence(snippet: Sequence[str], texts: Sequence[str]) -> tuple[int, ...]:
    return tuple(i for i, text in enumerate(texts) if any(said in text for said in snippet))


def _chunks(file: Path, chunk_tokens: int, count_tokens: CountTokens) -> list[str]:
    """The messages of a history in chunks; one that is longer than a chunk is cut."""
    found = _reading.read_json(file)
    messages = found.get("chat_history") if isinstance(found, Mapping) else found
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{file}: want a list of messages, or an object with such a chat_history")
    pieces: list[str] = []
    for number, message in enumerate(messages):
        said = _fields.mapping(message, str(file), f"chat_history[{number}]")
        role, content = said.get("role"), said.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise _fields.wrong(str(file), f"chat_history[{number}]", "a message with role and content", message)
        if (number == 0 and role == "system") or not content.strip():
            continue
        text = f"Message {number} ({role}): {content.strip()}"
        pieces += [text[span.start : span.end] for span in corpora.split_text(text, chunk_tokens, count_tokens)]
    if not pieces:
        raise UserError(f"{file}: chat_history says nothing")
    groups = corpora.pack(pieces, chunk_tokens, count_tokens)
    return ["\n\n".join(pieces[i] for i in group) for group in groups]
