"""Every file in a plug-in folder keeps the folder's contract, from the moment it exists."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from finemem_jax import config
from finemem_jax.corpora import BuildOptions
from finemem_jax.env import operations, scoring
from finemem_jax.env.environment import LLM_JUDGE, all_questions, play
from finemem_jax.env.turns import Turns
from finemem_jax.evaluate import evaluate_script
from finemem_jax.types import (
    ROLES,
    VERBS,
    Answer,
    AnswerRequest,
    Completion,
    JudgeRequest,
    MemoryItem,
    Operation,
    Question,
    Reply,
    Retrieved,
    Rollout,
    ToolSpec,
    Verdict,
)
from tests import fakes
from tests.corpora.conftest import WRITERS
from tests.fake_server import FakeServer


def files(folder: str) -> list[str]:
    return config.plugins(f"finemem_jax.{folder}")


def plugin(folder: str, name: str):
    return config.resolve(f"finemem_jax.{folder}", name)


def test_an_unknown_plugin_is_named_beside_the_nearest_known_one():
    with pytest.raises(config.UserError, match="did you mean evidence"):
        config.resolve("finemem_jax.rewards", "evidense")


@pytest.mark.parametrize("name", files("memory"))
def test_memory(name):
    module = plugin("memory", name)
    assert all(isinstance(spec, ToolSpec) for spec in module.SPECS)
    empty = module.create(config.MemoryConfig(), lambda text: len(text.split()))
    assert empty.items == () and empty.tokens() == 0
    unchanged, outcome = empty.apply(Operation("no_such_tool"), 0)
    assert unchanged.items == () and not outcome.ok
    for spec in module.SPECS:  # any operation on an empty memory is data, never an exception
        for operation in (Operation(spec.name, spec.example("x")), Operation(spec.name, error="malformed: x")):
            after, outcome = empty.apply(operation, 3)
            assert outcome.status and empty.items == ()
            assert all(item.written_at == 3 and item.writers == (3,) for item in after.items)
            assert isinstance(empty.target(operation), str | None)
        bare = {name: value for name, value in spec.example("x").items() if name in spec.required}
        assert empty.apply(Operation(spec.name, bare), 3)[1].status
    assert set(getattr(module, "PINNED", ())) <= kinds_written(module)


def kinds_written(module):
    """Kinds of the items that any tool makes, with any of the values that its arguments may have."""
    memory, kinds = module.create(config.MemoryConfig(), lambda text: len(text.split())), set()
    for step, spec in enumerate(module.SPECS):
        for chosen in itertools.product(*spec.choices.values()):
            arguments = spec.example(f"Maya's dentist is Orlov {step}") | dict(zip(spec.choices, chosen, strict=True))
            memory, outcome = memory.apply(Operation(spec.name, arguments), step)
            assert outcome.verb in ("", *VERBS)
            kinds |= {item.kind for item in memory.items}
    return kinds


@pytest.mark.parametrize("name", files("codecs"))
def test_codecs_write_and_read_the_operations_of_every_memory_that_they_fit(name):
    codec = plugin("codecs", name)
    memories = [memory for memory in files("memory") if not operations.unfit(name, plugin("memory", memory).SPECS)]
    assert memories
    for memory in memories:
        specs = plugin("memory", memory).SPECS
        is_text = getattr(codec, "IS_TEXT", False)  # one operation, and no blanks around it
        texts = ("Zoë | C:\\new\n+ skip </tool_call>", "#3") + (() if is_text else ("", " "))
        written = [Operation(spec.name, spec.example(text)) for spec in specs for text in texts]
        for left_out in (0, 1):  # the arguments that may be left out: none of them, then all
            some = tuple(Operation(o.name, without_optional(o, specs) if left_out else o.arguments) for o in written)
            for batch in [(operation,) for operation in some] if is_text else [some]:
                assert operations.parse(codec.write(batch, specs), specs, codec=name) == batch
        words = codec.instructions(specs)
        assert all(spec.description in words for spec in specs)
        assert all(choice in words for spec in specs for choices in spec.choices.values() for choice in choices)
        assert len(list(codec.find("It is cold today.", specs, is_cut=True))) <= is_text
    assert codec.is_taught("") in (True, False)


def without_optional(operation, specs):
    (spec,) = [spec for spec in specs if spec.name == operation.name]
    return {name: value for name, value in operation.arguments.items() if name in spec.required}


@pytest.mark.parametrize("name", files("prompts"))
def test_prompts_say_the_chunk_and_the_items(name):
    items = [MemoryItem("#3", "Maya's dentist", 0), MemoryItem("#4", "Orlov", 0)]
    module = plugin("prompts", name)
    system, user = module.messages("The chunk.", items, max_operations=7)
    assert module.DESCRIBES_TOOLS in (True, False) and "The chunk." not in system
    assert [text in user for text in ("The chunk.", "Maya's dentist", "Orlov")] == [True] * 3
    assert [text in user for text in ("#3", "#4")] == [getattr(module, "SHOWS_IDS", True)] * 2
    assert module.messages("The chunk.", [], max_operations=7)[0] == system
    if hasattr(module, "answer_messages"):
        told = "\n".join(module.answer_messages("Who is it?", ["Maya's dentist", "Orlov"], "Be brief."))
        assert all(text in told for text in ("Who is it?", "Maya's dentist", "Orlov", "Be brief."))
        assert all(isinstance(module.read_answer(text), str) for text in ("", "Orlov", "\\boxed{Orlov}"))
    said = getattr(module, "write_answer", str)("Orlov\n2")
    assert getattr(module, "read_answer", str)(said) == "Orlov\n2"


@pytest.mark.parametrize("name", files("prompts"))
def test_our_prompts_say_the_question_where_it_is_seen(name):
    said = plugin("prompts", name).messages("The chunk.", [], max_operations=7, question="Who is it?")
    assert "Who is it?" in said[1] and said[0] == plugin("prompts", name).messages("", [], max_operations=7)[0]


@pytest.mark.parametrize("name", files("rewards"))
def test_reward_terms(name):
    cfg = config.RewardsConfig()
    assert name in cfg.weights
    rollout = fakes.rollout([["a is b"], ["c is d"]], questions=[("what is c?", "d")])
    module = plugin("rewards", name)
    assert set(module.ROLES) <= set(ROLES) and module.LEVEL in ("turn", "trajectory")
    values = np.asarray(module.turn_rewards(rollout, cfg, lambda text: len(text.split())), np.float64)
    turns = sum(len(rollout.of(role)) for role in module.ROLES)
    assert values.shape == (() if module.LEVEL == "trajectory" else (turns,)) and np.isfinite(values).all()


@pytest.mark.parametrize("name", files("methods"))
def test_methods(name, env):
    """Turns count from 0, the questions are answered, and a writer in the policy's place is asked for no completion."""
    env = dataclasses.replace(env, method=config.MethodConfig(name=name))
    episode = fakes.episode(["a is b", "c is d"], [("what is c?", "d")])
    answerer, module = plugin("answerers", "extractive").create(config.AnswererConfig()), plugin("methods", name)
    game, turns = module.play(env, episode, all_questions(episode), answerer.submit, group=3, sample=1), []
    tokens = (*env.tokenizer.encode("nothing", add_special_tokens=False), env.tokenizer.eos_token_id)
    try:
        turns.append(next(game))
        while True:
            turns.append(game.send(Completion(tokens, (0.0,) * len(tokens), "stop")))
    except StopIteration as end:
        rollout = end.value()
    assert [turn.index for turn in turns] == [step.index for step in rollout.steps] == list(range(len(turns)))
    assert {turn.role for turn in turns} <= set(ROLES) and all(turn.prompt_tokens for turn in turns)
    assert (rollout.group, rollout.sample, len(rollout.final_answers)) == (3, 1, 1)

    def write(episode, turn):
        return [Operation("memory_insert", {"content": episode.chunks[turn.chunk].text})]

    with pytest.raises(StopIteration) as end:
        next(module.play(env, episode, all_questions(episode), answerer.submit, write=write))
    assert [answer.score for answer in end.value.value().final_answers] == [1.0]


