"""Write what a run made as other tools read it, and load it back.

An adapter is written in peft's layout without a `config.json` beside it, which would break
`transformers.pipeline`; a full or merged model in the Hugging Face layout. `tunesmith.json` says
where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.core.events import Report, silent
from tunesmith.core.files import expanded, full_disk, publish_folder, read_object, write_json
from tunesmith.model.adapter import has_adapter, kept_as, save_adapter
from tunesmith.model.layout import ADAPTER, CARD
from tunesmith.model.load import TASKS, LoadSpec, Precision, answering, language_task, load, read_config
from tunesmith.model.memory import to_answer
from tunesmith.model.methods.method import trainable
from tunesmith.model.quantize import Quantize
from tunesmith.model.seq2seq import generation_settings
from tunesmith.prompt.base import Base, resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract


def export(model: Any, base: Base, contract: Contract, folder: Path, card: dict[str, Any]) -> None:
    """Write `model` to `folder`, whole or not at all.

    Args:
        model: a trained model, with or without an adapter.
        base: what it was made from; an adapter names it.
        contract: how it was trained to be prompted.
        folder: replaced if it exists.
        card: what `tunesmith.json` says.

    Raises:
        TunesmithError: the disk is full.
    """
    try:
        with publish_folder(folder) as temporary:
            if (settings := _generation_config(model, contract, card.get("task", "causal"))) is not None:
                settings.save_pretrained(temporary)
                if isinstance(model, PreTrainedModel):
                    model.generation_config = settings
            save_adapter(model, temporary, base.reference, base.commit)
            contract.save(temporary)
            (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card
            write_json(temporary / CARD, card)
    except (OSError, SafetensorError) as error:
        trained = trainable(model) if has_adapter(model) else dict(model.named_parameters())
        raise full_disk(folder, sum(w.numel() * w.element_size() for w in trained.values()), error) from None


def merged(adapter: Path, base: Base, spec: LoadSpec = LoadSpec()) -> Any:  # noqa: B008  frozen
    """The base with the adapter in `adapter` folded in, in fp32 throughout, so that no change is rounded away.

    Args:
        adapter: its folder.
        base: what it was trained on.
        spec: the task that it was trained for.

    Raises:
        ModelError: it is something that no weight can hold.
    """
    if kept_as(adapter) is not None:
        raise ModelError(f"{adapter}: what lies there cannot be folded into weights. Use it as it is.")
    return load(base.folder, replace(spec, new_tokens=(), adapter=str(adapter))).model.merge_and_unload()


def _generation_config(model: Any, contract: Contract, task: str) -> GenerationConfig | None:
    """Greedy decoding that stops at the contract's stop ids; none of a model that writes nothing."""
    if task in ("seq2seq", "spans"):
        return generation_settings(model, contract.stop_ids)
    if not TASKS[task].causal:
        return None
    pad = contract.tokenizer.pad_token_id
    return GenerationConfig(
        eos_token_id=list(contract.stop_ids), pad_token_id=contract.stop_ids[0] if pad is None else pad, do_sample=False
    )


