"""What fast weights learn of a text: the turn in which the policy says it, and the token sequences that are trained on.

`config.method.fast.supervision` says what is learned: question and answer pairs that the policy writes about the text
(TMEM, arXiv 2606.04536), the text itself, or the policy's own summary of it. What is learned of a pair is the answer to
its question as it will be asked, in the same prompt; `forms` adds others, since weights that have learned one wording
may answer nothing under another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finemem_jax.config import FastConfig
from finemem_jax.env import operations, prompts, thoughts
from finemem_jax.env.answering import question_tokens
from finemem_jax.env.environment import Environment, decode
from finemem_jax.exits import UserError
from finemem_jax.types import (
    EXTRACT,
    Chunk,
    Completion,
    Episode,
    Lesson,
    Memory,
    Operation,
    Outcome,
    Question,
    ToolSpec,
    Turn,
)

PAIR = ToolSpec(
    "memory_learn",
    "A question and its reply are learned.",
    {
        "question": "A question about the text, to be understood without it.",
        "reply": "The answer that the text gives, in as few words as it takes.",
    },
)
SUMMARY = "summary"  # name of the operation of a turn that writes one text

_PAIRS = """\
You will forget this text, and questions about any detail of it will be asked later. Write pairs of a question and its \
reply about all that may be asked. Each question stands by itself; each reply is in the text."""
_SUMMARY = """\
You will forget this text, and questions about any detail of it will be asked later. Write down, in plain sentences, \
all that may be asked. Each sentence stands by itself."""


def contexts(episode: Episode, env: Environment) -> Iterator[tuple[Chunk, ...]]:
    """The chunks that are read before each write: as many as hold `context_tokens`, at least one."""
    held: list[Chunk] = []
    tokens = 0
    for chunk in episode.chunks:
        length = env.count_tokens(chunk.text)
        if held and tokens + length > env.method.fast.context_tokens:
            yield tuple(held)
            held, tokens = [], 0
        held.append(chunk)
        tokens += length
    if held:
        yield tuple(held)


def extract_turn(
    env: Environment, context: Sequence[Chunk], index: int, memory: Memory, fast: int, question: str = ""
) -> Turn:
    """The turn in which the policy says what is to be learned of a context. question: what it may know of those that
    will be asked."""
    text = "\n\n".join(chunk.text for chunk in context)
    is_pairs = env.method.fast.supervision == "pairs"
    say = getattr(prompts.module(env.prompt), "extract_messages", None)
    if say is not None:
        system, user = say(text, question)
    else:
        described = operations.instructions([PAIR], env.method.fast.codec)
        system = f"{_PAIRS}\n\n{described}" if is_pairs else _SUMMARY
        user = f"{text}\n\n{question}" if question else text
    messages = prompts.arranged(env.tokenizer, system, user, env.prompt)
    tokens = prompts.tokens_of(env.tokenizer, messages, env.prompt)
    if len(tokens) > env.prompt.max_prompt_tokens:
        raise UserError(
            f"the {len(context)} chunks before a write make a prompt of {len(tokens)} tokens, more than "
            f"config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}: raise it, or lower "
            f"config.method.fast.context_tokens={env.method.fast.context_tokens}"
        )
    return Turn(index, tokens, memory, (), messages, EXTRACT, context[-1].index, fast=fast)


def read(
    env: Environment, turn: Turn, completion: Completion, hint: str
) -> tuple[str, tuple[Operation, ...], tuple[Outcome, ...], tuple[Lesson, ...]]:
    """The text of such a turn, what it says, what became of each, and what is learned of it. Never raises on what a
    policy wrote."""
    cfg, text = env.method.fast, decode(env.tokenizer, completion)
    is_thinking = prompts.opens_thought(env.tokenizer, turn.prompt_tokens)
    is_cut = completion.finish == "length"
    if cfg.supervision == "pairs":
        found = operations.parse(text, [PAIR], codec=cfg.codec, is_cut=is_cut, is_thinking=is_thinking)
        outcomes, lessons = _judge(env, found, hint)
        return text, found, outcomes, lessons
    said = thoughts.without_thoughts(thoughts.OPEN + text if is_thinking else text).strip()
    if not said:
        return text, (), (), ()
    lessons = text_lessons(env, said)
    outcome = Outcome("over limit", ok=False) if is_cut else Outcome("applied", ok=True, verb="insert")
    return text, (Operation(SUMMARY, {"content": said}),), (outcome,), lessons


def _judge(env: Environment, found: Sequence[Operation], hint: str) -> tuple[tuple[Outcome, ...], tuple[Lesson, ...]]:
    """What becomes of every pair, and the lessons of those that are learned."""
    cfg, seen, learned = env.method.fast, set(), []
    outcomes = []
    for operation in found:
        if operation.error:
            outcomes.append(Outcome(operation.error, ok=False))
            continue
        question, reply = (str(operation.arguments[name]).strip() for name in ("question", "reply"))
        key = " ".join(question.casefold().split())
        if not question or not reply:
            outcomes.append(Outcome("malformed: empty question or reply", ok=False))
        elif key in seen:
            outcomes.append(Outcome("duplicate", ok=False))
        else:
            lessons = pair_lessons(env, question, reply, hint)
            fits = all(len(lesson.tokens) <= cfg.text_tokens for lesson in lessons)
            if not fits or len(learned) + len(lessons) > cfg.max_texts:
                outcomes.append(Outcome("over limit", ok=False))
            else:
                seen.add(key)
                learned += lessons
                outcomes.append(Outcome("applied", ok=True, verb="insert"))
    return tuple(outcomes), tuple(learned)


def pair_lessons(env: Environment, question: str, reply: str, hint: str = "") -> list[Lesson]:
    """A pair in every form of the config. question = as it will be asked, then the reply, which alone is learned where
    `learns` says so | statement = one text, all of it | turned = the reply first."""
    cfg: FastConfig = env.method.fast
    end = env.tokenizer.eos_token_id
    lessons = []
    for form in cfg.forms:
        if form == "question":
            prompt = question_tokens(env, question, hint)
            answer = env.tokenizer.encode(reply, add_special_tokens=False)
            start = len(prompt) if cfg.learns == "answer" else 1
            lessons.append(Lesson((*prompt, *answer, end), start))
        else:
            text = f"{question} {reply}" if form == "statement" else f"{reply}: {question}"
            lessons.append(Lesson((*env.tokenizer.encode(text, add_special_tokens=False), end)))
    return lessons


def text_lessons(env: Environment, text: str) -> tuple[Lesson, ...]:
    """A text in pieces of `text_tokens`, all of it learned, the first `max_texts` of them."""
    cfg = env.method.fast
    tokens = [*env.tokenizer.encode(text, add_special_tokens=False), env.tokenizer.eos_token_id]
    pieces = [tokens[start : start + cfg.text_tokens] for start in range(0, len(tokens), cfg.text_tokens)]
    return tuple(Lesson(tuple(piece)) for piece in pieces[: cfg.max_texts] if len(piece) > 1)


def gold(env: Environment, context: Sequence[Chunk]) -> str:
    """What an expert says in the turn about a context: the questions about its chunks with the answers that stand in
    them, in that order; of a question that is asked again, the last answer. A summary is the text itself."""
    if env.method.fast.supervision != "pairs":
        return "\n".join(chunk.text for chunk in context)
    pairs = [(question.text, question.answers[0]) for question in gold_questions(context)]
    written = [Operation(PAIR.name, dict(zip(PAIR.parameters, pair, strict=True))) for pair in pairs]
    return operations.emit(written, env.method.fast.codec, [PAIR]) or "Nothing."


def gold_questions(context: Sequence[Chunk]) -> list[Question]:
    """The questions about the chunks whose first answer stands in them, in the order of the answers; of a question that
    is asked again, the last."""
    found: dict[str, tuple[tuple[int, int], Question]] = {}
    for number, chunk in enumerate(context):
        for question in chunk.questions:
            place = chunk.text.find(question.answers[0]) if question.answers else -1
            if place >= 0:
                found[question.text] = ((number, place), question)
    return [question for _, question in sorted(found.values(), key=lambda placed: placed[0])]


def gold_lessons(env: Environment, context: Sequence[Chunk], hint: str) -> tuple[Lesson, ...]:
    """What an expert's turn about a context leaves to be learned."""
    cfg, text = env.method.fast, gold(env, context)
    if cfg.supervision != "pairs":
        return text_lessons(env, text)
    return _judge(env, operations.parse(text, [PAIR], codec=cfg.codec), hint)[1]