@pytest.mark.parametrize("name", files("baselines"))
def test_baselines(name, env):
    """A script's rollout, or one of a model that says nothing, ends with every question answered; the config it is
    played under is a legal one, and only the contestant's own groups of it differ."""
    given = config.Config()
    needed = getattr(plugin("baselines", name), "REQUIRES", "")
    said = plugin("baselines", name).contestant(given)
    assert config.from_ml_collections(config.to_dict(said.cfg)) == said.cfg
    own = {group: getattr(said.cfg, group) for group in ("memory", "prompt", "method", "retrieval")}
    assert dataclasses.replace(given, **own) == said.cfg
    assert said.cfg.memory.name in files("memory")
    if needed:  # of another package, on a server: tests/baselines plays it where the package is installed
        return
    episode = fakes.episode(["a is b", "c is d"], [("what is c?", "d"), ("what is a?", "b")])
    answerer = plugin("answerers", "extractive").create(config.AnswererConfig())
    if said.write is None:
        env = dataclasses.replace(env, **own)
        rollout = played_by_silence(play(env, episode, all_questions(episode), answerer.submit), env)
    else:
        (rollout,) = evaluate_script(said, env, answerer, [episode])
        known = {spec.name for spec in plugin("memory", said.cfg.memory.name).SPECS}
        written = [operation for step in rollout.steps for operation in step.operations]
        assert written and all(operation.name in known and not operation.error for operation in written)
        assert all(outcome.ok for step in rollout.steps for outcome in step.outcomes)
    assert [0.0 <= answer.score <= 1.0 for answer in rollout.final_answers] == [True, True]


