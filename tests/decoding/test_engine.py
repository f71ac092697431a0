"""Completions are a function of their request: not of slots, order, neighbours or what was decoded before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import EngineConfig, UserError
from finemem_jax.decoding import buckets
from finemem_jax.decoding.engine import Engine
from finemem_jax.decoding.request import Cancelled, EpisodesFailed, Request
from finemem_jax.nn.sharding import DECODE_RULES, make_mesh, param_shardings
from finemem_jax.rl.logprobs import logprobs_of, token_logprobs
from finemem_jax.types import Completion, Sampling

STOP = (7, 100, 200, 300)
LENGTH = 64  # what the naive sampler pads to


def make_engine(model, params, slots, **settings):
    settings = {"cache_tokens": 64, "page_tokens": 16, "decode_chunk": 5} | settings
    return Engine(model, params, EngineConfig(slots=slots, **settings))


@pytest.fixture(scope="module")
def engines(model, params):
    """One engine per number of slots, shared so that each shape is compiled once."""
    return {slots: make_engine(model, params, slots) for slots in (1, 4, 16)}


@pytest.fixture(scope="module")
def requests():
    """Twenty requests: prompts of 1 to 40 tokens, three of them shared, all kinds of limits, greedy ones among them."""
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(1, 512, size=n).tolist()) for n in rng.integers(1, 40, size=14)]
    prompts += [prompts[0]] * 3 + [prompts[5]] * 2 + [prompts[9]]
    samplings = [
        Sampling(
            temperature=(1.0, 0.7, 0.0)[i % 3],
            max_tokens=int(rng.integers(1, 20)),
            min_tokens=int(i % 4 == 0) * 4,
            stop_tokens=STOP,
        )
        for i in range(20)
    ]
    keys = np.stack([np.full(20, 3), np.arange(20)], axis=1).astype(np.uint32)
    return prompts, samplings, keys


@pytest.fixture(scope="module")
def naive(model, params, requests):
    """A full forward pass per token, no cache, one request at a time."""

    @jax.jit
    def logits_at(tokens, length):
        positions = jnp.arange(LENGTH)[None]
        logits = model.apply({"params": params}, tokens[None], positions, (positions < length).astype(jnp.int32))
        return logits[0, length - 1]

    def draw(weights, first, second):
        """Of the 512 tokens first a block of 32, then a token of the block; each by its running sum."""
        sums = np.cumsum([weights[start : start + 32].sum() for start in range(0, 512, 32)])
        block = int(np.searchsorted(sums, first * sums[-1], side="right"))
        sums = np.cumsum(weights[32 * block : 32 * block + 32])
        return 32 * block + int(np.searchsorted(sums, second * sums[-1], side="right"))

    def complete(prompt, sampling, words):
        key = jax.random.key(0, impl="threefry2x32")
        for word in words:
            key = jax.random.fold_in(key, word)
        tokens, logprobs = [], []
        while len(tokens) < sampling.max_tokens:
            row = np.zeros(LENGTH, np.int32)
            row[: len(prompt) + len(tokens)] = [*prompt, *tokens]
            logits = logits_at(jnp.asarray(row), len(prompt) + len(tokens)) / (sampling.temperature or 1.0)
            allowed = np.array(logits, np.float64)
            if len(tokens) < sampling.min_tokens:
                allowed[list(STOP)] = -np.inf
            token = int(np.argmax(allowed))
            if sampling.temperature:
                uniforms = jax.random.uniform(jax.random.fold_in(key, len(tokens)), (2,))
                token = draw(np.exp(allowed - allowed.max()), *np.asarray(uniforms, np.float64))
            tokens.append(token)
            logprobs.append(float(jax.nn.log_softmax(logits)[token]))
            if token in STOP:
                return Completion(tuple(tokens), tuple(logprobs), "stop")
        return Completion(tuple(tokens), tuple(logprobs), "length")

    return [complete(*request) for request in zip(*requests, strict=True)]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a.tokens, a.finish) == (b.tokens, b.finish)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


@pytest.mark.parametrize("slots", [pytest.param(1, marks=pytest.mark.slow), 4, 16])
def test_completions_equal_a_naive_full_forward_sampler(engines, requests, naive, slots):
    """One row is slow: it is what `test_what_prompts_have_in_common_is_prefilled_once_and_changes_nothing` expects."""
    assert_same(engines[slots].generate(*requests), naive)
    assert {c.finish for c in naive} == {"stop", "length"}
    sampled = [(p, c.tokens) for p, s, c in zip(*requests[:2], naive, strict=True) if s.temperature and c.tokens[1:]]
    assert len(sampled) > 10 and len(set(sampled)) == len(sampled)  # the same prompt, another key: another completion


@pytest.mark.parametrize("slots", [4, 16])
def test_order_and_neighbours_change_nothing(engines, requests, naive, slots):
    order = np.random.default_rng(slots).permutation(20)[:13]
    prompts, samplings, keys = requests
    found = engines[slots].generate([prompts[i] for i in order], [samplings[i] for i in order], keys[order])
    assert_same(found, [naive[i] for i in order])


def test_other_keys_give_other_samples_and_greedy_ignores_keys(engines, requests, naive):
    prompts, samplings, keys = requests
    found = engines[16].generate(prompts, samplings, keys + np.array([1, 0], np.uint32))
    for new, old, sampling in zip(found, naive, samplings, strict=True):
        if sampling.temperature == 0:
            assert new.tokens == old.tokens
        elif sampling.max_tokens >= 3:
            assert new.tokens != old.tokens


def test_engine_logprobs_are_the_trainers_to_a_ratio_of_one(model, params, engines, requests):
    prompts, _, keys = requests
    sampling = Sampling(temperature=0.7, max_tokens=20)
    compute = jax.jit(lambda *row: token_logprobs(model, params, *row, temperature=0.7, chunk=16))
    for prompt, completion in zip(prompts, engines[16].generate(prompts, sampling, keys), strict=True):
        tokens = np.zeros((1, LENGTH), np.int32)
        length = len(prompt) + len(completion.tokens)
        tokens[0, :length] = [*prompt, *completion.tokens]
        positions = np.arange(LENGTH)[None]
        trained = compute(*map(jnp.asarray, (tokens, positions, (positions < length).astype(np.int32))))
        ratio = np.exp(np.asarray(trained)[0, len(prompt) : length] - np.array(completion.logprobs))
        np.testing.assert_allclose(ratio, 1.0, atol=1e-4)
    pair, first = jnp.array([[1.0, 0.0]]), jnp.array([0])
    assert abs(float((logprobs_of(pair, first) - logprobs_of(pair, first, 0.7))[0])) > 0.05  # and they are tempered


def test_equal_prompts_are_prefilled_once(engines):
    engine = engines[16]
    engine.reset_stats()
    keys = np.arange(8, dtype=np.uint32)[:, None]
    found = engine.generate([tuple(range(1, 20))] * 8, Sampling(max_tokens=6), keys)
    assert engine.stats.prompt_tokens == 8 * 19
    assert engine.stats.prefilled_tokens == 18  # the last token is decode's
    assert len({c.tokens for c in found}) == 8


def test_new_parameters_take_effect(engines, params, requests, naive):
    prompts, samplings, keys = requests
    engine = engines[4]
    engine.set_params(jax.tree.map(lambda p: p * 0.5, params))
    changed = engine.generate(prompts, samplings, keys)
    engine.set_params(params)
    assert sum(a.tokens != b.tokens for a, b in zip(changed, naive, strict=True)) > 15
    assert_same(engine.generate(prompts, samplings, keys), naive)


def test_a_second_run_compiles_nothing(engines, requests):
    engine = engines[16]
    engine.release()  # nothing of other runs is in the cache
    engine.generate(*requests)
    engine.release()
    shapes, compiled = set(engine.stats.shapes), engine._decode._cache_size() + engine._prefill._cache_size()
    engine.generate(*requests)
    assert engine.stats.shapes == shapes
    assert engine._decode._cache_size() + engine._prefill._cache_size() == compiled == len(shapes)


def test_episodes_are_coroutines_and_see_their_own_completions(engines, requests, naive):
    """Each episode asks for requests i, i + 5, i + 10, i + 15 in turn; all at once over 4 and over 16 slots."""
    everything = [Request(p, s, tuple(k.tolist())) for p, s, k in zip(*requests, strict=True)]

    def episode(first):
        seen = []
        for index in range(first, 20, 5):
            completion = yield everything[index]
            seen.append((index, completion))
        return seen

    for slots in (4, 16):
        results = engines[slots].run(episode(first) for first in range(5))
        assert [[index for index, _ in seen] for seen in results] == [list(range(i, 20, 5)) for i in range(5)]
        for seen in results:
            assert_same([completion for _, completion in seen], [naive[index] for index, _ in seen])


def test_an_episode_may_end_without_asking(engines):
    def silent():
        return "nothing"
        yield

    assert engines[4].run([silent(), silent()]) == ["nothing", "nothing"]
    assert engines[4].run([]) == []


def test_an_error_in_an_episode_is_told_by_name_when_the_others_are_through(engines, requests, naive):
    everything = [Request(p, s, tuple(k.tolist())) for p, s, k in zip(*requests, strict=True)]

    def broken():
        yield everything[1]
        raise RuntimeError("no such file")

    def fine(indices):
        completions = []
        for index in indices:
            completions.append((yield everything[index]))
        return completions

    episodes = [fine([0, 5, 10]), broken(), fine([3, 4])]
    with pytest.raises(EpisodesFailed, match=r"1 of 3 episodes failed.*diary-7: RuntimeError: no such file") as caught:
        engines[4].run(episodes, ["diary-6", "diary-7", "diary-8"])
    assert [(index, name) for index, name, _ in caught.value.failures] == [(1, "diary-7")]
    first, nothing, last = caught.value.results
    assert nothing is None
    assert_same(first + last, [naive[i] for i in (0, 5, 10, 3, 4)])


def test_a_cancelled_request_frees_its_row_and_its_pages(engines, requests, naive):
    engine = engines[4]
    everything = [Request(p, s, tuple(k.tolist())) for p, s, k in zip(*requests, strict=True)]
    endless = Request((5, 6, 7), Sampling(max_tokens=60), (99, 99))
    closed = []

    def cancelled():
        try:
            yield endless
        finally:
            closed.append(True)

    def canceller():
        first = yield everything[0]
        engine.cancel(endless.key)
        second = yield everything[1]
        return [first, second]

    engine.release()
    engine.reset_stats()
    first, second, *rest = engine.run([cancelled(), canceller(), *(iter_one(everything[i]) for i in range(2, 8))])
    assert first == Cancelled(endless) and closed == [True]
    assert_same([*second, *rest], naive[:8])
    assert engine.stats.completions == 8
    assert engine.pages.available == engine.pool.pages - 1  # nothing is held any more


def iter_one(request):
    return (yield request)


def test_parameters_split_over_a_mesh_give_the_same_completions(model, params, requests, naive):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    placed = jax.device_put(params, param_shardings(model, mesh, DECODE_RULES))
    prompts, samplings, keys = requests
    found = make_engine(model, placed, 4).generate(prompts[:6], samplings[:6], keys[:6])
    assert_same(found, naive[:6])


def test_a_cache_bounded_by_free_memory_comes_back_at_the_size_it_was_released_at(model, params, requests, monkeypatch):
    """What an update leaves in the device's memory makes no other pool, so no other shape to compile."""
    cfg, prompts, samplings, keys = model.cfg, *requests
    page = 16 * 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * 4
    memory = {"bytes_limit": 100 * page, "bytes_in_use": 90 * page}
    engine = make_engine(model, params, 4)
    monkeypatch.setattr(type(engine.device), "memory_stats", lambda device: memory)
    first = engine.generate(prompts[:2], samplings[:2], keys[:2])
    pages = engine.pool.pages
    assert 4 < pages <= 10 < 4 * 64 // 16  # a request's 64 tokens fit, all slots' do not
    engine.release()
    memory["bytes_in_use"] = 97 * page
    assert_same(engine.generate(prompts[:2], samplings[:2], keys[:2]), first)
    assert engine.pool.pages == pages


