"""A policy or a baseline over held-out episodes -> metrics and records.

`evaluate` is the command. It plays each contestant (the policy at each temperature, each baseline) block by block and
saves every block, so that it can be killed at any point and started again: the table and the questions files are the
same, and nothing that was answered is asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from finemem_jax import __version__, config
from finemem_jax.baselines._contestant import Contestant
from finemem_jax.benchmarks import contamination
from finemem_jax.config import Config, UserError, resolve
from finemem_jax.console import Progress, print_table, tell
from finemem_jax.decoding.engine import Engine
from finemem_jax.env.environment import Environment, all_questions, play, replay
from finemem_jax.env.tokenizer import stop_tokens
from finemem_jax.evaluation.agreement import agreements
from finemem_jax.evaluation.log import EvaluationLog
from finemem_jax.evaluation.records import (
    Evaluation,
    episode_record,
    full_records,
    interval_metrics,
    measures,
    record_metrics,
)
from finemem_jax.files import is_number, read_object, write_atomically, write_json_lines
from finemem_jax.hosts import agreement
from finemem_jax.loading import (
    Given,
    OpenPolicies,
    check_answerer,
    fit_prompts,
    judge_line,
    load_answerer,
    load_environment,
    load_given,
    load_held_out,
    load_judge,
    other_judges,
)
from finemem_jax.reporting.comparison import digest
from finemem_jax.rollouts.by_chat import play_by_chat
from finemem_jax.rollouts.collect import Job, collect_rollouts, play_scripted
from finemem_jax.run.workdir import locked
from finemem_jax.schema.plugins import source_of
from finemem_jax.types import Answerer, Episode, Rollout, Sampling

_E = TypeVar("_E")
_T = TypeVar("_T")

_SECONDS = Path("evaluation") / "seconds.json"
WRITING_STEP = 2**31  # stands for the training step in the sampling keys of an evaluation


# --------------------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Contestant:
    """A policy at one temperature, or a baseline. identity: what its rollouts depend on besides the config."""

    name: str
    identity: str
    play: Callable[[Sequence[Episode]], list[Rollout]]
    env: Environment | None = None  # whose prompts its model reads; None: a script, whose writing costs nothing


def evaluate(
    cfg: Config, workdir: Path, *, policy: bool = True, given: str = "", command: Sequence[str] = ()
) -> dict[str, Evaluation]:
    """Scores the baselines and, unless `policy` is False, the policy at every temperature.

    given: the policy: a run's folder (its newest checkpoint), a Hugging Face folder or hub name, the base URL of an
    OpenAI-compatible server (http://…/v1, model config.eval.policy_model); "" = config.model.
    command: as it was typed, for the record.
    Writes WORKDIR/evaluation.json (the table), WORKDIR/questions-NAME.jsonl (every question) and, while it goes on,
    WORKDIR/evaluation/NAME.jsonl; WORKDIR/evaluation/setup.json says how it came about."""
    lock = locked(workdir / "evaluation") if agreement.is_lead() else contextlib.nullcontext()
    with lock:  # two processes must not write the same files
        return _evaluate(cfg, workdir, policy, given, command)


def _evaluate(cfg: Config, workdir: Path, policy: bool, given: str, command: Sequence[str]) -> dict[str, Evaluation]:
    check_answerer(cfg)
    asking = [name for name, measure in measures(cfg, in_training=False).items() if hasattr(measure, "requests")]
    if asking and cfg.judge.name == "none":
        raise UserError(f"config.eval.measures: {', '.join(asking)} asks a judge: set config.judge.name")
    episodes = load_held_out(cfg)
    sources = [episode.source for episode in episodes]
    for line in (*contamination(sources), *other_judges(cfg, sources)):
        if agreement.is_lead():
            tell(line, file=sys.stderr)
    loaded = load_given(cfg, given, workdir)
    answerer, judge, opened = load_answerer(cfg, workdir), load_judge(cfg, workdir), OpenPolicies()

    def records_of(contestant: _Contestant, own: Sequence[Episode]) -> list[dict]:
        return full_records(contestant.play(own), taken, cfg, judge, has_model=contestant.env is not None)

    def player(given: Given) -> _Player:
        return _Player(given, load_environment(given.cfg, given.tokenizer, judge), answerer, opened)

    contestants = [_baseline(name, player(loaded), player) for name in cfg.eval.baselines]
    if policy:
        contestants += [_policy(temperature, player(loaded)) for temperature in cfg.eval.temperatures]
    envs = [contestant.env for contestant in contestants if contestant.env is not None]
    if not envs and cfg.data.on_long_chunk != "stop":  # who writes without a model has no prompt
        envs = [player(loaded).env]
    for env in {(env.prompt, env.memory, env.method): env for env in envs}.values():
        episodes = list(fit_prompts(episodes, env, cfg))

    found, taken = {}, measures(cfg, in_training=False)
    size = cfg.eval.block
    blocks = [episodes[start : start + size] for start in range(0, len(episodes), size)]
    with Progress(len(contestants) * len(episodes), "evaluate", is_muted=not agreement.is_lead()) as progress:
        for number, contestant in enumerate(contestants):
            log = None
            if agreement.is_lead():  # it alone reads and writes the file; each process plays its share of a block
                path = workdir / "evaluation" / f"{_file_name(contestant.name)}.jsonl"
                sizes = [len(block) for block in blocks]
                log = EvaluationLog(path, _fingerprint(loaded.cfg, contestant, episodes), sizes)
            for block in agreement.from_lead(log.missing() if log else []):
                started = time.monotonic()
                records = in_shares(blocks[block], partial(records_of, contestant))
                if log:
                    log.write(block, records)
                    _keep_seconds(workdir, contestant.name, block, time.monotonic() - started)
                progress.update(number * len(episodes) + min((block + 1) * size, len(episodes)))
            found[contestant.name] = _summary(agreement.from_lead(log.records() if log else []), cfg)
        progress.update(len(contestants) * len(episodes))
    if not agreement.is_lead():
        return found
    _write(workdir, found)
    _write_setup(workdir, cfg, found, command)
    _print(f"{cfg.data.name}: {len(episodes)} held-out episodes", {name: e.metrics for name, e in found.items()}, cfg)
    _print_agreement(found)
    _print_spent(answerer)
    return found


def _summary(records: list[dict], cfg: Config) -> Evaluation:
    sure = interval_metrics(records, resamples=cfg.eval.bootstrap_resamples, seed=cfg.eval.seed)
    return Evaluation({**record_metrics(records, measures(cfg, in_training=False), cfg), **sure}, records)


def _write(workdir: Path, found: Mapping[str, Evaluation]) -> None:
    for name, evaluation in found.items():
        questions = [question for record in evaluation.records for question in record["questions"]]
        write_json_lines(workdir / f"questions-{_file_name(name)}.jsonl", questions)
    table = {name: evaluation.metrics for name, evaluation in found.items()}
    write_atomically(workdir / "evaluation.json", json.dumps(table, indent=1))


def _keep_seconds(workdir: Path, name: str, block: int, seconds: float) -> None:
    """How long each block took, for one that is killed and goes on."""
    kept = _kept_seconds(workdir)
    kept.setdefault(name, {})[str(block)] = round(seconds, 3)
    write_atomically(workdir / _SECONDS, json.dumps(kept))


def _kept_seconds(workdir: Path) -> dict[str, dict[str, float]]:
    """contestant -> block -> seconds; what is damaged is left out, for no result depends on it."""
    return {
        name: {block: s for block, s in blocks.items() if is_number(s)}
        for name, blocks in (read_object(workdir / _SECONDS) or {}).items()
        if isinstance(blocks, dict)
    }


def _write_setup(workdir: Path, cfg: Config, found: Mapping[str, Evaluation], command: Sequence[str]) -> None:
    """What a table says of this evaluation below its rows."""
    kept, answerer = _kept_seconds(workdir), cfg.answerer
    settings = f"answerer: {answerer.name}" + (
        f" {answerer.model}, T {answerer.temperature:g}, {answerer.max_tokens} tokens" if answerer.model else ""
    )
    setup = {
        "version": __version__,
        "command": shlex.join(["finemem", *command]) if command else "",
        "judge": judge_line(cfg),
        "answerer": settings,
        "files": {str(file): digest(file) for file in _data_files(cfg)},
        "seconds": {name: round(sum(kept.get(name, {}).values()), 3) for name in found},
    }
    write_atomically(workdir / "evaluation" / "setup.json", json.dumps(setup, indent=1))


def _data_files(cfg: Config) -> list[Path]:
    """What was read; nothing of a hub's dataset, which has a name and versions of its own."""
    given = Path(cfg.data.eval_path or cfg.data.path or ".nothing")
    files = [given] if given.is_file() else sorted(file for file in given.rglob("*") if file.is_file())
    return [*files, *([Path(cfg.data.wrong_golds)] if cfg.data.wrong_golds else [])]


def _file_name(name: str) -> str:
    return name.replace(" ", "_")


def _fingerprint(cfg: Config, contestant: _Contestant, episodes: Sequence[Episode]) -> str:
    """Of everything the records are a function of: another one means that what lies there is of something else."""
    tree = config.to_dict(cfg)
    kept = {
        name: tree[name]
        for name in ("model", "mesh", "engine", "data", "memory", "prompt", "method", "retrieval", "seed")
    }
    for name in ("answerer", "judge"):
        kept[name] = {key: tree[name][key] for key in ("name", "model", "prompt", "temperature", "max_tokens", "extra")}
    judges = (cfg.judge.prompt, *cfg.judge.also_prompts)
    kept["judges"] = [*judges, *cfg.judge.also_models]
    kept["sources"] = tree["judge"]["sources"]
    kept["eval"] = {key: value for key, value in tree["eval"].items() if key not in ("baselines", "temperatures")}
    kept["expert"] = tree["sft"]["expert"]
    digest = hashlib.sha256(json.dumps([__version__, contestant.name, contestant.identity, kept]).encode())
    for measure in measures(cfg, in_training=False).values():
        digest.update(source_of(measure))
    for prompt in judges:
        digest.update(source_of(resolve("finemem_jax.judges", prompt)))
    for episode in episodes:
        digest.update(repr(episode).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------------
# The contestants
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Player:
    """A policy with all that it needs to play."""

    given: Given
    env: Environment
    answerer: Answerer
    opened: OpenPolicies

    def play(self, episodes: Sequence[Episode], temperature: float) -> list[Rollout]:
        """In the engine, or behind the policy's server."""
        env, answerer = self.env, self.answerer
        opened = self.opened.open(self.given, temperature)
        if isinstance(opened, Engine):
            return evaluate_policy(opened, env, answerer, episodes, self.given.cfg, temperature)
        asked = [all_questions(episode) for episode in episodes]
        games = [play(env, e, a, answerer.submit) for e, a in zip(episodes, asked, strict=True)]
        finishes = play_by_chat(opened, env, list(zip(episodes, asked, games, strict=True)))
        env.settle(answerer)
        return [finish() for finish in finishes]


def _policy(temperature: float, player: _Player) -> _Contestant:
    name = _temperature_name(temperature)
    return _Contestant(name, player.given.identity, lambda episodes: player.play(episodes, temperature), player.env)


def _baseline(name: str, player: _Player, make: Callable[[Given], _Player]) -> _Contestant:
    given = player.given
    said = contestant_beside(name, given)
    limits = f"{said.cfg.prompt.max_prompt_tokens} {said.cfg.prompt.max_completion_tokens}"
    if said.write is not None:
        script = resolve("finemem_jax.baselines", name)
        sparing = dataclasses.replace(player.env, keeps_memories=False)  # the command keeps records, and no rollouts
        return _Contestant(
            name,
            hashlib.sha256(source_of(script) + limits.encode()).hexdigest(),
            lambda episodes: evaluate_script(said, sparing, player.answerer, episodes),
        )
    if said.by_server and given.url:
        own = dataclasses.replace(given, cfg=said.cfg)
    else:
        own = load_given(dataclasses.replace(said.cfg, model=given.base), "", given.workdir)
    model = make(own)
    return _Contestant(name, f"{own.identity} {limits}", lambda episodes: model.play(episodes, 0.0), model.env)


def contestant_beside(name: str, given: Given) -> Contestant:
    """The baseline `name` beside the policy `given`. Prompts of its own are as long as the config says: what the policy
    was trained with is the length of the policy's."""
    said = baseline(name, given.cfg)
    if not said.by_server:
        return said
    limits = {key: getattr(given.asked, key) for key in ("max_prompt_tokens", "max_completion_tokens")}
    return baseline(name, dataclasses.replace(given.cfg, prompt=dataclasses.replace(given.cfg.prompt, **limits)))


def baseline(name: str, cfg: Config) -> Contestant:
    """What the file `name` of baselines/ says."""
    return resolve("finemem_jax.baselines", name).contestant(cfg)


def _temperature_name(temperature: float) -> str:
    return f"T={temperature:g}" if temperature else "greedy"


def evaluate_all(
    engine: Engine, env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config
) -> dict[str, Evaluation]:
    """The engine's policy at every temperature of `cfg.eval.temperatures`, by name ("T=1", "greedy")."""
    found = {}
    for temperature in cfg.eval.temperatures:
        play_own = partial(evaluate_policy, engine, env, answerer, cfg=cfg, temperature=temperature)
        rollouts = in_shares(episodes, play_own, (env.count_tokens, *episodes))
        found[_temperature_name(temperature)] = _evaluation(rollouts, cfg)
    return found


def evaluate_baselines(
    env: Environment, answerer: Answerer, episodes: Sequence[Episode], cfg: Config
) -> dict[str, Evaluation]:
    """The baselines of the config, but for those that write with a model: the command `evaluate` plays them."""
    found = {}
    for name in cfg.eval.baselines:
        contestant = baseline(name, cfg)
        if contestant.write is not None:
            play_own = partial(evaluate_script, contestant, env, answerer)
            rollouts = in_shares(episodes, play_own, (env.count_tokens, *episodes))
            found[name] = _evaluation(rollouts, cfg)
    return found


def in_shares(
    episodes: Sequence[_E], play: Callable[[Sequence[_E]], list[_T]], shared: Sequence[object] = ()
) -> list[_T]:
    """What `play` gives for each episode, or what stands for one, in their order; each process plays its share.

    shared: what every process has and need not be sent, see `agreement.all_gather`."""
    own = range(agreement.process_index(), len(episodes), agreement.process_count())
    with agreement.together():
        results = play([episodes[index] for index in own])
    return list(agreement.union(dict(zip(own, results, strict=True)), shared).values())


def evaluate_policy(
    engine: Engine,
    env: Environment,
    answerer: Answerer,
    episodes: Sequence[Episode],
    cfg: Config,
    temperature: float,
) -> list[Rollout]:
    """One rollout per episode, at `temperature` (0 = greedy), all final questions asked."""
    sampling = Sampling(
        temperature=temperature,
        max_tokens=cfg.prompt.max_completion_tokens,
        stop_tokens=stop_tokens(env.tokenizer),
    )
    jobs = [Job(episode, all_questions(episode)) for episode in episodes]
    rollouts = collect_rollouts(engine, env, answerer, jobs, sampling, seed=cfg.eval.seed, step=WRITING_STEP)
    engine.take_snapshots()  # nobody trains on them
    return rollouts


def evaluate_script(
    contestant: Contestant, env: Environment, answerer: Answerer, episodes: Sequence[Episode]
) -> list[Rollout]:
    """The same for a script in the policy's place."""
    cfg, write = contestant.cfg, contestant.write
    assert write is not None
    env = dataclasses.replace(env, memory=cfg.memory, prompt=cfg.prompt, method=cfg.method, retrieval=cfg.retrieval)
    if contestant.in_prompts:
        return play_scripted(env, answerer, [Job(episode, all_questions(episode)) for episode in episodes], write)
    finishes = [replay(env, episode, all_questions(episode), answerer.submit, write) for episode in episodes]
    env.settle(answerer)
    return [finish() for finish in finishes]


def _evaluation(rollouts: Sequence[Rollout], cfg: Config) -> Evaluation:
    taken = measures(cfg, in_training=True)
    records = [episode_record(rollout, taken) for rollout in rollouts]
    return Evaluation(record_metrics(records, taken, cfg), records, rollouts)


# --------------------------------------------------------------------------------------------------------------
# What is printed
# --------------------------------------------------------------------------------------------------------------


def headline(when: str, evaluations: Mapping[str, Evaluation]) -> str:
    found = {name: evaluation.metrics["accuracy"] for name, evaluation in evaluations.items()}
    scores = (f"{name} {'missing: no answers' if x is None else f'{x:.3f}'}" for name, x in found.items())
    return f"{when}: held-out accuracy " + ", ".join(scores)


def _shown(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def print_comparison(title: str, table: Mapping[str, Mapping[str, float | None]], cfg: Config) -> None:
    """One row per policy or baseline: accuracy, and what the measures say beside it."""
    columns = {"accuracy": ".3f"}
    columns |= {key: ".3f" for key in sorted({k for row in table.values() for k in row if k.startswith("accuracy/")})}
    for measure in measures(cfg, in_training=False).values():
        if not measure.TABLE:
            columns |= {
                name: form for name, form in measure.COLUMNS.items() if any(name in row for row in table.values())
            }
    _print_columns(title, columns, table)


def _print_columns(title: str, columns: Mapping[str, str], table: Mapping[str, Mapping[str, float | None]]) -> None:
    names = ["", *(column.rpartition("/")[2].replace("_", " ") for column in columns)]
    rows = [[name, *(_shown(row.get(c), form) for c, form in columns.items())] for name, row in table.items()]
    print_table(title, names, rows)


def _print(title: str, table: Mapping[str, Mapping[str, float | None]], cfg: Config) -> None:
    print_comparison(title, table, cfg)
    sources = sorted(
        {key.removeprefix("source/") for row in table.values() for key in row if key.startswith("source/")}
    )
    rows = [
        [name, _interval(row, "accuracy", ""), *(_interval(row, f"source/{s}", f"/{s}") for s in sources)]
        for name, row in table.items()
    ]
    print_table("95 % intervals over instances", ["", "mean of sources", *sources], rows)
    for measure in measures(cfg, in_training=False).values():
        if measure.TABLE and any(row.get(column) for row in table.values() for column in measure.COLUMNS):
            _print_columns(measure.TABLE, measure.COLUMNS, table)
    tell(judge_line(cfg))


def _print_agreement(found: Mapping[str, Evaluation]) -> None:
    """A row per two judges, over the answers of all contestants."""
    questions = (q for evaluation in found.values() for record in evaluation.records for q in record["questions"])
    rows = [
        [first, second, str(a.answers), *(_shown(x) for x in (a.raw, a.kappa, a.first, a.second))]
        for (first, second), a in agreements(questions).items()
    ]
    if rows:
        names = ["judge", "and", "answers", "agree", "Cohen's kappa", "right by the first", "by the second"]
        print_table("how far the judges agree", names, rows)


def _interval(row: Mapping[str, float | None], key: str, suffix: str) -> str:
    low, high = row.get(f"low{suffix}"), row.get(f"high{suffix}")
    return _shown(row.get(key)) + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")


def _print_spent(answerer: Answerer) -> None:
    """What this run itself cost, which is no part of the table: a second run costs nothing."""
    spent = answerer.spent()
    if spent:
        text = ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in spent.items())
        tell(f"answerer in this run: {text}", file=sys.stderr)
