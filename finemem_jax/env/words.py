"""What a word is: for retrieval, metrics, the extractive answerer and the borders of chunks.

Where a script puts spaces between words, a word is a run of letters, digits and underscores (`\\w+`). Scripts written
without spaces have words that only a dictionary finds; there each character, with the marks on it (an extended grapheme
cluster of Unicode's UAX 29, as the `regex` library finds it), is a word. Korean, whose particles are written onto the
words they belong to, is taken so too.

    "Ada lives in Oslo"   Ada | lives | in | Oslo
    "iPhoneを買った 2024年"  iPhone | を | 買 | っ | た | 2024 | 年
    "ภาษาไทย"             ภ | า | ษ | า | ไ | ท | ย

Supported in this sense: every script with spaces, its combining marks included (Hindi, Arabic, Hebrew with their vowel
signs); Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese, Yi and the Tai scripts by characters. There a short answer
may be found inside a longer word: 京都 stands in 東京都.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import regex

_SCRIPTS = "".join(
    rf"\p{{scx={script}}}"
    for script in "Han Hiragana Katakana Hangul Bopomofo Yi Thai Lao Khmer Myanmar Tai_Le New_Tai_Lue Tai_Tham "
    "Tai_Viet".split()
)

# A letter or mark of a script without spaces; its digits make numbers, as others do. For the patterns of `regex`, V1.
UNSPACED = rf"[\w&&[{_SCRIPTS}]--\p{{Nd}}]"
CHARACTER = rf"(?={UNSPACED})\X"  # one of them with its marks
SPACED = rf"[\w--{UNSPACED}]"

# No text without one of these has a letter of such a script, or a mark. It spares nearly all texts the slower search:
# what lies between are punctuation, arrows and other signs.
_BEYOND = re.compile("[\u0300-\u1fff\u2c00-\U0010ffff]")
_IS_SPECIAL = regex.compile(rf"(?V1){UNSPACED}|\p{{M}}")

_SPACED_WORD = rf"[\w--{UNSPACED}--[\p{{M}}\u200c\u200d]]{SPACED}*"  # a mark or joiner alone is no word
_WORD = regex.compile(rf"(?V1){CHARACTER}|{_SPACED_WORD}")
_RUN = regex.compile(rf"(?V1)((?:{CHARACTER})+)|{_SPACED_WORD}")
_CHARACTER = regex.compile(r"\X")
_PLAIN_WORD = re.compile(r"\w+")


def is_special(text: str) -> bool:
    """Whether `\\w+` does not find the words of a text: it holds letters of a script without spaces, or marks."""
    return not text.isascii() and _BEYOND.search(text) is not None and _IS_SPECIAL.search(text) is not None


def words(text: str) -> list[str]:
    """The words of a text as they stand, in their order."""
    return _WORD.findall(text) if is_special(text) else _PLAIN_WORD.findall(text)


def search_terms(text: str) -> list[str]:
    """What an index knows a text by, lower-cased: its words; of scripts without spaces the pairs of neighbours too, for
    a single character says little."""
    if not is_special(text):
        return _PLAIN_WORD.findall(text.lower())
    return list(_terms(unicodedata.normalize("NFKC", text).lower()))


def _terms(text: str) -> Iterator[str]:
    for found in _RUN.finditer(text):
        if found.group(1) is None:
            yield found.group()
            continue
        before = ""
        for character in _CHARACTER.findall(found.group(1)):
            if before:
                yield before + character
            yield character
            before = character