def test_slots_are_refilled_while_others_decode(engines, requests):
    engine = engines[4]
    engine.reset_stats()
    prompts, _, keys = requests
    lengths = [3, 40, 3, 3] + [8] * 16
    engine.generate([p[:10] for p in prompts], [Sampling(max_tokens=n) for n in lengths], keys)
    # In lock step, rounds of four would take 40 + 4 * 8 steps.
    assert engine.stats.decode_steps <= 52
    assert engine.stats.occupancy > 0.75


def test_what_prompts_have_in_common_is_prefilled_once_and_changes_nothing(engines, requests, naive, model, params):
    engine, plain = engines[4], make_engine(model, params, 1, page_tokens=64)  # no prompt fills a page of 64
    rng = np.random.default_rng(3)
    common = rng.integers(1, 512, 37).tolist()
    prompts = [common + rng.integers(1, 512, n).tolist() for n in (1, 3, 3, 9, 0)]
    _, samplings, keys = requests
    engine.release()
    engine.reset_stats()
    cold = engine.generate(prompts, samplings[:5], keys[:5])
    tails = [5, 7, 7, 13, 4]  # what lies beyond the two full pages, but for the last token
    assert engine.reset_stats().prefilled_tokens == 32 + sum(tails)
    warm = engine.generate(prompts, samplings[:5], keys[:5])
    assert engine.reset_stats().prefilled_tokens == sum(tails)
    expected = plain.generate(prompts, samplings[:5], keys[:5])
    assert plain.stats.prefilled_tokens == 5 * 32 + sum(tails)
    assert_same(cold, expected)
    assert_same(warm, expected)


