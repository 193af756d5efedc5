"""Tokens a second, share of the device's peak and peak memory of a training step, by model shape and method.

    python benchmarks/throughput.py                      every shape of profiles/models.yaml that fits this device
    python benchmarks/throughput.py google/flan-t5-small --rows 4 --prompt 128 --completion 128

Random weights (speed does not depend on them), whole prompts of four completions at full length, bf16 computation, AdamW, through
the kit's own trainer and losses; medians of the repetitions. share_of_peak is of the SFT step. Adds its rows to
benchmarks/throughput.csv, whose share_of_peak `python -m rpo_nb plan` then uses for this device.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
import transformers
import yaml

from rpo_nb import costs, policy
from rpo_nb.checks import OutOfMemory, memory_advice
from rpo_nb.config import PROFILE_DIR, Objective, TrainingConfig
from rpo_nb.training import make_trainer, prompt_groups

METHODS = ("sft", "rpo", "dro", "kto")
COMPLETIONS = 4
TABLE = Path(__file__).with_suffix(".csv")


def configuration(name: str):
    """The transformers configuration of a shape of profiles/models.yaml."""
    shape = dict(yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))["models"][name])
    for key in ("bytes", "gated"):
        shape.pop(key, None)
    return transformers.AutoConfig.for_model(shape.pop("model_type"), **shape)


def fresh(config, lora: bool):
    """A model of random weights on the device, as `policy.load_policy` would hold it."""
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        config.decoder_start_token_id = config.pad_token_id = 0
    with policy.device():
        model = auto.from_config(config, dtype=torch.bfloat16 if lora else torch.float32)
    policy.set_dropout(model, 0.0)
    return policy.add_lora(model, 16) if lora else model


def trainer_of(config, method: str, lora: bool, folder: str, rows: int, prompt: int, completion: int):
    encoded = [([7 + i // COMPLETIONS] * prompt, [9 + i] * completion) for i in range(rows)]
    groups = prompt_groups(encoded, [i // COMPLETIONS for i in range(rows)], rewards=[float(i % COMPLETIONS) for i in range(rows)],
                           ref_logps=[-100.0] * rows, desirable=[i % 2 == 0 for i in range(rows)])
    training = TrainingConfig(batch_size=rows, micro_batch_size=rows, bf16=True, lora=lora, warmup_steps=0, report_to=())
    reference = fresh(config, False).eval().requires_grad_(False) if method == "kto" and not lora else None
    return make_trainer(fresh(config, lora), SimpleNamespace(pad_token_id=0), groups, Objective(method=method), config=training,
                        output_dir=folder, seed=0, reference=reference)


def measure(name: str, lora: bool, rows: int, prompt: int, completion: int, repetitions: int) -> list[dict]:
    """A row a method; a method that does not fit into memory is left out, and said."""
    config, where = configuration(name), costs.device()
    training = TrainingConfig(bf16=True, lora=lora)
    count = costs.parameters(config, training)
    found = []
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                with memory_advice(f"{name}, {method}", "give fewer --rows"):
                    trainer = trainer_of(config, method, lora, folder, rows, prompt, completion)
                    trainer.create_optimizer()
                    batch = trainer._prepare_inputs(trainer.data_collator(trainer.train_dataset))
                    seconds = [step(trainer, batch) for _ in range(repetitions + 1)][1:]
            except OutOfMemory as error:
                print(f"left out: {error}")
                continue
        tokens = int(batch["attention_mask"].sum() + (batch["labels"] != policy.IGNORE).sum() * config.is_encoder_decoder)
        median = float(pd.Series(seconds).median())
        prompts, answers = int(batch["attention_mask"].sum()), int((batch["labels"] != policy.IGNORE).sum())
        passed = (prompts, answers) if config.is_encoder_decoder else (0, prompts)  # through the encoder, through the decoder
        flops = costs.train_passes(training) * count.forward(*passed, answers)
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
        found.append({"device": where.name, "model": name, "lora": lora, "method": method, "rows": rows, "prompt": prompt,
                      "completion": completion, "seconds": round(median, 4), "tokens_per_second": round(tokens / median),
                      "share_of_peak": round(flops / median / where.bf16, 4) if method == "sft" else None,
                      "peak_gib": round(memory, 2)})
        print(found[-1], flush=True)
        del trainer, batch
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return found


def step(trainer, batch) -> float:
    """Seconds of one step, the optimiser's part included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    with policy.autocast(True):
        loss = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    wait()
    return time.perf_counter() - started


def main() -> None:
    known = [name for name, shape in yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))["models"].items()
             if "model_type" in shape and not name.startswith(("package:", "mistralai/"))]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=known)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--completion", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    rows = [row for name in options.models for lora in (False, True)
            for row in measure(name, lora, options.rows, options.prompt, options.completion, options.repetitions)]
    before = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame()
    keys = ["device", "model", "lora", "method", "rows", "prompt", "completion"]
    pd.concat([before, pd.DataFrame(rows)]).drop_duplicates(keys, keep="last").sort_values(keys).to_csv(TABLE, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
