"""Profiles: read, narrowed by parameters, checked, written; and where results go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rpo_nb.config import settings
from rpo_nb.config.keys import content_key
from rpo_nb.config.names import plain_name
from rpo_nb.config.schema import DataConfig, Profile
from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.store import atomic_write, digest_of

# the one place that knows where the package is installed from
REPOSITORY = "https://github.com/rpo-nb/rpo_nb"


def default_profile() -> str:
    """The profile a notebook starts with: RPO_NB_PROFILE, else ``pocket``."""
    return os.environ.get("RPO_NB_PROFILE", "pocket")


def as_list(value: Any, kind: type = str) -> list:
    """A notebook parameter as a list: "rpo, kto", ["rpo", "kto"], 0 and "0,1" are all lists; "" and
    None are empty.

    Raises ValueError naming the item that is not a `kind`.
    """
    if value is None:
        return []
    items = (
        value.split(",")
        if isinstance(value, str)
        else list(value)
        if isinstance(value, (list, tuple))
        else [value]
    )
    out = []
    for item in items:
        text = str(item).strip()
        if not text:
            continue
        try:
            out.append(kind(text))
        except ValueError:
            raise ValueError(
                f"{item!r} is not {'an integer' if kind is int else 'a number'}; give "
                "a comma-separated list"
            ) from None
    return out


def load_profile(
    name: str | None = None,
    *,
    feedback: str = "",
    sizes: Any = "",
    methods: Any = "",
    taus: Any = "",
    seeds: Any = "",
    preset: Any = "",
    lora: bool | str | None = None,
    **overrides: Any,
) -> Profile:
    """Read a profile and narrow it to the notebook parameters that are not empty.

    name: a file of ``rpo_nb/profiles`` or a path to a YAML file. feedback (or data.source): another
    source than the profile's own (its ``feedback_overrides`` then apply). overrides: dotted keys,
    e.g. ``{"training.epochs": 2}``. Raises ValueError with one sentence that names the key.
    """
    name = name or default_profile()
    raw = settings.with_presets(settings.read_profile(name))
    extra = raw.pop("feedback_overrides", {})
    source = feedback or overrides.get("data.source", "")
    if source and source != raw["data"].get("source"):
        overrides = extra | overrides | {"data.source": str(source)}
    for dotted, value in overrides.items():
        settings.set_dotted(raw, dotted, value)
    if lora not in (None, ""):
        settings.set_dotted(raw, "training.lora", lora)
    for key, wanted in (
        ("methods", as_list(methods)),
        ("taus", as_list(taus, float)),
        ("seeds", as_list(seeds, int)),
    ):
        if wanted:
            raw[key] = wanted
    settings.refuse_unknown("table4_presets", raw.get("table4_presets", ()), list(raw["presets"]))
    settings.narrow(raw, "sizes", as_list(sizes))
    settings.narrow(raw, "presets", as_list(preset))
    tables = raw.get("table4_presets", ("paper", "fixed"))
    raw["table4_presets"] = [p for p in tables if p in raw["presets"]]
    try:
        profile = Profile.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"profile {name!r}: {settings.refusal(error, Profile)}") from None
    settings.check(profile)
    _check_file_names(profile)
    return profile


def _check_file_names(profile: Profile) -> None:
    """Raises ValueError when two cells of the profile would be written to one file."""
    seen: dict[str, tuple[str, str]] = {}
    for cell in ((preset, size) for preset in profile.presets for size in profile.sizes):
        other = seen.setdefault("-".join(cell).casefold(), cell)
        if other != cell:
            raise ValueError(
                f"preset {cell[0]!r} of size {cell[1]!r} and preset {other[0]!r} of "
                f"size {other[1]!r} would share "
                "their files; rename one"
            )


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as a YAML file that `load_profile` reads back as it is: ``resolved`` says
    that nothing is merged into it."""
    text = yaml.safe_dump(
        {"resolved": True, **profile.model_dump(mode="json")},
        sort_keys=False,
        allow_unicode=True,
        width=130,
    )
    atomic_write(path, text)


def repository_root(start: Path | None = None) -> Path:
    """The folder that holds ``results/``: the clone when we are inside one (also from notebooks/),
    else where we are."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "Snakefile").is_file() and (folder / "rpo_nb").is_dir():
            return folder
    return start


def results_dir(profile: Profile, output_dir: str = "") -> Path:
    """Where a profile's results go: output_dir if given, else results/<profile>.

    Feedback of the user's own has results/<profile>-<file>-<hash of its content>: it overwrites
    neither the committed tables nor the results of other feedback of that name.
    """
    if output_dir:
        return Path(output_dir).expanduser().resolve()
    source, own = profile.data.source, profile.data.source
    if (PROFILE_DIR / f"{profile.name}.yaml").is_file():
        own = settings.read_profile(profile.name)["data"].get("source", DataConfig().source)
    if source == own:
        return repository_root() / "results" / profile.name
    place = Path(source).expanduser()
    named = digest_of(place) if place.exists() else source  # a hub id names its content
    suffix = f"{plain_name(place.resolve())}-{content_key(named)[:8]}"
    return repository_root() / "results" / f"{profile.name}-{suffix}"
