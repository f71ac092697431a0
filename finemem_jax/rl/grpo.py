"""The clipped policy-gradient loss with a KL term to a reference policy.

Groups and rewards are settled on the host: here the loss is a plain weighted sum over tokens, so it is exact under
any microbatching, sharding, packing or padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from finemem_jax.config import LossConfig
from finemem_jax.rl.batch import RolloutBatch
from finemem_jax.rl.metrics import Max, Mean, Metrics, Sum


def policy_loss(
    logprobs: Float[Array, "*rows seq"],
    old_logprobs: Float[Array, "*rows seq"],
    ref_logprobs: Float[Array, "*rows seq"] | None,
    advantages: Float[Array, "*rows seq"],
    token_weights: Float[Array, "*rows seq"],
    cfg: LossConfig,
    *,
    segment_ids: Int[Array, "*rows seq"] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Weighted sum over tokens of the clipped surrogate and of the KL to the reference.

        ratio_t = exp(logprobs_t - old_logprobs_t)
        surrogate_t = min(ratio_t A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) A_t)
        surrogate_t = max(surrogate_t, dual_clip A_t)   where A_t < 0, if dual_clip is on
        loss = Σ_t w_t (kl_coef KL_t - surrogate_t)

    ratio="sequence" (GSPO, arXiv 2507.18071): ratio_t = exp(mean over the completion of logprobs - old_logprobs), the
    same for all its tokens; segment_ids say which tokens are of one.
    clip="cispo" (MiniMax-M1, arXiv 2506.13585): surrogate_t = stop(clip(ratio_t, …)) A_t logprobs_t, whose gradient is
    never stopped, only weighed.

    token_weights: the aggregation is in them; they add up to 1 over a whole mini-batch (token_mean,
    sequence_mean). Tokens of weight 0 never touch the result, whatever their log-probabilities are.
    """
    counted = token_weights > 0
    log_ratio = jnp.where(counted, logprobs - old_logprobs, 0.0)
    if cfg.ratio == "sequence":
        if segment_ids is None:
            raise ValueError("loss.ratio=sequence needs segment_ids: which tokens are of one completion")
        ratio = jnp.exp(sequence_mean(log_ratio, segment_ids, counted))
    else:
        ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - cfg.clip_low, 1.0 + cfg.clip_high)
    if cfg.clip == "cispo":
        surrogate = jax.lax.stop_gradient(clipped) * advantages * jnp.where(counted, logprobs, 0.0)
    else:
        surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    dual = jnp.zeros_like(counted)
    if cfg.dual_clip:
        bound = cfg.dual_clip * advantages
        dual = (advantages < 0) & (surrogate < bound)
        surrogate = jnp.where(dual, bound, surrogate)
    surrogate_loss = -jnp.sum(token_weights * jnp.where(counted, surrogate, 0.0))

    weight = jnp.sum(counted, dtype=jnp.float32)

    def token_mean(values: Array) -> Mean:
        return Mean(jnp.sum(jnp.where(counted, values, 0.0), dtype=jnp.float32), weight)

    weighs = cfg.clip == "cispo"
    metrics: Metrics = {
        "surrogate_loss": Sum(surrogate_loss),
        "ratio": token_mean(ratio),
        "ratio_max": Max(jnp.max(jnp.where(counted, ratio, -jnp.inf))),
        "log_ratio_abs_max": Max(jnp.max(jnp.where(counted, jnp.abs(log_ratio), -jnp.inf))),
        # A clip is counted where it binds: where it stops the gradient, or (cispo) weighs it otherwise.
        "clipped_high": token_mean((ratio > 1.0 + cfg.clip_high) & ((advantages > 0) | weighs)),
        "clipped_low": token_mean((ratio < 1.0 - cfg.clip_low) & ((advantages < 0) | weighs)),
        "clipped_dual": token_mean(dual),
        "old_kl": token_mean(
            (ratio if cfg.ratio == "token" else jnp.exp(log_ratio)) - 1.0 - log_ratio
        ),  # k3 estimate of KL(old || policy): drift since sampling
        "nll": token_mean(-logprobs),  # at ratio 1 its mean is the policy's entropy
    }
    loss = surrogate_loss
    if cfg.kl_coef:
        if ref_logprobs is None:
            raise ValueError(f"loss.kl_coef={cfg.kl_coef} needs ref_logprobs: fill them, or set loss.kl_coef=0")
        kl = jnp.where(counted, kl_estimate(logprobs, ref_logprobs, cfg.kl_estimator, counted), 0.0)
        loss = loss + cfg.kl_coef * jnp.sum(token_weights * kl)
        metrics["ref_kl"] = token_mean(kl)
    return loss, metrics | {"loss": Sum(loss)}


