"""Cutting text to a budget: where, never over it, and in a time that grows with the text alone."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finemem_jax.corpora import _sessions
from finemem_jax.env import chunking
from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.counting import TokenCounter, WordCounter


def words(text):
    return len(text.split())


def pieces(text, budget, count=words):
    return [text[span.start : span.end] for span in chunking.split_text(text, budget, count)]


@pytest.mark.parametrize(
    ("text", "budget", "expected"),
    [
        ("a b\n\nc d", 9, ["a b\n\nc d"]),
        ("a b\n\nc d", 3, ["a b", "c d"]),
        ("a b\n\nc\n\nd", 3, ["a b\n\nc", "d"]),
        ("a b\nc d", 2, ["a b", "c d"]),
        ("A b. C d! E f?", 4, ["A b. C d!", "E f?"]),
        ("a b c", 2, ["a b", "c"]),
        ("  \n ", 2, []),
    ],
)
def test_text_is_cut_at_the_coarsest_border_that_fits(text, budget, expected):
    assert pieces(text, budget) == expected


def test_a_word_over_the_budget_is_cut():
    assert pieces("abcdefgh", 3, len) == ["ab", "cd", "ef", "gh"]


@given(st.text(alphabet="ab .\n", max_size=60), st.integers(1, 6))
def test_pieces_keep_to_the_budget_and_lose_only_white_space(text, budget):
    found = pieces(text, budget, len)
    assert all(0 < len(piece) <= budget for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_pieces_are_packed_in_order():
    assert chunking.pack(["a b", "c", "d e f g", "h"], 3, words) == [[0, 1], [2], [3]]
    assert chunking.pack([], 3, words) == []


def test_every_part_of_a_session_has_its_date_and_keeps_to_the_budget():
    turns = [("Ann", "one two"), ("Bo", "three\nfour five"), ("Ann", "six seven eight nine ten eleven twelve")]
    parts = _sessions.split_session("1 May", turns, 9, words)
    assert all(part.text.startswith("[Dialogue at timestamp 1 May]\n") and words(part.text) <= 9 for part in parts)
    assert [part.turns for part in parts] == [(0,), (1,), (2,), (2,)]
    assert parts[1].text.endswith("\n<Bo>three four five")


# --------------------------------------------------------------------------------------------------------------
# The same as counting every stretch by itself
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return tokenizers.load("embedded:warm_start")


def counted_afresh(text, budget, count):
    """The rule, written down plainly: stretches at the coarsest border that fits, joined while they fit."""
    borders = (r"\n\s*\n", r"\n", r"(?<=[.!?])[\"'”’)\]]*\s+", r"\s+")

    def stripped(start, end):
        part = text[start:end]
        start += len(part) - len(part.lstrip())
        return start, max(start, start + len(part.strip()))

    def cut(start, end, level):
        if start == end:
            return []
        if count(text[start:end]) <= budget or end - start == 1:
            return [(start, end)]
        if level == len(borders):
            middle = (start + end) // 2
            return cut(start, middle, level) + cut(middle, end, level)
        ends = [found.end() for found in re.compile(borders[level]).finditer(text, start, end)]
        pieces = [
            piece for pair in itertools.pairwise([start, *ends, end]) for piece in cut(*stripped(*pair), level + 1)
        ]
        joined = []
        for piece in pieces:
            if joined and count(text[joined[-1][0] : piece[1]]) <= budget:
                joined[-1] = joined[-1][0], piece[1]
            else:
                joined.append(piece)
        return joined

    return cut(*stripped(0, len(text)), 0)


WORDS = "the Ada lives in Oslo 3.5 antidisestablishmentarianism naïve #!? é".split()
PROSE = st.lists(st.sampled_from([*WORDS, ". ", "? ", ' ." ', "\n", "\n\n", "  ", " "]), max_size=60).map(" ".join)


@settings(max_examples=150)
@given(text=PROSE, budget=st.integers(1, 60), kind=st.sampled_from(["words", "signs", "bytes", "characters"]))
def test_it_is_cut_and_packed_as_if_every_stretch_were_counted_by_itself(tiny, text, budget, kind):
    plain = lambda part: len(tiny.encode(part, add_special_tokens=False))  # noqa: E731
    counter = {"words": words, "signs": WordCounter(), "bytes": TokenCounter(tiny), "characters": len}[kind]
    expected = counted_afresh(text, budget, plain if kind == "bytes" else counter)
    found = chunking.split_text(text, budget, counter)
    assert [tuple(span) for span in found] == expected
    parts, groups = [text[start:end] for start, end in expected], []
    for i, part in enumerate(parts):
        if groups and counter("\n\n".join([*(parts[j] for j in groups[-1]), part])) <= 2 * budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    assert chunking.pack(parts, 2 * budget, counter) == groups


class Tally:
    """A counter of words that knows how many characters it was shown."""

    def __init__(self):
        self.seen = 0

    def __call__(self, text):
        self.seen += len(text)
        return len(text.split())


UNITS = {
    "prose": "It was late. The tram was full, and nobody spoke at all.\n\n",
    "no punctuation": "the tram was late and nobody spoke at all ",
    "lines": "a b\n",
    "one word": "abcdefghij",
    "no spaces": "我们喜欢北京的秋天",
}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("action", ["split", "pack"])
def test_a_text_is_read_a_few_times_however_long_it_is(unit, action):
    for size in (20_000, 160_000):
        text, tally = unit * (size // len(unit)), Tally()
        if action == "split":
            chunking.split_text(text, 1000, tally)
        else:
            chunking.pack(re.findall(r"(?s).{1,40}", text), 1000, tally)
        assert tally.seen < 6 * len(text)


def test_a_real_tokenizer_is_shown_a_text_a_few_times(tiny):
    class Counted(TokenCounter):
        seen = 0

        def _length(self, text):
            self.seen += len(text)
            return super()._length(text)

    counter = Counted(tiny)
    text = UNITS["no punctuation"] * 2000
    counter.of = lambda make, *what: make()  # nothing from an earlier run
    spans = chunking.split_text(text, 300, counter)
    assert len(spans) > 20 and counter.seen < 6 * len(text)


# --------------------------------------------------------------------------------------------------------------
# Scripts without spaces
# --------------------------------------------------------------------------------------------------------------


def test_east_asian_sentences_are_borders_and_so_are_characters():
    count = WordCounter()
    assert pieces("我喜欢北京。你呢？“很好！”他说。", 8, count) == ["我喜欢北京。", "你呢？“很好！”", "他说。"]
    assert pieces("我们喜欢北京的秋天", 4, count) == ["我们喜欢", "北京的秋", "天"]
    assert pieces("กำลังเก่ง", 3, count) == ["กำลัง", "เก่ง"]  # never between a letter and its marks
    assert pieces("वह आया। मैं गया।", 4, count) == ["वह आया।", "मैं गया।"]
    assert count("北京 is 3.5 km, กำ") == 9


# --------------------------------------------------------------------------------------------------------------
# What is kept between runs
# --------------------------------------------------------------------------------------------------------------


class Located(TokenCounter):
    """Knows how often a text was tokenized as a whole, and how many were counted."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.located, self.counted = 0, 0

    def ends(self, text):
        self.located += 1
        return super().ends(text)

    def _lengths(self, texts):
        self.counted += len(texts)
        return super()._lengths(texts)


def test_the_next_run_need_not_tokenize_what_this_one_cut(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FINEMEM_CACHE", str(tmp_path))
    text = UNITS["prose"] * 50

    def run():
        counter = Located(tiny)
        found = chunking.split_text(text, 100, counter), chunking.pack([text[:900], text[900:]], 50, counter)
        counts = counter.counts([text, "short", text[5:]])
        counter.keep()
        return (*found, counts), counter.located, counter.counted

    first, located, counted = run()
    assert (located, counted) == (2, 3) and run() == (first, 0, 1)
    assert first[2] == [tokenizers.token_counter(tiny)(part) for part in (text, "short", text[5:])]
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-20], whole.replace(b"1", b"2"), b"", b"\xff\xfe", b"null\nnull"):
        file.write_bytes(damaged)
        assert run() == (first, 2, 3)  # found again, and kept again
        assert run() == (first, 0, 1)


def test_a_cache_folder_that_cannot_be_written_costs_time_alone(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINEMEM_CACHE", str(tmp_path / "file" / "folder"))
    counter = Located(tiny)
    assert chunking.split_text(UNITS["prose"] * 50, 100, counter)
    counter.keep()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
