"""Rewards as recipes have them, and answers to score."""

from __future__ import annotations

from tunesmith.core.config import Section, option, validate
from tunesmith.prompt.messages import as_conversation
from tunesmith.score.rewards.config import ScoreConfig
from tunesmith.score.rewards.reward import make_rewards
from tunesmith.score.rewards.sample import Sample


class Holder(Section):
    """A section with rewards, as objectives have them."""

    rewards: list[ScoreConfig] = option(..., "What answers are worth.")


def configs(*given):
    return validate(Holder, {"rewards": list(given)}, "recipe").rewards


def rewards(*given, **settings):
    return make_rewards(configs(*given), **settings)


def sample(answer, prompt="What is it?", **item):
    return Sample(as_conversation(prompt), answer, "stop", item)


def totals(made, *samples):
    return [one.total for one in made.score(samples)]


def value(given, answer, **item):
    """What one score says of one answer: its number, or why there is none."""
    [found] = rewards(given).score([sample(answer, **item)])
    assert (found.total is None) == bool(found.reason)
    return found.reason if found.total is None else found.total
