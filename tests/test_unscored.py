"""Prompts whose answers nothing is known of are no prompts whose answers are alike."""

from __future__ import annotations

import math

import numpy as np

from tunesmith.train.objectives.advantages import equal_groups

NAN = math.nan


def test_prompts_without_rewards_are_not_told_to_have_equal_ones():
    assert equal_groups(np.array([[NAN, NAN], [1.0, NAN]])) == 0
    assert equal_groups(np.array([[NAN, NAN], [1.0, NAN], [1.0, 1.0], [1.0, 2.0]])) == 0.5
    assert equal_groups(np.array([[1.0, NAN, 1.0], [0.0, 0.0, 0.0]])) == 1
