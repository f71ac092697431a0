"""What an expert says in every method and format is what the environment reads of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from configs.neighbours import tiny
from finemem_jax import config, main
from finemem_jax.config import ExpertConfig, UserError, resolve
from finemem_jax.env import operations
from finemem_jax.imitation.demonstrations import demonstrated, demonstration_examples, expert_writer
from finemem_jax.imitation.exercises import Exercises
from finemem_jax.loading import load_environment, load_tokenizer
from finemem_jax.types import ANSWER, SEARCH, WRITE, Turn

METHODS = [method for method in tiny.METHODS if method != "finemem"]
EPISODES = 6


@pytest.fixture(scope="module", params=METHODS)
def made(request):
    """The config of a method's warm start, its environment, and the expert's rollouts."""
    cfg = main.load_config(f"configs/neighbours/tiny_warm_start.py:{request.param}", ["--config.sft.expert.skip=0.3"])
    env = load_environment(cfg, load_tokenizer(cfg))
    episodes = resolve("finemem_jax.benchmarks", "diary").load(cfg.data, "train", 0)
    return cfg, env, demonstrated(cfg, env, [episodes[i] for i in range(EPISODES)])


def test_each_turn_is_read_as_what_the_expert_meant(made):
    cfg, env, rollouts = made
    write = expert_writer(cfg, env)
    for rollout in rollouts:
        memory = env.empty_memory()
        for step in rollout.steps:
            assert all(outcome.ok for outcome in step.outcomes), step.text
            if step.role == WRITE:
                turn = dataclasses.replace(turn_of(step), memory=memory, visible=memory.items)
                assert step.operations == tuple(write(rollout.episode, turn))
            memory = step.memory_after
        assert all(step.completion.finish == ("string" if step.role == SEARCH else "stop") for step in rollout.steps)


def turn_of(step):
    return Turn(step.index, step.prompt_tokens, step.memory_after, (), chunk=step.chunk)


def test_the_expert_of_a_method_knows_much_and_leaves_room(made):
    """Where the policy answers it says what its memory holds, in the method's own form."""
    cfg, _, rollouts = made
    scores = [answer.score for rollout in rollouts for answer in rollout.final_answers]
    if cfg.method.answers == "policy":
        assert 0.2 < sum(scores) / len(scores) < 0.95 and all(answer.text for r in rollouts for answer in r.answers)
    else:
        assert scores == []  # nobody was asked
    roles = {step.role for rollout in rollouts for step in rollout.steps}
    assert roles == {"search": {SEARCH}}.get(cfg.method.name, {WRITE, ANSWER} if scores else {WRITE})
    assert max(len(step.completion.tokens) for r in rollouts for step in r.steps) <= cfg.prompt.max_completion_tokens


def test_what_repeats_is_few_tokens(made):
    """The tokenizer of a warm start has the method's words; without them a prompt is three times as long."""
    cfg, env, rollouts = made
    plain = load_tokenizer(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, tokenizer="tiny")))
    examples = demonstration_examples(rollouts)
    own = sum(map(len, examples))
    texts = [env.tokenizer.decode([*e.prompt, *e.completion]) for e in examples]
    assert own < 0.6 * sum(len(plain.encode(text, add_special_tokens=False)) for text in texts)
    assert len(env.tokenizer) < 2600  # under a megabyte


def test_a_stage_of_demonstrations_draws_them(made):
    cfg, env, rollouts = made
    cfg = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, pool=EPISODES, permuted=0.0))
    stream = Exercises(cfg, env, [r.episode for r in rollouts]).stream("demonstrations", np.random.default_rng(0))
    assert {next(stream) for _ in range(20)} <= set(demonstration_examples(rollouts))
    answers = demonstration_examples(rollouts, ANSWER)
    said = [env.tokenizer.decode(answer.completion) for answer in answers]
    assert all(text.split("\\boxed{")[0].strip() for text in said)  # first what it is about
    assert not any("unknown" in env.tokenizer.decode(answer.completion) for answer in answers)
    dense = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, answer_mix=1.0))
    stream = Exercises(dense, env, [r.episode for r in rollouts]).stream("demonstrations", np.random.default_rng(0))
    assert {next(stream) for _ in range(20)} <= set(answers or demonstration_examples(rollouts))


@pytest.mark.parametrize("codec", config.plugins("finemem_jax.codecs"))
def test_the_expert_writes_every_memory_in_every_codec_that_fits_it(codec, env):
    episodes = resolve("finemem_jax.benchmarks", "diary").load(config.DataConfig(), "train", 0)
    seen = 0
    for name in config.plugins("finemem_jax.memory"):
        specs = resolve("finemem_jax.memory", name).SPECS
        if operations.unfit(codec, specs):
            continue
        prompt = dataclasses.replace(env.prompt, name="short", codec=codec)
        own = dataclasses.replace(env, memory=config.MemoryConfig(name=name), prompt=prompt)
        cfg = config.Config(sft=config.SftConfig(expert=ExpertConfig(update_changed=1.0)))
        for rollout in demonstrated(cfg, own, [episodes[0], episodes[1]]):
            assert all(step.operations for step in rollout.steps if step.text != "Done.")
            assert all(outcome.ok for step in rollout.steps for outcome in step.outcomes)
            seen += sum(len(step.operations) for step in rollout.steps)
    assert seen


def test_a_method_without_demonstrations_is_named(env):
    own = dataclasses.replace(env, method=dataclasses.replace(env.method, name="none"))
    with pytest.raises(UserError, match="methods"):
        demonstrated(config.Config(), own, [])
