"""What the terminal shows: a live bar, tables of scores, answers of the models side by side."""

# ruff: noqa: D102  (the handlers say by their names which event they show)

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from tunesmith.core import events
from tunesmith.core.difference import in_words
from tunesmith.core.events import Report
from tunesmith.core.names import counted, shortened, shortest_ends
from tunesmith.score.interval import VERDICTS, show

console = Console(highlight=False, soft_wrap=False)


class Screen:
    """Turns a job's events into what people see: `on_<kind>` for each kind that is shown."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None
        self.validation = ""
        self.speeds: list[float] = []

    def __call__(self, event: events.Event) -> None:
        """Show one event; kinds that people need not see are passed over."""
        handler = getattr(self, f"on_{event.kind}", None)
        if handler is not None:
            handler(event)

    def say(self, text: str) -> None:
        """A line above the live bar."""
        self.progress.console.print(text)

    def on_folder(self, event: events.Folder) -> None:
        self.say(f"run folder [bold]{escape(event.folder)}[/bold]")

    def on_stopping(self, event: events.Stopping) -> None:
        self.say("stopping as soon as it can; Ctrl-C again ends it at once")

    def on_resumed(self, event: events.Resumed) -> None:
        self.say(f"going on after step {event.step}" if event.step else "no checkpoint yet: beginning anew")
        for sentence in in_words([*event.changes, *event.inexact]):
            self.say(f"[yellow]note:[/yellow] {escape(sentence)}")

    def on_warning(self, event: events.Warning) -> None:
        self.say(f"[yellow]note:[/yellow] {escape(event.sentence)}")

    def on_replay(self, event: events.Replay) -> None:
        self.say(escape(event.sentence))

    def on_data(self, event: events.Data) -> None:
        rows, tokens = event.rows, event.tokens
        for ledger in event.ledgers:
            self.say(escape(f"{ledger['file']}: {ledger['sentence']}"))
        self.say(
            f"data: {counted(rows['train'], 'row')} to train on, {rows['validation']} to validate on, {rows['test']} "
            f"held out; {tokens['median']:.0f} tokens in the median row, {tokens['most']} in the longest"
        )

    def on_plan(self, event: events.Plan) -> None:
        plan = event.plan
        padded = "padded" if plan.get("padding") is None else f"padded ({plan['padding']:.0%} is padding)"
        words = "" if plan.get("words") is None else f" ({plan['reasons']['words']})"
        self.say(
            f"plan: {plan['precision']} on {plan['device']} ({plan['machine']}), "
            f"{'packed' if plan['packing'] else padded}, {event.trainable:,} weights to train{words}, "
            f"learning rate {event.learning_rate:g}"
        )

    def on_rates(self, event: events.Rates) -> None:
        if len(event.groups) > 1:
            self.progress.console.print(rates_table(event.groups))

    def on_validation_plan(self, event: events.ValidationPlan) -> None:
        if event.share >= 0.01:
            self.say(
                f"validation: {event.rows} of {event.of} rows every {event.every} steps, about "
                f"{event.share:.0%} of the work of training"
            )

    def on_comparison(self, event: events.Comparison) -> None:
        sets = ", ".join(f"{one['rows']} of {one['of']} {what}" for what, one in event.sets.items())
        self.say(escape(f"answering {sets}; that takes about {event.seconds:.0f} s"))

    def on_step(self, event: events.Step) -> None:
        if self.task is None:
            self.task = self.progress.add_task("training", total=event.steps, numbers="")
        numbers = (
            f"{watched(event.curves)}  {event.tokens_per_second:,.0f} tokens/s  "
            f"{event.memory_bytes / 2**30:.2f} GB{self.validation}"
        )
        self.progress.update(self.task, completed=event.step, numbers=numbers)
        if not self.progress.console.is_terminal and event.step % max(1, event.steps // 10) == 0:
            self.say(f"step {event.step}/{event.steps}  {numbers}")
        self.speeds.append(event.tokens_per_second)
        if event.step == event.steps:
            seconds = self._end_bar()
            median = sorted(self.speeds)[len(self.speeds) // 2]
            taken = f"{counted(event.steps, 'step')} in {seconds:.0f} s"
            self.say(f"trained {taken}, {median:,.0f} tokens/s in the median step")

    def on_validation(self, event: events.Validation) -> None:
        self.validation = f"  validation {watched(event.curves).split()[1]}"

    def on_pulse(self, event: events.Pulse) -> None:
        if self.task is None:
            self.task = self.progress.add_task(event.doing, total=event.of, numbers="")
        self.progress.update(self.task, completed=event.done)
        if event.done == event.of:
            self._end_bar()

    def on_phase(self, event: events.Phase) -> None:
        self.say(f"[dim]{event.name} ...[/dim]")

    def on_exported(self, event: events.Exported) -> None:
        self.say(f"model: [bold]{escape(event.folder)}[/bold]")

    def on_scores(self, event: events.Scores) -> None:
        self.say("")
        self.progress.console.print(scores_table(event.scores, event.rows, event.model, event.against))
        for name, speed in event.speed.items():
            self.say(escape(f" {name}: {speed['median']:.2f} s for one answer ({speed['rows']} timed)"))

    def on_general_ability(self, event: events.GeneralAbility) -> None:
        title = f"what was forgotten: {event.what}, {counted(event.rows, 'row')}"
        self.say("")
        self.progress.console.print(scores_table(event.scores, event.rows, event.model, event.against, title, BRIEF))

    def on_harness(self, event: events.Harness) -> None:
        self.progress.console.print(harness_table(event.found))

    def on_early(self, event: events.Early) -> None:
        if self.task is not None:
            self._end_bar()
        self.say(f"ended early after step {event.step}: nothing was better than step {event.best_step}")

    def on_rolled_back(self, event: events.RolledBack) -> None:
        self.say(f"back to step {event.step}")

    def on_samples(self, event: events.Samples) -> None:
        for sample in event.samples:
            show_sample(self.progress.console, sample, event.model, event.against)

    def _end_bar(self) -> float:
        """Take the bar away and return how many seconds it was there."""
        assert self.task is not None
        seconds = self.progress.tasks[-1].elapsed or 0.0
        self.progress.remove_task(self.task)
        self.task = None
        return seconds


@contextmanager
def live_screen() -> Generator[Report]:
    """A `Report` that draws on the terminal until the block ends."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    with progress:
        yield Screen(progress)


