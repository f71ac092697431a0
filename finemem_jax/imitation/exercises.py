"""What the warm start is taught by: exercises in copying and in looking up, what the scripted expert wrote, traces.

What a model from random weights finds hard is copying text, not choosing it, and reinforcement learning does
not move a policy that cannot copy. The stages, in order (`config.sft.stages`):

    copy_random    lines of random tokens, all to be inserted in order
    copy_lines     the task's own lines, likewise
    copy_shuffled  both kinds, to be inserted in another order than they are read
    expert         what the expert wrote, mixed with copying of a part of the lines
    demonstrations what the expert says in all turns of the configured method, in its format (demonstrations.py)
    traces         recorded turns of any writer, as they are (traces.py)

A share of copy_shuffled and expert (`config.sft.update_mix`) are exercises in UPDATE: lines that each supersede an
item of memory. An expert that updates once or twice an episode teaches the call, but not to look up whose id it needs:
that is learnt as copying is, from a dense exercise.

Copying in order comes first because it is learnt several times faster; but a policy that learnt nothing else counts
along and loses its place at the first line that is left out (measured: nll 0.02 in order, 7.7 on what the expert
writes). From copy_lines on, a share of the sequences stands under a random permutation of all tokens but the
scaffolding: without it the policy learns which words usually follow each other instead of copying, and forgets how to
copy (measured: exact copies at temperature 1 fell from 0.83 to 0.28 over the expert stage).

So it is with answers: which of the lines of memory is asked for is one token of a demonstration, among all those that
are copied. A share of demonstrations (`config.sft.answer_mix`) are therefore answers alone.

A pretrained model copies already, and its tokenizer spells calls with ordinary tokens, which a permutation would make
noise of: with `model.path` given, `permuted` and `copy_mix` are 0 unless the config says otherwise.
"""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from finemem_jax.baselines import _scripted as scripted
from finemem_jax.config import Config, Stage, UserError
from finemem_jax.env import operations
from finemem_jax.env.environment import Asked, Environment, turn_prompt
from finemem_jax.env.tokenizer import ITEM_IDS
from finemem_jax.imitation.demonstrations import demonstrated, demonstration_examples
from finemem_jax.imitation.examples import Example
from finemem_jax.rollouts.collect import Job, play_scripted
from finemem_jax.types import ANSWER, Episode, MemoryItem, Operation, Rollout

NEWLINE = "\n"
DEMONSTRATIONS = "demonstrations"
STAGES: tuple[str, ...] = typing.get_args(Stage)
FROM_RANDOM_WEIGHTS = 0.25  # share of permuted and of copying sequences where the config leaves them open (-1)


def expert_rollouts(cfg: Config, env: Environment, episodes: Sequence[Episode]) -> list[Rollout]:
    """What the scripted expert writes on the episodes; no question is asked. Raises UserError where it has no tools."""
    if not {"memory_insert", "memory_update", "memory_skip"} <= {spec.name for spec in env.specs}:
        raise UserError(
            f"config.memory.name={cfg.memory.name} has none of the tools that the scripted expert writes with "
            "(memory/flat.py): config.sft.stages=('traces',) and config.sft.eval_examples=0 do without it"
        )
    jobs = [Job(episode, Asked(((),) * len(episode.chunks), ())) for episode in episodes]
    expert = scripted.expert(cfg.sft.expert, cfg.memory.max_operations, cfg.seed)
    return play_scripted(env, None, jobs, expert)


def expert_examples(cfg: Config, env: Environment, episodes: Sequence[Episode], most: int) -> list[Example]:
    """The expert's turns on the first of the episodes, at most `most` of them: those of the method, where that is what
    is trained on."""
    play = demonstrated if DEMONSTRATIONS in cfg.sft.stages else expert_rollouts
    examples: list[Example] = []
    for episode in episodes:
        if len(examples) >= most:
            break
        examples += demonstration_examples(play(cfg, env, [episode]))
    return examples[:most]


