"""An adapter's file, put on its base: the one place where peft reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from tunesmith.core.errors import ModelError


def put_adapter(model: Any, folder: Path, **settings: Any) -> Any:
    """The model with the adapter that lies in a folder.

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
