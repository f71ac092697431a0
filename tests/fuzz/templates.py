"""Chat templates, mutated: each is refused in a line before the work, or renders every turn with all that it should."""

from __future__ import annotations

import copy
import functools
import random

from finemem_jax.config import PromptConfig, UserError, plugins
from finemem_jax.env import prompts, tokenizer
from finemem_jax.memory import flat
from finemem_jax.types import MemoryItem

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
    """Checked as at the start of a run; one that passes shows chunk and items in every prompt of the run."""
    given = copy.copy(tiny())
    given.chat_template = template(rng)
    cfg = PromptConfig(
        name=rng.choice(plugins("finemem_jax.prompts")),
        codec=rng.choice(plugins("finemem_jax.codecs")),
        thinking=rng.random() < 0.5,
    )
    try:
        prompts.check(given, flat.SPECS, cfg, max_operations=4)
    except UserError as error:
        assert str(error)
        return
    items = [MemoryItem("#3", "Ada lives in Oslo", 0)]
    tokens, shown = prompts.render(given, flat.SPECS, "The tram was late", items, cfg, max_operations=4)
    said = given.decode(list(tokens))
    assert shown == tuple(items) and "The tram was late" in said and "Ada lives in Oslo" in said
