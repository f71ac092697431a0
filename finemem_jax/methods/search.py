"""A search agent over the episode's chunks (MEM1 as it was published): how many turns there are is the policy's choice.

The questions stand in every prompt. A turn thinks between <think> and </think>, and then searches or answers:

    <search>words</search>          the `config.retrieval.k` chunks that are found stand in the next turn's prompt
    <answer>what it is</answer>     ends the episode; several questions are answered one a line (or between semicolons)

The closing tag ends the turn. The next one sees the questions, the last search with what it found, how many of the
`config.method.turns` turns are left, and the state, which is what memory holds: with `config.memory.name=overwrite` and
`config.prompt.codec=think` the last thought. All that was said before is gone. A turn that does neither, that is cut
off, or that searches when it is the last one ends the episode without an answer. Questions that are due behind an
earlier chunk are asked with the others.

Every turn is a training sequence of its own, with the tokens that stood in its context; nothing is masked. Its number
says nothing about what it does, so turns are never compared by it (`OWN_TURNS`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from finemem_jax.config import UserError, resolve
from finemem_jax.env import operations, prompts
from finemem_jax.env.answering import is_said, said_answer
from finemem_jax.env.environment import (
    METHODS,
    Ask,
    Asked,
    Environment,
    Game,
    apply,
    finisher,
    judged,
    naming,
    read,
    retriever,
    scored,
    taken,
)
from finemem_jax.env.stopping import StopStrings
from finemem_jax.env.thoughts import is_thinking
from finemem_jax.types import (
    SEARCH,
    Answer,
    Episode,
    Memory,
    MemoryItem,
    Operation,
    Question,
    Reply,
    Retrieved,
    Step,
    Turn,
)

OWN_TURNS = True

INSTRUCTIONS = """\
You answer questions by searching a collection of texts, step by step. In each step first think between <think> and \
</think>: write down all that you found out and what is still missing, for of all before the next step you will see \
this thought alone, with your last search and what it found. Then do one of two things: search, with \
<search>words to look for</search>, or, if you know enough, answer, with <answer>the answer alone, as short as it can \
be</answer>."""
SEVERAL = "There are several questions: give one answer a line, in their order."
LAST = "This is your last step: answer."

_ANSWERS = "answer"


def play(
    env: Environment,
    episode: Episode,
    asked: Asked,
    ask: Ask,
    *,
    group: int = 0,
    sample: int = 0,
    write: Callable[[Episode, Turn], Sequence[Operation]] | None = None,
) -> Game:
    """One rollout of an episode. A writer in the policy's place has nothing to look for: it writes over the stream."""
    if write is not None:
        stream = resolve(METHODS, "stream")
        return (yield from stream.play(env, episode, asked, ask, group=group, sample=sample, write=write))
    questions = [judged(env, episode, question) for question in asked.final]
    texts = [MemoryItem(f"#{chunk.index + 1}", chunk.text, chunk.index) for chunk in episode.chunks]
    find = retriever(texts, env)
    memory: Memory = env.empty_memory()
    steps: list[Step] = []
    query = ""
    found: tuple[Retrieved, ...] = ()
    answers = [""] * len(questions)
    while questions and len(steps) < env.method.turns:
        with naming(episode, f"turn {len(steps)}"):
            turn, found = _turn(env, episode, questions, memory, query, found, len(steps))
        completion = yield turn
        text, written = read(env, turn, completion)
        memory, outcomes = apply(memory, written, turn.index, env.memory, turn.visible)
        steps.append(taken(turn, completion, text, written, outcomes, memory))
        verb, body = action(text)
        if verb == _ANSWERS:
            answers = split_answers(body, len(questions))
        if verb != SEARCH:
            break
        query, found = body, find(body)
    return finisher(episode, steps, [_collector(env, questions, answers, found, steps)], group, sample)


def examples(mark: str) -> list[str]:
    """What its turns say, with a mark for what differs."""
    written = [f"<{verb}>{mark}</{verb}>" for verb in (SEARCH, _ANSWERS)]
    for count, left, is_first, texts in itertools.product((1, 2), (1, 2), (True, False), ((), (mark,))):
        written += search_messages([mark] * count, mark, mark, texts, turns_left=left, is_first=is_first, hint="")
    return written


