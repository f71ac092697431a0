"""A memory without a model and without jax: operations are parsed and applied, then BM25 finds what answers a question.

python examples/memory_search.py
"""

from __future__ import annotations

import sys

from finemem_jax import config
from finemem_jax.env import operations
from finemem_jax.env.environment import apply
from finemem_jax.env.retrieval import BM25
from finemem_jax.env.scoring import token_f1

# What a trained policy wrote after it had read each day: any text is safe to parse.
WRITTEN = [
    """
<tool_call>
{"name": "memory_insert", "arguments": {"content": "Mina's office is in Oslo."}}
</tool_call>
<tool_call>
{"name": "memory_insert", "arguments": {"content": "Jonas eats pizza for dinner."}}
</tool_call>""",
    """
Jonas changed his mind, so the second item is out of date.
<tool_call>
{"name": "memory_update", "arguments": {"content": "Jonas eats noodles for dinner.", "id": "#2"}}
</tool_call>
<tool_call>
{"name": "memory_delete", "arguments": {"id": "#9"}}
</tool_call>""",
]


def main() -> None:
    cfg = config.MemoryConfig(max_operations=4)
    flat = config.resolve("finemem_jax.memory", cfg.name)
    memory = flat.create(cfg, count_tokens=lambda text: len(text.split()))
    for step, text in enumerate(WRITTEN):
        written = operations.parse(text, flat.SPECS)
        memory, outcomes = apply(memory, written, step, cfg, visible=memory.items)
        for operation, outcome in zip(written, outcomes, strict=True):
            print(f"step {step}: {operation.name} {outcome.item or memory.target(operation)}: {outcome.status}")
    for item in memory.items:
        print(f"{item.id} (written at step {item.written_at}): {item.text}")

    question = "What does Jonas eat for dinner?"
    index = BM25([item.text for item in memory.items])
    best, score = index.search(question, 1)[0]
    answer = memory.items[best].text
    print(f"{question} -> {answer} (BM25 {score:.2f}, F1 {token_f1(answer, ['noodles']):.2f})")
    assert "jax" not in sys.modules, "the memory needs no jax"


if __name__ == "__main__":
    main()
