"""Any text is safe as a policy's output, and one outcome comes of every call in it."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finemem_jax.config import MemoryConfig, UserError, plugins, resolve
from finemem_jax.env import environment, operations
from finemem_jax.types import Operation, ToolSpec
from tests import fakes
from tests.growth import LINEAR, times_longer

SPECS = (
    ToolSpec("memory_insert", "adds", {"content": "text"}),
    ToolSpec("memory_update", "replaces", {"id": "which", "content": "text"}),
    ToolSpec("memory_delete", "removes", {"id": "which"}),
    ToolSpec("memory_skip", "nothing", {}),
)
CODECS = [name for name in plugins("finemem_jax.codecs") if not operations.unfit(name, SPECS)]


def qwen(body):
    return f"<tool_call>\n{body}\n</tool_call>"


def insert(content):
    return json.dumps({"name": "memory_insert", "arguments": {"content": content}})


def only(text, codec="qwen"):
    (operation,) = operations.parse(text, SPECS, codec=codec)
    return operation


# --------------------------------------------------------------------------------------------------------------
# What is well-formed
# --------------------------------------------------------------------------------------------------------------


def test_calls_are_read_in_the_order_written():
    text = qwen(insert("Anna moved to Oslo.")) + "\n" + qwen('{"name": "memory_delete", "arguments": {"id": "#3"}}')
    assert operations.parse(text, SPECS) == (
        Operation("memory_insert", {"content": "Anna moved to Oslo."}),
        Operation("memory_delete", {"id": "#3"}),
    )


def test_function_args_text_of_the_reference_is_read():
    text = (
        "I will store this.\n✿FUNCTION✿: memory_update\n"
        '✿ARGS✿: {"id": "a1", "content": "x } y"}\nThat is all.\n✿RESULT✿: {"status": "ok"}\n✿RETURN✿: done'
    )
    assert only(text, "function_args") == Operation("memory_update", {"id": "a1", "content": "x } y"})


operation_lists = st.lists(
    st.one_of(
        st.builds(lambda c: Operation("memory_insert", {"content": c}), st.text()),
        st.builds(
            lambda c: Operation("memory_insert", {"content": c}),
            st.lists(
                st.sampled_from(
                    [
                        *'✿{}"\\\nnu|+=- \u2028\x85',
                        "\\u0020",
                        "skip",
                        "</tool_call>",
                        "<tool_call>",
                        "✿ARGS✿:",
                        "<think>",
                        "</think>",
                    ]
                )
            ).map("".join),
        ),
        st.builds(lambda i, c: Operation("memory_update", {"id": i, "content": c}), st.text(max_size=4), st.text()),
        st.builds(
            lambda i, c: Operation("memory_update", {"content": c, "id": i}),
            *[st.lists(st.sampled_from(list("a#\\|n \n")), max_size=6).map("".join)] * 2,
        ),
        st.just(Operation("memory_skip", {})),
    ),
    max_size=5,
)


@pytest.mark.parametrize("codec", CODECS)
@given(written=operation_lists)
@settings(max_examples=80, deadline=None)
def test_what_is_emitted_is_read_back(codec, written):
    assert list(operations.parse(operations.emit(written, codec), SPECS, codec=codec)) == written


STORES = (
    ToolSpec(
        "memory_write",
        "writes",
        {"content": "text", "id": "which", "store": "where"},
        optional=("id",),
        choices={"store": ("core", "notes")},
    ),
    ToolSpec("memory_clear", "forgets", {"store": "where"}, optional=("store",), choices={"store": ("core", "notes")}),
)
CODECS_OF_STORES = [name for name in CODECS if not operations.unfit(name, STORES)]
written_to_stores = st.lists(
    st.one_of(
        st.builds(
            lambda c, i, s: Operation("memory_write", {"content": c} | ({} if i is None else {"id": i}) | {"store": s}),
            st.text(),
            st.one_of(st.none(), st.text(max_size=4), st.sampled_from(["\\e", "", "|"])),
            st.sampled_from(("core", "notes")),
        ),
        st.builds(lambda s: Operation("memory_clear", s), st.sampled_from(({}, {"store": "core"}))),
    ),
    max_size=4,
)


@pytest.mark.parametrize("codec", CODECS_OF_STORES)
@given(written=written_to_stores)
@settings(max_examples=80, deadline=None)
def test_arguments_that_may_be_left_out_are_read_back_as_they_were_given(codec, written):
    assert list(operations.parse(operations.emit(written, codec, STORES), STORES, codec=codec)) == written


@pytest.mark.parametrize("codec", CODECS_OF_STORES)
def test_a_value_that_is_none_of_the_choices_and_a_missing_argument_are_malformed(codec):
    wrong = [
        Operation("memory_write", {"content": "x", "store": "attic"}),
        Operation("memory_write", {"content": "x", "id": "#1", "store": "core"}),
    ]
    found = operations.parse(operations.emit(wrong, codec, STORES), STORES, codec=codec)
    assert found[0].error == "malformed: argument 'store' is 'attic', allowed: core, notes" and not found[1].error
    schema = STORES[0].schema()["function"]["parameters"]
    assert schema["required"] == ["content", "store"] and schema["properties"]["store"]["enum"] == ["core", "notes"]
    told = resolve(operations.CODECS, codec).instructions(STORES)
    assert "core" in told and "notes" in told


def test_lines_leave_a_field_empty():
    written = (Operation("memory_write", {"content": "x", "store": "core"}), Operation("memory_clear", {}))
    assert operations.emit(written, "lines", STORES) == "write: x |  | core\nclear: "
    assert "write: <content> | [<id>] | <store: core or notes>" in resolve(operations.CODECS, "lines").instructions(
        STORES
    )


def test_emitted_text_is_the_one_the_chat_template_teaches():
    written = [Operation("memory_insert", {"content": "Zoë"}), Operation("memory_skip", {})]
    assert operations.emit(written) == (
        '<tool_call>\n{"name": "memory_insert", "arguments": {"content": "Zoë"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "memory_skip", "arguments": {}}\n</tool_call>'
    )


def test_lines_are_one_short_line_an_operation():
    written = [
        Operation("memory_insert", {"content": "a | b, C:\\new\n+ c"}),
        Operation("memory_update", {"id": "#3", "content": "Zoë"}),
        Operation("memory_delete", {"id": "#1"}),
        Operation("memory_skip"),
    ]
    text = "+ a | b, C:\\\\new\\n+ c\n= Zoë | #3\n- #1\nskip"
    assert operations.emit(written, "lines") == text
    assert operations.parse(f"Let me see:\n {text} \nskip this\n+1\n---", SPECS, codec="lines") == tuple(written)


def test_lines_of_several_stores_and_of_other_tools_have_marks_of_their_own():
    specs = [
        ToolSpec("core_insert", "", {"content": ""}),
        ToolSpec("notes_insert", "", {"content": ""}),
        ToolSpec("memory_replace", "", {"content": ""}),
    ]
    written = tuple(Operation(spec.name, {"content": "x"}) for spec in specs)
    assert operations.emit(written, "lines") == "+core x\n+notes x\nreplace: x"
    assert operations.parse("+core x\n+notes x\nreplace: x\nreplace it\n+ x", specs, codec="lines") == written


def test_a_line_with_too_few_arguments_is_malformed():
    assert only("= new text without an id", "lines").error == "malformed: 1 of 2 arguments: content | id"
    assert only("= ", "lines").name == "memory_update"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "memory_insert", "parameters": {"content": "x {y"}}',
        '<|python_tag|>{"type": "function", "name": "memory_insert", "parameters": {"content": "x {y"}}<|eom_id|>',
        'I will {store} this.\n[{"name": "memory_insert", "arguments": {"content": "x {y"}}]\nDone.',
    ],
)
def test_calls_of_llama_are_read_without_tags(text):
    assert only(text, "llama3") == Operation("memory_insert", {"content": "x {y"})


def test_several_calls_of_llama_are_read_in_order():
    skip, calls = '{"name": "memory_skip", "parameters": {}}', '{"name": "memory_delete", "parameters": {"id": "#1"}}'
    expected = (Operation("memory_skip"), Operation("memory_delete", {"id": "#1"}))
    for between in ("; ", "\n", ", ", ""):
        assert operations.parse(skip + between + calls, SPECS, codec="llama3") == expected
    (error,) = operations.parse(skip[:-1], SPECS, codec="llama3")
    assert error.error == "malformed: cut off: the object is not closed"


def test_an_error_cannot_be_emitted():
    with pytest.raises(ValueError, match="malformed"):
        operations.emit([Operation("memory_insert", {}, error="malformed: x")])


@pytest.mark.parametrize(
    "body",
    [
        '```json\n{"name": "memory_insert", "arguments": {"content": "x y"}}\n```',
        '{"name": "memory_insert", "arguments": {"content": "x y",},}',
        "{'name': 'memory_insert', 'arguments': {'content': 'x y'}}",
        '{name: "memory_insert", arguments: {content: "x y"}}',
        '{"name": "memory_insert", "arguments": {"content": "x y"} // done\n}',
    ],
)
def test_slips_of_notation_are_repaired(body):
    assert only(qwen(body)) == Operation("memory_insert", {"content": "x y"})


def test_raw_newlines_in_a_string_are_kept():
    body = '{"name": "memory_insert", "arguments": {"content": "one\ntwo\tthree"}}'
    assert only(qwen(body)).arguments == {"content": "one\ntwo\tthree"}


@pytest.mark.parametrize("codec", CODECS)
def test_a_call_inside_a_thought_is_none(codec):
    inside, outside = (Operation("memory_insert", {"content": text}) for text in ("in a thought", "outside of it"))
    thought, said = operations.emit([inside], codec), operations.emit([outside], codec)
    for text in (
        f"<think>\n{thought}\n</think>\n{said}",
        f"{thought}\n</think>\n{said}",
        f"{said}\n<think>\n{thought}",
    ):
        assert operations.parse(text, SPECS, codec=codec) == (outside,)
    assert operations.parse(f"<think>{said}", SPECS, codec=codec) == ()
    assert operations.parse(said, SPECS, codec=codec, is_thinking=True) == ()
    assert operations.parse(f"{thought}</think>\n{said}", SPECS, codec=codec, is_thinking=True) == (outside,)


def test_a_call_without_arguments_may_leave_them_out():
    assert only(qwen('{"name": "memory_skip"}')) == Operation("memory_skip", {})


# --------------------------------------------------------------------------------------------------------------
# What is malformed
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"name": "memory_insert", "arguments": {"content": "half a sen', "cut off inside a string"),
        ('{"name": "memory_insert", "arguments": {"content": "x"}', "a brace is not closed"),
        ('{"name": "memory_insert", "arguments": {"content": "x"}}, "timestamp": "May"}', "text after the JSON object"),
        (insert("x") + insert("y"), "text after the JSON object"),
        ('{"name": "memory_insert", "arguments": {"content": "a" + "b"}}', "a repair would change the text"),
        ('{"name": "memory_insert", "arguments": {"content": "he said "hi" twice"}}', "a repair would change"),
        ('{"name": "memory_forget", "arguments": {}}', "unknown tool 'memory_forget'; known: memory_insert"),
        ('{"name": "memory_insert", "arguments": {}}', "missing argument 'content'"),
        ('{"name": "memory_insert", "arguments": {"content": "x", "when": "May"}}', "unexpected argument 'when'"),
        ('{"name": "memory_insert", "arguments": {"content": 3}}', "argument 'content' is not a string"),
        ('{"name": "memory_insert", "arguments": {"content": ["x"]}}', "argument 'content' is not a string"),
        ('{"name": "memory_insert", "arguments": {"content": null}}', "argument 'content' is not a string"),
        ('{"name": "memory_insert", "arguments": "x"}', "arguments are not an object"),
        ('{"name": "memory_insert", "arguments": {"content": "x"}, "id": "1"}', "unexpected key 'id'"),
        ('{"name": "memory_delete", "arguments": {"id": "a", "id": "b"}}', "a key is given twice"),
        ('{"name": "memory_insert", "arguments": {"content": "\\ud83d"}}', "not valid Unicode"),
        ('{"name": 7, "arguments": {}}', 'no string "name"'),
        ('{"arguments": {"content": "x"}}', 'no string "name"'),
        ('["memory_insert", "x"]', "not a JSON object"),
        ("```json\n" + insert("x"), "code fence not closed"),
        ("", "not a JSON object"),
        ("memory_insert(content='x')", "not a JSON object"),
        ("{" * 4000 + "}" * 4000, "not valid JSON"),
    ],
)
def test_bad_calls_are_recorded_with_the_reason(body, why):
    operation = only(qwen(body))
    assert operation.error.startswith("malformed: ") and why in operation.error
    assert operation.arguments == {}


def test_the_name_survives_an_error_where_it_was_read():
    assert only(qwen('{"name": "memory_insert", "arguments": {"content": 3}}')).name == "memory_insert"
    assert only("✿FUNCTION✿: memory_insert\n✿ARGS✿: {", "function_args").name == "memory_insert"


def test_a_call_without_its_tags_is_an_error_and_a_stray_tag_is_not():
    text = qwen(insert("x")) + "</tool_call>\n" + insert("y") + "\n</tool_call>\n<tool_call>\n" + insert("z")
    errors = [operation.error for operation in operations.parse(text, SPECS)]
    assert errors == ["", "malformed: no opening tag", "malformed: no closing tag: cut off"]


def test_a_second_opening_tag_ends_the_first_call():
    first, second = operations.parse("<tool_call>\n" + insert("x") + "\n" + qwen(insert("y")), SPECS)
    assert first.error == "malformed: no closing tag"
    assert second == Operation("memory_insert", {"content": "y"})


def test_invented_results_and_loops_add_nothing_but_the_calls_in_them():
    call = qwen(insert("x"))
    text = f"{call}\n<tool_response>stored</tool_response>\n" * 40 + "✿RESULT✿ " * 400
    assert operations.parse(text, SPECS) == (Operation("memory_insert", {"content": "x"}),) * 40


def test_json_outside_of_tags_is_no_call():
    assert operations.parse("```json\n" + insert("x") + "\n```", SPECS) == ()


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("✿FUNCTION✿: memory_skip\n✿FUNCTION✿: memory_skip\n✿ARGS✿: {}", ["malformed: no arguments", ""]),
        ("✿FUNCTION✿: memory_skip", ["malformed: no arguments: cut off"]),
        ("✿ARGS✿: {}", ["malformed: arguments without a function"]),
        ('✿FUNCTION✿: memory_insert\n✿ARGS✿: {"content": "half {x} a', ["malformed: cut off inside a string"]),
        ('✿FUNCTION✿: memory_insert\n✿ARGS✿: ```json\n{"content": "x"}\n```\nbye', [""]),
        ("✿RESULT✿: ok " * 50, []),
    ],
)
def test_function_args_failures(text, errors):
    assert [operation.error for operation in operations.parse(text, SPECS, codec="function_args")] == errors


@pytest.mark.parametrize("codec", CODECS)
@given(content=st.text(max_size=20), cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=80, deadline=None)
def test_a_cut_off_call_is_never_stored(codec, content, cut):
    whole = operations.emit([Operation("memory_insert", {"content": content})], codec)
    part = whole[: int(len(whole) * cut)]
    assert all(operation.error for operation in operations.parse(part, SPECS, codec=codec, is_cut=True))


def test_a_last_line_without_its_end_is_an_error_only_where_the_text_is_known_to_be_cut():
    text = "+ Anna moved to Oslo.\n+ Ben has a d"
    whole, part = Operation("memory_insert", {"content": "Anna moved to Oslo."}), "Ben has a d"
    assert operations.parse(text, SPECS, codec="lines") == (whole, Operation("memory_insert", {"content": part}))
    first, second = operations.parse(text, SPECS, codec="lines", is_cut=True)
    assert first == whole and second.error == "malformed: cut off: the line is not ended"
    assert operations.parse(text + "\n", SPECS, codec="lines", is_cut=True)[1].arguments == {"content": part}


def test_an_unknown_codec_names_the_known_ones():
    with pytest.raises(UserError, match="qwen"):
        operations.parse("", SPECS, codec="qwan")


# --------------------------------------------------------------------------------------------------------------
# Any text
# --------------------------------------------------------------------------------------------------------------

FRAGMENTS = (
    *("<tool_call>", "</tool_call>", "✿FUNCTION✿:", "✿ARGS✿:", "✿RESULT✿:", "memory_insert", "memory_skip"),
    *('{"name": "memory_insert", "arguments": {"content": "x"}}', '{"name":', '"arguments":', '"content":', "```js\n"),
    *("\n+ ", "\n= ", " | #1", "\n-", "\nskip\n", "+", "|", "\\n", "\\|", "<|python_tag|>", ";", '"parameters":'),
    *("{", "}", "[", "]", '"', "'", "\\", "\\u", ",", ":", "\n", "```", "//", "NaN", "1e999", "null", "a" + "\ud800"),
)


@pytest.mark.parametrize("codec", CODECS)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_one_outcome_per_call(codec, text):
    found = operations.parse(text, SPECS, codec=codec)
    for operation in found:
        assert operation.error.startswith("malformed: ") or (
            not operation.error and all(isinstance(value, str) for value in operation.arguments.values())
        )
        str(operation).encode()  # fit for a log file
    if codec == "qwen":
        strays = sum(operation.error == "malformed: no opening tag" for operation in found)
        assert len(found) - strays == text.count("<tool_call>")
    elif codec == "function_args":
        orphans = sum(operation.error == "malformed: arguments without a function" for operation in found)
        assert len(found) - orphans == text.count("✿FUNCTION✿")
    elif codec == "lines":
        assert len(found) == sum(_is_call(line.split()) for line in text.split("\n"))
    elif codec == "llama3":
        assert len(found) <= text.count("{")


def _is_call(words):
    return words[:1] in (["+"], ["="], ["-"]) or words == ["skip"]


def test_deep_nesting_is_given_up_at_once():
    def parsed(depth):
        assert only(qwen("{" * depth + "}" * depth)).error.startswith("malformed: not valid JSON")

    assert times_longer(parsed, 8000) < LINEAR


SIGNS = (
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        "\\u",
        ",",
        ":",
        "\n",
        "\r",
        "\u2028",
        "|",
        "#",
        "/*",
        "//",
        "```",
        "```\n",
        "{}",
    ),
    *("\n+ ", "\n= a | b", "\n= \\|", "\nskip", "+ \\", "<|python_tag|>{", "a{", "\n{", "{'a': 1,}\n", '{"a": "'),
    *("<tool_call>", "</tool_call>", "<tool_call>{", "</tool_call>{", "<tool_call>```\n", "<think>", "</think>"),
    *("✿FUNCTION✿", '✿ARGS✿:{"', "✿FUNCTION✿: memory_insert\n✿ARGS✿: {'content': 'x',}\n"),
    *(qwen("{"), qwen("{'a': 1,}"), qwen('{"name": "memory_insert", "arguments": {"content": "a" + "b"}}')),
)
ONE = [Operation("memory_delete", {"id": "1"})]
BEFORE = ("", "<tool_call>```\n", '<tool_call>{"name": "', "✿FUNCTION✿:x✿ARGS✿:{'", "+ ", "\n{")


def seconds(text, codec):
    start = time.thread_time()
    operations.parse(text, SPECS, codec=codec)
    return time.thread_time() - start


def growth(unit, before, codec, short, long):
    """By what factor the time of parsing grows with the text."""
    texts = [before + unit * (size // len(unit)) for size in (short, long)]
    took = [seconds(text, codec) for text in texts]
    if took[1] > 10 * took[0]:  # once more: what other processes do only ever adds time
        took = [min(first, seconds(text, codec)) for first, text in zip(took, texts, strict=True)]
    return took[1] / max(took[0], 1e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_the_time_of_parsing_grows_with_the_text_whatever_is_repeated(codec):
    for before in BEFORE:
        for unit in SIGNS:
            factor = growth(unit, before, codec, 1 << 12, 1 << 15)
            assert factor < 30, f"8 times the text: 8 times the time if linear, 64 if quadratic ({before!r}, {unit!r})"


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_five_megabytes_are_parsed_in_linear_time(codec):
    for unit in SIGNS:
        assert growth(unit, BEFORE[1], codec, 5 << 17, 5 << 20) < 30, unit


def test_of_a_text_of_nothing_but_calls_as_many_are_read_as_any_budget_allows():
    for codec in CODECS:
        found = operations.parse("\nskip\n" + (operations.emit(ONE, codec) + "\n") * 20_000, SPECS, codec=codec)
        assert len(found) == operations.MOST_CALLS


# --------------------------------------------------------------------------------------------------------------
# From text to outcomes
# --------------------------------------------------------------------------------------------------------------


def outcomes(text, codec="qwen"):
    """What becomes of every operation in `text`, on a memory that holds and shows #1 and #2."""
    memory = fakes.flat_memory()
    for content in ("one", "two"):
        memory, _ = memory.apply(Operation("memory_insert", {"content": content}), 0)
    parsed = operations.parse(text, SPECS, codec=codec)
    after, found = environment.apply(memory, parsed, 1, MemoryConfig(max_operations=50), memory.items)
    assert len(found) == len(parsed) and all(outcome.status for outcome in found)
    return after, [outcome.status for outcome in found]


