"""Hugging Face Trainer: two lines more than without; accumulation, clipping and logs are its own.

A two-layer GPT-2, built from its configuration, learns to count in steps of 1 to 4.
"""

import tempfile
from functools import partial

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from lowland import SAM
from lowland.integrations.transformers import SharpnessAwareTrainerMixin


class SAMTrainer(SharpnessAwareTrainerMixin, Trainer):
    pass


def counting(n: int = 192) -> list[dict[str, torch.Tensor]]:
    rows = []
    for i in range(n):
        tokens = (i % 17 + (1 + i % 4) * torch.arange(8)) % 17
        rows.append({"input_ids": tokens, "labels": tokens.clone()})
    return rows


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=17, n_positions=8, n_embd=32, n_layer=2, n_head=2,
                        bos_token_id=0, eos_token_id=0, use_cache=False)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=40,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=3,
            learning_rate=5e-3,
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        trainer = SAMTrainer(
            model=GPT2LMHeadModel(config),
            args=args,
            train_dataset=counting(),
            sharpness_aware=partial(SAM, rho=0.05),  # over the AdamW that args ask for
        )
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logged:
        print(f"step {entry['step']}: loss {entry['loss']:.3f}, "
              f"sharpness {entry['sam_sharpness']:.3f}")  # fmt: skip
    return logged[0]["loss"], logged[-1]["loss"]


if __name__ == "__main__":
    main()
