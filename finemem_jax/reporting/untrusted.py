"""Text from a data set or a model, made fit for a terminal, a log line or a file name.

In JSON and HTML such text is data already: their writers escape it. Here is what has no writer of its own.
"""

from __future__ import annotations

import hashlib
import re

LONGEST_LINE = 4_000
LONGEST_NAME = 80

# C0 and C1 controls (ANSI escapes start with one), line and paragraph separators, marks that turn the direction of
# text around, and lone surrogates. A tab and a new line may stay.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, one_line: bool = False, longest: int = LONGEST_LINE) -> str:
    """The text with what could steer a terminal written out ("\\x1b[31m"), and its middle left out when it is long."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"
    text = _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)
    return text.replace("\n", "\\n") if one_line else text


def file_name(text: str) -> str:
    """A name for a file in a given folder, never a path: letters, digits, "-", "_" and "."; where anything had to be
    changed, a digest of the text keeps different texts apart."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", text[:LONGEST_NAME]).lstrip(".")
    if name and name == text:
        return name
    return f"{name}-{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:10]}"
