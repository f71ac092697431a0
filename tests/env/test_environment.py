"""The episode coroutine, prompts, views, and the scripted writers that drive it without a model."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pytest

from finemem_jax import config
from finemem_jax.answerers._model import ModelAnswerer
from finemem_jax.baselines import _scripted as scripted
from finemem_jax.chat.judge import ModelJudge
from finemem_jax.config import MemoryConfig, PromptConfig, RetrievalConfig, RewardsConfig, UserError, ViewConfig
from finemem_jax.env.environment import Asked, all_questions, apply, play, replay, training_questions, view
from finemem_jax.env.prompts import render
from finemem_jax.rollouts.collect import Job, play_scripted
from finemem_jax.types import Completion, Episode, MemoryItem, Operation, Question, Reply
from tests import fakes


def completion(env, text, finish="stop"):
    tokens = tuple(env.tokenizer.encode(text, add_special_tokens=False))
    tokens += (env.tokenizer.eos_token_id,) if finish == "stop" else ()
    return Completion(tokens, (0.0,) * len(tokens), finish)


def drive(env, episode, asked, texts, answer=lambda request: "orlov"):
    """Plays an episode with the given texts; returns the rollout and the turns."""

    def ask(requests):
        futures = [Future() for _ in requests]
        for request, future in zip(requests, futures, strict=True):
            future.set_result(Reply(answer(request)))
        return futures

    game, turns = play(env, episode, asked, ask), []
    try:
        turns.append(next(game))
        for text in texts:
            turns.append(game.send(text if isinstance(text, Completion) else completion(env, text)))
    except StopIteration as done:
        return done.value(), turns
    raise AssertionError("the episode did not end")


INSERT = '<tool_call>\n{"name": "memory_insert", "arguments": {"content": "%s"}}\n</tool_call>\n'
UPDATE = '<tool_call>\n{"name": "memory_update", "arguments": {"content": "%s", "id": "%s"}}\n</tool_call>\n'


def test_a_rollout_records_what_was_written_and_what_became_of_it(env):
    episode = fakes.episode(["Maya's dentist is Orlov", "now Maya's dentist is Petrov"], [("who is it?", "Orlov")])
    texts = [INSERT % "Maya's dentist is Orlov" + "<tool_call>{", UPDATE % ("now Maya's dentist is Petrov", "#1")]
    rollout, turns = drive(env, episode, all_questions(episode), texts)
    assert [o.status.split(":")[0] for o in rollout.steps[0].outcomes] == ["applied", "malformed"]
    assert [item.text for item in rollout.steps[1].memory_after.items] == ["now Maya's dentist is Petrov"]
    assert rollout.steps[0].memory_after.items[0].text == "Maya's dentist is Orlov"  # the snapshot did not change
    assert turns[0].prompt_tokens == rollout.steps[0].prompt_tokens
    assert '{"content": "Maya\'s dentist is Orlov", "id": "#1"}' in env.tokenizer.decode(list(turns[1].prompt_tokens))
    assert rollout.answers[0].score == 1.0 and rollout.answers[0].chunk is None


def test_text_after_the_stop_token_does_not_exist_and_a_cut_off_call_is_not_stored(env):
    episode = fakes.episode(["a"])
    cut = completion(
        env, INSERT % "kept" + '<tool_call>\n{"name": "memory_insert", "arguments": {"content": "half', "length"
    )
    rollout, _ = drive(env, episode, all_questions(episode), [cut])
    assert [item.text for item in rollout.steps[0].memory_after.items] == ["kept"]
    assert rollout.steps[0].completion.tokens == cut.tokens


def test_a_failed_answer_has_no_score(env):
    episode = fakes.episode(["a"], [("q1", "x"), ("q2", "x")])
    rollout, _ = drive(env, episode, all_questions(episode), ["nothing"], lambda r: None if r.question == "q1" else "x")
    assert [answer.score for answer in rollout.answers] == [None, 1.0]


def test_chunk_questions_are_answered_from_the_memory_right_after_the_step(env):
    episode = fakes.episode(["a", "b"])
    asked = Asked(((Question("what is alpha?", ("1",)),), (Question("what is alpha?", ("1",)),)), ())
    seen = []
    drive(env, episode, asked, [INSERT % "alpha is 1", UPDATE % ("alpha is 2", "#1")], lambda r: seen.append(r) or "1")
    assert [[item.text for item in request.items] for request in seen] == [["alpha is 1"], ["alpha is 2"]]
    assert [request.items[0].written_at for request in seen] == [0, 1]


def test_an_episode_never_waits_for_its_answers(env):
    """Questions of step t are asked while the episode goes on; who drives it decides when to wait."""
    episode = fakes.episode(["a", "b"], [("what is alpha?", "2")])
    asked = Asked(((Question("what is alpha?", ("1",)),), ()), episode.questions)
    futures, asked_at = [], []

    def ask(requests):
        asked_at.append(len(turns))
        futures.append([Future() for _ in requests])
        return futures[-1]

    game, turns = play(env, episode, asked, ask), []
    turns.append(next(game))
    turns.append(game.send(completion(env, INSERT % "alpha is 1")))
    with pytest.raises(StopIteration) as end:
        game.send(completion(env, UPDATE % ("#1", "alpha is 2")))
    assert asked_at == [1, 2] and not any(future.done() for batch in futures for future in batch)
    for (future,), text in zip(futures, ("1", "2"), strict=True):
        future.set_result(Reply(text))
    assert [(a.chunk, a.score) for a in end.value.value().answers] == [(0, 1.0), (None, 1.0)]


def test_a_judged_question_is_scored_by_the_judge_and_needs_one(env):
    episode = fakes.episode(["a"], [("who is it?", "Orlov")])
    judge = ModelJudge(fakes.EchoChat(lambda text: "yes" if "Answer: him" in text else "what?"))
    judged = replace(env, judge=judge, judged_sources=("fa",))
    answerer = ModelAnswerer(fakes.EchoChat(lambda text: "him"))
    finish = replay(judged, episode, all_questions(episode), answerer.submit, fakes.writer("store_all"))
    judged.settle(answerer)
    (answer,) = finish().answers
    assert answer.score == 1.0 and answer.question.metric == "llm_judge" and answer.question.answers == ("Orlov",)
    silent = ModelAnswerer(fakes.EchoChat(lambda text: "her"))
    finish = replay(judged, episode, all_questions(episode), silent.submit, fakes.writer("store_all"))
    judged.settle(silent)
    assert finish().answers[0].score is None  # no verdict: missing, not wrong
    needs = Asked(((),), (Question("q", ("a",), "llm_judge"),))
    with pytest.raises(UserError, match=r"config\.judge\.name"):
        replay(env, episode, needs, answerer.submit, fakes.writer("store_all"))


@pytest.mark.parametrize(
    ("select", "budget", "steps"),
    [
        ("all", 99, [[0, 1, 2], [0, 1, 2]]),
        ("all", 2, [[1, 2], [1, 2]]),  # the oldest leaves first
        ("all", 1, [[2], [2]]),
        ("search", 99, [[0, 1], []]),
        ("search", 1, [[0], []]),  # the worst leaves first
    ],
)
def test_what_the_answerer_is_given_fits_its_budget(env, select, budget, steps):
    episode = fakes.episode(["two one", "two six six", "five"], [("two?", "x"), ("nothing in common", "x")])
    counted = replace(env, count_tokens=lambda text: 1, retrieval=RetrievalConfig(select=select, max_tokens=budget))
    seen, chat = [], ModelAnswerer(fakes.EchoChat())

    def ask(requests):
        seen.extend(requests)
        return chat.submit(requests)

    replay(counted, episode, all_questions(episode), ask, scripted.chunk_as_item)
    assert [[item.written_at for item in request.items] for request in seen] == steps


def test_recent_chunks_forgets_and_store_all_keeps_a_label_with_its_line(env):
    episode = fakes.episode(["a", "b", "Sentence: x\nLabel: 3\nrest"], [("q", "x")])
    texts = []
    for write in (
        fakes.writer("recent_k", config.Config(eval=config.EvalConfig(recent_k=2))),
        fakes.writer("store_all"),
    ):
        answerer = ModelAnswerer(fakes.EchoChat())
        finish = replay(env, episode, all_questions(episode), answerer.submit, write)
        answerer.settle()
        texts.append([item.text for item in finish().steps[-1].memory_after.items])
    assert texts == [["b", "Sentence: x\nLabel: 3\nrest"], ["a", "b", "Sentence: x\nLabel: 3", "rest"]]


def test_operations_beyond_the_budget_and_ids_outside_the_view_do_not_apply(env):
    memory = fakes.flat_memory()
    for t, text in enumerate("ab"):
        memory, _ = memory.apply(Operation("memory_insert", {"content": text}), t)
    cfg = MemoryConfig(max_operations=2)
    written = [Operation("memory_delete", {"id": "#1"}), Operation("memory_delete", {"id": "#2"})]
    after, outcomes = apply(memory, [*written, *written], 2, cfg, visible=memory.items[1:])
    assert [o.status for o in outcomes] == ["unknown id", "applied", "over limit", "over limit"]
    assert [item.id for item in after.items] == ["#1"]


@pytest.mark.parametrize(("select", "shown"), [("recent", ["#2", "#3"]), ("relevant", ["#1"]), ("both", ["#1", "#3"])])
def test_views(env, select, shown):
    memory = fakes.flat_memory()
    for t, text in enumerate(["maya likes tea", "nothing here", "nor there"]):
        memory, _ = memory.apply(Operation("memory_insert", {"content": text}), t)
    got = view(memory, "what does maya drink", ViewConfig(select=select, max_items=2), env)
    assert [item.id for item in got] == shown


def test_a_view_never_overflows_its_token_budget(env):
    memory = fakes.flat_memory()
    for t in range(9):
        memory, _ = memory.apply(Operation("memory_insert", {"content": f"item number {t}"}), t)
    budget = 3 * env.count_tokens("item number 1")
    got = view(memory, "", ViewConfig(max_items=9, max_tokens=budget), env)
    assert [item.written_at for item in got] == [6, 7, 8]


def test_an_episode_of_400_chunks_and_5000_items_stays_fast_and_its_prompts_bounded(env):
    days = ["\n".join(f"Maya's dentist {t} is Orlov {i} of {13 * t + i}" for i in range(13)) for t in range(400)]
    asked = Asked(tuple((Question(f"who is dentist {t}?", ("Orlov",)),) * 5 for t in range(400)), ())
    memory = MemoryConfig(max_items=6000, max_tokens=10**6, view=ViewConfig(select="both", max_tokens=600))
    env = replace(env, memory=memory)
    texts = [completion(env, "".join(INSERT % line for line in day.splitlines())) for day in days]
    counted = []  # every text whose tokens were asked for

    def played(count):
        counted.clear()
        some = Asked(asked.by_chunk[:count], ())
        counting = replace(env, count_tokens=lambda text: counted.append(text) or env.count_tokens(text))
        return drive(counting, fakes.episode(days[:count]), some, texts[:count])

    played(100)
    of_100 = len(counted)
    rollout, turns = played(400)
    assert len(rollout.steps[-1].memory_after.items) == 5200 and len(rollout.answers) == 2000
    # 4 times the days: 4 times the tokens counted, and 16 times if every write summed those of all items
    assert len(counted) < 6 * of_100
    assert all(sum(env.count_tokens(item.text) for item in turn.visible) <= 600 for turn in turns)
    shown = turns[-1].visible
    assert any(item.written_at == 398 for item in shown) and len(shown) < 50  # the newest ones, and relevant ones


def test_a_long_prompt_drops_the_oldest_items_and_a_longer_chunk_is_refused(env):
    items = [MemoryItem(f"#{i}", "some words to fill", i) for i in range(1, 17)]
    full, shown = render(env.tokenizer, env.specs, "chunk", items, PromptConfig(name="compact"), max_operations=4)
    assert shown == tuple(items)
    cfg = PromptConfig(name="compact", max_prompt_tokens=len(full) - 1)
    tokens, shown = render(env.tokenizer, env.specs, "chunk", items, cfg, max_operations=4)
    assert len(tokens) <= cfg.max_prompt_tokens and shown == tuple(items[8:])
    with pytest.raises(UserError, match=r"max_prompt_tokens=5"):
        render(env.tokenizer, env.specs, "chunk", items, PromptConfig(max_prompt_tokens=5), max_operations=4)


def test_what_samples_of_a_group_share_comes_first_in_the_prompt(env):
    one, _ = render(env.tokenizer, env.specs, "the chunk", [MemoryItem("#1", "a", 0)], env.prompt, max_operations=4)
    two, _ = render(env.tokenizer, env.specs, "the chunk", [MemoryItem("#1", "b", 0)], env.prompt, max_operations=4)
    shared = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    assert "the chunk" in env.tokenizer.decode(list(one[:shared]))


def test_training_questions_are_a_seeded_share_and_at_least_one():
    questions = tuple(Question(f"q{i}", ("a",)) for i in range(10))
    episode = Episode("e", "s", (), questions)
    cfg = RewardsConfig(question_share=0.2)
    one = training_questions(episode, cfg, asks_chunks=True, seed="x")
    assert len(one.final) == 2 and one == training_questions(episode, cfg, asks_chunks=True, seed="x")
    drawn = {training_questions(episode, cfg, asks_chunks=True, seed=str(i)).final for i in range(20)}
    assert len(drawn) > 5
    assert len(training_questions(episode, RewardsConfig(question_share=0.01), asks_chunks=True, seed="x").final) == 1


@pytest.fixture(scope="module")
def diary():
    episodes = config.resolve("finemem_jax.benchmarks", "diary").load(config.DataConfig(), "eval", 0)
    return [episodes[i] for i in range(12)]


def test_the_oracle_remembers_everything_and_store_all_misses_only_what_changed(env, diary):
    answerer = config.resolve("finemem_jax.answerers", "extractive").create(config.AnswererConfig())
    jobs = [Job(episode, all_questions(episode)) for episode in diary]
    scores = {}
    played = {
        "oracle": play_scripted(
            env, answerer, jobs, fakes.writer("oracle", config.Config(memory=MemoryConfig(max_operations=8)))
        )
    }
    for name, write in {"all": fakes.writer("store_all"), "none": fakes.writer("no_memory")}.items():
        played[name] = [replay(env, job.episode, job.asked, answerer.submit, write)() for job in jobs]
    for name, rollouts in played.items():
        answers = [a for r in rollouts for a in r.answers]
        for kind in ("fact", "changed", "label"):
            of_kind = [a.score for a in answers if a.question.kind == kind]
            scores[name, kind] = sum(of_kind) / len(of_kind)
    assert scores["oracle", "fact"] == scores["oracle", "changed"] == 1.0
    assert scores["all", "fact"] == 1.0 and scores["all", "changed"] == 0.0
    assert scores["all", "label"] > 0.2
    assert scores["none", "fact"] == scores["none", "changed"] == scores["none", "label"] == 0.0


def test_the_expert_is_imperfect_and_a_function_of_its_seed(env, diary):
    jobs = [Job(episode, Asked(((),) * len(episode.chunks), ())) for episode in diary]

    def texts(seed):
        write = scripted.expert(config.ExpertConfig(), 4, seed)
        return [step.text for rollout in play_scripted(env, None, jobs, write) for step in rollout.steps]

    assert texts(0) == texts(0) != texts(1)
    outcomes = "".join(texts(0))
    assert all(name in outcomes for name in ("memory_insert", "memory_update", "memory_skip"))
    assert RetrievalConfig().k == 5


def test_a_chunk_that_does_not_fit_is_named_with_its_episode(env):
    small = replace(env, prompt=replace(env.prompt, max_prompt_tokens=40))
    game = play(small, fakes.episode(["short", "long " * 50]), Asked(((), ()), ()), lambda requests: [])
    next(game)
    with pytest.raises(UserError, match=r"episode 'fake', chunk 1: a chunk makes a prompt of \d+ tokens"):
        game.send(Completion((1,), (0.0,), "stop"))
