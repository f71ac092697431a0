"""Reward terms: one file each. EXPORTS is what every file has, checked when it is loaded."""

EXPORTS = ("ROLES", "LEVEL", "turn_rewards()")
