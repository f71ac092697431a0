"""The loss against its formula written as plain loops: values and gradients, both signs, every clip."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finemem_jax.config import LossConfig
from finemem_jax.rl import metrics
from finemem_jax.rl.batch import RolloutBatch
from finemem_jax.rl.grpo import correct_engine_gap, kl_estimate, negative_log_likelihood, policy_loss


def loss_and_metrics(fields, cfg, **changed):
    """`policy_loss` of numpy fields, some of them changed."""
    fields = {name: None if x is None else jnp.asarray(x) for name, x in (fields | changed).items()}
    return policy_loss(**fields, cfg=cfg)


def slow_loss(logprobs, old, ref, advantages, weights, cfg):
    """Loss and d loss / d logprobs, token by token, derivatives by case."""
    loss, gradient = 0.0, np.zeros(np.shape(logprobs))
    for b, t in itertools.product(*map(range, np.shape(logprobs))):
        w, a, lp = float(weights[b][t]), float(advantages[b][t]), float(logprobs[b][t])
        if w == 0:
            continue
        ratio = math.exp(lp - float(old[b][t]))
        if a >= 0:
            is_clipped, value = ratio > 1 + cfg.clip_high, min(ratio, 1 + cfg.clip_high) * a
        else:
            is_clipped, value = ratio < 1 - cfg.clip_low, max(ratio, 1 - cfg.clip_low) * a
            if cfg.dual_clip and value < cfg.dual_clip * a:
                is_clipped, value = True, cfg.dual_clip * a
        slope = 0.0 if is_clipped else ratio * a
        if cfg.kl_coef:
            d = lp - float(ref[b][t])
            kl = {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[cfg.kl_estimator]
            kl_slope = {"k1": 1.0, "k2": d, "k3": 1 - math.exp(-d)}[cfg.kl_estimator]
            value -= cfg.kl_coef * kl
            slope -= cfg.kl_coef * kl_slope
        loss -= w * value
        gradient[b, t] = -w * slope
    return loss, gradient


@pytest.fixture(scope="module")
def tokens():
    """Log-probabilities whose ratios lie on all sides of every clip, for both signs of the advantage."""
    rng = np.random.default_rng(0)
    ratios = np.array([0.2, 0.79, 0.81, 1.0, 1.19, 1.21, 2.9, 3.1])
    old = rng.uniform(-4, -1, size=(2, 8))
    return {
        "logprobs": (old + np.log(ratios)).astype(np.float32),
        "old_logprobs": old.astype(np.float32),
        "ref_logprobs": (old + rng.normal(size=(2, 8))).astype(np.float32),
        "advantages": np.array([[1.5] * 8, [-0.7] * 8], np.float32),
        "token_weights": (rng.uniform(0.01, 0.2, size=(2, 8)) * (rng.uniform(size=(2, 8)) > 0.1)).astype(np.float32),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"kl_coef": 0.0},
        {"kl_coef": 0.0, "clip_low": 0.3, "clip_high": 0.15},
        {"kl_coef": 0.0, "dual_clip": 3.0},
        {"kl_coef": 0.3, "kl_estimator": "k1"},
        {"kl_coef": 0.3, "kl_estimator": "k2"},
        {"kl_coef": 0.3, "kl_estimator": "k3", "dual_clip": 3.0},
    ],
)
def test_loss_and_gradient_equal_the_formula(tokens, settings):
    cfg = LossConfig(**settings)

    def loss_of(logprobs):
        return loss_and_metrics(tokens, cfg, logprobs=logprobs)[0]

    loss, gradient = jax.value_and_grad(loss_of)(jnp.asarray(tokens["logprobs"]))
    expected_loss, expected_gradient = slow_loss(*tokens.values(), cfg)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert abs(expected_loss) > 0.01
    assert (np.abs(expected_gradient) > 0.001).any(axis=1).all()  # both signs pull


def slow_sequences(logprobs, old, advantages, weights, segments, cfg):
    """Surrogate loss and gradient of ratio=sequence or clip=cispo, completion by completion."""
    loss, gradient = 0.0, np.zeros(np.shape(logprobs))
    for b in range(len(logprobs)):
        for segment in set(segments[b]):
            tokens = [t for t in range(len(segments[b])) if segments[b][t] == segment and weights[b][t] > 0]
            logs = {t: float(logprobs[b][t]) - float(old[b][t]) for t in tokens}
            for t in tokens:
                w, a = float(weights[b][t]), float(advantages[b][t])
                together = tokens if cfg.ratio == "sequence" else [t]
                ratio = math.exp(sum(logs[u] for u in together) / len(together))
                clipped = min(max(ratio, 1 - cfg.clip_low), 1 + cfg.clip_high)
                if cfg.clip == "cispo":
                    loss -= w * clipped * a * float(logprobs[b][t])
                    gradient[b, t] -= w * clipped * a
                    continue
                loss -= w * min(ratio * a, clipped * a)
                if ratio * a <= clipped * a:  # not clipped: d ratio / d logprobs_u = ratio / length
                    for u in together:
                        gradient[b, u] -= w * ratio * a / len(together)
    return loss, gradient


SEGMENTS = np.array([[7, 7, 7, 2, 2, 2, 2, 0], [1, 1, 65538, 65538, 65538, 65538, 65538, 65538]], np.int32)


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": "sequence"},
        {"ratio": "sequence", "clip_low": 0.05, "clip_high": 0.3},
        {"clip": "cispo"},
        {"clip": "cispo", "clip_low": 1.0, "clip_high": 1.0},
        {"clip": "cispo", "ratio": "sequence"},
    ],
)
def test_sequence_ratios_and_cispo_equal_the_formula(tokens, settings):
    cfg = LossConfig(kl_coef=0.0, **settings)
    # two completions of different drift in each row, so that some are clipped and some are not
    shift = np.where(np.isin(SEGMENTS, (7, 1)), 0.6, -0.05).astype(np.float32)
    fields = tokens | {"logprobs": tokens["old_logprobs"] + shift * np.linspace(0.5, 1.5, 8, dtype=np.float32)}

    def loss_of(logprobs):
        changed = {name: jnp.asarray(x) for name, x in (fields | {"logprobs": logprobs}).items()}
        return policy_loss(**changed, cfg=cfg, segment_ids=jnp.asarray(SEGMENTS))[0]

    loss, gradient = jax.value_and_grad(loss_of)(jnp.asarray(fields["logprobs"]))
    named = (fields[name] for name in ("logprobs", "old_logprobs", "advantages", "token_weights"))
    expected_loss, expected_gradient = slow_sequences(*named, SEGMENTS, cfg)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    plain = jax.grad(lambda x: loss_and_metrics(fields, LossConfig(kl_coef=0.0), logprobs=x)[0])(fields["logprobs"])
    assert np.abs(gradient - plain).max() > 1e-3  # it is another loss
    if cfg.clip == "ppo":
        stopped = (expected_gradient == 0) & (fields["token_weights"] > 0)
        assert stopped.any() and not stopped.all()


def test_a_sequence_ratio_without_sequences_is_refused(tokens):
    with pytest.raises(ValueError, match="needs segment_ids"):
        loss_and_metrics(tokens, LossConfig(kl_coef=0.0, ratio="sequence"))


def test_the_cases_really_clip_both_sides(tokens):
    cfg = LossConfig(kl_coef=0.0, dual_clip=3.0)
    _, gradient = slow_loss(*tokens.values(), cfg)
    counted = tokens["token_weights"] > 0
    rising, falling = (gradient[0] == 0) & counted[0], (gradient[1] == 0) & counted[1]
    assert rising[5:].any() and not rising[:5].any()  # ratio above 1.2, positive advantage
    assert falling[:2].any() and falling[7] and not falling[2:7].any()  # below 0.8, and the dual bound above 3


def test_metrics_count_the_clips_that_bind(tokens):
    weights = np.ones((2, 8), np.float32) / 16
    cfg = LossConfig(kl_coef=0.1, dual_clip=3.0)
    _, found = loss_and_metrics(tokens, cfg, token_weights=weights)
    read = metrics.read(found)
    assert read["clipped_high"] == pytest.approx(3 / 16)
    assert read["clipped_low"] == pytest.approx(2 / 16)
    assert read["clipped_dual"] == pytest.approx(1 / 16)
    assert read["ratio_max"] == pytest.approx(3.1, rel=1e-5)
    assert read["log_ratio_abs_max"] == pytest.approx(-math.log(0.2), rel=1e-5)
    assert read["nll"] == pytest.approx(-tokens["logprobs"].mean(), rel=1e-5)
    expected, _ = slow_loss(*(tokens | {"token_weights": weights}).values(), cfg)
    assert read["loss"] == pytest.approx(expected, rel=1e-5)


def test_tokens_of_weight_zero_never_touch_loss_or_gradient(tokens):
    weights = tokens["token_weights"].copy()
    weights[:, 3] = 0
    wild = {name: values.copy() for name, values in tokens.items()} | {"token_weights": weights}
    for name in ("logprobs", "old_logprobs", "ref_logprobs"):
        wild[name][:, 3] = {"logprobs": 500.0, "old_logprobs": -500.0, "ref_logprobs": 900.0}[name]
    tame = tokens | {"token_weights": weights}
    cfg = LossConfig(kl_coef=0.3)

    def loss_and_gradient(fields):
        loss_of = jax.value_and_grad(lambda logprobs: loss_and_metrics(fields, cfg, logprobs=logprobs)[0])
        return loss_of(jnp.asarray(fields["logprobs"]))

    (loss, gradient), (expected_loss, expected_gradient) = loss_and_gradient(wild), loss_and_gradient(tame)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(loss, expected_loss)
    np.testing.assert_array_equal(gradient, expected_gradient)


def test_metrics_of_parts_add_up_to_the_whole(tokens):
    cfg = LossConfig(kl_coef=0.1)
    _, whole = loss_and_metrics(tokens, cfg)
    _, first = loss_and_metrics({name: values[:, :3] for name, values in tokens.items()}, cfg)
    _, second = loss_and_metrics({name: values[:, 3:] for name, values in tokens.items()}, cfg)
    merged = metrics.read(metrics.merge(first, second))
    for name, value in metrics.read(whole).items():
        assert merged[name] == pytest.approx(value, rel=1e-5), name
    assert metrics.read({"a": whole["nll"].empty() + whole["nll"]})["a"] == metrics.read(whole)["nll"]
    assert metrics.read({"a": whole["ratio_max"].empty() + second["ratio_max"]})["a"] > 1


def test_kl_coefficient_needs_a_reference_only_when_it_is_on(tokens):
    loss_and_metrics(tokens, LossConfig(kl_coef=0.0), ref_logprobs=None)
    with pytest.raises(ValueError, match=r"loss\.kl_coef=0\.1 needs ref_logprobs"):
        loss_and_metrics(tokens, LossConfig(kl_coef=0.1), ref_logprobs=None)


def test_kl_estimators_measure_the_kl_and_only_k2_and_k3_have_its_gradient():
    """Exact expectations over a distribution of three outcomes, policy and reference given by logits."""
    logits, ref = jnp.array([0.3, -0.2, 0.5]), jax.nn.log_softmax(jnp.array([0.0, 0.4, -0.3]))
    log_policy = jax.nn.log_softmax(logits)
    policy = jnp.exp(log_policy)
    true_kl = float(jnp.sum(policy * (log_policy - ref)))
    true_gradient = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - ref)))(logits)

    def expectation(x, estimator):  # the outcomes are sampled from the policy, without a gradient
        return jnp.sum(policy * kl_estimate(jax.nn.log_softmax(x)[None], ref[None], estimator)[0])

    assert float(expectation(logits, "k1")) == pytest.approx(true_kl, rel=1e-5)
    assert float(expectation(logits, "k3")) == pytest.approx(true_kl, rel=1e-5)
    assert float(expectation(logits, "k2")) == pytest.approx(true_kl, rel=0.1)
    np.testing.assert_allclose(jax.grad(expectation)(logits, "k1"), 0.0, atol=1e-6)
    np.testing.assert_allclose(jax.grad(expectation)(logits, "k2"), true_gradient, rtol=1e-4)
    # k3's expected gradient is that of KL(reference || policy): it pulls the same way, not equally far.
    k3 = jax.grad(expectation)(logits, "k3")
    np.testing.assert_allclose(k3, policy - jnp.exp(ref), rtol=1e-4)
    assert float(jnp.dot(k3, true_gradient)) > 0


def test_the_engine_gap_is_corrected_by_a_truncated_ratio(tokens):
    """Against the formula: clip around the trainer's own old log-probs, every token weighed by min(ratio, cap)."""
    cfg, cap = LossConfig(kl_coef=0.0), 1.1
    trainer = (tokens["old_logprobs"] + np.linspace(-0.4, 0.4, 16).reshape(2, 8)).astype(np.float32)
    given = {k: tokens[k] for k in ("old_logprobs", "token_weights", "advantages")}
    batch = RolloutBatch(tokens=None, positions=None, segment_ids=None, ref_logprobs=None, **given)
    corrected = correct_engine_gap(batch, jnp.asarray(trainer), cap)

    def loss_of(logprobs):
        changed = {"old_logprobs": corrected.old_logprobs, "advantages": corrected.advantages}
        return loss_and_metrics(tokens, cfg, logprobs=logprobs, **changed)[0]

    loss, gradient = jax.value_and_grad(loss_of)(jnp.asarray(tokens["logprobs"]))
    weights = np.minimum(np.exp(trainer - tokens["old_logprobs"]), cap)
    expected, slope = slow_loss(
        tokens["logprobs"], trainer, None, tokens["advantages"], tokens["token_weights"] * weights, cfg
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)
    assert weights.min() < 0.7 and (weights == np.float32(cap)).sum() > 4


def test_unknown_estimator_is_refused(tokens):
    with pytest.raises(ValueError, match="k1, k2, k3"):
        loss_and_metrics(tokens, LossConfig(kl_estimator="k4"))


def test_negative_log_likelihood_is_the_weighted_sum(tokens):
    loss, found = negative_log_likelihood(jnp.asarray(tokens["logprobs"]), jnp.asarray(tokens["token_weights"]))
    np.testing.assert_allclose(loss, -(tokens["logprobs"] * tokens["token_weights"]).sum(), rtol=1e-5)
    counted = tokens["token_weights"] > 0
    assert metrics.read(found)["nll"] == pytest.approx(-tokens["logprobs"][counted].mean(), rel=1e-5)
