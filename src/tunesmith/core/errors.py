"""Mistakes that a user can mend. Each prints as one sentence, without a traceback.

The sentence says where, what was found, what is allowed and what to do next. Our own mistakes are
`assert` failures and ordinary exceptions, and keep their tracebacks.
"""

from __future__ import annotations


class TunesmithError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(TunesmithError, ValueError):
    """A recipe or an option is wrong."""


class DataError(TunesmithError, ValueError):
    """A data file, or rows of it, cannot be used."""


class TooFewRows(DataError):  # noqa: N818  what they are
    """There are fewer rows than somebody has asked for."""


class ModelError(TunesmithError, ValueError):
    """A base model, a template or an exported model cannot be used."""


class MissingError(TunesmithError, LookupError):
    """A file, folder, run or model that was named is not there."""


class TrainingError(TunesmithError, ArithmeticError):
    """Training cannot go on: a loss that is not finite, or weights that did not change."""


class OutOfMemory(TunesmithError, MemoryError):  # noqa: N818  as torch and the kernel call it
    """There was no room for a piece of the work; with smaller pieces there may be."""


class Stopped(TunesmithError):  # noqa: N818  nothing went wrong
    """A job was asked to stop and did, with all that it needs to go on later."""


class JobError(TunesmithError, RuntimeError):
    """A child process ended without a result."""


class StoreError(TunesmithError, OSError):
    """Records or blobs cannot be reached now, or are damaged; what was acknowledged before stands."""


class LeaseLost(TunesmithError):  # noqa: N818  nothing went wrong here
    """A job is somebody else's by now: what was done since it was taken over does not count."""


class LimitReached(TunesmithError):  # noqa: N818  it is not wrong, only too much
    """A project has as much as it may have."""
