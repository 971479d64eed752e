"""Where a model comes from, by the card beside it, and how much of that still holds on this machine.

A card (`tunesmith.json`, made by `jobs/card`) holds the cards of the models that its run started from,
so one folder tells the whole story, wherever it was moved. What the model was made of is looked up
where it lay; nothing is fetched, and nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic.fields import FieldInfo

from tunesmith.core.config import Section, union_members
from tunesmith.core.errors import MissingError, ModelError, TunesmithError
from tunesmith.core.files import expanded, read_json, sha256_of
from tunesmith.core.names import counted
from tunesmith.data.prompting.version import read_version
from tunesmith.data.source import EMBEDDED as EMBEDDED_ROWS
from tunesmith.data.source import find_files
from tunesmith.exec.machine import gpu, processor
from tunesmith.exec.machine import versions as versions_here
from tunesmith.model.layout import CARD, WEIGHTS, adapter_folder
from tunesmith.prompt.base import EMBEDDED as EMBEDDED_MODEL
from tunesmith.prompt.base import Base, resolve
from tunesmith.prompt.bases.record import find_unpacked
from tunesmith.prompt.load import load_contract
from tunesmith.train.recipe import Recipe

State = Literal["same", "changed", "missing", "unknown"]
OF_TUNESMITH = {"cpp"}  # versions of what it brings along itself
NEEDED = {"base", "method", "contract", "data", "seed", "steps", "versions", "plan", "made", "directory", "recipe"}
TOLD_ELSEWHERE = {"model.base", "data.train", "output.folder", "output.name", "seed"}
DIGITS = 16  # of a hash, for people
FAR = ("http://", "https://", "hf:")


@dataclass(frozen=True)
class Fact:
    """One line of a card.

    Attributes:
        label: what it is about.
        text: what the card says.
        state: how that is here; None where there is nothing to compare.
        finding: the state in words.
    """

    label: str
    text: str
    state: State | None = None
    finding: str = ""


@dataclass(frozen=True)
class Generation:
    """A model in a line of models.

    Attributes:
        name: as it was given.
        role: what it was to the run that started from it; empty for the model that was asked for.
        folder: where it is here, if it is.
        card: None for a model that tunesmith did not make.
        facts: what the card says, line by line; of an origin, first its hash.
        origins: what its run started from: its base and, if there was one, an earlier adapter.
    """

    name: str
    role: str
    folder: Path | None
    card: dict[str, Any] | None
    facts: list[Fact]
    origins: list[Generation] = field(default_factory=list["Generation"])

    def doubts(self) -> list[Fact]:
        """What the run was made of and is not, or not surely, the same here."""
        facts = [*self.facts, *(replace(one.facts[0], label=f"{one.role} {one.name}") for one in self.origins)]
        return [fact for fact in facts if fact.state not in (None, "same") and fact.label != "contract"]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a card is given without those that it holds."""
        card = self.card and {key: value for key, value in self.card.items() if key not in ("parent", "continue_from")}
        return {
            "name": self.name,
            "role": self.role,
            "folder": str(self.folder) if self.folder else None,
            "card": card,
            "checks": [asdict(fact) for fact in self.facts if fact.state],
            "origins": [origin.to_json() for origin in self.origins],
        }


def trace(name: str) -> Generation:
    """The model called `name` and all that it comes from.

    Args:
        name: a run folder, an exported model's folder, or a base model.

    Raises:
        MissingError: there is no such model.
        ModelError: its card cannot be read.
    """
    folder = expanded(name)
    if (folder / "config.yaml").exists() and not (folder / "config.json").exists():
        if not (folder / "model").exists():
            raise MissingError(f"{folder}: this run has no model yet. `tunesmith show {folder}` says how it stands.")
        folder = folder / "model"
    if (folder / CARD).exists():
        card = read_json(folder / CARD)
        if not isinstance(card, dict) or not card.keys() >= NEEDED:
            raise ModelError(f"{folder / CARD}: not a card of this version of tunesmith. Train the model again.")
        try:
            found = _generation(name, folder, card)
            return replace(found, facts=[Fact("sha256", hash_of(folder)[:DIGITS]), *found.facts])
        except (KeyError, TypeError, AttributeError) as error:  # somebody has edited it
            raise ModelError(f"{folder / CARD}: cannot be understood ({error!r}). Restore it.") from error
    base = resolve(name)
    return Generation(name, "", base.folder, None, [Fact("sha256", base.fingerprint())])


