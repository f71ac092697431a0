"""Pages: every page is held as often as it was taken or shared, and found again exactly by what is in it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from finemem_jax.decoding.pages import Pages


def test_prompts_that_begin_alike_share_whole_pages():
    pages = Pages(10, 4)
    first = pages.take(3)
    tokens = list(range(11))  # two full pages and a part
    pages.name(first, tokens)
    assert pages.share(tokens) == first[:2]
    assert pages.share([*range(8), 99, 98, 97, 96]) == first[:2]
    assert pages.share([*range(7), 99]) == first[:1]
    assert pages.share([99, *range(1, 8)]) == []  # the same second page after another first is another page
    assert pages.share([4, 5, 6, 7]) == []


def test_pages_given_back_stay_known_until_their_room_is_needed():
    pages = Pages(5, 2)
    row = pages.take(2)
    pages.name(row, [1, 2, 3, 4])
    pages.give_back(row)
    assert pages.available == 4
    assert pages.share([1, 2, 3, 4, 5, 6]) == row
    assert pages.take(3) is None  # two are held
    assert pages.available == 2
    pages.give_back(row)
    assert len(pages.take(3)) == 3  # two free ones, then the end of the row
    assert pages.share([1, 2, 3, 4]) == row[:1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_page_is_ever_given_to_two_rows_or_lost(seed):
    rng = np.random.default_rng(seed)
    pages, rows = Pages(9, 2), []
    for _ in range(60):
        if rows and rng.random() < 0.5:
            pages.give_back(rows.pop(rng.integers(len(rows)))[0])
        else:
            tokens = rng.integers(0, 2, rng.integers(1, 9)).tolist()
            shared = pages.share(tokens)
            taken = pages.take(pages.count(len(tokens)) - len(shared))
            if taken is None:
                pages.give_back(shared)
                continue
            assert not set(taken) & {page for row, _ in rows for page in row} and 0 not in taken
            pages.name(shared + taken, tokens)
            rows.append((shared + taken, tokens))
            for _, held in rows:  # what a row's full pages are known by is what is in them
                again = pages.share(held)
                pages.give_back(again)
                assert len(again) == len(held) // 2
        held = {page for row, _ in rows for page in row}
        assert pages.available == 8 - len(held)
