"""Chunks whose prompt is longer than the policy may read (`config.prompt.max_prompt_tokens`).

They are found before the first step, for a run that met one half way would end there, and again after every restart.
`config.data.on_long_chunk` says what becomes of them: the run is refused, their episodes are left out, or they are
split into several chunks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from finemem_jax.config import UserError
from finemem_jax.env import scoring
from finemem_jax.env.chunking import keep, split_text
from finemem_jax.env.environment import Environment, seen_question, turn_prompt
from finemem_jax.types import Chunk, CountTokens, Episode, Question

_SLACK = 32  # tokens that a chunk's own may differ from what it adds to a prompt
_UNLIMITED = 2**30
_AT_ONCE = 1024  # episodes whose chunks are counted together
_LEAST_TOKENS = 8  # of a part; a prompt without room for them has no room for a chunk
_HEADER_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class LongChunk:
    episode: str  # its id
    source: str
    chunk: int
    tokens: int  # of its prompt


def with_fitting_chunks(
    episodes: Sequence[Episode], env: Environment, action: str, which: Iterable[int] | None = None
) -> tuple[Sequence[Episode], str]:
    """The episodes, all of whose chunks fit into a prompt, and a line on what was changed ("" = nothing).

    action: stop | split | skip. which: with "stop", the indices of those that will be read; None = all. Raises
    UserError with episode and chunk where a chunk is too long and may not be changed.
    """
    read = (episodes[i] for i in which) if which is not None and action == "stop" else iter(episodes)
    found = list(_long_chunks(read, env))
    keep(env.count_tokens)
    if not found:
        return episodes, ""
    said = _description(found, env.prompt.max_prompt_tokens)
    if action == "stop":
        raise UserError(
            f"{said}: raise it, build shorter chunks, or set config.data.on_long_chunk to split (into several chunks) "
            "or skip (the episodes are left out)"
        )
    affected = {long.episode for long in found}
    if action == "skip":
        kept = tuple(episode for episode in episodes if episode.id not in affected)
        if not kept:
            raise UserError(f"{said}; config.data.on_long_chunk=skip leaves no episode")
        return kept, f"{said}; left out (config.data.on_long_chunk=skip): {len(episodes) - len(kept)} episodes"
    split = tuple(_split(episode, env) if episode.id in affected else episode for episode in episodes)
    more = sum(len(episode.chunks) for episode in split) - sum(len(episode.chunks) for episode in episodes)
    return split, f"{said}; split (config.data.on_long_chunk=split): {more} chunks more"


def prompt_tokens(chunk: str, env: Environment, question: str = "") -> int:
    """Tokens of the prompt that shows a chunk beside what memory may hold of items that are always shown, else beside
    an empty one: the least that a turn on it must have room for."""
    unlimited = replace(env, prompt=replace(env.prompt, max_prompt_tokens=_UNLIMITED))
    tokens, _ = turn_prompt(unlimited, chunk, (), question)
    return len(tokens) + env.pinned_tokens


def _long_chunks(episodes: Iterable[Episode], env: Environment) -> Iterator[LongChunk]:
    """A chunk's prompt has about the tokens of an empty one and the chunk's own; where that is near the limit or
    beyond, it is rendered."""
    around, most = prompt_tokens("", env), env.prompt.max_prompt_tokens
    while some := list(itertools.islice(episodes, _AT_ONCE)):
        places = [(episode, chunk) for episode in some for chunk in episode.chunks]
        counts = _counts(env.count_tokens, [chunk.text for _, chunk in places])
        asked = dict(zip(map(id, some), _counts(env.count_tokens, [_question(e, env) for e in some]), strict=True))
        for (episode, chunk), count in zip(places, counts, strict=True):
            if around + count + asked[id(episode)] + _SLACK <= most:
                continue
            tokens = prompt_tokens(chunk.text, env, _question(episode, env))
            if tokens > most:
                yield LongChunk(episode.id, episode.source, chunk.index, tokens)


def _question(episode: Episode, env: Environment) -> str:
    """The most that a turn says of the episode's questions."""
    return seen_question(env, episode.questions)