def hash_of(folder: Path) -> str:
    """What records call a model's hash: of an adapter its weights', of a full model config and tokenizer's too."""
    adapter = folder / WEIGHTS
    return sha256_of(adapter) if adapter.exists() else Base("", folder).fingerprint()


def _generation(name: str, folder: Path | None, card: dict[str, Any]) -> Generation:
    there = Path(card["directory"])
    replay = card.get("replay") or {"files": []}
    files = [*_files("file", card["data"]["files"], there), *_files("replayed", replay["files"], there)]
    facts = [*_story(card), *_prompt(card, there), *files, _contract(card, folder), *_surroundings(card)]
    base = find_base(card["base"], there)
    origins = [_origin("base", {**card["base"], **(card.get("parent") or {})}, base.folder if base else None)]
    if start := card.get("continue_from"):
        origins.append(_origin("continue_from", start, find_start(start["name"], there)))
    return Generation(name, "", folder, card, facts, origins)


def _origin(role: str, record: dict[str, Any], folder: Path | None) -> Generation:
    """A model that a run started from: its hash, and its own lineage where it has a card."""
    fact = _compared("sha256", record["sha256"], lambda: hash_of(folder) if folder else None)
    if commit := record.get("commit"):
        fact = replace(fact, text=f"{fact.text}, commit {commit}")
    card = record.get("card")
    if not card or not card.keys() >= NEEDED:
        strange = [Fact("card", "of another version of tunesmith", "unknown", "not read")] if card else []
        return Generation(record["name"], role, folder, None, [fact, *strange])
    generation = _generation(record["name"], folder, card)
    return replace(generation, role=role, facts=[fact, *generation.facts])


def _compared(label: str, recorded: str | None, hash_here: Callable[[], str | None]) -> Fact:
    """A recorded hash beside the one that is found here."""
    if recorded is None:
        return Fact(label, "no hash", "unknown", "it was not to be had, or was changed, when the model was made")
    here = hash_here()
    if here is None:
        return Fact(label, recorded[:DIGITS], "missing", "not found here")
    if here != recorded:
        return Fact(label, recorded[:DIGITS], "changed", f"changed since: now {here[:DIGITS]}")
    return Fact(label, recorded[:DIGITS], "same", "the same here")


def find_base(record: dict[str, Any], there: Path) -> Base | None:
    """A base model as a card names it, if it is on this machine.

    Args:
        record: `name`; `commit` of a model from the hub; `gguf` of one that was unpacked from a file.
        there: the folder that its run was started in.
    """
    name, commit = record["name"], record.get("commit")
    if name == EMBEDDED_MODEL:
        return resolve(name)
    if commit:
        return _cached_base(name, commit)
    if gguf := record.get("gguf"):
        unpacked = find_unpacked(gguf["sha256"])
        return Base(name, unpacked) if unpacked else None
    folder = _find(name, there)
    return Base(name, folder) if folder and folder.is_dir() else None


def _cached_base(name: str, commit: str) -> Base | None:
    """A model of the hub that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=commit)
    except HFValidationError:  # no name that the hub could have
        return None
    return Base(name, Path(found).parent, commit) if isinstance(found, str) else None


def find_start(name: str, there: Path) -> Path | None:
    """The adapter that a run went on from, if it is on this machine."""
    for place in (there / expanded(name), expanded(name)):
        try:
            return adapter_folder(str(place))
        except MissingError:
            continue
    return None


def _find(name: str, there: Path) -> Path | None:
    """A file or folder, looked for from where the run was started, then from here."""
    path = expanded(name)
    return next((place for place in (there / path, path) if place.exists()), None)


def _story(card: dict[str, Any]) -> Iterator[Fact]:
    """What needs no comparison."""
    method = {name: value for name, value in card["method"].items() if name != "type" and value is not None}
    yield Fact("made", f"{card['made']}, {counted(card['steps'], 'step')}, seed {card['seed']}")
    yield Fact("method", f"{card['method']['type']}{': ' if method else ''}{_listed(method)}")
    if told := _listed(unusual(card["recipe"])):
        yield Fact("recipe", told)
    if merge := card.get("merge"):
        off, answers = merge["largest_logit_difference"], merge["answers"]
        same = f", {answers['same']} of {answers['rows']} greedy answers the same" if answers else ""
        told = f"{merge['made']}, logits within {off['value']:.2g} of the adapter's (limit {off['limit']:g}){same}"
        yield Fact("merged", told)
    yield Fact("data", f"{card['data']['id'][:DIGITS]}, {counted(card['data']['rows'], 'row')} to train on")
    if replay := card.get("replay"):
        told = f"{replay['rows']} {replay['what']} beside them, {replay['an_epoch']} in each epoch"
        yield Fact("replay", f"{replay['id'][:DIGITS]}, {told}")


def _prompt(card: dict[str, Any], there: Path) -> Iterator[Fact]:
    """The prompt that was put around each row, if one was."""
    if (asked := card.get("asked_with")) is None:
        return
    name = card["recipe"]["data"]["prompt"]

    def version_here() -> str | None:
        for place in (there / expanded(name), expanded(name)):
            with contextlib.suppress(TunesmithError):
                return read_version(str(place), name).id
        return None

    fact = _compared("prompt", asked["version"], version_here)
    yield replace(fact, text=f"{fact.text}, {name}, around each row: {asked['told']}")


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def unusual(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults of this version, by dotted name, without what other lines tell."""
    rest = {name: value for name, value in recipe.items() if name != "method"}
    found = dict(_differing(Recipe.model_fields, rest, ""))
    return {name: value for name, value in found.items() if name not in TOLD_ELSEWHERE}