def sequence_mean(
    values: Float[Array, "*rows seq"], segment_ids: Int[Array, "*rows seq"], counted: Bool[Array, "*rows seq"]
) -> Float[Array, "*rows seq"]:
    """The mean over the counted tokens of the segment that a token is in, at every token; 0 where none counts.

    The tokens of a segment stand side by side; their numbers may be any, as those of rows with shared prefixes are.
    Example: values [1, 3, 5], segments [1, 1, 2], all counted: [2, 2, 5].
    """
    shape, seq = values.shape, values.shape[-1]
    ids = segment_ids.reshape(-1, seq)
    begins = jnp.concatenate(
        [jnp.zeros((len(ids), 1), jnp.int32), (ids[:, 1:] != ids[:, :-1]).astype(jnp.int32)], axis=1
    )
    numbers = jnp.cumsum(begins, axis=1)  # [rows, seq], from 0 in each row

    def of_row(values: Array, counted: Array, numbers: Array) -> Array:
        total = jax.ops.segment_sum(jnp.where(counted, values, 0.0), numbers, num_segments=seq)
        count = jax.ops.segment_sum(counted.astype(jnp.float32), numbers, num_segments=seq)
        return (total / jnp.maximum(count, 1.0))[numbers]

    return jax.vmap(of_row)(values.reshape(-1, seq), counted.reshape(-1, seq), numbers).reshape(shape)


def correct_engine_gap(batch: RolloutBatch, logprobs: Float[Array, "*rows seq"], cap: float) -> RolloutBatch:
    """The batch as the trainer sees it, where its log-probabilities differ from those of the engine that sampled.

    logprobs: of the trainer, with the parameters that sampled. They become the old ones, so that the clip measures
    the policy's change and not the gap between two implementations; what the gap does to the expectation is put
    right by the importance ratio trainer / engine, truncated at `cap`, which multiplies the surrogate.
    """
    counted = batch.token_weights > 0
    ratio = jnp.exp(jnp.where(counted, logprobs - batch.old_logprobs, 0.0))
    return batch.replace(
        old_logprobs=jnp.where(counted, logprobs, 0.0), advantages=batch.advantages * jnp.minimum(ratio, cap)
    )


def kl_estimate(
    logprobs: Float[Array, "*rows seq"],
    ref_logprobs: Float[Array, "*rows seq"],
    estimator: str,
    counted: Array | bool = True,
) -> Float[Array, "*rows seq"]:
    """Per-token estimate of KL(policy || reference) from tokens the policy sampled. With d = log π - log π_ref:

    k1 = d, unbiased as a value. Inside a loss it has no expected gradient: its gradient is that of log π, whose
        mean under π is 0, so it adds noise and pulls nowhere. Use it to measure, or as part of the reward.
    k2 = d² / 2, biased as a value; on-policy its gradient is that of the KL.
    k3 = exp(-d) - 1 + d, unbiased and never negative.

    Tokens that are not `counted` give 0: an exp of their meaningless difference could overflow into the gradient.
    """
    difference = jnp.where(counted, logprobs - ref_logprobs, 0.0)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        return jnp.exp(-difference) - 1.0 + difference
    raise ValueError(f"loss.kl_estimator={estimator!r}: allowed are k1, k2, k3")


def negative_log_likelihood(
    logprobs: Float[Array, "*rows seq"], token_weights: Float[Array, "*rows seq"]
) -> tuple[Float[Array, ""], Metrics]:
    """Weighted sum over tokens of -log π: the supervised loss. Tokens of weight 0 never touch the result."""
    counted = token_weights > 0
    nll = jnp.where(counted, -logprobs, 0.0)
    loss = jnp.sum(token_weights * nll)
    return loss, {"loss": Sum(loss), "nll": Mean(jnp.sum(nll), jnp.sum(counted, dtype=jnp.float32))}
