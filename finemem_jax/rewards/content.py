"""Whether what a turn wrote is fit for the part of memory it went to, by a judge's word (Mem-α's r4).

    r(t) = mean over the operations of turn t of v, v = 1 where the judge says yes

An operation that wrote nothing (a removal, a skip, a call that failed) and what is gone by the end of its turn count 0,
and so does a turn without a call. The judge sees the text alone, not the chunk: it says whether it is of its kind, not
whether it is true. It is asked while the episode goes on; where it failed the turn has no reward.
"""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import WRITE, CountTokens, JudgeRequest, MemoryItem, Rollout

ROLES, LEVEL = (WRITE,), "turn"

_TERM = "content"
_FIT = {
    "core": "It describes in a few sentences what is always to be known: a person, a story so far, rules. It is "
    "neither a placeholder nor a remark about the memory itself.",
    "semantic": "It states knowledge that can be understood by itself: a fact, a definition, a finding, how something "
    "is done, a labelled example. It is not an event in somebody's day.",
    "episodic": "It tells an event or an action, with who did it and when, and can be understood by itself.",
}
_ANY = (
    "It states something that can be understood by itself. It is neither a placeholder nor a remark about the memory."
)


def judgement(item: MemoryItem) -> JudgeRequest:
    """What a judge is asked of an item."""
    kind = f"the {item.kind} memory" if item.kind in _FIT else "a memory"
    return JudgeRequest(
        f"Write an entry of {kind} of an assistant.", (_FIT.get(item.kind, _ANY),), item.text, task="write"
    )


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[writing turns] in [0, 1]; NaN (missing, not 0) where the judge failed on one of the turn's entries."""
    said: dict[int, list[float | None]] = {}
    for found in rollout.judgements:
        if found.term == _TERM:
            said.setdefault(found.turn, []).append(found.score)
    rewards = []
    for turn in rollout.of(WRITE):
        scores = [np.nan if score is None else score for score in said.get(turn.index, [])]
        rewards.append(sum(scores) / max(len(turn.outcomes), 1))
    return np.array(rewards, dtype=np.float64)