def _differing(fields: Mapping[str, FieldInfo], values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    """What is not the default, by dotted name; of a section of another type than the default, the type too."""
    for name, value in values.items():
        field = fields.get(name)
        members = union_members(field) if field else []
        tags = {str(kind.model_fields["type"].default): kind for kind in members if "type" in kind.model_fields}
        default = _plain(field)
        if not isinstance(value, dict) or (field and not members):
            if value != default:
                yield f"{before}{name}", value
            continue
        chosen = cast(dict[str, Any], value)
        type = str(chosen.get("type"))
        if tags and isinstance(default, dict) and type != cast(dict[str, Any], default).get("type"):
            yield f"{before}{name}", type
        kind = tags.get(type) if tags else next(iter(members), None)
        inner = {key: one for key, one in chosen.items() if key != "type"}
        yield from _differing(kind.model_fields if kind else {}, inner, f"{before}{name}.")


def _plain(field: FieldInfo | None) -> Any:
    """A field's default as a card has it; what no card has where there is none."""
    if field is None or field.is_required():
        return ...
    if isinstance(field.default, Section):
        return field.default.model_dump(mode="json")
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _files(label: str, records: list[dict[str, Any]], there: Path) -> Iterator[Fact]:
    """A line for each file of rows, with what became of its rows."""
    for record in records:
        counts = {name: count for name, count in record.items() if name not in ("file", "sha256")}
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        name = record["file"]
        if name.startswith(FAR):
            fact = Fact(name, (record["sha256"] or "")[:DIGITS], "unknown", "fetched from there, and not fetched again")
        else:
            fact = _compared(name, record["sha256"], lambda name=name: _hash_of_rows(name, there))
        yield replace(fact, label=f"{label} {name}", text=f"{fact.text}, {told}")


def _hash_of_rows(name: str, there: Path) -> str | None:
    path = find_files(name)[0].path if name in EMBEDDED_ROWS else _find(name, there)
    return sha256_of(path) if path and path.is_file() else None


def _contract(card: dict[str, Any], folder: Path | None) -> Fact:
    """Whether tokenizer and template beside the model are those that it was trained with."""

    def id_here() -> str | None:
        return load_contract(folder, train_on=card["contract"]["train_on"]).id if folder else None

    try:
        return _compared("contract", card["contract"]["id"], id_here)
    except TunesmithError as error:
        return Fact("contract", card["contract"]["id"][:DIGITS], "changed", f"changed since: {error}")


def _surroundings(card: dict[str, Any]) -> Iterator[Fact]:
    """Libraries and machine, then and now."""
    versions: dict[str, str] = card["versions"]
    installed = versions_here() | {name: versions[name] for name in OF_TUNESMITH & versions.keys()}
    others = {name: installed.get(name, "none") for name in versions if installed.get(name) != versions[name]}
    finding = f"other here: {_listed(others)}" if others else "the same here"
    yield Fact("versions", _listed(versions), "changed" if others else "same", finding)
    plan = card["plan"]
    told = f"{plan['machine']}, {plan['device']}, {plan['precision']}, {plan['threads']} threads"
    found = None if plan["device"] == "cpu" else gpu()
    here = (processor(), "cpu") if found is None else (found, "cuda")
    if here == (plan["machine"], plan["device"]):
        yield Fact("machine", told, "same", "the same here")
    else:
        yield Fact("machine", told, "changed", f"other here: {', '.join(here)}")
