"""Words that a base does not know: more rows of its embedding and its output layer, each begun at its pieces' mean.

While something is trained, the new rows are parameters of their own beside the base's, whatever the method: of a table
of a hundred thousand words a few rows have gradients and moments. Where a model answers they stand in the tables
themselves. Beside an adapter they are a small file of their own.

Axes: V words, N new ones, C width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from tunesmith.core.errors import ModelError
from tunesmith.model.layers import inside
from tunesmith.model.layout import NEW_TOKENS
from tunesmith.prompt.load import load_tokenizer

INPUT, OUTPUT = "input", "output"  # tensors in it; without the second, both are the same


@dataclass(frozen=True)
class NewTokens:
    """Tokens that a base does not have: neighbours, from the id `first` on."""

    first: int
    texts: tuple[str, ...]

    @property
    def end(self) -> int:
        """The id after the last."""
        return self.first + len(self.texts)


class MoreWords(torch.nn.Embedding):
    """An embedding some of whose rows, neighbours, are trained apart from the others."""

    def __init__(self, embedding: torch.nn.Embedding, found: NewTokens) -> None:
        super().__init__(1, 1, device="meta")
        self.num_embeddings, self.embedding_dim = embedding.weight.shape
        self.weight, self.first = embedding.weight, found.first
        self.rows = torch.nn.Parameter(_rows(embedding.weight, found).clone())
        self.original = [embedding]  # in a list, so that it is no part of this one

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Vectors of words, old and new."""
        place, old = input - self.first, self.original[0](input)
        new = ((place >= 0) & (place < len(self.rows)))[..., None]
        rows = self.rows[place.clamp(0, len(self.rows) - 1)]
        scale: Any = getattr(self.original[0], "embed_scale", None)  # Gemma's
        return torch.where(new, rows if scale is None else rows * scale.to(rows), old)


class MoreOutputs(torch.nn.Linear):
    """An output layer some of whose rows are trained apart from the others."""

    def __init__(self, layer: torch.nn.Linear, first: int, rows: torch.nn.Parameter) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.out_features, self.in_features = layer.weight.shape
        self.weight, self.bias = layer.weight, layer.bias
        self.first, self.rows = first, rows
        self.original = [layer]

    def put_in_place(self) -> torch.Tensor:
        """The table (V, C) with the new rows in it, without a copy and without gradients: where it is frozen."""
        self.weight.data[self.first : self.first + len(self.rows)] = self.rows.data
        return self.weight

    def whole(self) -> torch.Tensor:
        """All rows (V, C), of which gradients reach the new ones."""
        end = self.first + len(self.rows)
        return torch.cat([self.weight[: self.first], self.rows, self.weight[end:]])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits of all words."""
        return functional.linear(input, self.whole(), self.bias)


def with_new_tokens(model: Any, folder: Path, tokens: Sequence[str]) -> Any:
    """The model with rows for those of the tokens that its tokenizer does not have.

    Args:
        model: as its folder has it.
        folder: with its tokenizer.
        tokens: texts.

    Raises:
        ModelError: its tables cannot be grown.
    """
    if not tokens:
        return model
    tokenizer = load_tokenizer(folder)
    known = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    if not missing:
        return model
    pieces = [tokenizer.encode(token, add_special_tokens=False) for token in missing]
    tokenizer.add_tokens(missing)
    found, embedding = (
        NewTokens(tokenizer.convert_tokens_to_ids(missing[0]), tuple(missing)),
        model.get_input_embeddings(),
    )
    head = model.get_output_embeddings()
    if not isinstance(embedding, torch.nn.Embedding) or type(head) is not torch.nn.Linear:
        raise ModelError(f"model.add_tokens: a {model.config.model_type} model's tables of words cannot be grown.")
    _grow(model, found.end)
    with torch.no_grad():
        for table in _tables(model):
            for place, ids in enumerate(pieces, start=found.first):
                table.weight[place] = table.weight[ids or slice(found.first)].mean(0)
    _words(model).new_tokens = found
    return model


def _words(model: Any) -> Any:
    """The embedding of words, within soft tokens that may stand around it."""
    embedding = inside(model).get_input_embeddings()
    return getattr(embedding, "embedding", embedding)


def _tables(model: Any) -> list[Any]:
    """The embedding, and the output layer where it is another table."""
    words, head = _words(model), inside(model).get_output_embeddings()
    return [words] if head.weight is words.weight else [words, head]


def new_tokens(model: Any) -> NewTokens | None:
    """Those of a model; None where it has none."""
    words = _words(model)
    return getattr(words.original[0] if isinstance(words, MoreWords) else words, "new_tokens", None)


def split_off(model: Any, train_also: Sequence[str] = ()) -> Any:
    """The model, a base's, with its new rows as parameters of their own.

    Args:
        model: without anything of a method.
        train_also: whole modules that the method trains.

    Raises:
        ModelError: a table of words is among them, whose new rows would be trained twice.
    """
    if (found := new_tokens(model)) is None:
        return model
    own = {name.rpartition(".")[2] for name, part in model.named_modules()
           if part in (model.get_input_embeddings(), model.get_output_embeddings())}  # fmt: skip
    if twice := own & {name.rpartition(".")[2] for name in train_also}:
        raise ModelError(f"model.add_tokens and method.train_also = {sorted(twice)} do not go together. Leave one out.")
    tables = _tables(model)
    words = MoreWords(tables[0], found)
    head = model.get_output_embeddings()
    own = words.rows if len(tables) == 1 else torch.nn.Parameter(_rows(head.weight, found).clone())
    model.set_input_embeddings(words)
    model.set_output_embeddings(MoreOutputs(head, found.first, own))
    return model


def _rows(weight: torch.Tensor, found: NewTokens) -> torch.Tensor:
    return weight.detach()[found.first : found.end]


def train_new_tokens(model: Any) -> None:
    """Let the new rows be trained, whatever a method has frozen."""
    for part in model.modules():
        if isinstance(part, MoreWords | MoreOutputs):
            part.rows.requires_grad_(True)


def put_back(model: Any) -> Any:
    """The model with its new rows in the tables themselves."""
    found = new_tokens(model)
    if found is None:
        return model
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, MoreWords | MoreOutputs):
                with torch.no_grad():
                    _rows(child.weight, found).copy_(child.rows)
                setattr(part, name, child.original[0])
    return model


def save_new_tokens(model: Any, folder: Path) -> None:
    """Write the rows of a model's new tokens beside its adapter; nothing where it has none."""
    if (found := new_tokens(model)) is None:
        return
    rows = {name: _rows(table.weight, found).cpu().contiguous() for name, table in
            zip((INPUT, OUTPUT), _tables(model), strict=False)}  # fmt: skip
    save_file(rows, folder / NEW_TOKENS, metadata={"first": str(found.first), "texts": json.dumps(found.texts)})


