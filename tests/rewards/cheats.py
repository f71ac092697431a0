"""Scripted writers that go for the reward instead of the memory, each after another term; and one that does not.

    python -m tests.rewards.cheats            the table of docs/results.md

They are played through the real environment, prompt, codec, retrieval and extractive answerer, and paid by the reward
terms of the shipped configs. `honest` knows the questions, as the oracle of an evaluation does, and works under the
write budget and the memory's limits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from finemem_jax.baselines._scripted import SKIP, Writer, chunk_lines, insert, is_useful, superseded, update
from finemem_jax.config import Config, RewardsConfig, resolve
from finemem_jax.env.environment import training_questions
from finemem_jax.env.probing import Probing
from finemem_jax.env.tokenizer import token_counter
from finemem_jax.env.turns import tabulate, totals
from finemem_jax.loading import load_environment, load_tokenizer
from finemem_jax.main import load_config
from finemem_jax.rollouts.collect import Job, play_scripted
from finemem_jax.types import Episode, MemoryItem, Operation, Rollout, Turn


def delete(item: MemoryItem) -> Operation:
    return Operation("memory_delete", {"id": item.id})


def honest(cfg: Config) -> Writer:
    """Every line that a question needs, those of the final questions first; what is superseded is updated, what is to
    be forgotten deleted, and what no final question needs makes room."""

    def write(episode: Episode, turn: Turn) -> list[Operation]:
        lines, operations = chunk_lines(episode, turn), []
        held = {item.id: item for item in turn.visible}

        def take(item: MemoryItem, operation: Operation) -> None:
            operations.append(operation)
            held.pop(item.id, None)

        for line in lines:
            if line.startswith("no more "):
                for item in [i for i in held.values() if i.text.endswith(line.removeprefix("no more "))]:
                    take(item, delete(item))
        final, now = list(episode.questions), list(episode.chunks[turn.chunk or 0].questions)
        wanted = [line for line in lines if is_useful(line, final)]
        wanted += [line for line in lines if line not in wanted and is_useful(line, now)]
        known = {item.text for item in turn.memory.items}
        for line in wanted:
            old = superseded(line, list(held.values()))
            if line.startswith("again ") and any(text.endswith(line.removeprefix("again ")) for text in known):
                continue
            if old is not None:
                take(old, update(old, line))
            elif len(turn.memory.items) + len(operations) < cfg.memory.max_items and _fits(turn, line, cfg):
                operations.append(insert(line))
            elif spare := [item for item in held.values() if not is_useful(item.text, final)]:
                take(spare[0], update(spare[0], line))
        return operations[: cfg.memory.max_operations] or [SKIP]

    return write


def _fits(turn: Turn, line: str, cfg: Config) -> bool:
    return turn.memory.tokens() + 8 * len(line.split()) < cfg.memory.max_tokens


def store_everything(cfg: Config) -> Writer:
    """Every line, asked for or not, as long as there is room."""
    return lambda episode, turn: [insert(line) for line in chunk_lines(episode, turn)][: cfg.memory.max_operations]


def copy_question_words(cfg: Config) -> Writer:
    """What it keeps honestly, and an item beside it with the words of any question, to be retrieved with others'."""
    write = honest(cfg)

    def cheat(episode: Episode, turn: Turn) -> list[Operation]:
        bait = insert(f"what is s {chunk_lines(episode, turn)[0].split()[-1]} {turn.chunk}")
        kept = [operation for operation in write(episode, turn) if operation.name != SKIP.name]
        return [bait, *kept[: cfg.memory.max_operations - 1]]

    return cheat


def insert_and_delete(cfg: Config) -> Writer:
    """Calls that apply and leave nothing: what the step before inserted is deleted."""

    def cheat(episode: Episode, turn: Turn) -> list[Operation]:
        return [*map(delete, turn.visible[:1]), insert(f"note {turn.chunk}")]

    return cheat


def rewrite_others(cfg: Config) -> Writer:
    """Other steps' items written again with a word more, so that they count as its own; what is left of the budget goes
    to new lines."""
    write = honest(cfg)

    def cheat(episode: Episode, turn: Turn) -> list[Operation]:
        own = [operation for operation in write(episode, turn) if operation.name != SKIP.name]
        taken = {operation.arguments.get("id") for operation in own}
        others = [item for item in turn.visible if item.id not in taken and not item.text.endswith(f"so{turn.chunk}")]
        again = [update(item, f"{item.text.split(' so')[0]} so{turn.chunk}") for item in others]
        return [*own[: cfg.memory.max_operations - 1], *again][: cfg.memory.max_operations] or [SKIP]

    return cheat


def split_facts(cfg: Config) -> Writer:
    """One fact as several items, all of which are retrieved for its question."""

    def cheat(episode: Episode, turn: Turn) -> list[Operation]:
        parts = []
        for line in chunk_lines(episode, turn):
            if is_useful(line, episode.questions):
                words = line.removeprefix("now ").split()
                parts += [line, " ".join([words[0], *words[2:]]), " ".join(words[1:])]
        return [insert(part) for part in parts][: cfg.memory.max_operations] or [SKIP]

    return cheat


