"""The packing plan: which rows share a sequence. A pure function of lengths, seed and batch; never stored.

Best-fit decreasing: the longest row first, each into the fullest sequence that still has room.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence


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
    if packed:
        return pack(lengths, capacity)
    groups: list[list[int]] = [[]]
    for index in range(len(lengths)):
        longest = max(lengths[i] for i in [*groups[-1], index])
        if groups[-1] and longest * (len(groups[-1]) + 1) > capacity:
            groups.append([])
        groups[-1].append(index)
    return groups
