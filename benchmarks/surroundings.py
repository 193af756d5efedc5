"""The whole reproduction, one policy of it, and what surrounds a run: imports and notebooks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import measuring
from benchmarks.cases import Found, Settings
from benchmarks.measuring import ROOT, Ratio, detail, interleaved, ratio, seconds_of

# of a reproduction: the goal is one for paper A's tables
OTHER_STAGES = ("07_partition_lab", "08_reward_aware")


def reproduction(settings: Settings) -> Found:
    """Paper A's tables in the committed pocket reproduction, from its manifest: their jobs' seconds
    over the cores that ran them."""
    pocket = ROOT / "results" / "pocket"
    manifest = json.loads((pocket / "manifest.json").read_text(encoding="utf-8"))
    seconds, cores = manifest["seconds"], manifest["hardware"]["cores"]
    stages: dict[str, float] = {}
    for job, took in seconds["jobs"].items():
        stages[job.partition("-")[0]] = stages.get(job.partition("-")[0], 0.0) + took
    trained = pd.read_csv(pocket / "tables" / "timings.csv")["seconds"].sum()
    if stages["03_train"] < trained:
        print(
            f"reproduction: notebook 03 took {stages['03_train']:.0f} s and its policies "
            f"{trained:.0f} s, so they came from a cache and its "
            "minutes say nothing; reproduce pocket into an empty folder with an empty "
            "RPO_NB_CACHE first."
        )
        return [], []
    name = f"pocket reproduction of Tables I to IV, its jobs' seconds over {cores} cores"
    tables_only = sum(took for stage, took in stages.items() if stage not in OTHER_STAGES) / cores
    return (
        [Ratio(name, "10 minutes", tables_only / 600, np.nan, np.nan, 0.6, 1)],
        [
            detail(
                name, f"Tables I to IV, jobs added up over {cores} cores", "seconds", tables_only
            ),
            detail(name, "everything, as a clock shows", "seconds", seconds["wall"]),
            *(
                detail(name, f"{stage}, its jobs added up", "seconds", took)
                for stage, took in stages.items()
            ),
        ],
    )


IDLE = (
    "from jupyter_client.manager import start_new_kernel as new; manager, client = new(); "
    "client.execute_interactive('pass'); "
    "client.stop_channels(); manager.shutdown_kernel()"
)


def policy(settings: Settings) -> Found:
    """Where the seconds of one policy of the pocket world go, of its largest size."""
    arguments = ("small", "smoke") if settings.quick else ("xl", "pocket")
    found = pd.DataFrame(
        [measuring.fresh("benchmarks.policy", *arguments) for _ in range(settings.repetitions)]
    )
    name = "one RPO policy of the pocket world"
    own = ["inputs", "training", "sampling", "scoring", "metrics"]
    beyond = found["training"] - found["steps"]
    return (
        [
            ratio(
                f"{name}, all but its steps",
                "its training steps",
                (found[own].sum(axis=1) - found["steps"]).to_numpy(),
                found["steps"].to_numpy(),
            )
        ],
        [
            *(detail(name, stage, "seconds", found[stage].to_numpy()) for stage in found),
            detail(name, "training beyond its steps", "seconds", beyond.to_numpy()),
        ],
    )


def start(settings: Settings) -> Found:
    """Seconds of `import rpo_nb`, and of a papermill run of a notebook that does nothing, beside
    its kernel's."""
    import nbformat

    timed = lambda *arguments: seconds_of(lambda: measuring.python(*arguments))  # noqa: E731
    repetitions = settings.repetitions
    found = interleaved(
        {"bare": timed("-c", "pass"), "import": timed("-c", "import rpo_nb")}, repetitions
    )
    importing = np.maximum(found["import"] - found["bare"], 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "nothing.ipynb"
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass")], metadata=kernel),
            notebook,
        )
        runs = interleaved(
            {
                "kernel": timed("-c", IDLE),
                "papermill": timed(
                    "-m", "papermill", str(notebook), str(Path(folder) / "out.ipynb")
                ),
            },
            repetitions,
        )
    waste = np.maximum(runs["papermill"] - runs["kernel"], 1e-4)
    return (
        [
            ratio("import rpo_nb", "0.3 seconds", importing, np.full(repetitions, 0.3), 1.0),
            ratio(
                "papermill beyond the kernel, a notebook that does nothing",
                "the kernel alone",
                waste,
                runs["kernel"],
                1.0,
            ),
        ],
        [
            detail("import rpo_nb", "beyond bare Python", "seconds", importing),
            *(
                detail("a notebook that does nothing", side, "seconds", numbers)
                for side, numbers in runs.items()
            ),
        ],
    )
