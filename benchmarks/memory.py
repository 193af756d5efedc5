"""Peak memory and time of one forward and backward pass, by how the vocabulary projection is done.

    python benchmarks/memory.py            writes benchmarks/memory.csv; about a minute on 2 cores

full: what a plain loss does, log-softmax over the logits of every position in float32. pieces: `policy.completion_logps`, only
the completion's positions, a piece at a time, computed again in the backward pass. A process each, since peak memory never
falls; the body is one layer of the named model's width, so that the projection is what is measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROWS, PROMPT, COMPLETION = 16, 256, 256  # a micro-batch of the authors' scripts at UltraFeedback's median lengths
SHAPES = {
    "Flan-T5-Small's width": {"kind": "t5", "d_model": 512, "d_ff": 1024, "heads": 6, "vocabulary": 32128},
    "SmolLM2-135M's width": {"kind": "llama", "d_model": 576, "d_ff": 1536, "heads": 9, "vocabulary": 49152},
}
REPEATS = 3


def model_of(shape: dict):
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    if shape["kind"] == "t5":
        return T5ForConditionalGeneration(T5Config(
            vocab_size=shape["vocabulary"], d_model=shape["d_model"], d_ff=shape["d_ff"], num_layers=1, num_heads=shape["heads"],
            dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=False))
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=shape["vocabulary"], hidden_size=shape["d_model"], intermediate_size=shape["d_ff"], num_hidden_layers=1,
        num_attention_heads=shape["heads"], num_key_value_heads=3, tie_word_embeddings=True))


def full(model, batch):
    """log π of each row from all logits at once."""
    import torch

    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        logits = model(input_ids=batch["input_ids"][batch["group"]], attention_mask=batch["attention_mask"][batch["group"]],
                       labels=labels.clamp(min=0)).logits
    else:
        logits, labels = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1], labels[:, 1:]
    keep = labels != -100
    logps = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (logps * keep).sum(-1)


def measure(name: str, way: str) -> dict:
    """Run in a process of its own: the growth of the peak, and the fastest of a few passes."""
    import torch

    from rpo_nb import policy

    torch.manual_seed(0)
    model = model_of(SHAPES[name])
    rows = [(torch.randint(5, 1000, (PROMPT,)).tolist(), torch.randint(5, 1000, (COMPLETION,)).tolist()) for _ in range(ROWS)]
    batch = policy.collate(rows, pad_id=0, seq2seq=model.config.is_encoder_decoder)
    logps = full if way == "full" else lambda m, b: policy.grouped_logps(m, b, reduce="sum")[0]
    small = {k: v[:1] for k, v in batch.items()}
    logps(model, small).sum().backward()  # gradients and library buffers stand before the measurement
    before, seconds, value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [], 0.0
    for _ in range(REPEATS):
        started = time.perf_counter()
        out = logps(model, batch)
        out.mean().backward()
        seconds.append(time.perf_counter() - started)
        value = float(out.detach().mean())
        del out
    return {"model": name, "projection": way, "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
            "seconds": min(seconds), "mean_logp": value}


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
        return
    found = [json.loads(subprocess.run([sys.executable, __file__, name, way], check=True, capture_output=True, text=True)
                        .stdout.splitlines()[-1]) for name in SHAPES for way in ("full", "pieces")]
    table = pd.DataFrame(found)
    for name, pair in table.groupby("model"):
        assert abs(pair["mean_logp"].iloc[0] - pair["mean_logp"].iloc[1]) < 1e-2, f"{name}: the two ways disagree"
    table = table.drop(columns="mean_logp").round({"peak_mb": 0, "seconds": 2})
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