def keep_the_last(cfg: Config) -> Writer:
    """The lines of the chunk at hand, written over those of the one before: right for the questions about it, and a
    short memory."""

    def cheat(episode: Episode, turn: Turn) -> list[Operation]:
        asked = episode.chunks[turn.chunk or 0].questions
        lines = [line for line in chunk_lines(episode, turn) if is_useful(line, asked)]
        old = list(turn.visible)
        operations = [update(item, line) for item, line in zip(old, lines, strict=False)]
        operations += [delete(item) for item in old[len(lines) :]] + [insert(line) for line in lines[len(old) :]]
        return operations[: cfg.memory.max_operations] or [SKIP]

    return cheat


def nothing(cfg: Config) -> Writer:
    """SKIP, always."""
    return lambda episode, turn: [SKIP]


WRITERS: dict[str, Callable[[Config], Writer]] = {
    cheat.__name__: cheat
    for cheat in (
        honest,
        store_everything,
        copy_question_words,
        insert_and_delete,
        rewrite_others,
        split_facts,
        keep_the_last,
        nothing,
    )
}


@dataclasses.dataclass(frozen=True)
class Earned:
    """Of a writer, mean over episodes and steps."""

    total: float
    terms: dict[str, float]
    accuracy: float


# The sets of items that leave_one_out needs are among those of shapley, up to four items.
EVERYTHING = Probing(before=True, along=True, rule="shapley", permutations=8, cites=True)


@functools.cache
def _played(path: str, overrides: tuple[str, ...], count: int, names: tuple[str, ...]) -> dict[str, list[Rollout]]:
    """A rollout per episode of each writer; all questions are asked that any reward may read."""
    cfg = load_config(path, list(overrides))
    env = load_environment(cfg, load_tokenizer(cfg))
    answerer = resolve("finemem_jax.answerers", "extractive").create(cfg.answerer)
    episodes = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0)
    jobs = []
    for i in range(count):
        asked = training_questions(episodes[i], cfg.rewards, asks_chunks=True, seed=str(i))
        jobs.append(Job(episodes[i], dataclasses.replace(asked, probing=EVERYTHING), i))
    return {name: play_scripted(env, answerer, jobs, WRITERS[name](cfg)) for name in names}


def earned(
    rewards: RewardsConfig, path: str, overrides: tuple[str, ...] = (), *, count: int = 5, names: Sequence[str] = ()
) -> dict[str, Earned]:
    """What each writer earns by `rewards` in the environment and on the diary of the config at `path`."""
    found = {}
    for name, rollouts in _played(path, overrides, count, tuple(names or WRITERS)).items():
        turns = tabulate([[rollout] for rollout in rollouts], rewards, tokens)
        found[name] = Earned(
            float(totals(turns, rewards.weights).mean()),
            {term: float(values.mean()) for term, values in turns.terms.items()},
            float(np.mean([answer.score for rollout in rollouts for answer in rollout.final_answers])),
        )
    return found


@functools.cache
def _tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(load_config(SHORT, []))


def tokens(text: str) -> int:
    """As the shipped tiny policy counts them."""
    return token_counter(_tokenizer())(text)


SHORT, LONG = "configs/quickstart.py", "configs/diary_long.py"
# A stream of 32 days and a memory that holds whatever is written.
ENDLESS = (
    "--config.data.diary.chunks=32 --config.data.diary.facts=2 --config.data.diary.silent=0 "
    "--config.data.diary.passing=0 --config.memory.max_items=1024 --config.memory.max_tokens=100000 "
    "--config.memory.max_operations=16 --config.prompt.max_prompt_tokens=4096 --config.engine.cache_tokens=8192 "
    "--config.memory.view.max_items=1024 --config.prompt.max_completion_tokens=512"
)


def main() -> None:
    """The table: what a step earns, mean over steps and episodes, and the accuracy at the end."""
    columns = {
        "quickstart": (load_config(SHORT, []).rewards, SHORT, ()),
        "diary_long": (load_config(LONG, []).rewards, LONG, ()),
        "diary_long, paper's scale": (load_config(SHORT, []).rewards, LONG, ()),
        "32 days without limits": (load_config(LONG, []).rewards, LONG, tuple(ENDLESS.split())),
        "the same, paper's scale": (load_config(SHORT, []).rewards, LONG, tuple(ENDLESS.split())),
    }
    tables = {title: earned(*task) for title, task in columns.items()}
    print("| writer | " + " | ".join(tables) + " |\n|---|" + "---|" * len(tables))
    for name in WRITERS:
        cells = [f"{table[name].total:.3f} ({table[name].accuracy:.2f})" for table in tables.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
