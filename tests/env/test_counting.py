"""Lines that are joined one after the other are counted as the whole would be, and none is read again and again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from finemem_jax.env import tokenizer as tokenizers
from finemem_jax.env.counting import Growing, TokenCounter, WordCounter

TEXT = ["Ada lives in Oslo. Where does Ada live? 2024: in Oslo, 3.5 km from Bo => place_of_living", "01 ab AB abab #!"]
# What Qwen's and Llama 3's tokenizers cut at: signs take the line ends behind them along.
CUTS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
LINES = st.text(st.sampled_from(" .:?!,'#0123abAB=>é我ั\u0301"), max_size=12).map(lambda text: " ".join(text.split()))
COUNTERS = ("embedded", "bytes", "unigram", "signs", "characters", "words")


@pytest.fixture(scope="module")
def counters():
    cut = pre_tokenizers.Split(Regex(CUTS), behavior="isolated")
    inside = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    of_bytes = Tokenizer(models.BPE())
    of_bytes.pre_tokenizer = pre_tokenizers.Sequence([cut, inside])
    of_bytes.train_from_iterator(
        TEXT * 20, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = {"special_tokens": ["<unk>"], "unk_token": "<unk>"}
    unigram.train_from_iterator(TEXT * 20, trainers.UnigramTrainer(vocab_size=80, show_progress=False, **unknown))
    return {
        "embedded": TokenCounter(tokenizers.load("embedded:warm_start")),
        "bytes": lambda text: len(of_bytes.encode(text, add_special_tokens=False)),
        "unigram": lambda text: len(unigram.encode(text, add_special_tokens=False)),
        "signs": WordCounter(),
        "characters": len,
        "words": lambda text: len(text.split()),
    }


@settings(max_examples=300)
@given(st.lists(LINES.filter(bool), max_size=12), st.sampled_from(COUNTERS), st.sampled_from(["\n", "\n\n"]))
def test_lines_are_counted_as_their_whole_would_be(counters, lines, kind, separator):
    growing = Growing(counters[kind], separator)
    for number, line in enumerate(lines, start=1):
        whole = counters[kind](separator.join(lines[:number]))
        assert growing.with_next(line) == whole
        growing.add(line)
        assert growing.tokens == whole
