"""TRL and Unsloth as contenders of `sft_gpu.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_cases import (
    ALPHA,
    LINEAR,
    RANK,
    RATES,
    TIMED,
    WARM,
    Case,
    Contender,
    device,
    lengths_of,
    make_model,
    measured,
    now,
    product_rate,
    rows_of,
)


def make_tokenizer() -> Any:
    """TRL asks for one; it is needed for its padding token alone."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "<unknown>": 2}, unk_token="<unknown>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>")


def run_trl(case: Case, contender: Contender, folder: Path) -> dict[str, Any]:
    started = now()
    return train_with_trl(case, contender.settings or {}, make_model(case), folder, started)


def run_unsloth(case: Case, contender: Contender, folder: Path) -> dict[str, Any]:
    """Unsloth loads from a folder alone, so the model is written to one first."""
    from unsloth import FastLanguageModel  # before TRL, which it changes

    make_model(case).bfloat16().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    started = now()
    model, _ = FastLanguageModel.from_pretrained(
        str(folder / "model"), max_seq_length=case.length, load_in_4bit=False, full_finetuning=case.method == "full"
    )
    if case.method == "lora":
        model = FastLanguageModel.get_peft_model(
            model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=LINEAR,
            use_gradient_checkpointing=False,
        )  # fmt: skip
    return train_with_trl(case, contender.settings or {}, model, folder, started)


def train_with_trl(
    case: Case, settings: dict[str, Any], model: Any, folder: Path, started: float
) -> dict[str, Any]:  # fmt: skip
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rate, ends = product_rate(), []

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    packing = settings.get("packing", False)
    together = 1 if packing else case.together  # packed sequences in one pass would need a mask between them
    config = SFTConfig(
        output_dir=str(folder / "trl"), max_steps=WARM + TIMED, learning_rate=RATES[case.method],
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_length=case.length,
        per_device_train_batch_size=together, gradient_accumulation_steps=case.together * case.passes // together,
        gradient_checkpointing=False, completion_only_loss=False, bf16=True, use_cpu=device() == "cpu", seed=0,
        report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, task_type="CAUSAL_LM")
    trainer = InOrder(
        model=model, args=config, processing_class=make_tokenizer(), callbacks=[Clock()],
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in rows_of(case)]),
        peft_config=lora if case.method == "lora" and not isinstance(model, PeftModel) else None,
    )  # fmt: skip
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    found = measured(case, lengths_of(case), ends, [line["loss"] for line in logs], rate, started)
    if packing:  # its steps hold other rows than were counted, so it is asked how many tokens they had
        speed = (logs[-1]["num_tokens"] - logs[WARM - 1]["num_tokens"]) / (ends[-1] - ends[WARM - 1])
        found["utilisation"] *= speed / found["tokens_per_second"]
        found["tokens_per_second"] = speed
    return found
