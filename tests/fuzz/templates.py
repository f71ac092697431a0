"""Chat templates, mutated: each is refused in a line before the work, or renders every turn with all that it should."""

from __future__ import annotations

import copy
import functools
import random

from finemem_jax.config import Config, MemoryConfig, MethodConfig, PromptConfig, UserError, plugins, resolve
from finemem_jax.env import tokenizer
from finemem_jax.env.environment import turn_prompt
from finemem_jax.loading import load_environment
from finemem_jax.types import Operation

CODECS, MEMORIES, PROMPTS = (plugins(f"finemem_jax.{folder}") for folder in ("codecs", "memory", "prompts"))
MEMORIES = [name for name in MEMORIES if resolve("finemem_jax.memory", name).SPECS]  # that are written with tools

PARTS = (
    *(
        "{%- if tools %}",
        "{% if messages[0].role == 'system' %}",
        "{% endif %}",
        "{%- else -%}",
        "{% for m in messages %}",
    ),
    *(
        "{% endfor %}",
        "{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{{ message.content }}",
        "{{ messages }}",
        "{{ tools }}",
    ),
    *(
        "{{ raise_exception('no system turn') }}",
        "{% set x = 1 / 0 %}",
        "{{ nothing.at.all }}",
        "{{ 1 + 'a' }}",
        "{{",
        "}}",
    ),
    *(
        "{% for i in range(10**9) %}",
        "{{ m.content.split('</think>')[-1] }}",
        "{{ messages[7].content }}",
        "{# x #}",
        "{%",
    ),
    *(
        "{{ tools | tojson }}",
        "{{ m.content | upper }}",
        "{{ strftime_now('%Y') }}",
        "<|im_start|>",
        "<|im_end|>\n",
        "\x00",
    ),
)


@functools.cache
def tiny():
    return tokenizer.load("embedded:warm_start")


def template(rng: random.Random) -> str:
    base = rng.choice(
        (tokenizer.CHAT_TEMPLATE, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "")
    )
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(base))
        match rng.randrange(3):
            case 0:
                base = base[:at] + base[min(len(base), at + rng.randint(1, 40)) :]
            case _:
                base = base[:at] + rng.choice(PARTS) + base[at:]
    return base


def chat_template(rng: random.Random) -> None:
    """Checked as at the start of a run; one that passes shows chunk, items and question in every prompt of the run."""
    given = copy.copy(tiny())
    given.chat_template = template(rng)
    cfg = Config(
        memory=MemoryConfig(name=rng.choice(MEMORIES), max_operations=4),
        method=MethodConfig(sees_question=rng.random() < 0.2),
        prompt=PromptConfig(name=rng.choice(PROMPTS), codec=rng.choice(CODECS), thinking=rng.random() < 0.5),
    )
    try:
        env = load_environment(cfg, given)
    except UserError as error:
        assert str(error)
        return
    write = env.specs[0]
    memory, outcome = env.empty_memory().apply(Operation(write.name, write.example("Ada lives in Oslo")), 0)
    question = "Who was late?" if cfg.method.sees_question else ""
    tokens, shown = turn_prompt(env, "The tram was late", memory.items, question)
    said = given.decode(list(tokens))
    assert outcome.ok and shown == memory.items
    assert all(text in said for text in ("The tram was late", "Ada lives in Oslo", question))
