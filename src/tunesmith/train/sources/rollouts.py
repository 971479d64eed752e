"""Batches of a model's own answers: drawn with the weights of this step, scored, and learned from.

A turn is: answers to the prompts of a step, what they are worth, what is learned by (advantages), and then as many
updates as the objective makes of them. Between two updates of a turn its answers are part of the state, so that a run
that was killed goes on with the same ones.

Axes: S answers, T tokens of one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import TrainingError
from tunesmith.core.events import Report, silent
from tunesmith.data.kinds.prepared import Prepared
from tunesmith.data.pack import epoch_batches
from tunesmith.train.batch import DummyBatch, LazyBatches
from tunesmith.train.objective import Draw, Models, Objective
from tunesmith.train.objectives.advantages import equal_groups
from tunesmith.train.rollouts import LEFT_OUT, Collected, Rollouts
from tunesmith.train.sampling import Drawn, Sampler, seed_of
from tunesmith.train.source import Tensors
from tunesmith.train.sources.rows import RowSource, steps_per_epoch
from tunesmith.train.sources.turn import Turn, answered, columns_of, tensors_of, turn_of
from tunesmith.train.start import Start
from tunesmith.train.weights.ranks import ALONE, Ranks

CUT_OFF = "they were cut off at objective.sampling.max_new_tokens, and sampling.unfinished is leave_out"
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\d+""")  # what differs in reasons of one kind
MOST_ALIKE = 0.5  # share of prompts with answers of one worth, from which it is told
PROMPTS_WATCHED = 16  # of validation, that are answered at a time


