"""Which process this is. Everything that differs between processes is decided from here."""

from __future__ import annotations

import jax


def process_index() -> int:
    return jax.process_index()


def process_count() -> int:
    return jax.process_count()


def is_lead() -> bool:
    """True in the one process that writes logs, reports and exported folders."""
    return jax.process_index() == 0
