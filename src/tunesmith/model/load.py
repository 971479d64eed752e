"""Load a model: from safetensors, with no remote code, for a task, in a given precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from tunesmith.core.errors import ModelError
from tunesmith.core.names import look_up
from tunesmith.model.adapter import with_adapter
from tunesmith.model.device import choose_device, on_device
from tunesmith.model.heads import (
    class_settings,
    head_weights,
    refuse_no_classifier,
    refuse_no_reader,
    refuse_no_tagger,
    reward_settings,
    tag_settings,
    with_fresh,
)
from tunesmith.model.layers import inside
from tunesmith.model.masked import SAID_OF_FRESH, is_masked, refuse_no_masked
from tunesmith.model.new_tokens import with_new_tokens
from tunesmith.model.outline import Sources, outline, stored_dtype
from tunesmith.model.pooling import with_mean_layer
from tunesmith.model.quantize import Quantize, quantized
from tunesmith.model.seq2seq import refuse_no_seq2seq, refuse_no_spans
from tunesmith.prompt.config import DropoutConfig
from tunesmith.prompt.load import padding_id
from tunesmith.prompt.whole import read_settings

# peft 0.21 asks transformers 5.23 for a property by its old name.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

HEAD_SEED = 0  # of the head that a base does not come with: the same each time it is loaded
# As architectures name their dropout rates.
ATTENTION_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
HIDDEN_DROPOUTS = (
    "resid_pdrop", "embd_pdrop", "hidden_dropout", "hidden_dropout_prob", "activation_dropout", "dropout",
    "dropout_rate", "embedding_dropout", "embed_dropout", "emb_pdrop", "resid_dropout", "residual_dropout",
    "mlp_dropout", "dropout_p",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a model is for, as far as loading it differs.

    Attributes:
        what: it is, for people.
        library: the class of transformers that builds it, with the head that the task needs.
        refuse: raises `ModelError` for a folder and configuration that the task cannot take.
        settings: of the configuration, from the facts of the rows: label names and the like.
        chats: whether what it reads are conversations.
        causal: whether it predicts each token from those before it alone.
        pads: whether its model must know a token for padding, as heads do that look for a row's last token.
        headless: whether a base may come without the head, which then begins with random weights.
        said_of_fresh: what a user should know of one that did.
    """

    what: str
    library: Any
    refuse: Callable[[Path, Any], None]
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda facts: {}
    causal: bool = False
    chats: bool = False
    pads: bool = False
    headless: bool = True
    said_of_fresh: str = ""


Precision = Literal["auto", "fp32", "bf16"]  # that a model is asked for in


