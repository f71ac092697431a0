"""Words of every script: found, compared and retrieved; ASCII and scripts with spaces are as they ever were."""

import re

import pytest

from finemem_jax.env import scoring
from finemem_jax.env.retrieval import BM25
from finemem_jax.env.words import is_special, search_terms, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada lives in Oslo_2, 3.5 km off", "Ada lives in Oslo_2 3 5 km off"),
        ("Žižkov’s naïve Ωmega", "Žižkov s naïve Ωmega"),
        ("我喜欢北京。iPhone很好，2024年", "我 喜 欢 北 京 iPhone 很 好 2024 年"),
        ("ラーメンを食べた", "ラ ー メ ン を 食 べ た"),
        ("서울에 산다", "서 울 에 산 다"),
        ("กำลังเก่ง ๒๕๖๗", "กำ ลั ง เ ก่ ง ๒๕๖๗"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),  # with spaces: its vowel signs do not end a word
        ("שָׁלוֹם עולם", "שָׁלוֹם עולם"),
        ("I ❤️ it 👩‍👩‍👧", "I it"),  # a sign with a mark is no word
        ("", ""),
    ],
)
def test_words(text, expected):
    assert words(text) == expected.split()


def test_an_index_knows_neighbours_too_where_there_are_no_spaces():
    assert search_terms("北京 AI市") == ["北", "北京", "京", "ai", "市"]
    assert search_terms("ＡＩ ﾗｰ") == ["ai", "ラ", "ラー", "ー"]  # compatible forms are one


@pytest.mark.parametrize("text", ["plain", "don’t — “quote” … €5 ½ → ✓", "Déjà vu, über", "Привет мир", "مرحبا"])
def test_scripts_with_spaces_are_left_to_the_regular_expression(text):
    assert not is_special(text)
    assert search_terms(text) == re.findall(r"\b\w+\b", text.lower())


@pytest.mark.parametrize(
    ("memory", "question", "best"),
    [
        (["北京是中国的首都", "东京是日本的首都", "他喜欢喝茶"], "日本的首都是哪里？", 1),
        (["彼は京都に住んでいる", "彼女は大阪で働いている"], "大阪で誰が働いていますか", 1),
        (["แมวชอบกินปลา", "สุนัขชอบวิ่งเล่น"], "สุนัขชอบทำอะไร", 1),
        (["그는 부산에 산다", "그녀는 서울에서 일한다"], "서울은 누가 일하는 곳인가", 1),
        (["अदा ओस्लो में रहती है", "राम दिल्ली में रहता है"], "दिल्ली में कौन रहता है", 1),
    ],
)
def test_the_right_item_is_retrieved(memory, question, best):
    found = BM25(memory).search(question, 1)
    assert found and found[0][0] == best


@pytest.mark.parametrize("gold", ["北京", "東京都", "เชียงใหม่", "서울", "दिल्ली"])
@pytest.mark.parametrize("metric", ["substring_match", "keyword_recall", "parts_recall", "ordered_recall"])
def test_an_answer_is_found_in_a_sentence(metric, gold):
    sentence = f"那么{gold}是这样" if gold not in ("दिल्ली",) else f"वह {gold} में है"
    assert scoring.score(metric, sentence, [gold]) == 1
    assert scoring.score(metric, sentence[:2], [gold]) == 0


def test_overlap_is_counted_in_characters():
    assert scoring.exact_match("北京。", ["北京"]) == 1
    assert scoring.token_f1("北京市", ["北京"]) == pytest.approx(2 * 2 / 5)
    assert scoring.rouge_l("我在北京", ["他在北京"]) == pytest.approx(0.75)
    assert scoring.rouge_l("ประเทศไทย", ["ประเทศไทย"]) == 1
    assert scoring.keyword_recall("有猫和狗", ["猫、狗，鸟；鱼"]) == 0.5
    assert scoring.keyword_recall("قط وكلب", ["قط، طائر"]) == 0.5


def test_rouge_of_ascii_and_of_its_signs_is_the_packages_own():
    from rouge_score import rouge_scorer

    theirs = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for said, gold in (
        ("The cats were sitting, running_fast", "a cat sits and runs_fast 3.5"),
        ("it’s the “end” — at last…", "it is the end at last"),
    ):
        assert scoring.rouge_l(said, [gold]) == theirs.score(gold, said)["rougeL"].fmeasure > 0
