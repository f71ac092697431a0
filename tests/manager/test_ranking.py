"""The ranking that grows is training's, to the last bit, whatever came, changed and went."""

from __future__ import annotations

import random

import pytest

from finemem_jax.config import MemoryConfig, RetrievalConfig, resolve
from finemem_jax.env import retrieval
from finemem_jax.manager.ranking import Ranking
from finemem_jax.types import Operation

WORDS = [f"w{i}" for i in range(40)]


def sentence(rng: random.Random) -> str:
    return " ".join(WORDS[min(int(rng.paretovariate(0.6)), 39)] for _ in range(rng.randrange(0, 9)))


@pytest.mark.parametrize("idf", ["lucene", "okapi"])
@pytest.mark.parametrize("size", [3, 60, 400])
def test_a_ranking_that_grew_item_by_item_is_bm25_of_what_is_left(idf, size):
    rng = random.Random(f"{idf} {size}")
    cfg, kept = RetrievalConfig(idf=idf, k1=1.2, b=0.6), {}
    ranking = Ranking(cfg)
    for number in range(6 * size):
        key = f"#{number}"
        if len(kept) > size or (kept and rng.random() < 0.3):
            gone = rng.choice(sorted(kept))
            del kept[gone]
            ranking.remove(gone)
        if kept and rng.random() < 0.3:
            changed = rng.choice(sorted(kept))
            kept[changed] = (sentence(rng), kept[changed][1])
            ranking.put(changed, *kept[changed])
        kept[key] = (sentence(rng), number)
        ranking.put(key, *kept[key])
    keys = sorted(kept, key=lambda key: kept[key][1])
    index = retrieval.open_index([kept[key][0] for key in keys], cfg)
    for k in (1, 5, 1000):
        for _ in range(5):
            query = f"{sentence(rng)} w0 w0 nowhere"
            expected = [(keys[i], score) for i, score in index.search(query, k)]
            assert ranking.search(query, k) == expected and len(ranking) == len(kept)
    assert ranking.search("w0", 0) == [] and (size == 3 or any(score > 0 for _, score in expected))


def test_what_is_gone_is_dropped_in_time():
    ranking = Ranking(RetrievalConfig())
    for number in range(6000):
        ranking.put("#1", f"word{number}", 0)
    assert len(ranking._keys) < 3000 and ranking.search("word5999", 1)[0][0] == "#1"


@pytest.mark.parametrize("name", ["flat", "layered", "overwrite"])
def test_a_memory_made_from_its_items_goes_on_as_the_one_they_are_of(name):
    """Whatever was written: the same items, and the same outcomes from there on."""
    module, rng = resolve("finemem_jax.memory", name), random.Random(name)
    cfg = MemoryConfig(name=name, max_items=6, max_item_tokens=6, max_tokens=30, overflow="evict_oldest")

    def operation(memory):
        spec = rng.choice(module.SPECS)
        ids = [item.id for item in memory.items] or ["#1"]
        values = {n: rng.choice(c) for n, c in spec.choices.items()}
        given = {
            n: values.get(n, rng.choice(ids) if n in ("id", "memory_id") else sentence(rng)) for n in spec.parameters
        }
        return Operation(spec.name, given)

    memory = module.create(cfg, lambda text: len(text.split()))
    most = 0
    for turn in range(120):
        most = max(most, len(memory.items))
        made = module.restore(cfg, lambda text: len(text.split()), memory.items, memory.state())
        assert made.items == memory.items and made.tokens() == memory.tokens() and made.notice() == memory.notice()
        for _ in range(3):
            said = operation(memory)
            (memory, outcome), (made, same) = memory.apply(said, turn), made.apply(said, turn)
            assert outcome == same
        assert made.items == memory.items and made.state() == memory.state()
    assert most >= (1 if name == "overwrite" else 4)


@pytest.mark.parametrize("name", ["flat", "layered", "overwrite"])
def test_a_memory_without_an_item_never_gives_its_id_again(name):
    module = resolve("finemem_jax.memory", name)
    memory = module.create(MemoryConfig(name=name), lambda text: len(text.split()))
    spec = module.SPECS[0]
    for text in ("one two", "three", "four"):
        arguments = {n: spec.choices[n][0] if n in spec.choices else text for n in spec.parameters}
        memory, _ = memory.apply(Operation(spec.name, arguments), 0)
    gone = memory.items[-1]
    after = memory.without([gone.id])
    assert gone.id not in [item.id for item in after.items] and len(after.items) == len(memory.items) - 1
    assert after.tokens() == memory.tokens() - len(gone.text.split())
    if name != "overwrite":  # its one text has one id
        again, outcome = after.apply(Operation(spec.name, {**arguments, "content": "four"}), 1)
        assert outcome.ok and outcome.item != gone.id and len(again.items) == len(memory.items)