@dataclass(frozen=True)
class LoadSpec:
    """How a model is to be loaded; it stands in cards, and the same one gives the same model.

    Attributes:
        task: one of `TASKS`.
        precision: `fp32` or `bf16`, of every weight.
        device: `cpu` or `cuda`.
        quantize: `none`, `nf4` or `int8`: how the linear layers of a base are kept that something is trained beside.
        dropout: sets each dropout rate that the architecture has.
        adapter: folder of an adapter to put on top.
        new_tokens: texts that become tokens of their own, where its tokenizer does not have them (see `new_tokens`).
        shard: leave the weights in their files, until each process takes its part of them (see `outline`).
        facts: of the rows, such as label names.
        pool: `own`, or `mean` for a classifier that begins to read the mean of all tokens (see `pooling`).
    """

    task: str = "causal"
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    quantize: Quantize = "none"
    dropout: float | DropoutConfig | None = None
    adapter: str | None = None
    new_tokens: tuple[str, ...] = ()
    shard: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pool: Literal["own", "mean"] = "own"

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, and where the values of those of its weights lie that have none themselves."""

    model: Any
    sources: Sources | None = None


def answering(device: str = "auto", precision: Precision = "auto") -> LoadSpec:
    """How a model that answers is loaded.

    Args:
        device: `auto`, `cpu` or `cuda`.
        precision: of every weight; `auto` is fp32 on the CPU, bf16 on a GPU.

    Raises:
        ConfigError: the wanted one is not there.
    """
    chosen, _ = choose_device(device)
    if precision == "auto":
        precision = "bf16" if chosen == "cuda" else "fp32"
    return LoadSpec(precision=precision, device=chosen)


def load(folder: Path, spec: LoadSpec) -> Loaded:
    """The model in `folder` (config.json and *.safetensors): the one place where any model is loaded.

    Raises:
        ModelError: unknown architecture, code of its own, not a model for the task, weights that do not fit, or an
            adapter of another base.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    task, config = look_up(TASKS, spec.task, "task"), read_config(folder)
    task.refuse(folder, config)
    changes = {**task.settings(spec.facts), **(dropout_rates(folder, spec.dropout) if spec.dropout is not None else {})}
    if task.pads and config.get_text_config().pad_token_id is None:
        changes["pad_token_id"] = padding_id(folder)
    if spec.shard:  # of a tensor that is not converted, nothing is read
        mapped = _read(folder, task, stored_dtype(folder) or spec.dtype, task.settings(spec.facts))
        for name, value in changes.items():
            setattr(config, name, value)
        return Loaded(*outline(mapped, lambda: task.library.from_config(config, dtype=spec.dtype)))
    as_stored = spec.quantize != "none"  # what is quantised shall not be whole in another precision before
    model = _read(folder, task, (stored_dtype(folder) if as_stored else None) or spec.dtype, changes)
    if spec.pool == "mean":
        model = with_mean_layer(model)
    model = with_new_tokens(model, folder, spec.new_tokens)
    model = on_device(folder, quantized(model, spec.quantize, spec.dtype, spec.device), spec.device).eval()
    if spec.adapter is not None:
        model = with_adapter(model, Path(spec.adapter)).eval()
        with_fresh(inside(model), ())  # the adapter brings its head along
    return Loaded(model)


def _read(folder: Path, task: Task, dtype: torch.dtype, changes: Mapping[str, Any]) -> Any:
    """The model with its weights.

    Raises:
        ModelError: it cannot be built, or weights are missing.
    """
    try:
        with torch.random.fork_rng():
            torch.manual_seed(HEAD_SEED)
            model, info = task.library.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told of below
                **changes,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any broken file of the user's ends here
        raise ModelError(f"{folder}: cannot be loaded as {task.what} ({_first_line(error)}).") from error
    absent = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if absent and not (task.headless and set(absent) <= head_weights(model)):
        raise ModelError(f"{folder}: weights are missing or of another shape ({absent[0]}, {len(absent)} in all).")
    return with_fresh(model, absent)


def language_task(config: Any) -> str:
    """The task in which a model of this configuration learns plain text, by `TASKS`."""
    if config.is_encoder_decoder:
        return "spans"
    return "masked" if is_masked(config) else "causal"


def read_config(folder: Path) -> Any:
    """The model's configuration; code that a folder brings along is never run.

    Raises:
        ModelError: it is not one that transformers knows.
    """
    given = read_settings(folder / "config.json")
    kind = given.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{folder / 'config.json'}: names no model_type, so nobody knows what model it is.")
    if kind not in CONFIG_MAPPING and "auto_map" in given:
        raise ModelError(
            f"{folder}: cannot be loaded: its architecture, {kind!r}, is code that the model brings along, which is "
            "never run. Take a base model whose architecture transformers has."
        )
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{folder}: cannot be loaded: transformers {transformers_version} does not know its architecture, "
            f"{kind!r}. Upgrade transformers if a newer one does, or take another base model."
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # any broken file of the user's ends here
        raise ModelError(f"{folder}: its config.json cannot be used ({_first_line(error)}).") from error


def refuse_other_kinds(folder: Path, config: Any) -> None:
    """Refuse what is no causal language model, though transformers may load its weights into one.

    Raises:
        ModelError: it says what the model is.
    """
    what, other_way = ", ".join(config.architectures or [type(config).__name__]), ""
    if config.is_encoder_decoder:
        reason = "an encoder with a decoder, which turns one text into another"
        other_way = ", or set objective.type=seq2seq to train this one"
    elif is_masked(config):
        reason = "an encoder, which fills in words whose both sides it reads"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reason = "of another kind"
    else:
        return
    raise ModelError(
        f"{folder}: cannot be loaded as a causal language model: {what} is {reason}. tunesmith trains models "
        f"that write on from what they have read (...ForCausalLM). Take one of these{other_way}."
    )