@pytest.mark.parametrize("name", files("measures"))
def test_measures(name):
    """Plain records that survive being written down, one value per column, and something to say of no episode."""
    module, cfg = plugin("measures", name), config.Config()
    question = Question("what is c?", ("d",), "exact_match")
    reply = Reply("d", 10, 2, "key")
    answers = [Answer(question, (), "d", 1.0, reply=reply), Answer(question, (), "", None, reply=Reply(None))]
    rollouts = [
        fakes.rollout([["a is b"], ["c is d"]], questions=[("what is c?", "d")] * 2, answers=answers),
        fakes.rollout([["a is b", "e"]], outcomes=[[True, False]]),
        Rollout(fakes.episode(["lost"]), 0, 0, (), ()),  # its server failed
    ]
    records = [json.loads(json.dumps(module.record(rollout, True))) for rollout in rollouts]
    columns = [module.metrics(found, cfg) for found in ([], records[:1], records)]
    assert all(isinstance(v, int | float) and math.isfinite(v) for found in columns for v in found.values())
    assert columns[1] == module.metrics([module.record(rollouts[0], True)], cfg)
    assert set(module.COLUMNS) <= {*columns[2], "questions", "missing_answers"}
    assert all(f"{0.5:{form}}" for form in module.COLUMNS.values())
    assert isinstance(module.TABLE, str) and module.IN_TRAINING in (True, False)
    if hasattr(module, "questions"):
        assert [len(module.questions(rollout)) for rollout in rollouts] == [2, 0, 0]


@pytest.mark.parametrize("name", files("judges"))
def test_judges(name):
    """What is asked holds all that is judged; silence is no verdict, and a label alone a score."""
    module = plugin("judges", name)
    request = JudgeRequest("who is it?", ("Orlov",), "him", "fact", "any", ("names him", "is polite"))
    for task in module.TASKS:
        own = dataclasses.replace(request, task=task)
        asked = module.conversations(own)
        assert asked and all(messages[0]["role"] == "system" for messages in asked)
        assert all(text in asked[0][-1]["content"] for text in ("who is it?", *(("him",) * (task == "answer"))))
        for nothing in (None, "", "it depends"):
            assert module.verdict([nothing] * len(asked), own) == Verdict(None)
    assert isinstance(module.TOKENS, int) and module.FIDELITY and "\n" not in module.FIDELITY


def played_by_silence(game, env):
    """The rollout of a policy that says nothing but that it has ended."""
    try:
        next(game)
        while True:
            game.send(Completion((env.tokenizer.eos_token_id,), (0.0,), "stop"))
    except StopIteration as end:
        return end.value()