def saved_tokens(folder: Path) -> tuple[NewTokens, dict[str, torch.Tensor]] | None:
    """What lies beside an adapter, with its rows; None where it has none.

    Raises:
        ModelError: it is damaged.
    """
    if not (folder / NEW_TOKENS).exists():
        return None
    try:
        with safe_open(folder / NEW_TOKENS, "pt") as file:
            rows = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = file.metadata()
            found = NewTokens(int(told["first"]), tuple(json.loads(told["texts"])))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: its new tokens are damaged ({error}). Restore what training wrote.") from None
    if not all(len(one) == len(found.texts) and one.isfinite().all() for one in rows.values()):
        raise ModelError(f"{folder}: its new tokens are damaged, or not finite. Restore {NEW_TOKENS}.")
    return found, rows


def put_saved_tokens(model: Any, folder: Path) -> Any:
    """The model with the rows that lie in an adapter's folder, if some do.

    Raises:
        ModelError: they are damaged, or of another base.
    """
    if (saved := saved_tokens(folder)) is None:
        return model
    found, rows = saved
    tables = _tables(model)
    if [one.shape[1] for one in rows.values()] != [table.weight.shape[1] for table in tables]:
        raise ModelError(f"{folder}: its new tokens are of another base, whose rows are as wide as others.")
    _grow(model, found.end)
    with torch.no_grad():
        for name, table in zip((INPUT, OUTPUT), _tables(model), strict=False):
            _rows(table.weight, found).copy_(rows[name])
    _words(model).new_tokens = found
    return model


def refuse_other_tokens(folder: Path, wanted: Sequence[str]) -> None:
    """Refuse to go on from an adapter with other new tokens than are wanted: rows would be those of other words.

    Raises:
        ModelError: with its own.
    """
    saved = saved_tokens(folder)
    if saved is not None and saved[0].texts != tuple(wanted):
        raise ModelError(
            f"model.add_tokens = {list(wanted)}, and the adapter in {folder} was trained with other ones. "
            f"Set model.add_tokens={json.dumps(saved[0].texts, ensure_ascii=False)}."
        )


def _grow(model: Any, words: int) -> None:
    """Have so many rows in all tables, where there are fewer."""
    if words > len(_words(model).weight):
        model.resize_token_embeddings(words, mean_resizing=False)
