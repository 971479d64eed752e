"""A continuation of a prompt that people found good or not (KTO; Ethayarajh et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tunesmith.core.errors import DataError
from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.turns import SYSTEM_KEYS, continuation_of, conversation_of, system_of
from tunesmith.data.formats.values import Values, Warn, shown, text_of
from tunesmith.data.kinds.conversation import openai_turns, said, unshown_parts, without_weight
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import TrainingRows
from tunesmith.data.kinds.row import Edit
from tunesmith.data.kinds.teach import refuse_answers
from tunesmith.data.quality.check import check_answer, check_prompt
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.messages import Conversation, Message, plain


@dataclass(frozen=True)
class Verdict:
    """A continuation of a prompt that people found good or not."""

    kind: ClassVar[str] = "verdict"
    prompt: Conversation
    completion: Conversation
    good: bool

    def to_plain(self) -> dict[str, Any]:
        """TRL's format for KTO."""
        return {
            "prompt": openai_turns(self.prompt),
            "completion": openai_turns(self.completion),
            "label": self.good,
        }

    def texts(self) -> Iterable[str]:
        """Prompt and continuation."""
        return (*said(self.prompt), *said(self.completion))

    def asked(self) -> str:
        """The prompt."""
        return repr(plain(self.prompt))


GOOD = frozenset(("true", "yes", "good", "desirable", "1", "1.0"))  # ways to say so, and the opposite
BAD = frozenset(("false", "no", "bad", "undesirable", "0", "0.0"))


def says_yes_or_no(row: Values) -> bool:
    """Whether the label says that an answer is good or bad; a class would be another format's."""
    return _good(row.get("label", row.get("kto_tag"))) is not None


def _good(label: Any) -> bool | None:
    """Whether a label says good; None where it says something else."""
    word = str(label).strip().lower() if isinstance(label, str | int | float) else ""
    return True if word in GOOD else False if word in BAD else None


def convert(row: Values, warn: Warn) -> Verdict:
    """A continuation with a verdict."""
    key = "label" if row.get("label") is not None else "kto_tag"
    good = _good(row[key])
    if good is None:
        raise RowFault("bad_label", f"{key!r} is {shown(row[key])}.", "Use true or false, or good or bad.", (key,))
    if row.get("completion") is not None:
        if isinstance(row["prompt"], list):
            prompt = conversation_of(row, "prompt", warn)
        else:
            prompt = (*system_of(row), Message("user", text_of(row, "prompt"), origin=("prompt",)))
        return Verdict(prompt, continuation_of(row, "completion", warn), good)
    turns = conversation_of(row, "messages" if row.get("messages") is not None else "conversations", warn)
    if turns[-1].role != "assistant":
        found = "the last turn is not the assistant's."
        raise RowFault("no_assistant", found, "Add the answer that is judged.", turns[-1].origin[:-1])
    return Verdict(turns[:-1], turns[-1:], good)


def drafts(content: Verdict, contract: Contract) -> list[Draft]:
    """One sequence, of which the continuation is marked as trained."""
    return [contract.draft((*without_weight(content.prompt), *content.completion))]


def check(content: Verdict, warn: Warn) -> None:
    """A prompt that asks, and an answer."""
    check_prompt(content.prompt)
    check_answer(content.prompt, content.completion, "completion")


def turns(content: Verdict) -> Conversation:
    """All turns."""
    return (*content.prompt, *content.completion)


def edit(content: Verdict, change: Edit) -> Verdict:
    """The row with its turns changed; what was judged is not learned as it stands."""
    return replace(
        content, prompt=change.asked(change.turns(content.prompt)), completion=change.turns(content.completion)
    )


def gather(content: Verdict, facts: Facts) -> None:
    """How many continuations are good, and how many are not: what weighs one against the other."""
    name = "good" if content.good else "bad"
    facts[name] = facts.get(name, 0) + 1


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """What `refuse_answers` refuses, and verdicts that are all the same.

    Raises:
        DataError: they are.
    """
    refuse_answers(rows, facts, contract)
    contents: list[Any] = [row.row.content for row in rows]
    if len({content.good for content in contents}) == 1:
        how, instead = ("bad", "give good ones alone")
        if contents[0].good:
            how, instead = "good", "train on them with objective.type=sft"
        raise DataError(
            f"all {len(rows)} training rows were found {how}, so there is nothing to tell them from. Give answers of "
            f"both sorts, or {instead}."
        )


def doubts(rows: TrainingRows, facts: Facts) -> list[str]:
    """Verdicts most of which say the same."""
    good, bad = facts.get("good", 0), facts.get("bad", 0)
    if not good or not bad or max(good, bad) < 4 * min(good, bad):
        return []
    less, field = ("good", "desirable_weight") if good < bad else ("bad", "undesirable_weight")
    return [
        f"{good} answers were found good and {bad} bad: few {less} ones count for little. Of objective.type=kto, "
        f"objective.{field} makes each count more."
    ]


def lacks(facts: Facts) -> str:
    """That all verdicts are the same."""
    good, bad = facts.get("good", 0), facts.get("bad", 0)
    if (good and bad) or good + bad < 2:
        return ""
    return f"all {good + bad} answers were found {'good' if good else 'bad'}, and there is nothing to tell them from."


KIND = RowKind(
    name=Verdict.kind,
    words="verdicts",
    formats=(
        Format(
            "kto",
            Verdict.kind,
            sets(
                "prompt completion label",
                "messages label",
                "messages kto_tag",
                "conversations label",
                "conversations kto_tag",
            ),
            convert,
            frozenset(SYSTEM_KEYS),
            says_yes_or_no,
        ),
    ),
    chat=True,
    drafts=drafts,
    check=check,
    turns=turns,
    edit=edit,
    unshown=lambda content, contract: unshown_parts(turns(content), (), contract),
    gather=gather,
    refuse=refuse,
    doubts=doubts,
    lacks=lacks,
)
