"""What was spent.

policy_calls               completions of the policy, 0 where a script writes
policy_prompt_tokens       and policy_completion_tokens of all of them
answer_calls               calls of the answerer, identical ones counted once
answer_prompt_tokens       and answer_completion_tokens of them; 0 without a model
cost                       of the answerer's by `config.answerer.price_prompt` and `price_completion`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finemem_jax.config import Config
from finemem_jax.types import Rollout

IN_TRAINING = False
_POLICY = ("policy_calls", "policy_prompt_tokens", "policy_completion_tokens")
_ANSWERER = ("answer_calls", "answer_prompt_tokens", "answer_completion_tokens")
COLUMNS = {**dict.fromkeys((*_POLICY, *_ANSWERER), ".0f"), "cost": ".4f"}
TABLE = "calls and tokens spent"


def record(rollout: Rollout, has_model: bool) -> dict:
    """calls: the answerer's distinct ones, as (key, prompt tokens, completion tokens)."""
    replies = [answer.reply for answer in rollout.answers if answer.reply is not None and answer.reply.key]
    calls = sorted({(reply.key[:16], reply.prompt_tokens, reply.completion_tokens) for reply in replies})
    steps = rollout.steps if has_model else ()
    read, written = (len(s.prompt_tokens) for s in steps), (len(s.completion.tokens) for s in steps)
    return {"policy": [len(steps), sum(read), sum(written)], "calls": [list(call) for call in calls]}


def metrics(records: Sequence[Mapping], cfg: Config) -> dict[str, float]:
    calls = {call[0]: call[1:] for found in records for call in found["calls"]}
    answers = [len(calls), *(sum(call[i] for call in calls.values()) for i in (0, 1))]
    prices = (cfg.answerer.price_prompt, cfg.answerer.price_completion)
    return {
        **{name: sum(found["policy"][i] for found in records) for i, name in enumerate(_POLICY)},
        **dict(zip(_ANSWERER, answers, strict=True)),
        "cost": (answers[1] * prices[0] + answers[2] * prices[1]) / 1e6,
    }
