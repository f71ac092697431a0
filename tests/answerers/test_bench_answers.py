"""The benchmark of the endpoint client, and that a request costs the same however many are under way."""

from __future__ import annotations

import argparse

from finemem_jax import config


def measured(**values) -> dict:
    bench = config.resolve("finemem_jax.bench", "answers")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(argparse.Namespace(**(vars(parser.parse_args([])) | values)))


def test_every_question_is_answered_and_counted_and_no_pool_is_searched():
    few, many = (measured(questions=1200, repeats=3, concurrency=n) for n in (4, 256))
    assert few["asked"].keys() == few["again"].keys() == {"per_cpu_second", "per_second", "cpu_ms_each"}
    assert few["again"]["cpu_ms_each"] < few["asked"]["cpu_ms_each"]
    # a client that looks through its pool at every request takes six times as long
    assert many["asked"]["cpu_ms_each"] < 3 * few["asked"]["cpu_ms_each"]
