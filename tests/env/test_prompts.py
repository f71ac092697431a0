"""A turn says the same whatever chat template shows it, and a template that cannot show it is refused."""

from __future__ import annotations

import copy

import pytest

from finemem_jax.config import PromptConfig, UserError, plugins, resolve
from finemem_jax.env import operations, prompts
from finemem_jax.memory import flat
from finemem_jax.types import MemoryItem

ITEMS = (MemoryItem("#3", "Maya's dentist is Orlov", 0, (0,)), MemoryItem("#12", "two\nlines", 1, (1,)))
CODECS = [name for name in plugins("finemem_jax.codecs") if not operations.unfit(name, flat.SPECS)]
PROMPTS = [
    name for name in plugins("finemem_jax.prompts") if getattr(resolve(prompts.PROMPTS, name), "SHOWS_IDS", True)
]
CHUNK = "now Petrov Maya dentist"

PLAIN = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</{{ m.role }}>\n{% endfor %}<assistant>\n"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
# The shape of Qwen's templates: the tools behind the system text, in the words of `codecs/qwen.py`.
QWEN = (
    "<system>\n{{ messages[0].content }}{% if tools %}\n\n\n# Tools\n\nYou may call one or more functions to assist "
    "with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>"
    "{% for tool in tools %}\n\n{{ tool | tojson }}{% endfor %}\n\n</tools>\n\nFor each function call, return a json "
    "object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}</system>\n'
    "<user>\n{{ messages[1].content }}</user>\n<assistant>\n"
)
LLAMA = (
    "<system>{{ messages[0].content }}{% if tools %}Respond with JSON "
    '{"name": function name, "parameters": dictionary of argument name and its value}.'
    "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}<user>{{ messages[1].content }}<assistant>"
)


def with_template(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def rendered(tokenizer, cfg, chunk=CHUNK, items=ITEMS):
    tokens, visible = prompts.render(tokenizer, flat.SPECS, chunk, items, cfg, max_operations=4)
    assert visible == tuple(items)
    return tokenizer.decode(list(tokens), skip_special_tokens=False)


def words(cfg):
    return resolve("finemem_jax.codecs", cfg.codec).instructions(flat.SPECS)


def check(tokenizer, cfg):
    prompts.check(tokenizer, flat.SPECS, cfg, max_operations=4)


def test_the_quickstarts_prompt_is_what_its_policy_was_trained_on(tiny_tokenizer):
    assert rendered(tiny_tokenizer, PromptConfig(name="compact")) == (
        "<|im_start|>system\n<tools>memory_insertmemory_updatememory_deletememory_skip</tools><|im_end|>\n"
        "<|im_start|>user\n<chunk>\nnow Petrov Maya dentist\n</chunk>\n<memory>\n"
        '{"content": "Maya\'s dentist is Orlov", "id": "#3"}\n{"content": "two\\nlines", "id": "#12"}\n</memory>'
        "<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [PLAIN, NO_SYSTEM, DROPS_SYSTEM, QWEN, LLAMA])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", PROMPTS)
def test_every_template_shows_the_tools_the_format_and_the_memory(tiny_tokenizer, template, codec, name):
    cfg, tokenizer = PromptConfig(name=name, codec=codec), with_template(tiny_tokenizer, template)
    text = rendered(tokenizer, cfg)
    assert CHUNK in text and "#3" in text and "Maya's dentist is Orlov" in text
    layout = prompts.find_layout(tokenizer, flat.SPECS, cfg)
    if layout.tools_by_template:
        assert name == "compact" and {QWEN: "qwen", LLAMA: "llama3"}[template] == codec
        assert all(spec.description in text for spec in flat.SPECS)
    else:
        assert text.count(words(cfg)) == 1
    check(tokenizer, cfg)


def test_a_template_that_knows_tools_makes_the_same_prompt_of_them_as_the_codec(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, QWEN)
    full = PromptConfig(name="full")
    system, user = resolve("finemem_jax.prompts", "full").messages(CHUNK, ITEMS, max_operations=4)
    by_template = tokenizer.apply_chat_template(
        [{"role": "system", "content": system}, {"role": "user", "content": user}],
        tools=[spec.schema() for spec in flat.SPECS],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert rendered(tokenizer, full) == by_template


def test_the_prompt_over_http_is_the_local_one(tiny_tokenizer):
    tokenizer, cfg = with_template(tiny_tokenizer, PLAIN), PromptConfig(name="short", codec="lines")
    messages = prompts.conversation(flat.SPECS, CHUNK, ITEMS, cfg, max_operations=4)
    served = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert served == rendered(tokenizer, cfg)
    assert "= <content> | <id>" in served and "two\\nlines | #12" in served


@pytest.mark.parametrize("name", plugins("finemem_jax.prompts"))
def test_no_two_codecs_have_the_same_prompt(tiny_tokenizer, name):
    assert len({rendered(tiny_tokenizer, PromptConfig(name=name, codec=codec)) for codec in CODECS}) == len(CODECS)


def test_the_short_prompt_in_lines_costs_less_than_half_of_the_full_one_in_json(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, PLAIN)
    short, full = (
        rendered(tokenizer, cfg, items=()) for cfg in (PromptConfig(name="short", codec="lines"), PromptConfig())
    )
    assert len(short) < 0.5 * len(full)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("nothing", "does not print the chunk"),
        ("{{ tools | tojson }}", "does not print the chunk"),
        ("{{ messages[-1].content[:9] }}", "does not print the chunk"),
        ("{{ messages[-1].content | replace('#', '') }}", "does not print their ids"),
        ("{{ messages[-1].content | replace('content', '') }}", "does not print the tools"),
        ("{{ raise_exception('no\nway') }}", "fails on a prompt: no"),
        ("{{ messages[7].content.x.y }}", "fails on a prompt"),
    ],
)
def test_a_template_that_does_not_print_messages_is_refused_in_one_line(tiny_tokenizer, template, why):
    with pytest.raises(UserError, match=why) as refused:
        check(with_template(tiny_tokenizer, template), PromptConfig())
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_cannot_write_the_calls_is_refused(tiny_tokenizer):
    from tokenizers import normalizers

    other = copy.deepcopy(tiny_tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Replace("=", "")
    with pytest.raises(UserError, match=r"config.prompt.codec=lines: .* choose another codec"):
        check(other, PromptConfig(codec="lines"))


def test_a_prompt_without_room_for_a_chunk_is_refused(tiny_tokenizer):
    with pytest.raises(UserError, match=r"config.prompt.max_prompt_tokens=40"):
        check(tiny_tokenizer, PromptConfig(max_prompt_tokens=40))
