"""Reward terms: one file each. EXPORTS is what every file has, checked when it is loaded.

A term of the final questions may also export `flows(rollout, cfg) -> list[Flow]`: which question gave each turn its
reward. For every writing turn they sum to what `turn_rewards` gives.
"""

EXPORTS = ("ROLES", "LEVEL", "turn_rewards()")
