"""tunesmith: from a file of examples to a measured, better model.

    run = tunesmith.finetune("recipe.yaml")
    tunesmith.load(run.model).generate("What time is breakfast?")  # of a classifier: .predict([...])

Names are imported when they are first used, so that `import tunesmith` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.core.errors import TunesmithError as TunesmithError
    from tunesmith.jobs.start import Run as Run
    from tunesmith.jobs.start import finetune as finetune
    from tunesmith.jobs.start import load as load
    from tunesmith.jobs.start import resume as resume

__version__ = "0.1.0"
__all__ = ["Run", "TunesmithError", "__version__", "finetune", "load", "resume"]

_HOMES = {
    "TunesmithError": "tunesmith.core.errors",
    "Run": "tunesmith.jobs.start",
    "finetune": "tunesmith.jobs.start",
    "load": "tunesmith.jobs.start",
    "resume": "tunesmith.jobs.start",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
