"""What a step logs of its rollouts, rewards, updates and engine, and what the live view shows of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from finemem_jax.decoding.request import EngineStats
from finemem_jax.env.credit import complete
from finemem_jax.env.turns import Turns, around_mean, step_keys, totals, variance_shares
from finemem_jax.evaluation.intervals import ratio_interval
from finemem_jax.types import EXTRACT, WRITE, Rollout, Step, asked_key


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What the policy wrote in a step's rollouts; without an accuracy where every answer is missing, and without
    operations where the method has no writing turns."""
    writes = [turn for rollout in rollouts for turn in rollout.steps if turn.role in (WRITE, EXTRACT)]
    turns = [turn for rollout in rollouts for turn in rollout.steps]
    return {
        **_accuracy(rollouts),
        **(_operations(writes) if writes else {}),
        "memory_tokens": float(np.mean([rollout.memory.tokens() if rollout.memory else 0 for rollout in rollouts])),
        "completion_tokens": float(np.mean([len(turn.completion.tokens) for turn in turns])),
        "unfinished": float(np.mean([turn.completion.finish == "length" for turn in turns])),
        **fast_metrics(rollouts),
    }


def _accuracy(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean score of the final questions, with its 95 % bootstrap interval over the episodes: their samples answer the
    same questions. No interval for a single episode, which says nothing about others."""
    asked = [(rollout.group, answer.score) for rollout in rollouts for answer in rollout.final_answers]
    final = [(group, score) for group, score in asked if score is not None]
    if not final:
        return {} if asked else {"accuracy": 0.0}
    line = {"accuracy": float(np.mean([score for _, score in final]))}
    by_episode: dict[int, list[float]] = {}
    for group, score in final:
        by_episode.setdefault(group, []).append(score)
    if len(by_episode) > 1:
        scores = list(by_episode.values())
        low, high = ratio_interval([sum(own) for own in scores], [len(own) for own in scores], seed=0)
        line |= {"accuracy_low": low, "accuracy_high": high}
    return line


def _operations(writes: Sequence[Step]) -> dict[str, float]:
    outcomes = [outcome for turn in writes for outcome in turn.outcomes]
    return {
        "valid_operations": float(np.mean([o.ok for o in outcomes])) if outcomes else 0.0,
        "operations_per_step": len(outcomes) / len(writes),
        "updates_per_step": sum(o.ok and o.verb == "update" for o in outcomes) / len(writes),
    }


def fast_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What was written into fast weights, and what they answer by themselves; nothing where there are none."""
    writes = [write for rollout in rollouts for write in rollout.writes]
    if not writes:
        return {}
    line = {
        "fast/writes": len(writes) / len(rollouts),
        "fast/texts": float(np.mean([write.texts for write in writes])),
        "fast/loss_before": float(np.mean([write.loss_before for write in writes])),
        "fast/loss_after": float(np.mean([write.loss_after for write in writes])),
    }
    recalls = [recall for write in writes for recall in write.recalls]
    for name in ("before", "after"):
        scores = [score for recall in recalls if (score := getattr(recall, f"score_{name}")) is not None]
        line |= {f"fast/recall_{name}": float(np.mean(scores))} if scores else {}
    return line


def reward_metrics(
    turns: Turns, weights: Mapping[str, float], advantages: np.ndarray, keys: np.ndarray
) -> dict[str, float]:
    """Of every term: mean, spread at the same turn, share of the advantages' variance. How many comparisons carry a
    gradient, and how many have no reward. What was not measured at all (every answer is missing) is left out.

    advantages: [turns]. keys: [turns], what is compared with what under the credit rule.
    """
    same_turn = step_keys(turns)
    rewards = complete(totals(turns, weights), keys)
    is_rewarded = ~np.isnan(rewards)
    line = {"reward/total": float(np.nanmean(rewards))} if is_rewarded.any() else {}
    for name, term in turns.terms.items():
        spoken = turns.speaks[name]
        present = spoken & ~np.isnan(term)
        if not present.any():
            continue
        line[f"reward/{name}"] = float(np.mean(term[present]))
        line[f"spread/{name}"] = float(np.sqrt((around_mean(term, same_turn, present) ** 2).sum() / present.sum()))
    shares = variance_shares(turns, weights, advantages, keys)
    line |= {f"share/{name}": share for name, share in shares.items()}
    comparisons = int(keys.max()) + 1 if len(keys) else 0
    has_reward = np.zeros(comparisons, bool)
    has_reward[keys[is_rewarded]] = True
    if has_reward.any():
        live = np.zeros(comparisons, bool)
        live[keys[np.nan_to_num(np.abs(advantages)) > 0]] = True
        line["groups_with_gradient"] = float(live[has_reward].mean())
    line["missing_rewards"] = int((~has_reward).sum()) / max(comparisons, 1)
    return line


def asked_metrics(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """What the answerer was asked in a step, by what for; a question asked twice counts twice, whatever it cost.

    distinct: different questions, with different items, of the step: what it costs where each is answered once.
    uncited: answers to final questions that were to say which items they stand in and said none."""
    final = [answer for rollout in rollouts for answer in rollout.final_answers]
    asked = [answer.reply for answer in final if answer.retrieved and answer.reply is not None]
    return {
        "asked/distinct": len({key for rollout in rollouts for key in _asked(rollout)}),
        "asked/chunk": sum(len(rollout.answers) for rollout in rollouts) - len(final),
        "asked/final": len(final),
        "asked/gain": sum(len(rollout.probes) for rollout in rollouts),
        "asked/attribution": sum(len(answer.subsets) for answer in final),
        "asked/uncited": sum(reply.cited == () for reply in asked),
    }


def _asked(rollout: Rollout) -> Iterator[int]:
    """A number for every question put to the answerer, the same for the same question from the same items."""
    for answer in rollout.answers:
        if answer.turn is None:  # else the policy answered
            texts = [item.text for item in answer.retrieved]
            yield asked_key(answer.question.text, texts)
            for bits, _ in answer.subsets:
                yield asked_key(answer.question.text, [text for i, text in enumerate(texts) if bits >> i & 1])
    for probe in rollout.probes:
        yield probe.asked


def sampled_tokens(groups: Sequence[Sequence[Rollout]]) -> int:
    """Tokens that were sampled for these rollouts."""
    return sum(len(turn.completion.tokens) for group in groups for rollout in group for turn in rollout.steps)


def resample_metrics(groups: Sequence[object], places: Sequence[int | None]) -> dict[str, int]:
    """How many groups were drawn, and how many of the step's places are empty, in a run that leaves out those without
    spread."""
    return {"groups_drawn": len(groups), "groups_lacking": sum(place is None for place in places)}


def loss_metrics(losses: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Means over the step's updates. "first_…" is of the first, where the importance ratio is 1 but for rounding.
    Nothing where no group had a reward, and so no update was made."""
    if not losses:
        return {}
    names = losses[0][1]
    line = {f"loss/{name}": float(np.mean([values[name] for _, values in losses])) for name in names}
    line["loss/first_log_ratio_abs_max"] = losses[0][1]["log_ratio_abs_max"]
    line["padding_share"] = float(np.mean([share for share, _ in losses]))
    return line


def engine_metrics(prefix: str, stats: EngineStats, seconds: float) -> dict[str, float]:
    """What the engine did in a phase that took so many seconds."""
    return {
        f"{prefix}/occupancy": stats.occupancy,
        f"{prefix}/completions": stats.completions,
        f"{prefix}/sampled_tokens": stats.sampled_tokens,
        f"{prefix}/tokens_per_second": stats.sampled_tokens / seconds if seconds else 0.0,
        f"{prefix}/device_seconds": stats.device_seconds,
        f"{prefix}/host_seconds": stats.host_seconds,
        f"{prefix}/shapes": len(stats.shapes),
    }


def live_values(line: Mapping[str, float], timing: Mapping[str, float], alarms: int) -> dict[str, float | str]:
    """What the live view shows of a step. alarms: how many the run has had so far."""
    terms: dict[str, float | str] = {
        name.removeprefix("reward/"): value for name, value in line.items() if name.startswith("reward/")
    }
    shown = {"reward": terms.pop("total", "missing"), **terms, "accuracy": line.get("accuracy", "missing")}
    shown |= {
        **({"valid": line["valid_operations"]} if "valid_operations" in line else {}),
        "memory tokens": line["memory_tokens"],
        "tokens/s": timing["engine/tokens_per_second"],
    }
    return shown | {"occupancy": timing["engine/occupancy"]} | ({"ALARMS": alarms} if alarms else {})
