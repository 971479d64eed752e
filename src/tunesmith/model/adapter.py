"""What a method puts beside a base, in files: the one place where any adapter is read or written.

Most are peft's own. Soft tokens and prefixes are ours in memory and peft's in files; bottleneck adapters, for which
peft has no layout, are ours in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object
from tunesmith.model import bottleneck, prefix, soft
from tunesmith.model.layout import ADAPTER
from tunesmith.model.new_tokens import new_tokens, put_saved_tokens, save_new_tokens


@dataclass(frozen=True)
class Format:
    """A kind of adapter that peft does not put on.

    Attributes:
        kinds: its names in a file, as `peft_type`.
        is_on: whether a model has one.
        put: the model with the one in a folder.
        save: write a model's to a folder, with the base that it names and that one's revision.
    """

    kinds: tuple[str, ...]
    is_on: Callable[[Any], bool]
    put: Callable[[Any, Path], Any]
    save: Callable[[Any, Path, str, str | None], None]


FORMATS = (
    Format(soft.KINDS, soft.has_prompt, soft.with_soft_tokens, soft.save_soft_tokens),
    Format((prefix.KIND,), prefix.has_prefix, prefix.with_prefix_of, prefix.save_prefix),
    Format((bottleneck.KIND,), bottleneck.has_bottlenecks, bottleneck.with_bottlenecks, bottleneck.save_bottlenecks),
)


def has_adapter(model: Any) -> bool:
    """Whether a method has put something beside a model's own weights."""
    return hasattr(model, "peft_config") or format_of(model) is not None


def format_of(model: Any) -> Format | None:
    """What a model has beside its base; None if that is nothing, or peft's."""
    return next((one for one in FORMATS if one.is_on(model)), None)


def kept_as(folder: Path) -> Format | None:
    """What lies in a folder; None if it is peft's."""
    kind = read_object(folder / ADAPTER).get("peft_type")
    return next((one for one in FORMATS if kind in one.kinds), None)


def soft_places(folder: Path) -> int:
    """Positions that what lies in a folder takes before every prompt; none where it is no adapter."""
    return int(read_object(folder / ADAPTER).get("num_virtual_tokens") or 0) if (folder / ADAPTER).exists() else 0


def with_adapter(model: Any, folder: Path) -> Any:
    """The model with whatever lies in a folder.

    Raises:
        ModelError: it is damaged, or of another base.
    """
    found, model = kept_as(folder), put_saved_tokens(model, folder)
    return put_adapter(model, folder) if found is None else found.put(model, folder)


def save_adapter(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Write what a model has beside its base, or all of it where that is nothing."""
    if not has_adapter(model):
        model.save_pretrained(folder, safe_serialization=True)
        return
    save_new_tokens(model, folder)
    if (found := format_of(model)) is not None:
        found.save(model, folder, base, revision)
        return
    for config in model.peft_config.values():
        config.base_model_name_or_path, config.revision = base, revision
    whole_tables = "auto" if new_tokens(model) is None else False  # or peft would write all rows of a table that grew
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=whole_tables)


def put_adapter(model: Any, folder: Path, **settings: Any) -> Any:
    """The model with an adapter of peft's.

    Args:
        model: its base.
        folder: that peft has written.
        **settings: of `PeftModel.from_pretrained`.

    Raises:
        ModelError: the adapter is damaged, or of another base.
    """
    try:
        return PeftModel.from_pretrained(model, str(folder), **settings)
    except SafetensorError as error:
        raise ModelError(f"{folder}: the adapter's file is damaged ({error}). Restore what training wrote.") from None
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"{folder}: this adapter does not fit the base model: it is of another base, or damaged "
            f"({' '.join(lines[:2])[:300]})."
        ) from None