class Exercises:
    """An endless, seeded stream of examples for each stage."""

    def __init__(self, cfg: Config, env: Environment, episodes: Sequence[Episode], traces: Sequence[Example] = ()):
        """episodes: what all stages but `traces` are made of. traces: what that one is."""
        self._cfg, self._env, self._traces = cfg, env, traces
        vocabulary = env.tokenizer.get_vocab()
        self._newline = vocabulary.get("\u010a", vocabulary.get(NEWLINE))  # byte-level BPE spells "\n" as U+010A
        # Ids are copied and permuted like words: an id is then looked up by where it stands, whichever token it is.
        # Left in their places while the look-up forms, the ids' embeddings grow alike, because each is as likely as the
        # next (measured: ids of low numbers were never named right afterwards, others always; permuted ones 94 %).
        words = {text for text in env.tokenizer.get_added_vocab() if text not in ITEM_IDS}
        structural = {*(vocabulary[text] for text in words), self._newline}
        self._content = np.array(sorted(set(vocabulary.values()) - structural))
        default = 0.0 if cfg.model.path else FROM_RANDOM_WEIGHTS
        self._permuted_share = default if cfg.sft.permuted < 0 else cfg.sft.permuted
        self._copy_share = default if cfg.sft.copy_mix < 0 else cfg.sft.copy_mix
        needs_expert = any(stage not in ("traces", DEMONSTRATIONS) for stage in cfg.sft.stages)
        needs_method = DEMONSTRATIONS in cfg.sft.stages
        pool = list(itertools.islice(episodes, cfg.sft.pool)) if needs_expert or needs_method else []
        self._rollouts = expert_rollouts(cfg, env, pool) if needs_expert else []
        shown = demonstrated(cfg, env, pool) if needs_method else []
        self._demonstrations, self._answers = demonstration_examples(shown), demonstration_examples(shown, ANSWER)

    def stream(self, stage: str, rng: np.random.Generator) -> Iterator[Example]:
        if stage not in STAGES:
            raise UserError(f"config.sft.stages: {stage!r} is no stage; known: {', '.join(STAGES)}")
        while True:
            yield self._draw(stage, rng)

    def _draw(self, stage: str, rng: np.random.Generator) -> Example:
        """One example of a stage, under permuted tokens in the share `config.sft.permuted` of them."""
        if stage == "traces":
            return self._traces[rng.integers(len(self._traces))]
        if stage == DEMONSTRATIONS:
            among = self._answers if self._answers and rng.random() < self._cfg.sft.answer_mix else self._demonstrations
            example = among[rng.integers(len(among))]
            return self._permuted(example, rng) if rng.random() < self._permuted_share else example
        sft, budget = self._cfg.sft, self._cfg.memory.max_operations
        rollout = self._rollouts[rng.integers(len(self._rollouts))]
        t = int(rng.integers(len(rollout.steps)))
        if stage not in ("copy_random", "copy_lines") and rng.random() < sft.update_mix and _facts(rollout.episode)[0]:
            if stage != "expert":  # never plain before the look-up has formed
                return self._permuted(self._updates(rollout, rng, 2 * budget), rng)
            example = self._updates(rollout, rng, budget, is_mixed=True)
        elif stage == "copy_random":
            return self._copy(rollout, 0, rng, random_lines=True)  # the first chunk: memory is empty, rows short
        elif stage == "copy_shuffled" and rng.random() < 0.5:
            return self._copy(rollout, t, rng, order="shuffled", random_lines=True)
        elif stage == "copy_lines":
            example = self._copy(rollout, t, rng)
        elif stage == "copy_shuffled":
            example = self._copy(rollout, t, rng, order="shuffled")
        elif rng.random() < self._copy_share:
            example = self._copy(rollout, t, rng, order="subset")
        else:
            step = rollout.steps[t]
            example = Example(step.prompt_tokens, step.completion.tokens)
        return self._permuted(example, rng) if rng.random() < self._permuted_share else example

    def _copy(
        self,
        rollout: Rollout,
        t: int,
        rng: np.random.Generator,
        *,
        order: Literal["read", "shuffled", "subset"] = "read",
        random_lines: bool = False,
    ) -> Example:
        """The lines of chunk t, shuffled, to be inserted: all of them in the order they are read, all in another
        order, or as many as the write budget allows in the order they are read."""
        memory = rollout.steps[t - 1].memory_after if t else None
        text = rollout.episode.chunks[t].text
        lines = [line for line in text.splitlines() if line.strip()] or [text]
        rng.shuffle(lines)
        chosen = np.arange(len(lines))
        if order == "shuffled":
            chosen = rng.permutation(chosen)
        elif order == "subset":
            count = rng.integers(1, min(len(lines), self._cfg.memory.max_operations) + 1)
            chosen = np.sort(rng.choice(chosen, count, replace=False))
        written = [lines[i] for i in chosen]
        example = self._example(lines, memory.items if memory else (), [scripted.insert(line) for line in written])
        return self._randomised(example, lines, rng) if random_lines else example

    def _updates(self, rollout: Rollout, rng: np.random.Generator, most: int, *, is_mixed: bool = False) -> Example:
        """One to `most` updates: lines that each supersede one of the items of memory, which hold facts of the whole
        episode in random order. What it teaches is to look up the id.

        is_mixed: some of the other lines are inserted among them, so that a call is written to the end that its name
        asks for, with an id or without. For the expert stage: 10 of 36 updates lacked their id after imitation without
        such exercises; but in the copy stages they kept the look-up from forming (3 of 31 right, else 24 of 31)."""
        facts, others = _facts(rollout.episode)
        rng.shuffle(facts)
        count = int(rng.integers(1, min(len(facts), most) + 1))
        superseded = facts[:count]
        held = [*facts, *rng.choice(others, min(int(rng.integers(0, 4)), len(others)), replace=False).tolist()]
        rng.shuffle(held)
        ids = np.sort(rng.choice(2 * len(held), len(held), replace=False)) + 1
        items = [MemoryItem(f"#{i}", line, 0, writers=(0,)) for i, line in zip(ids.tolist(), held, strict=True)]
        by_text = {item.text: item for item in items}
        written = {scripted.superseding(line, facts[rng.integers(len(facts))]): by_text[line] for line in superseded}
        beside = rng.choice(others, min(int(rng.integers(0, 4)), len(others)), replace=False).tolist()
        inserted = [line for line in beside if line not in held] if is_mixed else []
        inserted = inserted[: int(rng.integers(0, len(inserted) + 1))] if inserted else []
        lines = [*written, *beside]
        rng.shuffle(lines)
        calls = {line: scripted.update(item, line) for line, item in written.items()}
        calls |= {line: scripted.insert(line) for line in inserted}
        return self._example(lines, items, [calls[line] for line in lines if line in calls])

    def _example(self, lines: Sequence[str], items: Sequence[MemoryItem], written: Sequence[Operation]) -> Example:
        """A chunk of `lines` beside `items` in memory, and what is to be written."""
        tokenizer = self._env.tokenizer
        prompt, _ = turn_prompt(self._env, NEWLINE.join(lines), items)
        text = f"{operations.emit(written, self._env.prompt.codec)}\n"  # in the order they are given
        return Example(prompt, (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id))

    def _randomised(self, example: Example, lines: Sequence[str], rng: np.random.Generator) -> Example:
        """The same exercise over lines of fresh random tokens."""
        encode = self._env.tokenizer.encode
        old = [tuple(encode(line, add_special_tokens=False)) for line in lines]
        new = [tuple(rng.choice(self._content, rng.integers(2, max(10, len(line) + 1))).tolist()) for line in old]
        prompt = _replaced(example.prompt, _joined(old, self._newline), _joined(new, self._newline))
        # In a call a line stands as JSON writes it, quotes escaped, or as it is. The longest first: a line may be part
        # of another.
        quoted = [tuple(encode(json.dumps(line, ensure_ascii=False)[1:-1], add_special_tokens=False)) for line in lines]
        completion = example.completion
        for before, plain, after in sorted(zip(quoted, old, new, strict=True), key=lambda found: -len(found[0])):
            completion = _replaced(completion, before if _find(completion, before) is not None else plain, after)
        return Example(prompt, completion)

    def _permuted(self, example: Example, rng: np.random.Generator) -> Example:
        """The same exercise under a random permutation of all tokens but the scaffolding."""
        table = np.arange(max(int(self._content.max()), *example.prompt, *example.completion) + 1)
        table[self._content] = rng.permutation(self._content)
        return Example(tuple(table[list(example.prompt)].tolist()), tuple(table[list(example.completion)].tolist()))