def test_a_cache_too_small_for_all_makes_them_wait_and_changes_nothing(model, params, requests, naive):
    """Room for 80 tokens: less than the longest two requests need together, while 4 rows are there."""
    engine = make_engine(model, params, 4, pool_tokens=80)
    prompts, _, keys = requests
    assert_same(engine.generate(*requests), naive)
    long = engine.generate(prompts, Sampling(max_tokens=24), keys)
    assert engine.stats.preemptions > 0
    assert_same(long, make_engine(model, params, 4).generate(prompts, Sampling(max_tokens=24), keys))
    small = make_engine(model, params, 4, pool_tokens=50)
    with pytest.raises(UserError, match=r"the cache of 48 tokens \(config\.engine\.pool_tokens=50"):
        small.generate([[1] * 30], Sampling(max_tokens=20), np.zeros((1, 1), np.uint32))


def test_int8_weights_stay_near(model, params, engines, requests):
    engine = make_engine(model, params, 4, weights="int8")
    prompts, _, keys = requests
    sampling = Sampling(max_tokens=1)
    exact = engines[4].generate(prompts, sampling, keys)
    found = engine.generate(prompts, sampling, keys)
    gaps = [abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(exact, found, strict=True) if a.tokens == b.tokens]
    assert len(gaps) >= 10 and 1e-5 < max(gaps) < 0.5
    kernel = engine.params["layers"]["mlp"]["up_proj"]["kernel"]
    scale = engine.params["layers"]["mlp"]["up_proj"]["kernel_scale"]
    original = params["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.dtype == jnp.int8
    assert (jnp.abs(kernel * scale[:, None] - original) <= 0.51 * scale[:, None]).all()


def test_warm_up_compiles_all_that_a_run_can_need(model, params, requests):
    engine = Engine(model, params, EngineConfig(slots=2, cache_tokens=64, page_tokens=32, decode_chunk=5))
    shapes = engine.shapes(key_words=2)
    for shape in shapes:
        engine.compile(shape)
    compiled = engine._decode._cache_size() + engine._prefill._cache_size()
    assert engine.stats.shapes == set(shapes) and compiled == len(shapes)
    engine.generate(*requests)
    assert engine._decode._cache_size() + engine._prefill._cache_size() == compiled


def test_requests_that_can_never_fit_name_the_knob(engines):
    with pytest.raises(UserError, match=r"prompt of 50 tokens \+ max_tokens 20 .*config\.engine\.cache_tokens=64"):
        engines[4].generate([[1] * 50], Sampling(max_tokens=20), np.zeros((1, 1), np.uint32))
    with pytest.raises(ValueError, match="a request needs a prompt"):
        engines[4].generate([[]], Sampling(), np.zeros((1, 1), np.uint32))


def test_nan_logits_stop_the_run_and_name_the_request(engines, params):
    engine = engines[4]
    engine.set_params(jax.tree.map(lambda p: p * jnp.nan, params))
    with pytest.raises(FloatingPointError, match=r"key \(9, 4\)"):
        engine.generate([[1, 2, 3]], Sampling(max_tokens=3), np.array([[9, 4]], np.uint32))
    engine.set_params(params)
    assert len(engine.generate([[1, 2, 3]], Sampling(max_tokens=3), np.array([[9, 4]], np.uint32))[0].tokens) == 3


def test_buckets_hold_what_they_are_asked_for():
    listed = [buckets.listed_bucket(n, 4) for n in range(1, 501)]
    assert all(n <= bucket <= max(8, 2 * n) for n, bucket in enumerate(listed, start=1))
    assert sorted(set(listed)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert [buckets.row_bucket(n, 64) for n in (1, 4, 5, 16, 17, 40, 99)] == [4, 4, 16, 16, 64, 64, 64]
    assert [buckets.row_bucket(n, 1) for n in (1, 2)] == [1, 1]
    assert [buckets.past_bucket(n) for n in (0, 1, 4, 5, 16, 17, 64, 65)] == [0, 4, 4, 16, 16, 64, 64, 256]
    assert [buckets.prefill_width(n, 6) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert [buckets.prefill_width(n, 64) for n in (5, 6, 9, 12, 13, 40)] == [4, 8, 8, 16, 16, 32]
    assert [buckets.prefill_rows(seq, 1024) for seq in (64, 128, 300, 1024, 5000)] == [8, 8, 2, 1, 1]


def test_everything_runs_without_implicit_transfers(engines, requests):
    engines[16].generate(*requests)
    with jax.transfer_guard("disallow"):
        engines[16].generate(*requests)