def refuse_untrainable(folder: Path, task: str = "causal") -> None:
    """Refuse, before anything is prepared, a model that cannot be trained.

    Raises:
        ModelError: it is no model for the task, or its weights are quantised.
    """
    config = read_config(folder)
    TASKS[task].refuse(folder, config)
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return
    values = quantised if isinstance(quantised, dict) else quantised.to_dict()
    bits = next((f", {values[name]} bits" for name in ("bits", "w_bit") if name in values), "")
    raise ModelError(
        f"{folder}: its weights are quantised ({values.get('quant_method', 'in an unknown way')}{bits}), and such "
        "weights cannot be trained on yet. Take the model that they were made from, in bf16 or fp32."
    )


def refuse_not_finite(folder: Path, model: torch.nn.Module) -> None:
    """Refuse weights that hold infinities or no numbers: nothing learned from them would be finite.

    Of weights in parts, each process looks at its own.

    Raises:
        ModelError: with the first such tensor.
    """
    bad = [name for name, weight in model.named_parameters() if not _is_finite(weight.detach())]
    if bad:
        raise ModelError(
            f"{folder}: {len(bad)} of the base model's tensors hold NaN or infinity (first: {_own_name(bad[0])}), "
            "before any training. The file is damaged or was saved from a run that diverged: fetch the model again, or "
            "another."
        )


def _own_name(name: str) -> str:
    """What a weight is called in the model's files, where peft has put layers around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _is_finite(tensor: torch.Tensor) -> bool:
    tensor = getattr(tensor, "to_local", lambda: tensor)()
    # A sum takes no memory of the tensor's size; finite weights whose sum is none are looked at one by one.
    return bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())


def dropout_rates(folder: Path, wanted: float | DropoutConfig) -> dict[str, float]:
    """The dropout settings that the model's config has, as they are wanted.

    Args:
        folder: of the model.
        wanted: one rate for all, or one for each kind.

    Raises:
        ModelError: the architecture has none of a kind that is named.
    """
    config = read_config(folder)
    by_kind = isinstance(wanted, DropoutConfig)
    rates = wanted if by_kind else DropoutConfig(attention=wanted, hidden=wanted)
    found: dict[str, float] = {}
    for kind, names, rate in (
        ("attention", ATTENTION_DROPOUTS, rates.attention),
        ("hidden", HIDDEN_DROPOUTS, rates.hidden),
    ):
        there = {} if rate is None else {name: rate for name in names if hasattr(config, name)}
        if by_kind and rate is not None and not there:
            raise ModelError(f"model.dropout.{kind}: {type(config).__name__} has no such dropout. Leave it out.")
        found |= there
    if not found and not by_kind:
        raise ModelError(f"model.dropout: {type(config).__name__} has no dropout. Leave it out; method.dropout works.")
    return found


def _first_line(error: Exception) -> str:
    """The reason in one line: the first, and the next where that only announces it."""
    if isinstance(error, KeyError):
        return f"it names {error}, which the architecture does not have"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300]


TASKS: dict[str, Task] = {
    "causal": Task(
        "a causal language model", AutoModelForCausalLM, refuse_other_kinds, causal=True, chats=True, headless=False
    ),
    "classify": Task(
        "a classifier of texts", AutoModelForSequenceClassification, refuse_no_classifier, class_settings, pads=True
    ),
    "reward": Task(
        "a reward model",
        AutoModelForSequenceClassification,
        refuse_no_classifier,
        reward_settings,
        chats=True,
        pads=True,
    ),
    "token_classify": Task("a tagger of words", AutoModelForTokenClassification, refuse_no_tagger, tag_settings),
    "extract": Task("a finder of answers", AutoModelForQuestionAnswering, refuse_no_reader),
    "masked": Task("a model that fills in words", AutoModelForMaskedLM, refuse_no_masked, said_of_fresh=SAID_OF_FRESH),
    "seq2seq": Task("a model that makes texts of texts", AutoModelForSeq2SeqLM, refuse_no_seq2seq, headless=False),
    "spans": Task("a model that fills in stretches of text", AutoModelForSeq2SeqLM, refuse_no_spans, headless=False),
}
