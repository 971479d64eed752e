"""P-tuning: a prompt of vectors that a small network makes, which is easier to train than they are themselves.

Liu et al., 2021, arXiv 2103.10385. The network is as peft has it, and is needed only while it is trained: what is
exported is the prompt that it makes.
"""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.model.methods.method import Method, Tensors
from tunesmith.model.methods.prompt_tuning import PromptTuningConfig


class PTuningConfig(Section):
    """Train a small network that makes the vectors before every prompt (Liu et al., 2021)."""

    type: Literal["p_tuning"] = "p_tuning"
    tokens: int = option(20, "How many.", "8 to 100; each takes a position of the context.", ge=1, le=1024)
    encoder: Literal["mlp", "lstm"] = option("mlp", "The network: three layers, or an LSTM before two.")
    hidden: int = option(128, "Its width.", ge=1)


def apply(model: Any, config: PTuningConfig) -> Any:
    """The model, frozen, with soft tokens that a network makes."""
    from tunesmith.model.soft import give_soft_tokens

    width = model.get_input_embeddings().weight.shape[1]
    return give_soft_tokens(model, make_encoder(config, width).to(model.device), config.tokens)


def make_encoder(config: PTuningConfig, width: int) -> Any:
    """The network: from no input, vectors (P, C)."""
    from torch import nn

    hidden = config.hidden

    class Encoder(nn.Module):
        """Reads vectors of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(config.tokens, width)
            if config.encoder == "lstm":
                self.lstm_head = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
                self.mlp_head = nn.Sequential(
                    nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, width)
                )
            else:
                self.mlp_head = nn.Sequential(
                    nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
                )

        def forward(self) -> Any:
            """The vectors."""
            read = self.embedding.weight
            if config.encoder == "lstm":
                read = self.lstm_head(read[None])[0][0]
            return self.mlp_head(read)

    return Encoder()


def exported(config: PTuningConfig, tensors: Tensors, state: Tensors) -> tuple[PromptTuningConfig, Tensors]:
    """The prompt that the network makes, as prompt tuning."""
    import torch

    name = next(key for key in tensors if ".prompt." in key).partition(".prompt.")[0]
    own = {key.removeprefix(f"{name}.prompt."): one.float() for key, one in tensors.items() if ".prompt." in key}
    others = {key: one for key, one in tensors.items() if ".prompt." not in key}
    encoder = make_encoder(config, own["embedding.weight"].shape[1])
    encoder.load_state_dict(own)
    with torch.no_grad():
        vectors_PC = encoder()
    return PromptTuningConfig(tokens=config.tokens), {**others, f"{name}.prompt.weight": vectors_PC}


P_TUNING = Method(
    PTuningConfig,
    apply,
    learning_rate=1e-3,
    can=frozenset({"base_untouched", "quantize"}),
    exported=exported,
    label="P-tuning",
    source="Liu et al., 2021, arXiv 2103.10385",
    whole=lambda config: True,
)