def call(name, **arguments):
    return qwen(json.dumps({"name": name, "arguments": arguments}))


def test_a_skip_counts_alone_and_once():
    """Else it would buy the format reward: two broken calls of four scored .5, and .875 with twelve skips."""
    skip, broken = call("memory_skip"), call("memory_delete", id="#9")
    assert outcomes(skip)[1] == ["skipped"]
    good = call("memory_insert", content="a") + call("memory_insert", content="b")
    memory, found = outcomes(good + broken * 2 + skip * 12)
    assert found == ["applied"] * 2 + ["unknown id"] * 2 + ["skip beside other calls"] * 12 and len(memory.items) == 4
    assert outcomes(skip * 3)[1] == ["skip beside other calls"] * 3


def test_operations_that_name_one_id_twice_each_have_their_outcome():
    delete, update = call("memory_delete", id="#1"), call("memory_update", id="#1", content="new")
    memory, found = outcomes(delete + delete + update)
    assert found == ["applied", "unknown id", "unknown id"] and [item.id for item in memory.items] == ["#2"]


def test_a_loop_of_one_call_is_stored_once_and_cut_off_by_the_budget():
    memory, found = outcomes((call("memory_insert", content="again") + "\n") * 400)
    assert found == ["applied"] + ["duplicate"] * 49 + ["over limit"] * 350 and len(memory.items) == 3


def test_a_calls_invented_result_changes_nothing():
    text = call("memory_insert", content="x") + '\n<tool_response>{"id": "#9"}</tool_response>\n'
    memory, found = outcomes(text + call("memory_delete", id="#9"))
    assert found == ["applied", "unknown id"] and [item.id for item in memory.items] == ["#1", "#2", "#3"]


@pytest.mark.parametrize("codec", CODECS)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from((*FRAGMENTS, '{"id": "#1"}')), max_size=30).map("".join)))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_one_recorded_outcome_per_operation(codec, text):
    outcomes(text, codec)