def _counts(count_tokens: CountTokens, texts: list[str]) -> list[int]:
    return count_tokens.counts(texts) if hasattr(count_tokens, "counts") else list(map(count_tokens, texts))


def _description(found: Sequence[LongChunk], most: int) -> str:
    first, longest = found[0], max(found, key=lambda long: long.tokens)
    others = ""
    if len(found) > 1:
        of = len({long.episode for long in found})
        others = f" ({len(found)} such chunks in {of} episodes, the longest with {longest.tokens} tokens)"
    return (
        f"episode {first.episode!r} (data source {first.source!r}), chunk {first.chunk}: its prompt has {first.tokens} "
        f"tokens, more than config.prompt.max_prompt_tokens={most}{others}"
    )


# --------------------------------------------------------------------------------------------------------------
# Splitting
# --------------------------------------------------------------------------------------------------------------


def _split(episode: Episode, env: Environment) -> Episode:
    """The episode with its long chunks in parts. Evidence and questions of a chunk go to the parts that hold the
    answer; where none does, the evidence is all of them, and a question is asked behind the last. Its points are
    looked for behind the last."""
    chunks: list[Chunk] = []
    parts_of: dict[int, list[Chunk]] = {}  # old index -> its parts
    asked = _question(episode, env)
    for chunk in episode.chunks:
        is_short = prompt_tokens(chunk.text, env, asked) <= env.prompt.max_prompt_tokens
        texts = [chunk.text] if is_short else _parts(chunk, env, asked)
        last, session = len(texts) - 1, chunk.session or (f"chunk {chunk.index}" if len(texts) > 1 else "")
        parts = [
            replace(
                chunk,
                text=text,
                index=len(chunks) + i,
                questions=(),
                points=chunk.points if i == last else None,
                session=session,
            )
            for i, text in enumerate(texts)
        ]
        for question in chunk.questions:
            at = (_holders(question, parts) or parts[-1:])[0].index - len(chunks)
            parts[at] = replace(parts[at], questions=(*parts[at].questions, question))
        parts_of[chunk.index] = parts
        chunks += parts

    def moved(question: Question) -> Question:
        evidence = {
            part.index for index in question.evidence for part in _holders(question, parts_of[index]) or parts_of[index]
        }
        after = None if question.after is None else parts_of[question.after][-1].index
        return replace(question, evidence=tuple(sorted(evidence)), after=after)

    chunks = [replace(chunk, questions=tuple(map(moved, chunk.questions))) for chunk in chunks]
    return replace(episode, chunks=tuple(chunks), questions=tuple(map(moved, episode.questions)))


def _holders(question: Question, parts: Sequence[Chunk]) -> list[Chunk]:
    """The parts in which an answer stands."""
    return [part for part in parts if len(parts) == 1 or scoring.substring_match(part.text, question.answers)]


def _parts(chunk: Chunk, env: Environment, asked: str) -> list[str]:
    """The texts of the parts, each under the chunk's first line where that is a header in brackets, its date mostly."""
    first, _, rest = chunk.text.partition("\n")
    has_header = first.startswith("[") and first.endswith("]") and len(first) <= _HEADER_CHARACTERS and rest.strip()
    header, body = (f"{first}\n", rest) if has_header else ("", chunk.text)
    budget = env.prompt.max_prompt_tokens - prompt_tokens(header, env, asked)
    while budget >= _LEAST_TOKENS:
        texts = [header + body[span.start : span.end] for span in split_text(body, budget, env.count_tokens)]
        if all(prompt_tokens(text, env, asked) <= env.prompt.max_prompt_tokens for text in texts):
            return texts
        budget -= max(budget // 16, 1)  # the template counts for more beside this text than beside none
    raise UserError(
        f"config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens} leaves no room for a chunk: the prompt "
        f"without one has {prompt_tokens(header, env, asked)} tokens"
    )
