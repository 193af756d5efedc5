"""How a notebook begins: its profile, where it keeps its results, what this machine has and what
the notebook takes; and how it tells an error that is the user's to mend.

    p, out = opening.begin("04_table2_metrics", profile, output_dir, sizes=sizes, seeds=seeds)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from rpo_nb.config.loading import load_profile, results_dir
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import showing
from rpo_nb.running import estimate, jobs
from rpo_nb.running.manifest import hardware
from rpo_nb.running.staging import check_source
from rpo_nb.store import read_json

DRIVE = Path("/content/drive")  # where Colab has one's Google Drive


def begin(notebook: str, profile: str = "", output_dir: str = "", **chosen: Any):
    """(profile, folder of its results), checked, with a line on this machine and one on what the
    notebook takes; errors and frames are shown for people from here on.

    notebook: the name of its file. chosen: parameters of `load_profile`. In Colab an output_dir
    under /content/drive is one's Drive, which is asked for here; caches go there too. Raises
    ValueError for a setting, or for feedback that is not there.
    """
    for_people()
    made = load_profile(profile, **chosen)
    check_source(made)
    if Path(output_dir).is_relative_to(DRIVE):
        _mount(Path(output_dir))
    out = results_dir(made, output_dir)
    print(f"profile {made.name}: {made.description}")
    print(f"Here: {machine(hardware())}. {cost(notebook, made, out)}")
    warned_where_slow(made)
    return made, out


def warned_where_slow(profile: Profile) -> Profile:
    """The same profile, after a line where this machine is slow in its number format."""
    if profile.training.bf16:  # else torch is not needed yet
        from rpo_nb.planning.costs import slow_half

        if slow := slow_half(profile.training):
            print(f"Slow here: {slow}.", flush=True)
    return profile


def _mount(output_dir: Path) -> None:
    """One's Drive, in Colab; references and log-probabilities are kept there too."""
    if "google.colab" in sys.modules:
        from google.colab import drive

        drive.mount(str(DRIVE))
        os.environ.setdefault("RPO_NB_CACHE", str(output_dir / "cache"))


def machine(has: dict[str, Any]) -> str:
    """Its GPUs, cores and memory, in words."""
    gpus = ", ".join(has["gpus"]) or "no GPU"
    return f"{gpus}, {has['cores']} CPU cores, {has['memory_gb']:.0f} GB of memory"


def cost(notebook: str, profile: Profile, out: Path) -> str:
    """What the notebook takes, as measured with this profile; trainings that are missing come
    first. Where that was not measured, what the profile says of all notebooks."""
    manifest = jobs.committed_manifest(profile)
    known, needs = estimate.measured(out, manifest), jobs.needs(profile)
    own = [job for job in needs if job.startswith(notebook)]
    if not own or not set(own) <= known.keys():
        plan = f"python -m rpo_nb plan --profile {profile.name}"
        return f"All notebooks together: {profile.expect}; {plan} tells more."
    first = [job for need in own for job in needs[need] if job.startswith("03_train")]
    first = [job for job in dict.fromkeys(first) if not _is_trained(profile, job, out)]
    told = f"This notebook: about {minutes(sum(known[job] for job in own))}"
    if first and set(first) <= known.keys():
        told += f", and {minutes(sum(known[job] for job in first))} for policies not trained yet"
    return f"{told} (measured{_where(manifest, out / 'manifest.json')})."


def _where(*manifests: Path) -> str:
    """Of the first manifest that is there: on which hardware."""
    for manifest in filter(Path.is_file, manifests):
        hardware = read_json(manifest)["hardware"]
        return f" on {', '.join(hardware['gpus']) or 'a core of ' + hardware['cpu']}"
    return ""


def minutes(seconds: float) -> str:
    """ "40 s", "8 min"."""
    return f"{max(10, round(seconds, -1)):.0f} s" if seconds < 95 else f"{seconds / 60:.0f} min"


def _is_trained(profile: Profile, job: str, out: Path) -> bool:
    """Whether the completions of a size and seed are there."""
    cell = job.removeprefix("03_train-")
    files = [out / "generations" / f"{preset}-{cell}.jsonl.gz" for preset in profile.presets]
    return all(file.is_file() for file in files)


# ---- errors and frames ---------------------------------------------------------------------------


def for_people() -> None:
    """In a notebook: a ValueError of this package is its sentence, without a traceback (the cell
    fails all the same); frames have readable numbers and their text on the left; no library shows
    a bar of its own while it loads a model. Nothing outside of a notebook."""
    from IPython import get_ipython
    from pandas.io.formats.style import Styler
    from transformers.utils import logging

    logging.disable_progress_bar()
    shell = get_ipython()
    if shell is None:
        return
    shell.set_custom_exc((ValueError,), tell)
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(pd.DataFrame, showing.frame_html)
    formatter.for_type(Styler, showing.styled_html)


def tell(shell: Any, kind: type, error: ValueError, trace: Any, tb_offset: int | None = None):
    """IPython's handler of a ValueError: of one that was raised in this package only the sentence
    is shown."""
    last = trace
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None and last.tb_frame.f_globals.get("__name__", "").startswith("rpo_nb."):
        error._render_traceback_ = lambda: [f"error: {error}"]  # IPython's way for an exception
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