@dataclass(frozen=True)
class ExportedModel:
    """A model that can be named on the command line, found on disk.

    Attributes:
        name: as it was given.
        folder: what holds tokenizer and weights.
        base: the base model under an adapter; None for a full model.
        card: contents of `tunesmith.json`, empty for a base model.
    """

    name: str
    folder: Path
    base: Base | None
    card: dict[str, Any]

    @property
    def task(self) -> str:
        """What it is loaded for: one of `TASKS`; of a base, what such a model learns of plain text."""
        if self.card:
            return self.card.get("task", "causal")
        return language_task(read_config(self.base.folder if self.base is not None else self.folder))

    @property
    def chats(self) -> bool:
        """Whether it goes on writing what it reads."""
        return TASKS[self.task].causal

    def contract(self, template: str | None = None) -> Contract:
        """How this model is prompted. `template` names one for a base model that has none."""
        recorded = self.card.get("contract")
        if recorded is None:
            return load_contract(self.folder, template, chat=TASKS[self.task].chats)
        prefix = recorded.get("prefix", "")
        contract = load_contract(self.folder, train_on=recorded["train_on"], chat=TASKS[self.task].chats, prefix=prefix)
        if not self.chats:  # nothing that it says ends, so that its folder holds no generation config
            contract = replace(contract, stop_ids=tuple(recorded["stop_ids"]))
        if contract.id != recorded["id"]:
            raise ModelError(
                f"{self.folder}: its tokenizer or chat template is not the one it was trained with "
                "(the prompt contract differs). Restore the files that training wrote. If nobody has changed them, "
                "it was exported by a tunesmith that made the id of other things: set contract.id in "
                f"{CARD} to {contract.id}."
            )
        return contract

    def load(self, device: str = "auto", precision: Precision = "auto", beside: Quantize | None = None) -> Any:
        """The model with its adapter, ready to answer; arguments are those of `to_answer`.

        Raises:
            ConfigError: the device is not there.
            ModelError: the base model is not the one that the adapter was trained on.
        """
        return self.load_as(self.to_answer(device, precision, beside))

    @property
    def trained_beside(self) -> Quantize:
        """How its base was kept while it was trained."""
        return self.card.get("recipe", {}).get("model", {}).get("quantize", "none")

    def to_answer(
        self, device: str = "auto", precision: Precision = "auto", beside: Quantize | None = None
    ) -> LoadSpec:  # fmt: skip
        """How it and its base are loaded to answer: as in training where the device is too small for the base whole.

        Args:
            device: `auto`, `cpu` or `cuda`.
            precision: as `answering` takes it.
            beside: how the base was kept in the training of what it is compared with; in its own if absent.
        """
        folder = self.folder if self.base is None else self.base.folder
        return to_answer(folder, self.spec(answering(device, precision)), beside or self.trained_beside)

    def spec(self, spec: LoadSpec) -> LoadSpec:
        """The same, for the task that the model was trained for."""
        card, tokens = self.card, tuple(self.card.get("new_tokens", ()))
        return replace(spec, task=self.task, facts=card.get("facts", {}), new_tokens=tokens)

    def load_as(self, spec: LoadSpec) -> Any:
        """The model with its adapter, in evaluation mode.

        Raises:
            ModelError: the base model is not the one that the adapter was trained on.
        """
        spec = self.spec(spec)
        if self.base is None:
            return load(self.folder, spec).model
        recorded = self.card.get("base", {}).get("sha256")
        if recorded and not self.base.commit and self.base.fingerprint() != recorded:
            raise ModelError(f"{self.base.folder}: it has changed since {self.folder} was trained on it. Restore it.")
        return load(self.base.folder, replace(spec, adapter=str(self.folder))).model


def find_model(name: str, report: Report = silent) -> ExportedModel:
    """The model called `name`: a run folder, an exported folder, or a base model.

    Args:
        name: as a user gives it.
        report: hears what is done where the base model has to be fetched or unpacked first.

    Raises:
        MissingError: there is nothing of that name, or the run has not exported a model.
    """
    folder = expanded(name)
    if (folder / "config.yaml").exists() and not (folder / "config.json").exists():
        if not (folder / "model").exists():
            raise MissingError(f"{folder}: this run has no model yet. `tunesmith show {folder}` says how it stands.")
        folder = folder / "model"
    card = _read_card(folder)
    if (folder / ADAPTER).exists():
        adapter = read_object(folder / ADAPTER)
        base, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
        if not isinstance(base, str) or not isinstance(revision, str | None):
            raise ModelError(f"{folder / ADAPTER}: base_model_name_or_path = {base!r}: must name the base model.")
        return ExportedModel(name, folder, _base_under(folder, base, revision, card, report), card)
    if card:
        return ExportedModel(name, folder, None, card)
    return ExportedModel(name, resolve(name, report=report).folder, None, {})


def _base_under(folder: Path, name: str, revision: str | None, card: dict[str, Any], report: Report) -> Base:
    """The base that an adapter names; where that is no more, the one that its recipe named, if it is the same still.

    Raises:
        MissingError: it is not to be found.
        ModelError: what the recipe named is another model by now.
    """
    try:
        return resolve(name, revision, report)
    except MissingError:
        given = card.get("base", {}).get("name")
        if not isinstance(given, str) or given == name:
            raise
        there = Path(str(card.get("directory", ""))) / expanded(given)
        base = resolve(str(there) if there.exists() else given, card["base"].get("commit"), report)
    if base.fingerprint() != card["base"].get("sha256"):
        raise ModelError(
            f"{folder}: the base that it was trained on ({name}) is gone, and {given!r} is another model now. Fetch or "
            "unpack that one again: the file's SHA-256 and the libraries' versions are in its card."
        )
    return base


def _read_card(folder: Path) -> dict[str, Any]:
    """What `tunesmith.json` says; empty where there is none.

    Raises:
        ModelError: somebody has edited it.
    """
    card = read_object(folder / CARD) if (folder / CARD).exists() else {}
    contract, base = card.get("contract"), card.get("base", {})
    known = contract is None or (isinstance(contract, dict) and {"id", "train_on"} <= contract.keys())
    if not known or not isinstance(base, dict):
        raise ModelError(f"{folder / CARD}: cannot be understood (contract or base). Restore what training wrote.")
    return card
