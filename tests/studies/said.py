"""A small output folder of the pocket world, whose every number is known, for tests of browsing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd

from rpo_nb import store
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.pocket.prompts import make_prompts
from rpo_nb.reporting.rendering import write_csv
from rpo_nb.reporting.verify import write_seeds

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>"
TAUS = {"paper": 1.0, "fixed": 0.3}
PROMPTS = [7, 3, 9, 4]  # ids, in the order of the files
# RPO over SFT by the checker and by the reward model, a letter a prompt
SAID = {"checker": "mbtm", "reward_model": "mmtb"}
SIDES = {"m": "method", "b": "baseline", "t": "tie"}


def _pack(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def folder(out: Path, *, texts: bool = True, seeds: tuple[int, ...] = (0, 1)) -> Path:
    """Presets paper and fixed, size small, methods reference, SFT and RPO, four prompts a seed.
    The first completion of SFT is hostile. texts: whether the completions are there."""
    import numpy as np

    every = {"seeds": ",".join(map(str, seeds)), "paper_b.seeds": list(seeds)}
    profile = load_profile("pocket", sizes="small", **every)
    out.mkdir(parents=True, exist_ok=True)
    write_profile(profile, out / "profile.yaml")
    asked = make_prompts(len(PROMPTS), rng=np.random.default_rng(0))
    verdicts: dict[str, list[dict]] = {judge: [] for judge in SAID}
    for seed in seeds:
        for preset, tau in TAUS.items():
            rows = []
            for method, slope in (("reference", None), ("sft", None), ("rpo", tau)):
                for place, (number, prompt) in enumerate(zip(PROMPTS, asked, strict=True)):
                    text = f"The {method} of {preset} said {number} with seed {seed}."
                    if method == "sft" and place == 0:
                        text = HOSTILE
                    if method == "sft" and place == 1:
                        text = ""
                    cell = {"preset": preset, "method": method, "size": "small", "tau": slope}
                    said = {"prompt_id": number, "prompt": prompt, "reference": "A target."}
                    rows.append(cell | {"seed": seed} | said | {"completion": text})
            if texts:
                _pack(out / "generations" / f"{preset}-small-seed{seed}.jsonl.gz", rows)
            for judge, letters in SAID.items():
                for number, letter in zip(PROMPTS, letters, strict=True):
                    side = SIDES[letter]
                    verdicts[judge].append(
                        {"preset": preset, "judge": judge, "size": "small", "tau": tau}
                        | {"seed": seed, "prompt_id": number, "method": "rpo", "baseline": "sft"}
                        | {"first_order": side, "second_order": side, "verdict": side}
                    )
    for judge, rows in verdicts.items():
        _pack(out / "verdicts" / f"table3-{judge}.jsonl.gz", rows)
    rate = {"checker": 62.5, "reward_model": 62.5}
    cells = [
        {"preset": preset, "judge": judge, "size": "small", "baseline": "sft", "win_rate": value}
        for preset in TAUS
        for judge, value in rate.items()
    ]
    write_csv(pd.DataFrame(cells), out, "table3")
    _lab(out, seeds)
    return out


def _lab(out: Path, seeds: tuple[int, ...]) -> None:
    """A regime map of one policy, whose texts are not kept."""
    row = {"regime": "stronger", "policy": "SFT"}
    numbers = {"gain": 0.5, "reward": 5.0, "win_rate": 60.0, "kl": 1.0, "broken": 0.25}
    write_csv(pd.DataFrame([row | numbers]), out, "regime_map")
    by_seed = [{"study": "stronger", "policy": "SFT", "seed": seed} | numbers for seed in seeds]
    write_seeds(pd.DataFrame(by_seed), out, "regime_map")


def paper_b(out: Path, seed: int, key: str, text: str, *, write: bool = True) -> str:
    """A run of paper B's dpo, its folder and, with write, what it said in generations/; return the
    run's name below runs/."""
    import numpy as np

    rows = [
        {"split": "test", "prompt": prompt, "completion": f"{text} {prompt}", "truth": 5.0}
        | {"learnt": 0.5, "policy_logp": -20.25 - len(text), "ref_logp": -21.0, "tokens": 4.0}
        for prompt in make_prompts(2, rng=np.random.default_rng(0))
    ]
    frame, folder = pd.DataFrame(rows), out / "runs" / "paper_b" / f"dpo-seed{seed}-{key}"
    store.atomic_write(folder / "completions.jsonl.gz", store.packed(frame))
    store.seal(folder)
    if write:
        file = out / "generations" / "paper_b" / f"seed{seed}.jsonl.gz"
        store.atomic_write(file, store.packed(frame.assign(run="dpo", seed=seed)))
    return f"paper_b/{folder.name}"
