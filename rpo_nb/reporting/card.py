"""A model card, made of what was measured."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from rpo_nb.config.loading import REPOSITORY
from rpo_nb.config.methods import ROWS, tau_of
from rpo_nb.config.schema import Profile

if TYPE_CHECKING:
    from rpo_nb.experiment.grid import Run

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
PARTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    # an optimizer or training arguments stay here
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Chosen:
    """A finished run, with the recipe that is stored with it, and where it lies."""

    profile: Profile
    out: Path
    run: Run
    folder: Path  # in <out>/runs; of an earlier version of the code it is not the run's own

    @property
    def name(self) -> str:
        """To publish it under; a temperature is named where it is not the preset's."""
        run, own = self.run, tau_of(self.profile.presets[self.run.preset], self.run.method)
        tau = "" if run.tau == own else f"-tau{run.tau:g}"
        return f"{self.profile.name}-{run.size}-{run.method}-{run.preset}{tau}-seed{run.seed}"

    @property
    def lora(self) -> bool:
        return (self.folder / "policy" / "adapter_config.json").is_file()


# The card -----------------------------------------------------------------------------------------


def card(chosen: Chosen, repo: str, *, base: str, licence: str) -> str:
    """The model card: metadata the hub reads, and what a reader needs to judge the policy, all from
    stored files."""
    from huggingface_hub import ModelCard, ModelCardData

    profile, recipe = chosen.profile, _placeless(chosen.run.recipe, base)
    data, metrics = _data(chosen), _metrics(chosen)
    metadata = ModelCardData(
        language="en",
        license=licence,
        library_name="peft" if chosen.lora else "transformers",
        base_model=base or None,
        datasets=[data["id"]] if data["id"] else None,
        model_name=repo.split("/")[1],
        eval_results=_results(metrics, data) or None,
        tags=[
            "rpo_nb",
            "alignment",
            "preference-optimization",
            chosen.run.method,
            *(["reward-partitioning-optimization"] if chosen.run.method == "rpo" else []),
            *(["lora"] if chosen.lora else []),
            *([] if base else ["trained-from-scratch"]),
        ],
    )
    manifest = _json(chosen.out / "manifest.json")
    done = _json(chosen.folder / "done.json")
    return str(
        ModelCard.from_template(
            metadata,
            template_path=str(TEMPLATE),
            chosen=chosen,
            run=chosen.run,
            method=ROWS[chosen.run.method],
            repo=repo,
            base=base,
            data=data,
            metrics=metrics,
            done=done,
            repository=REPOSITORY,
            preset=profile.presets[chosen.run.preset].model_dump(),
            training=recipe["training"],
            steps=recipe["steps"],
            micro=profile.training_of(chosen.run.size).micro_batch_tokens,
            manifest=manifest,
            hardware=_hardware(manifest, f"03_train-{chosen.run.size}-seed{chosen.run.seed}"),
            recipe=yaml.safe_dump(recipe, sort_keys=True, allow_unicode=True),
            other_code=_trained_by_other_code(chosen),
            wins=_rows(chosen, "table3"),
            temperatures=_rows(chosen, "table4"),
            claims=_rows(chosen, "claims"),
            causal=_is_causal(chosen),
            interval=_interval,
            vocabulary=_json(chosen.folder / "policy" / "config.json").get("vocab_size"),
        )
    )


def _placeless(recipe: dict, base: str) -> dict:
    """The recipe without folders of this machine: a local model is named by its hub id, or by its
    folder's name alone."""
    model = recipe["model"]
    local = os.sep in model["id"] and model["id"] != base
    tokenizers = [
        Path(name).name if Path(name).is_absolute() else name for name in model["tokenizer"]
    ]
    return recipe | {
        "model": model
        | {
            "id": (base or Path(model["id"]).name) if local else model["id"],
            "tokenizer": tokenizers,
        }
    }