def _facts(episode: Episode) -> tuple[list[str], list[str]]:
    """The lines of an episode that a chunk question asks for, and the others; none that supersedes another."""
    questions = [question for chunk in episode.chunks for question in chunk.questions]
    said = [line for chunk in episode.chunks for line in chunk.text.splitlines() if not scripted.supersedes(line)]
    facts = [line for line in said if scripted.is_fact(line, questions)]
    return facts, [line for line in said if line not in facts]


def _joined(lines: Sequence[tuple[int, ...]], separator: int) -> tuple[int, ...]:
    joined: list[int] = []
    for line in lines:
        joined += [*line, separator]
    return tuple(joined[:-1])


def _replaced(tokens: Sequence[int], old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """`tokens` with the first occurrence of the run `old` replaced by `new`."""
    start = _find(tokens, old)
    if start is None:
        raise UserError(
            "config.sft.stages: this tokenizer joins the ends of a line with what stands around it, so that no random "
            "tokens can take its place: leave out copy_random and copy_shuffled (a pretrained model copies already)"
        )
    return (*tokens[:start], *new, *tokens[start + len(old) :])


def _find(tokens: Sequence[int], run: Sequence[int]) -> int | None:
    """Where the run first stands in the tokens."""
    tokens, run = tuple(tokens), tuple(run)
    return next((i for i in range(len(tokens) - len(run) + 1) if tokens[i : i + len(run)] == run), None)
