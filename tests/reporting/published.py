"""What the tests of publish are made of."""

from pathlib import Path

import torch

from rpo_nb.config import loading, schema
from rpo_nb.experiment import grid
from rpo_nb.policy import load
from rpo_nb.store import seal, write_json

REPO = "someone/tiny-rpo"


def lora_run(folder: Path, tiny_t5, **overrides) -> tuple[schema.Profile, Path]:
    """An output folder with one finished LoRA policy of RPO, trained from `tiny_t5` in a local
    folder."""
    out, model, tokenizer = folder / "results", *tiny_t5
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    profile = loading.load_profile(
        "smoke", sizes="small", seeds="0", lora=True, **{"sizes.small.id": str(base), **overrides}
    )
    run = grid.recipe(profile, profile.presets["fixed"], "rpo", "small", 0.3, 0)
    adapted, _ = load.load_policy(base, lora_rank=profile.training.lora_rank)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(run.folder(out) / "policy")
    tokenizer.save_pretrained(run.folder(out) / "policy")
    (run.folder(out) / "policy" / "training_args.bin").write_bytes(b"not for the hub")
    write_json(run.folder(out) / "recipe.json", run.recipe)
    seal(run.folder(out), {"seconds": 1.5, "steps": 3, "rows": 96, "parameters": 1024})
    loading.write_profile(profile, out / "profile.yaml")
    return profile, out
