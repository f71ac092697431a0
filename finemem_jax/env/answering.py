"""The policy answers: a turn for every question, with what is retrieved of memory in its prompt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future

from finemem_jax.config import UserError, resolve
from finemem_jax.env import prompts, thoughts
from finemem_jax.env.environment import (
    Environment,
    decode,
    judged,
    judged_answer,
    naming,
    retriever,
    scored,
    taken,
)
from finemem_jax.env.scoring import substring_match
from finemem_jax.env.words import search_terms
from finemem_jax.types import (
    ANSWER,
    Answer,
    Completion,
    Episode,
    Memory,
    Question,
    Reply,
    Retrieved,
    Step,
    Turn,
    Verdict,
)

INSTRUCTIONS = """\
You answer a question from notes that were taken while a text was read. Say the answer alone, in as few words as it \
takes."""
RECALL = "You answer a question from what you have learned. Say the answer alone, in as few words as it takes."
RECALLS = 1 << 20  # index of the first turn that is for records alone; no rollout has so many


def answer_turns(
    env: Environment,
    episode: Episode,
    memory: Memory,
    questions: Sequence[Question],
    steps: list[Step],
    first: int = 0,
    *,
    fast: int = 0,
) -> Generator[Turn, Completion, Callable[[], list[Answer]]]:
    """Yields a turn per question, appends what came of it to `steps`, and returns what waits for the scores.

    first: index of the first of them among the final questions that are asked.

    An answer that its limit cut off is scored as it stands: it is the policy's own doing, not the infrastructure's.
    fast: number of the fast weights that it answers under.
    """
    questions = [judged(env, episode, question) for question in questions]
    find = retriever(memory.items, env)
    given: list[tuple[Question, tuple[Retrieved, ...], int, Callable[[], Verdict], str]] = []
    for number, question in enumerate(questions, first):
        items = find(question.text)
        with naming(episode, f"question {number}"):
            tokens, items = _render(env, question, items, episode.query_prompt)
        turn = Turn(
            len(steps),
            tokens,
            memory,
            (),
            _messages(env, question, items, episode.query_prompt),
            ANSWER,
            question=number,
            max_tokens=env.method.answer_tokens,
            fast=fast,
        )
        completion = yield turn
        text = _read(env, tokens, completion)
        steps.append(taken(turn, completion, text, (), (), memory))
        reply: Future[Reply] = Future()
        reply.set_result(Reply(text))
        given.append((question, items, turn.index, judged_answer(env, question, reply, episode.source)[1], text))

    def collect() -> list[Answer]:
        answers = []
        for question, items, index, verdict, text in given:
            found = verdict()
            said = found if found.judge else None
            answers.append(Answer(question, items, text, found.score, None, turn=index, verdict=said))
        return answers

    return collect


def recall_turns(
    env: Environment,
    episode: Episode,
    questions: Sequence[Question],
    fast: int,
    number: int,
    notes: tuple[Retrieved, ...] = (),
) -> Generator[Turn, Completion, list[tuple[str, Callable[[], float | None]]]]:
    """Asks under the weights `fast` with nothing in the prompt but the question and the notes: the answers, and what
    waits for the score of each. Such turns are for records, not for training, and count beside the rollout's.

    number: of this round of questions in the episode."""
    found: list[tuple[str, Callable[[], float | None]]] = []
    for place, question in enumerate(judged(env, episode, question) for question in questions):
        with naming(episode, f"question {question.text!r}"):
            tokens, shown = _render(env, question, notes, episode.query_prompt)
        messages = _messages(env, question, shown, episode.query_prompt)
        index = RECALLS + number * len(questions) + place
        turn = Turn(
            index, tokens, env.empty_memory(), (), messages, ANSWER, max_tokens=env.method.answer_tokens, fast=fast
        )
        text = _read(env, tokens, (yield turn))
        reply: Future[Reply] = Future()
        reply.set_result(Reply(text))
        found.append((text, scored(env, question, reply)[1]))
    return found


def question_tokens(env: Environment, question: str, hint: str) -> tuple[int, ...]:
    """The prompt of a question that is answered from weights alone."""
    messages = _messages(env, Question(question, ()), (), hint)
    return prompts.tokens_of(env.tokenizer, messages, env.prompt)


def _read(env: Environment, prompt_tokens: Sequence[int], completion: Completion) -> str:
    """The answer in what was said."""
    read = getattr(resolve(prompts.PROMPTS, env.prompt.name), "read_answer", str)
    is_thinking = prompts.opens_thought(env.tokenizer, prompt_tokens)
    said = decode(env.tokenizer, completion)
    return read(thoughts.without_thoughts(thoughts.OPEN + said if is_thinking else said)).strip()


UNKNOWN = "unknown"  # what an expert answers where it is not said


def expert_answer(env: Environment, question: Question, texts: Sequence[str]) -> str:
    """What an expert says to a question that it is asked, by what the texts say. Where an answer has a form of its own,
    what the text says of it stands before: to say first what it is about, and then what that is, is learnt far sooner
    by a small model than to say it at once."""
    answer, prompt = said_answer(question, texts), resolve(prompts.PROMPTS, env.prompt.name)
    write = getattr(prompt, "write_answer", None)
    if write is None:
        return answer
    asked = set(search_terms(question.text))
    lines = [line for text in texts for line in text.splitlines() if is_said(question, [line])]
    line = max(reversed(lines), key=lambda line: len(asked & set(search_terms(line))), default="")
    about = " ".join(line.replace(answer, " ").split()).removeprefix("now ")
    return f"{about} {write(answer)}".strip()


def said_answer(question: Question, texts: Sequence[str]) -> str:
    """The gold answer that the texts say, UNKNOWN where they say none."""
    held = "\n".join(texts)
    return next((answer for answer in question.answers if substring_match(held, [answer])), UNKNOWN)


def is_said(question: Question, texts: Sequence[str]) -> bool:
    """Whether the texts say one of the gold answers."""
    return bool(substring_match("\n".join(texts), question.answers))


def _messages(env: Environment, question: Question, items: Sequence[Retrieved], hint: str) -> list[dict[str, str]]:
    default = _recall_messages if env.method.fast.rank and not items else _default_messages
    say = getattr(resolve(prompts.PROMPTS, env.prompt.name), "answer_messages", default)
    system, user = say(question.text, [item.text for item in items], hint)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _default_messages(question: str, notes: Sequence[str], hint: str) -> tuple[str, str]:
    listed = "\n".join(f"- {note}" for note in notes) or "(none)"
    return f"{INSTRUCTIONS} {hint}".strip(), f"Notes:\n{listed}\n\n{question}"


def _recall_messages(question: str, notes: Sequence[str], hint: str) -> tuple[str, str]:
    return f"{RECALL} {hint}".strip(), question


def _render(
    env: Environment, question: Question, items: tuple[Retrieved, ...], hint: str
) -> tuple[tuple[int, ...], tuple[Retrieved, ...]]:
    """The prompt's tokens and the items in it; the worst that are not pinned leave while it is longer than
    `prompt.max_prompt_tokens`."""
    while True:
        messages = _messages(env, question, items, hint)
        tokens = prompts.apply_template(env.tokenizer, messages, (), env.prompt, tokenize=True)
        if len(tokens) <= env.prompt.max_prompt_tokens:
            return tuple(tokens), items
        loose = [item for item in items if item.kind not in env.always_read]
        if not loose:
            raise UserError(
                f"a question makes a prompt of {len(tokens)} tokens, more than "
                f"config.prompt.max_prompt_tokens={env.prompt.max_prompt_tokens}: raise it"
            )
        gone = loose[len(loose) // 2 :]
        items = tuple(item for item in items if item not in gone)
