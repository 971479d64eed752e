"""What leaves this machine when a model is pushed: its exported files, a card, and no path of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tunesmith.core.errors import ConfigError, JobError, MissingError, ModelError, TunesmithError
from tunesmith.core.events import EVENTS
from tunesmith.core.files import expanded, read_json, read_lines, read_object, sha256_of
from tunesmith.deploy.card import Facts, write_card
from tunesmith.model.layout import ADAPTER, CARD, WEIGHTS
from tunesmith.prompt.base import EMBEDDED
from tunesmith.registry.runs import RunSummary, is_run, read_run

README = "README.md"
PUBLISHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", ADAPTER, "generation_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "vocab.txt", "merges.txt", "*.jinja", CARD,
)  # fmt: skip
CONFIGS = (ADAPTER, "config.json", "generation_config.json", "tokenizer_config.json")
FILE_KEYS = {
    "train",
    "validation",
    "test",
    "replay",
    "prompt",
    "file",
    "row",
    "folder",
    "directory",
    "continue_from",
}  # what names files
PRIVATE = {"track", "system", "own_words"}  # addresses that may hold passwords, and the user's own words
INSIDE = re.compile(r"""(?<![^\s"'`(\[=:,])(?:file://)?~?/(?:[^\s/"'`]+/)+([^\s/"'`:,)\]]+)""")  # a path in a sentence


@dataclass(frozen=True)
class Bundle:
    """What would be sent, ready to look at.

    Attributes:
        repo: where to, as owner/name.
        files: each name in the repository, with a path or, where it is not sent as it lies here, its bytes.
        left_out: what lies in the model's folder and is not sent.
    """

    repo: str
    files: dict[str, Path | bytes]
    left_out: list[str]

    @property
    def card(self) -> str:
        """The model card."""
        text = self.files[README]
        assert isinstance(text, bytes)
        return text.decode()

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def is_published(name: str) -> bool:
    """Whether a file of this name is one that publishing writes."""
    return any(fnmatchcase(name, pattern) for pattern in PUBLISHED)


def pack(name: str, repo: str, with_samples: bool = False, revision: str | None = None) -> Bundle:
    """Everything that `push` sends, checked; nothing is sent here, and no token is needed.

    Args:
        name: a run folder, or the folder of an exported model.
        repo: owner/name.
        with_samples: whether the card may quote the first question of the run's report, and the prompt that the model
            was trained with.
        revision: branch that the card's code loads, where it is not the main one.

    Raises:
        TunesmithError: the name of the repository is impossible, there is no model, or nobody could load it.
    """
    refuse_bad_name(repo)
    folder, run = find_model(name)
    written = read_object(folder / CARD)
    adapter = read_object(folder / ADAPTER) if (folder / ADAPTER).exists() else None
    base, commit = find_base(name, folder, written, adapter)
    card = reduced(written, local_bases(written))
    if with_samples and (words := (written.get("asked_with") or {}).get("own_words")):
        card["asked_with"]["own_words"] = reduced({**words, "chosen": None})
    files: dict[str, Path | bytes] = {}
    left_out: list[str] = []
    for path in sorted(folder.iterdir()):
        if not (path.is_file() and is_published(path.name)):
            left_out.append(path.name)
            continue
        content = card if path.name == CARD else _without_places(path) if path.name in CONFIGS else None
        files[path.name] = path if content is None or content == read_json(path) else _as_bytes(content)
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelError(f"{folder}: no weights (*.safetensors). Push a run that has finished.")
    facts = Facts(repo, revision, card, base, commit, adapter is not None, with_samples, **_told_by(run, card, folder))
    files[README] = write_card(facts).encode()
    refuse_places(files, {str(folder.resolve()), str(Path.home()), str(Path.cwd())})
    return Bundle(repo, dict(sorted(files.items())), left_out)


def refuse_bad_name(repo: str) -> None:
    """Refuse what cannot be a repository's name, before anything is asked of the hub."""
    if not _possible(repo):
        raise ConfigError(
            f"{repo!r} cannot be a repository. Give owner/name, made of letters, digits, '-', '_' and '.', "
            "such as my-name/hotel-chat."
        )


def _possible(repo: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return repo.count("/") == 1


def find_model(name: str) -> tuple[Path, RunSummary | None]:
    """The folder to push, and the run that measured it, if that is known.

    Raises:
        MissingError: there is no exported model.
        JobError: the run has not ended well; its model's folder can still be named itself.
    """
    folder = expanded(name)
    if not is_run(folder):
        if not (folder / CARD).exists():
            raise MissingError(f"{name}: no run and no model of tunesmith's. `tunesmith runs` lists the runs.")
        return folder, _measured_by(folder.resolve())
    run, model = read_run(folder), folder / "model"
    if not (model / CARD).exists():
        raise MissingError(f"{name}: this run has no model yet. `tunesmith show {name}` says how it stands.")
    if run.status != "succeeded":
        raise JobError(
            f"{name}: this run is {run.status}. Go on with `tunesmith train --resume {name}`, "
            f"or name {model} to push the model as it is."
        )
    return model, run


def _measured_by(model: Path) -> RunSummary | None:
    """The run whose report is about this model, or about the adapter that was folded into it."""
    if model.name == "model" and is_run(model.parent):
        return read_run(model.parent)
    merge = read_object(model / CARD).get("merge")
    if not merge:
        return None
    for run in (model.parent, Path(merge["adapter"]["folder"]).parent):  # the first, should all have been moved
        for adapter in (run / "adapter", run / "model"):
            weights = adapter / WEIGHTS
            if is_run(run) and weights.exists() and sha256_of(weights) == merge["adapter"]["sha256"]:
                return read_run(run)
    return None  # it is gone, or has been trained on since


def find_base(
    name: str, folder: Path, card: dict[str, Any], adapter: dict[str, Any] | None
) -> tuple[str | None, str | None]:
    """The hub id and commit of the base model; both None for a full model of a base that lies on no hub.

    Raises:
        ModelError: an adapter of such a base, which nobody could load.
    """
    recorded = card.get("base", {})
    if adapter is None:
        return (recorded.get("name"), recorded["commit"]) if recorded.get("commit") else (None, None)
    base = adapter["base_model_name_or_path"]
    if not _possible(base) or Path(base).is_dir():
        what = "the embedded model ember" if recorded.get("name") == EMBEDDED else f"the local folder {base}"
        raise ModelError(
            f"{folder}: an adapter of {what}, which nobody else has. Push a full model: "
            f"`tunesmith merge {name}`, or train with --set output.merge=true."
        )
    return base, adapter.get("revision")


def _told_by(run: RunSummary | None, card: dict[str, Any], model: Path) -> dict[str, Any]:
    """What a run's folder adds to the card: its report, its ledgers, and the learning rate that it used."""
    if run is None:
        return {"ledgers": card.get("data", {}).get("ledgers")}
    report, ledgers = run.folder / "report" / "report.json", run.folder / "ledger.json"
    plans = [event for event in read_lines(run.folder / EVENTS) if event["kind"] == "plan"]
    return {
        "report": read_json(report) if report.exists() else None,
        "ledgers": [one for one in reduced(read_json(ledgers)) if not one.get("replayed")]
        if ledgers.exists()
        else None,
        "learning_rate": plans[-1].get("learning_rate") if plans else None,
        "of_adapter": "merge" in card and model.resolve() != (run.folder / "model").resolve(),
    }


def _as_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _without_places(path: Path) -> dict[str, Any]:
    """A config with the places that libraries write into it reduced; its other values may only look like paths."""
    places = ("name_or_path", "_file")
    return {key: reduced(value) if key.endswith(places) else value for key, value in read_object(path).items()}


def local_bases(card: Any) -> set[str]:
    """Names of base models that are folders, wherever in a card they stand: those with no commit of the hub."""
    if isinstance(card, list):
        return set[str]().union(*map(local_bases, card))
    if not isinstance(card, dict):
        return set()
    base = card.get("base")
    here = {base["name"]} if isinstance(base, dict) and "name" in base and not base.get("commit") else set[str]()
    return here.union(*map(local_bases, card.values()))


def reduced(value: Any, local: Collection[str] = (), files: bool = False) -> Any:
    """`value` with every path of this machine reduced to its last name.

    A ledger's entries, whose sentences may quote rows, and what is private in a recipe are left out.

    Args:
        value: plain values of JSON.
        local: names that are local folders although they look like hub ids.
        files: whether the strings in it name files, so that relative paths are reduced too.
    """
    if isinstance(value, Mapping):
        if value.keys() == {"name", "before", "now"}:
            return _reduced_difference(value, local)
        short: dict[str, Any] = {}
        for key, inner in value.items():
            if key in PRIVATE or (key == "entries" and "counts" in value):
                continue
            name = _last_name(key, local, files)
            while name in short:  # two files of one name
                name += "+"
            short[name] = reduced(inner, local, files or key in FILE_KEYS)
        return short
    if isinstance(value, list):
        return [reduced(inner, local, files) for inner in value]
    return _last_name(value, local, files) if isinstance(value, str) else value


def _reduced_difference(value: Mapping[str, Any], local: Collection[str]) -> dict[str, Any]:
    """A setting that was changed on the way, as `reduced` treats the setting itself."""
    words = str(value["name"]).split(".", 2)  # a section's name, a setting's, and that of a file in it
    if PRIVATE & set(words[:2]):
        return {"name": ".".join(words[:2]), "before": "(left out)", "now": "(left out)"}
    files = bool(FILE_KEYS & set(words[:2]))
    name = ".".join([*words[:2], *(_last_name(word, local, files) for word in words[2:])])
    return {"name": name, **{key: reduced(value[key], local, files) for key in ("before", "now")}}


def _last_name(text: str, local: Collection[str], files: bool) -> str:
    if "\n" not in text and re.match(r"(~[^\s/]*)?/|\.\.?/", text):
        return PurePosixPath(text).name or text
    if re.match(r"[a-z][a-z0-9+.-]*://\S*$", text):  # its user, password and query may be secrets
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}" if host else PurePosixPath(parts.path).name
    if (files and not text.startswith("hf:")) or text in local:
        return PurePosixPath(text).name or text
    return INSIDE.sub(r"\1", text)


def refuse_places(files: Mapping[str, Path | bytes], places: Collection[str]) -> None:
    """The last look: refuse a text file that still holds one of this machine's places."""
    for name in (CARD, README, *CONFIGS):
        content = files.get(name, b"")
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode()
        for place in places:
            forms = (place, json.dumps(place)[1:-1])
            if len(place) > 1 and any(re.search(rf"(?<![\w.-]){re.escape(form)}(?![\w-])", text) for form in forms):
                raise TunesmithError(f"{name}: it names {place}, which must not leave this machine. Take that out.")
