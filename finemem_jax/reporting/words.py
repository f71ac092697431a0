"""What the names that a run logs mean, in a few words: titles of curves and columns."""

from __future__ import annotations

import re

_WORDS = {
    "accuracy": "Accuracy",
    "valid_operations": "Operations that applied",
    "well_formed": "Well-formed operations",
    "exact_copy": "Contents copied word for word",
    "operations_per_step": "Operations a step",
    "updates_per_step": "Updates a step",
    "memory_tokens": "Memory, tokens",
    "memory_items": "Memory, items",
    "completion_tokens": "Tokens written a turn",
    "unfinished": "Turns cut at the length limit",
    "missing_answers": "Answers that did not come",
    "questions": "Questions",
    "wrong": "Wrong answers",
    "cost": "Cost of answers",
    "nll": "Surprise at the expert's turns",
    "reward/total": "Reward in all",
    "groups_with_gradient": "Comparisons with a gradient",
    "groups_drawn": "Groups drawn",
    "groups_lacking": "Places left empty",
    "missing_rewards": "Comparisons without a reward",
    "padding_share": "Padding in the rows",
    "loss/loss": "Loss",
    "loss/surrogate_loss": "Policy-gradient loss",
    "loss/ref_kl": "KL to the reference",
    "loss/ratio": "Importance ratio, mean",
    "loss/ratio_max": "Importance ratio, largest",
    "loss/log_ratio_abs_max": "Log ratio, largest",
    "loss/first_log_ratio_abs_max": "Gap of sampler and trainer",
    "loss/clipped_high": "Tokens clipped from above",
    "loss/clipped_low": "Tokens clipped from below",
    "loss/clipped_dual": "Tokens clipped twice",
    "loss/old_kl": "Drift since the rollouts",
    "loss/nll": "Surprise at what was trained on",
    "loss/entropy": "Entropy of the policy",
    "loss/grad_norm": "Gradient norm",
    "loss/skipped_updates": "Updates left out",
    "engine/occupancy": "Decoding slots in use",
    "engine/tokens_per_second": "Tokens sampled a second",
    "engine/shapes": "Compiled shapes",
}
_BEGINNINGS = {
    "failure/": "Lost at ",
    "operations/": "Operations a step: ",
    "reward/": "Reward: ",
    "share/": "Share of the advantage: ",
    "spread/": "Spread in groups: ",
    "seconds/": "Seconds: ",
    "engine/evaluate/": "Engine in evaluations: ",
    "engine/": "Engine: ",
    "answerer/": "Answerer: ",
    "budget/": "Spent so far: ",
    "source/": "Source: ",
    "accuracy/": "",
    "loss/": "Loss: ",
}


def words(name: str) -> str:
    """The name in words; one that is not known is spelled out."""
    if name in _WORDS:
        return _WORDS[name]
    for beginning, said in _BEGINNINGS.items():
        if name.startswith(beginning):
            return said + _spelled(name.removeprefix(beginning))
    spelled = _spelled(name)
    return spelled[:1].upper() + spelled[1:]


def _spelled(name: str) -> str:
    return re.sub(r"[_/]+", " ", name).strip() or name