def _data(chosen: Chosen) -> dict[str, Any]:
    """What it learnt from: id and split (of the hub, or ""), name (for people), key (its content's
    hash, or its id)."""
    config = chosen.profile.data
    local = (chosen.out / config.source).exists() or Path(config.source).expanduser().exists()
    hub = not chosen.profile.pocket_world and not local
    pocket = "the pocket world of rpo_nb (synthetic prompts with a known ground truth)"
    name = (
        pocket
        if chosen.profile.pocket_world
        else config.source
        if hub
        else f"a local file, {Path(config.source).name}"
    )
    return {
        "id": config.source if hub else "",
        "split": config.split if hub else "",
        "name": name,
        "key": chosen.run.recipe["data"]["source"],
    }


def _metrics(chosen: Chosen) -> list[dict[str, Any]]:
    """Rows of tables/metrics.csv that are this policy's, with a metric's name for people. [] when
    the table is not there."""
    from rpo_nb.config.metrics import metric

    out = []
    for row in _rows(chosen, "metrics"):
        of = metric(row["metric"])
        out.append(row | {"title": of.title, "digits": of.digits, "lower": of.lower})
    return out


def _rows(chosen: Chosen, table: str) -> list[dict[str, Any]]:
    """The rows of <out>/tables/<table>.csv about this policy, or its preset and size; win rates
    (Tables III, IV) are RPO's."""
    run, path = chosen.run, chosen.out / "tables" / f"{table}.csv"
    if not path.is_file() or (table in ("table3", "table4") and run.method != "rpo"):
        return []
    if table == "table3" and run.tau != chosen.profile.presets[run.preset].rpo_tau:
        return []  # Table III is measured at the preset's own temperature
    frame = pd.read_csv(path)
    for column in ("preset", "size", "method", "seed"):
        if column in frame:
            frame = frame[frame[column] == getattr(run, column)]
    # Table IV is there to show other temperatures beside this one
    if "tau" in frame and table != "table4":
        frame = frame[
            frame["tau"].isna() if run.tau is None else (frame["tau"] - run.tau).abs() < 1e-9
        ]
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _results(metrics: list[dict], data: dict) -> list[Any]:
    """The metadata's model-index: each measured metric with its interval as arguments."""
    from huggingface_hub import EvalResult

    out = []
    for row in metrics:
        if row["value"] is not None:
            interval = (
                {}
                if row["ci_low"] is None
                else {"confidence_interval_95": [float(row["ci_low"]), float(row["ci_high"])]}
            )
            out.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=data["id"] or "rpo_nb",
                    dataset_name=data["name"],
                    dataset_split="validation",
                    metric_type=row["metric"],
                    metric_name=row["title"],
                    metric_value=float(row["value"]),
                    metric_args={"n": int(row["n"])} | interval,
                )
            )
    return out


def _hardware(manifest: dict, job: str) -> dict[str, Any]:
    """The machine a job ran on: a cluster's node where the manifest names it, else the machine of
    the reproduction."""
    return next(
        (node for node in manifest.get("nodes", []) if job in node["jobs"]),
        manifest.get("hardware", {}),
    )


def _interval(row: dict, name: str, digits: int) -> str:
    """ "0.61 [0.60, 0.63]", or why there is no number."""
    if row[name] is None:
        return f"not measured ({row.get('reason') or 'no reason recorded'})"
    value, low, high = (
        None if row[k] is None else f"{row[k]:.{digits}f}" for k in (name, "ci_low", "ci_high")
    )
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def _trained_by_other_code(chosen: Chosen) -> bool:
    from rpo_nb.running.provenance import step_code

    return chosen.run.recipe["code"] != step_code("training")


def _is_causal(chosen: Chosen) -> bool:
    policy = chosen.folder / "policy"
    if chosen.lora:
        return _json(policy / "adapter_config.json").get("task_type") == "CAUSAL_LM"
    return not _json(policy / "config.json").get("is_encoder_decoder", False)


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
