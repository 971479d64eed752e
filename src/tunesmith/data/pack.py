"""The packing plan: which rows share a sequence. A pure function of lengths, seed and batch; never stored.

Best-fit decreasing: the longest row first, each into the fullest sequence that still has room.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence

PASS = 128  # tokens whose computing takes about as long as a further forward pass and its way back


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` grouped so that each group sums to at most `capacity`.

    A row longer than `capacity` gets a group of its own. Groups and their members keep the order of
    their first index, so the plan reads like the data.
    """
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (space left, group), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect.bisect_left(room, (lengths[index], -1))
        if place == len(room):
            groups.append([])
            left, group = max(capacity, lengths[index]), len(groups) - 1
        else:
            left, group = room.pop(place)
        groups[group].append(index)
        bisect.insort(room, (left - lengths[index], group))
    return sorted(sorted(group) for group in groups)


def deal(lengths: Sequence[int], hands: int) -> list[list[int]]:
    """Indices of `lengths` in so many groups of nearly equal sums: the longest first, to whoever has least."""
    dealt: list[list[int]] = [[] for _ in range(hands)]
    sums = [0] * hands
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = sums.index(min(sums))
        dealt[least].append(index)
        sums[least] += lengths[index]
    return [sorted(hand) for hand in dealt]


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch visits its rows: a shuffle that depends on seed and epoch alone."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def epoch_batches(rows: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Row indices of each optimizer step of an epoch. The last batch may be smaller; no row is left out."""
    order = epoch_order(rows, seed, epoch)
    for start in range(0, rows, batch_size):
        yield order[start : start + batch_size]


def micro_batches(lengths: Sequence[int], accumulation: int | None, capacity: int, packed: bool) -> list[list[int]]:
    """How one step's rows are cut into micro-batches, as positions in `lengths`.

    Args:
        lengths: tokens of each row of the step.
        accumulation: number of micro-batches; as many as memory needs if None.
        capacity: tokens that one micro-batch may hold.
        packed: rows of a micro-batch share one sequence; else they are padded to the longest of them.
    """
    if accumulation is not None:
        size = -(-len(lengths) // accumulation)
        return [list(range(start, min(start + size, len(lengths)))) for start in range(0, len(lengths), size)]
    return pack(lengths, capacity) if packed else padded_batches([(length,) for length in lengths], capacity)


def padded_batches(widths: Sequence[tuple[int, ...]], capacity: int) -> list[list[int]]:
    """How rows are cut into padded micro-batches so that the least is computed, as positions in `widths`.

    Rows of about one length go together, in as many passes as their padding is worth: of all ways to cut the rows in
    the order of their lengths, the one with the fewest tokens, padding among them, and `PASS` for each micro-batch.

    Args:
        widths: of each row, the tokens of each of its padded tensors: those of its source and of its target.
        capacity: tokens that one micro-batch may hold, padding included; a row that has more is alone.
    """
    order = sorted(range(len(widths)), key=lambda i: (sum(widths[i]), widths[i], i))
    best, begin = (
        [0.0],
        [0],
    )  # of the first rows: what the best way to cut them computes, and where its last part begins
    for end in range(1, len(order) + 1):
        most = [0] * len(widths[0])
        best.append(float("inf"))
        begin.append(end - 1)
        for start in range(end - 1, -1, -1):
            most = [max(pair) for pair in zip(most, widths[order[start]], strict=True)]
            size = (end - start) * sum(most)
            if size > capacity and start < end - 1:
                break
            if best[start] + size + PASS < best[end]:
                best[end], begin[end] = best[start] + size + PASS, start
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(sorted(order[begin[end] : end]))
        end = begin[end]
    return groups[::-1]
