"""Who is decoded and who waits, on a device that only counts: no model, no parameters."""

from __future__ import annotations

import numpy as np
import pytest

from finemem_jax.config import EngineConfig
from finemem_jax.decoding.generate import Sampled
from finemem_jax.decoding.pages import Pages
from finemem_jax.decoding.request import Cancelled, EngineStats, EpisodesFailed, Request, Update
from finemem_jax.decoding.schedule import Run
from finemem_jax.types import Lesson, Sampling, Written

PAGE = 4


class Counting:
    """A prompt that ends in t is completed by t + 1, t + 2, …; `decoded` has the keys of the rows of each call. A write
    makes fast weights with the next number; `written_by_call` has how many each call made."""

    writes = 3

    def __init__(self, slots):
        self.cfg = EngineConfig(slots=slots, cache_tokens=64, page_tokens=PAGE, decode_chunk=4)
        self.stats, self.is_timed, self.cancelled = EngineStats(), False, set()
        self.decoded, self.prefilled, self.written_by_call, self.made = [], 0, [], 0

    def prefill(self, rows):
        self.prefilled += int(rows.lengths.sum())

    def decode(self, rows, floor, truncate):
        self.decoded.append(rows.key_words[rows.is_active, 0].tolist())
        steps = self.cfg.decode_chunk
        tokens = rows.token + 1 + np.arange(steps, dtype=np.int32)[:, None]
        emitted = np.where(rows.is_active, np.minimum(steps, rows.max_tokens - rows.count), 0)
        return Sampled(tokens, np.zeros(tokens.shape, np.float32), emitted, np.int32(steps))

    def write(self, updates):
        self.written_by_call.append(len(updates))

    def written(self, updates, result):
        first, self.made = self.made, self.made + len(updates)
        return [Written(first + n + 1, 2.0, 1.0) for n in range(len(updates))]


def asks(number, prompt=5, new=4):
    """An episode of one request, whose tokens nobody shares."""
    first = 1000 * (number + 1)
    completion = yield Request(tuple(range(first, first + prompt)), Sampling(1.0, max_tokens=new), (number,))
    return [token - first - prompt for token in completion.tokens]


def play(episodes, *, slots=8, pages=64):
    device = Counting(slots)
    return Run(device, Pages(pages + 1, PAGE), episodes).drive(), device


def test_requests_get_rows_in_the_order_they_came():
    results, device = play([asks(n) for n in range(5)], slots=2)
    assert results == [[0, 1, 2, 3]] * 5
    assert device.decoded == [[0, 1], [2, 3], [4]]


def test_no_request_overtakes_one_that_waits_for_pages():
    """Six pages: the first has two or three, the second needs five, the third would fit beside the first."""
    results, device = play([asks(0, new=8), asks(1, prompt=16), asks(2)], pages=6)
    assert [len(found) for found in results] == [8, 4, 4]
    assert device.decoded[:2] == [[0], [0]] and device.decoded[2][0] == 1


def test_the_youngest_gives_up_its_pages_goes_on_before_all_that_wait_and_ends_with_the_same_tokens():
    episodes = [{"prompt": 8, "new": 16}, {"prompt": 8, "new": 16}, {"prompt": 8, "new": 4}]
    wide, _ = play([asks(n, **settings) for n, settings in enumerate(episodes)])
    tight, device = play([asks(n, **settings) for n, settings in enumerate(episodes)], slots=2, pages=8)
    assert tight == wide == [list(range(16))] * 2 + [list(range(4))]
    assert device.stats.preemptions > 0
    assert next(call for call in device.decoded if 2 in call) == [1, 2]


def test_an_episode_that_fails_does_not_stop_the_others():
    def fails():
        yield from asks(0)
        raise KeyError("x")

    with pytest.raises(EpisodesFailed, match="1 of 2 episodes failed") as error:
        play([fails(), asks(1)])
    assert error.value.results == [None, [0, 1, 2, 3]]


def test_what_was_cancelled_ends_and_its_pages_are_free_again():
    device = Counting(slots=4)
    pages = Pages(64 + 1, PAGE)
    before = pages.available

    def cancels():
        found = yield from asks(0)
        device.cancelled.add((1,))
        return found

    results = Run(device, pages, [cancels(), asks(1, new=40)]).drive()
    assert results[0] == [0, 1, 2, 3] and isinstance(results[1], Cancelled) and results[1].request.key == (1,)
    assert pages.available == before


def test_prompts_alike_are_prefilled_once():
    def alike(number):
        completion = yield Request(tuple(range(20)), Sampling(1.0, max_tokens=4), (number,))
        return completion.tokens

    results, device = play([alike(n) for n in range(3)])
    assert results == [(20, 21, 22, 23)] * 3 and device.prefilled == 19  # the last token is fed by decoding


def test_a_request_ends_where_it_says_whatever_was_decoded_beyond():
    def ends(tokens, start):
        assert start in (0, 4)  # each call's tokens are looked at once
        return next((n + 1 for n in range(start, len(tokens)) if tokens[n] % 1000 == 5 + 5), 0)

    def asks_until():
        request = Request(tuple(range(1000, 1005)), Sampling(1.0, max_tokens=16), (0,), ends=ends)
        completion = yield request
        return completion.finish, [token - 1005 for token in completion.tokens], len(completion.logprobs)

    results, device = play([asks_until(), asks(1, new=16)])
    assert results == [("string", list(range(6)), 6), list(range(16))]
    assert device.stats.sampled_tokens == 22


def writes(number, before=0):
    """An episode that writes, after so many requests, and asks the same of the weights it made, twice."""
    for _ in range(before):
        yield from asks(number)
    written = yield Update((Lesson((1, 2)),))
    prompt = tuple(range(1000, 1000 + 2 * PAGE + 1))
    for turn in range(2):
        yield Request(prompt, Sampling(1.0, max_tokens=4), (10 * number + turn,), fast=written.number)
    return written.number


def test_writes_that_are_ready_go_out_together_and_their_episodes_go_on():
    results, device = play([writes(n) for n in range(4)] + [writes(4, before=1), asks(5)])
    assert sorted(results[:5]) == [1, 2, 3, 4, 5] and results[5] == [0, 1, 2, 3]
    assert device.written_by_call == [3, 1, 1]  # three a call at most; the last one was ready later


def test_what_was_read_under_other_weights_is_not_read_again():
    """Two full pages are the same tokens for every episode: prefilled once under each number, not once, not twice."""
    _, device = play([writes(n) for n in range(3)])
    assert device.prefilled == 3 * 2 * PAGE
