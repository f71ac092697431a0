"""Answerers: one file each. EXPORTS is what every file has, checked when it is loaded."""

EXPORTS = ("create()",)