@dataclass
class RolloutSource:
    """A `Source` of a model's own answers to prompts.

    Attributes:
        rows: the prompts.
        objective: learns from rewards.
        models: whose policy draws.
        start: the reference.
        sampler: draws and scores.
        batch_size: prompts of a turn, over all processes.
        planned_steps: updates of the run.
        seed: of the order of prompts, and of what is drawn.
        ranks: the processes that share each turn.
        report: hears of answers that are left out.
        taken: updates so far.
        beta: the KL penalty as it is now.
        turn: the answers that are being learned from.
    """

    rows: Sequence[Prepared]
    objective: Objective
    models: Models
    start: Start
    sampler: Sampler
    batch_size: int
    planned_steps: int = 0
    seed: int = 0
    ranks: Ranks = ALONE
    report: Report = silent
    taken: int = 0
    beta: float = 0.0
    turn: Turn | None = None
    said: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.beta = self.rollouts.config.beta

    @property
    def rollouts(self) -> Rollouts:
        """How the objective learns from answers."""
        assert self.objective.rollouts is not None
        return self.objective.rollouts

    def steps(self) -> Iterator[list[Any]]:
        """This process's micro-batches of one update after another, without end."""
        self.sampler.ready()
        if self.sampler.reason and "slow" not in self.said:
            self.said.add("slow")
            self.report(events.Warning(self.sampler.reason))
        while True:
            number, update = divmod(self.taken, self.rollouts.updates)
            if self.turn is None:
                self.turn = self._collect(number)
            micro = self._update(self.turn, number, update)
            self.taken += 1
            if update + 1 == self.rollouts.updates:
                self.turn = None
            yield micro

    # A turn ---------------------------------------------------------------------------------------------------------

    def _collect(self, number: int) -> Turn:
        """The answers of a turn, and what is learned by them."""
        prompts = self._prompts(number)
        asked = [(place, self.rows[place], seed_of(self.seed, number, place)) for place in prompts]
        drawn = self._draw(asked, self.rollouts.config.samples)
        collected = self._seen(drawn)
        self._watch(collected)
        cut_off = self.rollouts.config.sampling.unfinished == "leave_out"
        unscored = [f"they could not be scored: {one.reason}" if one.reason else "" for one in drawn]
        reasons = [
            why or (CUT_OFF if cut_off and not one.ended else "") for why, one in zip(unscored, drawn, strict=True)
        ]
        turn = self._learned(collected, reasons)
        kl_S = collected.kl
        if kl_S is not None and len(kl_S):
            self.beta = self.rollouts.adapt(self.beta, float(kl_S.mean()))
        return turn

    def _prompts(self, number: int) -> list[int]:
        """The places of a turn's prompts."""
        epoch, step = divmod(number, steps_per_epoch(self.rows, self.batch_size))
        batches = list(epoch_batches(len(self.rows), self.batch_size, self.seed, epoch))
        return [int(place) for place in batches[step]]

    def _draw(self, asked: Sequence[tuple[int, Prepared, int]], samples: int, greedy: bool = False) -> list[Drawn]:
        """Answers to prompts, each process drawing a share; all of them in every process, by prompt."""
        mine = list(range(self.ranks.rank, len(asked), self.ranks.count))
        own = self.sampler.draw([asked[i] for i in mine], samples, greedy) if mine else []
        if self.ranks.count == 1:
            return own
        shares = self.ranks.gather([vars(one) for one in own])
        each = [iter(share) for share in shares]
        return [Drawn(**next(each[i % self.ranks.count])) for i in range(len(asked)) for _ in range(samples)]

    def _seen(self, drawn: Sequence[Drawn]) -> Collected:
        """Answers with what the policy, its start and its value head say of them."""
        rows = [answered(self.rows[one.place], one.ids, one.begin) for one in drawn]
        unfinished = self.rollouts.config.sampling.unfinished == "leave_out"
        reward_S = np.array(
            [np.nan if one.reward is None or (unfinished and not one.ended) else one.reward for one in drawn],
            np.float64,
        )
        names = list(dict.fromkeys(name for one in drawn for name in one.parts))
        part_S = {
            name: np.array([np.nan if (value := one.parts.get(name)) is None else value for one in drawn], np.float64)
            for name in names
        }
        views = {"drawn": [np.asarray(one.drawn, np.float32) for one in drawn]}
        if self.rollouts.needs & {"old", "value"}:
            views |= self._looked_at(rows)
        if "reference" in self.rollouts.needs:
            with self.start.in_place():
                views["reference"] = self._looked_at(rows)["old"]
        ended_S = np.array([one.ended for one in drawn], bool)
        places = [one.place for one in drawn]
        samples = self.rollouts.config.samples
        return Collected(rows, places, samples, reward_S, part_S, ended_S, views)

    def _looked_at(self, rows: Sequence[Prepared]) -> dict[str, list[np.ndarray]]:
        """What the model as it is now says of each answer, by token.

        It is asked as in training, where layers may be compiled; without anything being learned.
        """
        found: dict[str, list[np.ndarray]] = {}
        batches = self._cut(rows, None)
        for places, batch in zip(batches.groups, batches, strict=True):
            dummy = isinstance(batch, DummyBatch)
            looked = self.rollouts.look(self.models, batch.real if dummy else batch)
            looked = {
                name: values_N.detach() for name, values_N in looked.items()
            }  # or two graphs would be there at once
            if dummy:
                continue
            ends = np.cumsum([rows[place].trained for place in places])[:-1]
            for name, values_N in looked.items():
                parts = np.split(values_N.float().cpu().numpy(), ends)
                column = found.setdefault(name, [np.zeros(0, np.float32)] * len(rows))
                for place, part in zip(places, parts, strict=True):
                    column[place] = part
        return found if self.ranks.count == 1 else self._together(found, rows)

    def _together(self, found: dict[str, list[np.ndarray]], rows: Sequence[Prepared]) -> dict[str, list[np.ndarray]]:
        """What the processes have found, each of its share."""
        counts = [row.trained for row in rows]
        names = sorted({name for names in self.ranks.gather(sorted(found)) for name in names})
        empty = [np.zeros(0, np.float32)] * len(rows)
        flat = {
            name: np.concatenate(
                [
                    part if len(part) else np.zeros(count, np.float32)
                    for part, count in zip(found.get(name, empty), counts, strict=True)
                ]
            ).astype(np.float64)
            for name in names
        }
        whole = self.ranks.sum_vectors(flat)
        return {name: np.split(values.astype(np.float32), np.cumsum(counts)[:-1]) for name, values in whole.items()}

    def _watch(self, collected: Collected) -> None:
        """End a run whose answers have moved too far from the start.

        Raises:
            TrainingError: with the step.
        """
        kl_S, most = collected.kl, self.rollouts.config.max_kl
        if kl_S is None or most is None or not len(kl_S):
            return
        mean = float(kl_S.mean())
        if not mean <= most:
            raise TrainingError(
                f"step {self.taken + 1}: answers have moved {mean:.1f} nats a reply from the start, more than "
                f"objective.max_kl = {most:g}. Lower optim.learning_rate, raise objective.beta, or raise max_kl."
            )

    def _learned(self, collected: Collected, reasons: Sequence[str]) -> Turn:
        """The answers that teach something."""
        columns = dict(self.rollouts.learn(collected, self.beta))
        for name in ("old", "reference", "value"):
            if name in self.rollouts.needs:
                columns[name] = collected.views[name]
        kept = [place for place, advantage in enumerate(columns["advantage"]) if not np.isnan(advantage).any()]
        left_out = 1 - len(kept) / len(collected.rows)
        self._say(collected, reasons)
        kl_S = collected.kl
        told = {
            "reward": collected.reward_S,
            "ended": collected.ended_S.astype(np.float64),
            **({} if kl_S is None else {"kl": kl_S, "beta": np.full(len(kl_S), self.beta)}),
            **{f"rewards/{name}": values_S for name, values_S in collected.part_S.items() if len(collected.part_S) > 1},
            **({LEFT_OUT: np.full(len(collected.rows), left_out)} if left_out else {}),
        }
        numbers = {name: np.nan_to_num(values_S) for name, values_S in told.items()}
        return Turn(list(collected.rows), list(collected.places), columns, numbers).part(kept)

    def _say(self, collected: Collected, reasons: Sequence[str]) -> None:
        """Tell of answers without a score, for each reason once, and of prompts whose answers teach nothing."""
        kinds = [QUOTED.sub("...", reason) for reason in reasons]
        for kind in dict.fromkeys(kind for kind in kinds if kind):
            if kind not in self.said:
                self.said.add(kind)
                count, reason = kinds.count(kind), reasons[kinds.index(kind)]
                self.report(
                    events.Warning(
                        f"step {self.taken + 1}: {count} of {len(reasons)} answers are left out, since {reason}. Later "
                        "ones for this reason are counted in `left out`."
                    )
                )
        groups = collected.by_prompt if collected.samples > 1 else collected.reward_S[None]
        alike = equal_groups(groups)
        if alike > MOST_ALIKE and "alike" not in self.said:
            self.said.add("alike")
            self.report(
                events.Warning(
                    f"step {self.taken + 1}: {self._alike_said(collected, alike)} are worth the same, which "
                    "teaches nothing. Give rewards that tell them apart, raise objective.sampling.temperature or "
                    "objective.samples, or leave out prompts that are too easy or too hard."
                )
            )

    def _alike_said(self, collected: Collected, share: float) -> str:
        return f"of {share:.0%} of the prompts all answers" if collected.samples > 1 else "all answers"

    # Its updates ----------------------------------------------------------------------------------------------------

    def _update(self, turn: Turn, number: int, update: int) -> list[Any]:
        """The micro-batches of one update: a part of the turn, in an order of this pass."""
        passed, part = divmod(update, self.rollouts.config.parts)
        order = list(range(len(turn.rows)))
        if self.rollouts.updates > 1:
            random.Random(f"{self.seed}/{number}/{passed}").shuffle(order)
        chosen = order[part :: self.rollouts.config.parts]
        if not chosen:  # nothing could be scored: the step is left out, and says so
            return [DummyBatch(self._nothing(self.rows[0]))]
        some = turn.part(chosen)
        return list(self._cut(some.rows, some))

    def _nothing(self, row: Prepared, *told: str) -> Any:
        """A batch of an answer that nobody gave."""
        ids = [*row.ids.tolist(), int(row.ids[-1])]
        numbers = {name: np.zeros(1) for name in ("reward", "ended", *told)}
        turn = Turn([answered(row, ids, len(row.ids))], [0], {}, numbers)
        return self.objective.collate(turn.rows, self.models.plan, Draw(), columns_of(turn, [0]))

    def _cut(self, rows: Sequence[Prepared], turn: Turn | None) -> LazyBatches:
        """This process's share of answers as micro-batches, with what is known of them."""
        places = {id(row): place for place, row in enumerate(rows)}
        collate = self.objective.collate

        def with_columns(some: Sequence[Prepared], plan: Any, draw: Draw, _: Any) -> Any:
            return collate(
                some, plan, draw, {} if turn is None else columns_of(turn, [places[id(row)] for row in some])
            )

        objective = replace(self.objective, collate=with_columns)
        cutter = RowSource(rows, objective, self.models.plan, len(rows), ranks=self.ranks)
        accumulation = None if turn is None else self.models.plan.accumulation
        return cutter.cut(rows, Draw(), accumulation)

    # Validation -----------------------------------------------------------------------------------------------------

    def watched(self, rows: Sequence[Prepared]) -> Sequence[Any]:
        """Batches of the likeliest answers to prompts, which are answered when they are asked for."""
        groups = [list(range(i, min(i + PROMPTS_WATCHED, len(rows)))) for i in range(0, len(rows), PROMPTS_WATCHED)]

        def found(group: list[int]) -> Any:
            drawn = self._draw([(place, rows[place], 0) for place in group], 1, greedy=True)
            mine = [one for one in drawn[self.ranks.rank :: self.ranks.count] if one.reward is not None]
            if not mine:
                return DummyBatch(self._nothing(rows[0], LEFT_OUT))
            told = {
                "reward": np.array([one.reward for one in mine], np.float64),
                "ended": np.array([one.ended for one in mine], np.float64),
                LEFT_OUT: np.full(len(mine), sum(one.reward is None for one in drawn) / len(drawn)),
            }
            answers = [answered(rows[one.place], one.ids, one.begin) for one in mine]
            turn = Turn(answers, [one.place for one in mine], {}, told)
            return self.objective.collate(answers, self.models.plan, Draw(), columns_of(turn, range(len(mine))))

        return LazyBatches(groups, found)

    # State ----------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """How many updates were made, and the answers that are still to be learned from."""
        values: dict[str, Any] = {"taken": self.taken, "beta": self.beta, "said": sorted(self.said)}
        return ({}, values) if self.turn is None else (tensors_of(self.turn), values)

    def restore(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Stand where it stood."""
        self.taken, self.beta, self.said = values["taken"], values["beta"], set(values["said"])
        self.turn = turn_of(tensors, self.rows) if tensors else None
