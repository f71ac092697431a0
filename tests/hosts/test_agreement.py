"""What several processes decide alike, without processes: threads, and an exchange in the place of jax's collective."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from finemem_jax import exits
from finemem_jax.config import UserError
from finemem_jax.exits import RunEnded
from finemem_jax.hosts import agreement
from finemem_jax.types import AnswererDown


@pytest.fixture
def in_each(monkeypatch):
    """Runs action(process) as each of the processes of one run: their results, or what they raised."""
    local = threading.local()

    def run(action, processes=2):
        barrier, told = threading.Barrier(processes), [None] * processes

        def gather(value):
            told[local.process] = np.asarray(value)
            barrier.wait(timeout=60)
            gathered = np.stack(told)
            barrier.wait(timeout=60)
            return gathered

        def one(process):
            local.process = process
            try:
                return action(process)
            except Exception as error:
                return error

        monkeypatch.setattr(multihost_utils, "process_allgather", gather)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        monkeypatch.setattr(jax, "process_index", lambda: local.process)
        with ThreadPoolExecutor(processes) as pool:
            return list(pool.map(one, range(processes)))

    return run


def working(errors):
    """Work done together, of which `errors` (by process) come out."""

    def work(process):
        with agreement.together():
            if process in errors:
                raise errors[process]
        return "done"

    return work


def test_work_that_ends_nowhere_goes_on_everywhere(in_each):
    assert in_each(working({}), processes=3) == ["done"] * 3


@pytest.mark.parametrize("kind", [UserError, AnswererDown, FloatingPointError])
def test_what_ends_a_run_in_one_process_ends_it_in_all_with_the_same_words(in_each, kind):
    own = kind("the file is gone")
    first, second, third = in_each(working({1: own}), processes=3)
    assert second is own
    for error in (first, third):
        assert type(error) is kind and str(error) == "process 1: the file is gone"
    assert all(agreement.is_known_to_all(error) for error in (first, second, third))


def test_an_end_on_purpose_keeps_its_exit_code(in_each):
    own, other = in_each(working({0: RunEnded("preempted", exits.PREEMPTED)}))
    assert type(other) is RunEnded and own.code == other.code == exits.PREEMPTED


def test_a_defect_ends_the_others_as_a_crash_that_is_named(in_each):
    own, other = in_each(working({0: KeyError("no such key")}))
    assert type(own) is KeyError and type(other) is RunEnded
    assert other.code == exits.CRASHED and "process 0: KeyError: 'no such key'" in str(other)


def test_of_two_that_fail_each_raises_its_own_and_the_third_the_firsts(in_each):
    errors = {1: UserError("one"), 2: KeyError("two")}
    first, *own = in_each(working(errors), processes=3)
    assert own == [errors[1], errors[2]] and str(first) == "process 1: one"


def test_what_fails_outside_is_known_to_nobody_else(in_each):
    def alone(process):
        return agreement.is_known_to_all(KeyError("x"))

    assert in_each(alone) == [False, False]


def test_all_have_what_each_has_in_the_order_of_the_numbers(in_each):
    parts = [{4: "a" * 1000, 1: "é"}, {}, {0: None}]
    found = in_each(lambda process: agreement.union(parts[process]), processes=3)
    assert [list(whole.items()) for whole in found] == [[(0, None), (1, "é"), (4, "a" * 1000)]] * 3


def test_what_all_have_is_not_sent_and_may_be_a_function(in_each):
    shared = [lambda: "mine", lambda: "yours"]
    found = in_each(lambda process: agreement.all_gather((process, shared[process]), shared))
    assert found == [[(0, shared[0]), (1, shared[1])]] * 2


def test_the_first_process_is_read_and_any_and_all_are_the_same_everywhere(in_each):
    def decide(process):
        return (
            agreement.from_lead(f"read by {process}"),
            agreement.any_process(process == 1),
            agreement.all_processes(process == 1),
        )

    assert in_each(decide) == [("read by 0", True, False)] * 2


def test_processes_that_differ_are_told_in_what(in_each):
    for error in in_each(lambda process: agreement.require_same({"lr": 0.1 + process, "seed": 0}, "config")):
        assert type(error) is UserError
        assert str(error) == "processes 0 and 1 have another config (lr: 0.1 and 1.1): start all alike"
    assert in_each(lambda process: agreement.require_same({"seed": 0}, "config")) == [None, None]


def test_one_process_passes_through():
    own = KeyError("x")
    with pytest.raises(KeyError) as raised, agreement.together():
        raise own
    assert raised.value is own and agreement.is_known_to_all(own)