def demonstrate(
    env: Environment, episode: Episode, asked: Asked, write: Callable[[Episode, Turn], Sequence[Operation]]
) -> Callable[[Turn], str]:
    """The expert searches for one question after the other, notes the lines that answer it, and answers when all have
    been searched for. What it would not have written, had it read the chunk in a writing turn, it overlooks."""
    find = retriever([MemoryItem(f"#{chunk.index + 1}", chunk.text, chunk.index) for chunk in episode.chunks], env)
    waiting, known = list(asked.final), list[str]()
    sought: Question | None = None
    found: tuple[Retrieved, ...] = ()

    def speak(turn: Turn) -> str:
        nonlocal sought, found
        for text in found:
            kept = write(episode, replace(turn, visible=(), chunk=text.written_at))
            told = "\n".join(str(value) for operation in kept for value in operation.arguments.values()).splitlines()
            known.extend(line for line in told if sought and line not in known and is_said(sought, [line]))
        thought = "\n".join(known) or "nothing so far"
        state = Operation(env.specs[0].name, env.specs[0].example(thought))
        said = operations.emit([state], env.prompt.codec, env.specs)
        if not waiting or turn.index == env.method.turns - 1:
            answers = "\n".join(said_answer(question, known) for question in asked.final)
            return f"{said}<{_ANSWERS}>{answers}</{_ANSWERS}>"
        sought = waiting.pop(0)
        found = find(sought.text)
        return f"{said}<{SEARCH}>{sought.text}</{SEARCH}>"

    return speak


def action(text: str) -> tuple[str, str]:
    """What a turn does, "search" or "answer", and with which words; ("", "") where it does neither."""
    for verb in (SEARCH, _ANSWERS):
        said, opened, closed = text.rstrip(), f"<{verb}>", f"</{verb}>"
        start = said.rfind(opened)
        if start >= 0 and said.endswith(closed) and not is_thinking(said[:start]):
            return verb, said[start + len(opened) : -len(closed)].strip()
    return "", ""


def split_answers(text: str, count: int) -> list[str]:
    """`count` answers: the lines, or what stands between semicolons where there is one line; what lacks is empty."""
    if count == 1:
        return [text]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    parts = lines if len(lines) > 1 else [part.strip() for part in text.split(";")]
    return [*parts, *[""] * count][:count]


def _turn(
    env: Environment,
    episode: Episode,
    questions: Sequence[Question],
    memory: Memory,
    query: str,
    found: tuple[Retrieved, ...],
    index: int,
) -> tuple[Turn, tuple[Retrieved, ...]]:
    """Turn number `index`, and the texts in its prompt: the worst leave while it is longer than
    `prompt.max_prompt_tokens`."""
    left = env.method.turns - index
    say = getattr(resolve(prompts.PROMPTS, env.prompt.name), "search_messages", search_messages)
    stop = StopStrings(env.tokenizer, ("</answer>",) if left == 1 else ("</search>", "</answer>"))
    while True:
        system, user = say(
            [question.text for question in questions],
            "\n".join(item.text for item in memory.items),
            query,
            [item.text for item in found],
            turns_left=left,
            is_first=index == 0,
            hint=episode.query_prompt,
        )
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        tokens = prompts.apply_template(env.tokenizer, messages, (), env.prompt, tokenize=True)
        assert isinstance(tokens, list)
        if len(tokens) <= env.prompt.max_prompt_tokens:
            return Turn(index, tuple(tokens), memory, memory.items, messages, SEARCH, stop=stop), found
        if not found:
            raise UserError(
                f"its questions and its state make a prompt of {len(tokens)} tokens, more than "
                f"config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}: raise it"
            )
        found = found[: len(found) // 2]


def search_messages(
    questions: Sequence[str],
    state: str,
    query: str,
    texts: Sequence[str],
    *,
    turns_left: int,
    is_first: bool,
    hint: str,
) -> tuple[str, str]:
    """(system, user) of a turn. A prompt may have its own of that name."""
    system = f"{INSTRUCTIONS} {SEVERAL if len(questions) > 1 else ''} {hint}".strip()
    turns = LAST if turns_left == 1 else f"Steps left: {turns_left}."
    user = "\n".join(["Question:" if len(questions) == 1 else "Questions:", *questions])
    if is_first:
        return system, f"{user}\n\n{turns}"
    listed = "\n\n".join(texts) or "(nothing was found)"
    last = f"<think>\n{state}\n</think>\n<search>{query}</search>\n<information>\n{turns}\n\n{listed}\n</information>"
    return system, f"{user}\n\n{last}"


def _collector(
    env: Environment,
    questions: Sequence[Question],
    answers: Sequence[str],
    found: tuple[Retrieved, ...],
    steps: Sequence[Step],
) -> Callable[[], list[Answer]]:
    """What waits for the scores. An answer that was never given is empty: it is the policy's own doing."""
    given = []
    for question, text in zip(questions, answers, strict=True):
        reply: Future[Reply] = Future()
        reply.set_result(Reply(text))
        given.append((question, text, scored(env, question, reply)[1]))

    def collect() -> list[Answer]:
        return [Answer(question, found, text, score(), None, turn=steps[-1].index) for question, text, score in given]

    return collect