def watched(curves: dict[str, float]) -> str:
    """What a run is watched by, as it stands."""
    name = events.watched([curves])
    return f"{name} {curves[name]:.3f}"


def rates_table(groups: list[dict[str, Any]]) -> Table:
    """Which weights learn how fast."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("weights", overflow="fold")
    for name in ("how many", "peak rate", "weight decay"):
        table.add_column(name, justify="right")
    for group in groups:
        table.add_row(
            escape(group["what"]), f"{group['weights']:,}", f"{group['rate']:.3g}", f"{group['weight_decay']:g}"
        )
    return table


def say_aside(event: events.Event) -> None:
    """What is done before an answer can be given, on standard error: what is asked for stands alone on the other."""
    if isinstance(event, events.Phase):
        Console(stderr=True, highlight=False).print(f"{event.name} ...", style="dim", markup=False, soft_wrap=True)


def interval(score: dict[str, float]) -> str:
    """`12.3 [11.0, 13.9]`."""
    return f"{show(score['value'])} [{show(score['low'])}, {show(score['high'])}]"


COLOURS: dict[str, str] = dict(zip(VERDICTS, ("green", "red", "yellow", "yellow", "yellow"), strict=True))
BRIEF = ("perplexity", "BLEU", "token accuracy", "perplexity of masked tokens", "accuracy of masked tokens")
WIDEST_NAME = 18  # characters of a model's name above its scores


def model_names(model: str, against: str | None) -> list[str]:
    """Short names of the models, the one beside first."""
    return shortened(shortest_ends([against, model] if against else [model]), WIDEST_NAME)


def scores_table(
    scores: list[dict[str, Any]], rows: int, model: str, against: str | None, title: str = "",
    only: tuple[str, ...] = (),
) -> Table:  # fmt: skip
    """Each metric with its 95% interval, beside the other model's where there is one: what got better, worse, the rest.

    Args:
        scores: one entry a metric, as report.json has them.
        rows: that were measured.
        model: that was measured.
        against: the other model, if there is one.
        title: above the table; says how many rows if empty.
        only: the metrics to show; all if empty.
    """
    title = title or f"{counted(rows, 'row')}, 95% intervals"
    scores = [score for score in scores if not only or score["metric"] in only]
    lines: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    table = Table(title=escape(title), title_justify="left", title_style="bold", **lines)
    table.add_column("metric", no_wrap=True)
    for name in (*model_names(model, against), *(["difference"] if against else [])):
        table.add_column(escape(name), justify="right", overflow="fold")
    for verdict in (*VERDICTS, ""):
        found = [score for score in scores if score["verdict"] == verdict]
        if verdict and found:
            table.add_row(f"[{COLOURS[verdict]}]{verdict}[/]")
        for score in found:
            parts = [score[part] for part in (("other", "score", "difference") if against else ("score",))]
            cells = (escape(interval(part)) if part else "" for part in parts)
            table.add_row(f"{' ' if verdict else ''}{score['metric']}", *cells)
    return table


def harness_table(found: dict[str, Any]) -> Table:
    """Every metric of every task of lm_eval, with its standard error."""
    asked = "through the chat template" if found["chat_template"] else "as plain text"
    title = f"lm_eval {found['lm_eval']}, {asked}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("task")
    table.add_column("metric")
    for name in ("value", "standard error", "rows", "few-shot"):
        table.add_column(name, justify="right")
    for task, scores in {**found["tasks"], **found["groups"]}.items():
        for metric in scores["metrics"]:
            values = ("" if metric[key] is None else f"{metric[key]:.4f}" for key in ("value", "standard_error"))
            counts = (str(scores[key] if scores[key] is not None else "") for key in ("rows", "few_shot"))
            table.add_row(escape(task), escape(metric["metric"]), *values, *counts)
    return table


def show_sample(target: Console, sample: dict[str, Any], model: str, against: str | None) -> None:
    """A question with its answers. Text of data and models is printed as it is, never as markup."""
    names = model_names(model, against)
    width = max(map(len, names)) + 2
    target.print()
    target.print(f"{'Q':{width}}{sample['messages'][-1]['content']}", style="bold", markup=False)
    if sample["other"] is not None:
        target.print(f"{names[0]:{width}}{sample['other']}", style="dim", markup=False)
    target.print(f"{names[-1]:{width}}{sample['answer']}", markup=False)