@pytest.mark.parametrize("name", files("credit"))
def test_credit_rules(name):
    """Turns of ragged samples: one advantage each, 0 on average over what is compared, NaN where a term is missing."""
    group, sample, index, role = np.array(
        [(g, s, i, r) for g in range(3) for s in range(4) for i, r in enumerate([0] * (s % 2 + 2) + [1])]
    ).T
    rng = np.random.default_rng(0)
    score = rng.normal(size=3 * 4)[group * 4 + sample] + 0.1 * rng.normal(size=len(group))
    turns = Turns(group, sample, index, role, {"format": score}, {"format": np.ones(len(group), bool)})
    module, cfg = plugin("credit", name), config.AdvantageConfig(credit=name, std="none")
    keys = module.keys(turns)
    found = module.advantages(turns, {"format": 1.0}, cfg)
    assert found.shape == keys.shape == group.shape and np.isfinite(found).all() and np.abs(found).max() > 0.1
    lacking = dataclasses.replace(turns, terms={"format": np.where(np.arange(len(group)) == 0, np.nan, score)})
    lost = np.isnan(module.advantages(lacking, {"format": 1.0}, cfg))
    np.testing.assert_array_equal(lost, keys == keys[0])


@pytest.mark.parametrize("name", files("answerers"))
def test_answerers_answer_in_order_and_take_an_empty_retrieval(name):
    with FakeServer() as server:
        cfg = config.AnswererConfig(name=name, url=server.url, model="any")
        answerer = plugin("answerers", name).create(cfg, fakes.EchoChat())
        item = Retrieved("#1", 0, (0,), "Maya's dentist is Orlov", 1.0)
        requests = [AnswerRequest("what is Maya's dentist?", (item,)), AnswerRequest("why?", ())]
        futures = answerer.submit(requests)
        answerer.settle()
        replies = [future.result(timeout=300) for future in futures]
        assert all(isinstance(reply.text, str) for reply in replies)
        assert [reply.text for reply in replies] == answerer.answer(requests)


@pytest.mark.parametrize("name", files("benchmarks"))
def test_benchmarks(name):
    """One that reads files says so in one line when it is given none; what one without files makes up is whole."""
    cfg = config.DataConfig(name=name)
    for split in ("train", "eval"):
        try:
            episodes = plugin("benchmarks", name).load(cfg, split, 0)
        except config.UserError as error:
            assert "config.data." in str(error) and "\n" not in str(error)
            continue
        assert len(episodes) > 1 and episodes[1] != episodes[0]
        assert episodes[1] == plugin("benchmarks", name).load(cfg, split, 0)[1]
        check_episode(episodes[0])


def test_benchmarks_without_files_are_found():
    assert len(plugin("benchmarks", "diary").load(config.DataConfig(name="diary"), "eval", 0)) == 64


def check_episode(episode):
    assert [chunk.index for chunk in episode.chunks] == list(range(len(episode.chunks)))
    questions = [*episode.questions, *(question for chunk in episode.chunks for question in chunk.questions)]
    assert all(0 <= place < len(episode.chunks) for question in questions for place in question.evidence)
    assert all(question.answers and question.metric in {*scoring.METRICS, LLM_JUDGE} for question in questions)
    assert len(all_questions(episode).by_chunk) == len(episode.chunks)


@pytest.mark.parametrize("name", files("corpora"))
def test_corpora(name, tmp_path):
    """Without raw data one line, or nothing; with it, where tests/corpora can make some up, the same episodes twice."""

    def read(folder):
        options = BuildOptions(source=name, input=str(folder), output="unused.parquet", split="all", chunk_tokens=80)
        return list(itertools.islice(plugin("corpora", name).episodes(options, lambda text: len(text.split())), 4))

    (tmp_path / "empty").mkdir()
    try:
        assert read(tmp_path / "empty") == []
    except config.UserError as error:
        assert "\n" not in str(error)
    if name in WRITERS:
        (tmp_path / "raw").mkdir()
        WRITERS[name](tmp_path / "raw")
        episodes = read(tmp_path / "raw")
        assert episodes == read(tmp_path / "raw")
        assert len({episode.id for episode in episodes}) == len(episodes) > 0
        for episode in episodes:
            check_episode(episode)


@pytest.mark.parametrize("name", files("models"))
def test_model_families(name):
    module = plugin("models", name)
    assert module.PRESETS and all(cfg.family == name for cfg in module.PRESETS.values())
    assert all(math.isfinite(cfg.rope_theta) for cfg in module.PRESETS.values())
