"""Span corruption: what was taken out and what stayed are the text; as Raffel et al. do it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.train.objectives.span_corruption import corrupted, source_length, stretches, text_length

SENTINELS = list(range(1099, 999, -1))  # descending, as T5 has them
END = 1


def put_together(source, target):
    """The text that source and target are of, found by reading both."""
    assert source[-1] == target[-1] == END
    pieces, last = {}, None
    for token in target[:-1]:
        if token in SENTINELS:
            assert last is None or token == last - 1
            last = token
            pieces[token] = []
        else:
            pieces[last].append(token)
    return [one for token in source[:-1] for one in (pieces[token] if token in SENTINELS else [token])]


def naive(ids, mask, sentinels, end):
    """Source and target of a mask of what is taken out, token by token, as the paper's figure shows it."""
    source, target, used = [], [], -1
    for place, (token, out) in enumerate(zip(ids, mask, strict=True)):
        if not out:
            source.append(token)
            continue
        if place == 0 or not mask[place - 1]:
            used += 1
            source.append(sentinels[used])
            target.append(sentinels[used])
        target.append(token)
    return [*source, end], [*target, end]


@given(st.integers(2, 600), st.integers(0, 10_000), st.floats(0.01, 0.9), st.floats(1, 8), st.integers(1, 100))
def test_nothing_is_lost_and_no_two_stretches_touch(length, seed, density, mean_length, most):
    ids = list(range(2, 2 + length))
    chance = random.Random(seed)
    source, target = corrupted(ids, SENTINELS[:most], END, chance, density, mean_length)
    assert put_together(source, target) == ids
    places = stretches(length, density, mean_length, most, random.Random(seed))
    assert all(len(kept) and len(taken) for kept, taken in places)
    mask = [any(place in taken for _, taken in places) for place in range(length)]
    assert (source, target) == naive(ids, mask, SENTINELS, END)
    noise = sum(mask)
    assert noise == min(max(round(length * density), 1), length - 1)
    assert sum(token in SENTINELS for token in source) == len(places) <= most


def test_it_takes_out_what_the_paper_does():
    chance = random.Random(0)
    shares, lengths = [], []
    for _ in range(200):
        places = stretches(512, 0.15, 3.0, 100, chance)
        shares.append(sum(len(taken) for _, taken in places) / 512)
        lengths += [len(taken) for _, taken in places]
    assert sum(shares) / len(shares) == pytest.approx(0.15, abs=0.002)
    assert sum(lengths) / len(lengths) == pytest.approx(3.0, abs=0.1)
    assert max(lengths) > 6
    assert min(lengths) == 1


def test_every_place_of_a_stretch_is_equally_likely():
    chance = random.Random(1)
    seen = {tuple(map(len, places)) for places in (stretches(4, 0.5, 1.0, 9, chance)[0] for _ in range(50))}
    assert seen == {(1, 1)}
    firsts = [len(stretches(6, 0.3, 1.0, 9, chance)[0][0]) for _ in range(3000)]
    assert [firsts.count(size) / 3000 for size in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.05)


def test_the_same_chance_gives_the_same_text():
    ids = list(range(10, 60))
    one, other, third = (corrupted(ids, SENTINELS, END, random.Random(seed)) for seed in (3, 3, 4))
    assert one == other != third


def test_a_text_fills_the_longest_source():
    assert text_length(512) == 568  # the authors' compute_input_and_target_lengths gives the same
    for longest in (3, 8, 64, 512):
        length = text_length(longest)
        assert source_length(length, 0.15, 3.0) <= longest < source_length(length + 1, 0.15, 3.0)
        source, _ = corrupted(range(length), SENTINELS, END, random.Random(0))
        assert len(source) == source_length(length, 0.15, 3.0)
