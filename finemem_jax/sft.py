"""Supervised warm start: a curriculum of copying exercises, then imitation of the scripted, imperfect expert.

What a model from random weights finds hard is copying text, not choosing it, and reinforcement learning does
not move a policy that cannot copy. The stages, in order (`config.sft.stages`):

    copy_random    lines of random tokens, all to be inserted in order
    copy_lines     the task's own lines, likewise
    copy_shuffled  both kinds, to be inserted in another order than they are read
    expert         what the expert wrote, mixed with copying of a part of the lines

A share of the last two (`config.sft.update_mix`) are exercises in UPDATE: lines that each supersede an item of
memory. An expert that updates once or twice an episode teaches the call, but not to look up whose id it needs: that
is learnt as copying is, from a dense exercise.

Copying in order comes first because it is learnt several times faster; but a policy that learnt nothing else counts
along and loses its place at the first line that is left out (measured: nll 0.02 in order, 7.7 on what the expert
writes). From copy_lines on, a share of the sequences stands under a random permutation of all tokens but the
scaffolding: without it the policy learns which words usually follow each other instead of copying, and forgets how to
copy (measured: exact copies at temperature 1 fell from 0.83 to 0.28 over the expert stage). A pretrained model needs
the expert stage at most, with `permuted` and `copy_mix` 0.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from finemem_jax import distributed, packing
from finemem_jax.collect import Job, play_scripted
from finemem_jax.config import Config, LossConfig
from finemem_jax.env import operations, prompts, scripted
from finemem_jax.env.environment import Asked, Environment
from finemem_jax.env.tokenizer import ITEM_IDS
from finemem_jax.packing import Lengths, TrainSequence
from finemem_jax.policy import Policy, load_environment, load_mesh, load_policy, load_training
from finemem_jax.reporting.progress import Progress
from finemem_jax.reporting.records import JsonLines
from finemem_jax.rl import metrics as metrics_lib
from finemem_jax.rl.train_state import create_train_state, make_optimizer
from finemem_jax.rl.train_step import make_sft_step
from finemem_jax.types import Episode, MemoryItem, Operation, Rollout

NEWLINE = "\n"
LOG_EVERY = 25


def sft(cfg: Config, workdir: Path) -> Policy:
    """Runs the stages of `cfg.sft` one after the other and writes the result as a Hugging Face folder, WORKDIR/hf."""
    from finemem_jax.weights import hf

    mesh = load_mesh(cfg)
    policy = load_policy(cfg, mesh)
    env = load_environment(cfg, policy.tokenizer)
    exercises = Exercises(cfg, env, load_training(cfg))
    is_muted = not distributed.is_lead()
    log = JsonLines(workdir / "sft_metrics.jsonl", keep_below=0, is_muted=is_muted)
    params, done = policy.params, 0
    with Progress(sum(cfg.sft.steps), "sft", is_muted=is_muted) as progress:
        for index, (stage, steps, lr) in enumerate(zip(cfg.sft.stages, cfg.sft.steps, cfg.sft.lr, strict=True)):
            # Each stage has an optimizer of its own: the moments of one task say little about the next.
            optimizer = make_optimizer(dataclasses.replace(cfg.optimizer, lr=lr), steps)
            state = create_train_state(params, optimizer)
            step = make_sft_step(policy.model, optimizer, chunk=cfg.train.logprob_chunk, mesh=mesh)
            examples = exercises.stream(stage, np.random.default_rng([cfg.seed, index]))
            for i in range(steps):
                batch = packing.to_device(pack_examples(itertools.islice(examples, cfg.sft.batch), cfg), mesh)
                state, metrics = step(state, batch)
                if i % LOG_EVERY == 0 or i == steps - 1:
                    values = metrics_lib.read(metrics)
                    log.write(done + i, {"stage": stage, **values})
                    progress.update(done + i + 1, stage=stage, nll=values["nll"])
            params, done = state.params, done + steps
    hf.save_pretrained(workdir / "hf", policy.model, params, policy.tokenizer, dtype=cfg.sft.save_dtype)
    return Policy(policy.tokenizer, policy.model, params)


def pack_examples(examples: Iterator[Example], cfg: Config) -> packing.PackedRows:
    """A batch of examples as packed rows: the mean negative log-likelihood of their completion tokens.

    Every process draws the same batch and packs its share of it."""
    longest = cfg.prompt.max_prompt_tokens + cfg.prompt.max_completion_tokens
    sequences = [TrainSequence(e.prompt, e.completion, (0.0,) * len(e.completion)) for e in examples]
    sequences = [s for s in sequences if len(s) <= (cfg.train.row_tokens or longest)]
    processes = distributed.process_count()
    shares = [sequences[process::processes] for process in range(processes)]
    layout = packing.lay_out(
        [[Lengths(len(s.prompt), len(s.completion)) for s in share] for share in shares],
        longest,
        row_tokens=cfg.train.row_tokens or longest,
        microbatch_rows=cfg.train.microbatch_rows,
        multiple=cfg.mesh.sequence,
    )
    rows = layout.rows[distributed.process_index()]
    own = [shares[row.owner][index] for row in rows for index in row.members]
    ends = np.cumsum([0, *(len(row.members) for row in rows)])
    return packing.pack_rollouts(
        own,
        np.zeros(len(own), np.float32),
        LossConfig(aggregation="token_mean"),
        rows=[range(start, end) for start, end in itertools.pairwise(ends)],
        row_tokens=layout.row_tokens,
        microbatch_rows=cfg.train.microbatch_rows,
        totals=layout.totals,
        min_microbatches=layout.microbatches,
    )


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence; the loss is on the completion alone, its end-of-turn token included."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


class Exercises:
    """An endless, seeded stream of examples for each stage."""

    def __init__(self, cfg: Config, env: Environment, episodes: Sequence[Episode]):
        self._cfg, self._env = cfg, env
        vocabulary = env.tokenizer.get_vocab()
        self._newline = vocabulary.get("\u010a", vocabulary.get(NEWLINE))  # byte-level BPE spells "\n" as U+010A
        # Ids are copied and permuted like words: an id is then looked up by where it stands, whichever token it is.
        # Left in their places while the look-up forms, the ids' embeddings grow alike, because each is as likely as the
        # next (measured: ids of low numbers were never named right afterwards, others always; permuted ones 94 %).
        words = {text for text in env.tokenizer.get_added_vocab() if text not in ITEM_IDS}
        structural = {*(vocabulary[text] for text in words), self._newline}
        self._content = np.array(sorted(set(vocabulary.values()) - structural))
        jobs = [Job(e, Asked(((),) * len(e.chunks), ())) for e in itertools.islice(episodes, cfg.sft.pool)]
        expert = scripted.expert(cfg.sft.expert, cfg.memory.max_operations, cfg.seed)
        self._rollouts = play_scripted(env, None, jobs, expert)

    def stream(self, stage: str, rng: np.random.Generator) -> Iterator[Example]:
        while True:
            yield self._draw(stage, rng)

    def _draw(self, stage: str, rng: np.random.Generator) -> Example:
        """One example of a stage, under permuted tokens in the share `config.sft.permuted` of them."""
        sft, budget = self._cfg.sft, self._cfg.memory.max_operations
        rollout = self._rollouts[rng.integers(len(self._rollouts))]
        t = int(rng.integers(len(rollout.steps)))
        if stage not in ("copy_random", "copy_lines") and rng.random() < sft.update_mix:
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
        elif rng.random() < sft.copy_mix:
            example = self._copy(rollout, t, rng, order="subset")
        else:
            step = rollout.steps[t]
            example = Example(step.prompt_tokens, step.completion.tokens)
        return self._permuted(example, rng) if rng.random() < sft.permuted else example

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
        lines = rollout.episode.chunks[t].text.splitlines()
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
        episode = rollout.episode
        questions = [q for chunk in episode.chunks for q in chunk.questions]
        said = [line for chunk in episode.chunks for line in chunk.text.splitlines()]
        facts = [line for line in said if scripted.is_fact(line, questions) and not scripted.supersedes(line)]
        rng.shuffle(facts)
        others = [line for line in said if line not in facts and not scripted.supersedes(line)]
        count = int(rng.integers(1, min(len(facts), most) + 1))
        superseded = facts[:count]
        held = [*facts, *rng.choice(others, int(rng.integers(0, 4)), replace=False).tolist()]
        rng.shuffle(held)
        ids = np.sort(rng.choice(2 * len(held), len(held), replace=False)) + 1
        items = [MemoryItem(f"#{i}", line, 0, (0,)) for i, line in zip(ids.tolist(), held, strict=True)]
        by_text = {item.text: item for item in items}
        written = {scripted.superseding(line, facts[rng.integers(len(facts))]): by_text[line] for line in superseded}
        beside = rng.choice(others, int(rng.integers(0, 4)), replace=False).tolist()
        inserted = [line for line in beside if line not in held] if is_mixed else []
        inserted = inserted[: int(rng.integers(0, len(inserted) + 1))] if inserted else []
        lines = [*written, *beside]
        rng.shuffle(lines)
        calls = {line: scripted.update(item, line) for line, item in written.items()}
        calls |= {line: scripted.insert(line) for line in inserted}
        return self._example(lines, items, [calls[line] for line in lines if line in calls])

    def _example(self, lines: Sequence[str], items: Sequence[MemoryItem], written: Sequence[Operation]) -> Example:
        """A chunk of `lines` beside `items` in memory, and what is to be written."""
        tokenizer, budget = self._env.tokenizer, self._cfg.memory.max_operations
        chunk = NEWLINE.join(lines)
        prompt, _ = prompts.render(tokenizer, self._env.specs, chunk, items, self._env.prompt, max_operations=budget)
        # One by one: in the order they are given, each on a line of its own.
        text = "".join(f"{operations.emit([operation])}\n" for operation in written)
        return Example(prompt, (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id))

    def _randomised(self, example: Example, lines: Sequence[str], rng: np.random.Generator) -> Example:
        """The same exercise over lines of fresh random tokens."""
        encode = self._env.tokenizer.encode
        old = [tuple(encode(line, add_special_tokens=False)) for line in lines]
        new = [tuple(rng.choice(self._content, rng.integers(2, max(10, len(line) + 1))).tolist()) for line in old]
        prompt = _replaced(example.prompt, _joined(old, self._newline), _joined(new, self._newline))
        # In a call a line stands as JSON writes it, quotes escaped. The longest first: a line may be part of another.
        quoted = [tuple(encode(json.dumps(line, ensure_ascii=False)[1:-1], add_special_tokens=False)) for line in lines]
        completion = example.completion
        for before, after in sorted(zip(quoted, new, strict=True), key=lambda pair: -len(pair[0])):
            completion = _replaced(completion, before, after)
        return Example(prompt, completion)

    def _permuted(self, example: Example, rng: np.random.Generator) -> Example:
        """The same exercise under a random permutation of all tokens but the scaffolding."""
        table = np.arange(max(int(self._content.max()), *example.prompt, *example.completion) + 1)
        table[self._content] = rng.permutation(self._content)
        return Example(tuple(table[list(example.prompt)].tolist()), tuple(table[list(example.completion)].tolist()))


def _joined(lines: Sequence[tuple[int, ...]], separator: int) -> tuple[int, ...]:
    joined: list[int] = []
    for line in lines:
        joined += [*line, separator]
    return tuple(joined[:-1])


def _replaced(tokens: Sequence[int], old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """`tokens` with the first occurrence of the run `old` replaced by `new`."""
    tokens, old = tuple(tokens), tuple(old)
    for start in range(len(tokens) - len(old) + 1):
        if tokens[start : start + len(old)] == old:
            return (*tokens[:start], *new, *tokens[start + len(old) :])
    raise ValueError("the exercise's lines are not in its tokens")
