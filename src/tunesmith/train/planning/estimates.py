"""What a run will take, in numbers: for the planner, and for whoever forecasts a run. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.train.planning.plan import Plan

FREE_SHARE = 0.8  # of the free memory, that may be planned for
PRODUCT_SHARE = 0.3  # of the rate of a matrix product, that uncompiled training reaches
COMPILING = 30.0  # seconds that compiling takes with nothing in torch's cache
COMPILED_GAIN = {"cpu": 0.15, "cuda": 0.3}  # of a run's time that compiled layers save, at least


def why_compiling_does_not_pay(seconds: float, device: str = "cpu") -> str | None:
    """Why a run of so many seconds of training is better left uncompiled, as a sentence; None if it is not."""
    saved = seconds * COMPILED_GAIN[device]
    if saved > COMPILING:
        return None
    return (
        f"about {seconds:.0f} s of training, of which compiled layers would save some {saved:.0f}, "
        f"and compiling takes up to {COMPILING:.0f}"
    )


def why_checkpointing(kept: int, state: int, free: int) -> str | None:
    """Why layers shall be computed again, as a sentence; None if everything fits.

    Args:
        kept: bytes of a micro-batch's activations.
        state: bytes of gradients, optimizer state, the loss and layers put together, which are not there yet.
        free: bytes of memory.
    """
    if kept + state <= FREE_SHARE * free:
        return None
    return (
        f"a micro-batch keeps about {kept / 2**30:.1f} GB, and the optimizer and the loss take {state / 2**30:.1f}, of "
        f"{free / 2**30:.1f} GB that are free"
    )


def seconds_of_training(weights: int, trained: int, tokens: float, rate: float, processes: int) -> float:
    """How long training takes without compiled layers, about, by its matrix products alone.

    Args:
        weights: of the model.
        trained: of them, those that are trained.
        tokens: that are read in all.
        rate: floating-point operations a second of a matrix product.
        processes: that share the work.
    """
    return (4 * weights + 2 * trained) * tokens / (PRODUCT_SHARE * rate) / processes


def largest_micro_batch(plan: Plan, batch_size: int, lengths: Sequence[int]) -> int:
    """Tokens of it, at most.

    Args:
        plan: how a step is parted.
        batch_size: rows in one step, over all processes.
        lengths: tokens of each row.
    """
    lengths = sorted(lengths, reverse=True)
    longest = lengths[0]
    if plan.accumulation is not None:
        count = -(-batch_size // (plan.accumulation * plan.processes))
        return sum(lengths[:count]) if plan.packing else longest * count
    step = sum(lengths[:batch_size]) if plan.packing else longest * batch_size
    share = step if plan.processes == 1 else min(step, step // plan.processes + longest)  # nobody has a row more
    return max(longest, min(plan.micro_tokens, share))
