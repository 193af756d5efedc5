"""Which notebook makes which result. `python -m rpo_nb reproduce` calls this; every path is relative to the output folder.

By hand:  snakemake --directory results/pocket --config profile=pocket --cores 2 --keep-going
A job is done when runs/jobs/<job>.done says so: tables that came with a clone were not made on this machine.
An executed notebook is a log, so that a failed one stays where it is, with its error.
"""

import sys

from rpo_nb.config.loading import load_profile
from rpo_nb.running import batch, cluster, jobs, processes

PROFILE = config.get("profile", "profile.yaml")
profile = load_profile(PROFILE)
PRESETS, SEEDS, JUDGES = list(profile.presets), list(profile.seeds), list(profile.evaluation.judges)
SMALLEST, *_ = SIZES = list(profile.sizes)
FEEDBACK = batch.local_files(profile)  # the user's own, else nothing
PYTHON = sys.executable
# The notebook comes through stdin and the rest is relative: no path of this machine gets into the executed copy.
NODE = '[ -z "${{SLURM_JOB_ID:-}}" ] || {PYTHON:q} -m rpo_nb.running.manifest {log:q}; '  # what the manifest tells of it
# By its name a job tells which policies it has (running/progress.py), first that it has none; and that it failed.
# A second try of it (--retries) has not failed yet.
JOB = "export RPO_NB_JOB=runs/jobs/$(basename {log:q} .ipynb); rm -f $RPO_NB_JOB.failed; : > $RPO_NB_JOB.policies; "
THREADS = processes.all_threads(profile).replace("{", "{{").replace("}", "}}")
RUN = NODE + THREADS + JOB + "{PYTHON:q} -m papermill - {log:q} -k python3 --no-progress-bar -p profile {PROFILE:q} -p output_dir . "
# The marker is the job's last word: the hashes of what it wrote, which the next start compares.
SOURCE = " < {params.notebook:q} && {PYTHON:q} -m rpo_nb.store {output:q} || {{ : > $RPO_NB_JOB.failed; exit 1; }}"


def generations(sizes=SIZES, seeds=SEEDS):
    return expand("generations/{preset}-{size}-seed{seed}.jsonl.gz", preset=PRESETS, size=sizes, seed=seeds)


def table(name):
    return expand("tables/{name}.{kind}", name=name, kind=["csv", "md", "tex"])


def verdicts(name):
    return expand("verdicts/{name}-{judge}.jsonl.gz", name=name, judge=JUDGES)


def kept(files):
    """Files that a job adds to: not deleted before it. Snakemake 7, on Python 3.10, deletes them, and the job writes them whole."""
    return update(files) if "update" in globals() else files


def done(job):
    return f"runs/jobs/{job}.done"


LAB_NAMES = (
    "partition_bias", "partition_ablation", "regime_map", "low_data", "lab_seeds", "lab_summary", "regime_shares"
)
LAB_TABLES = [file for name in LAB_NAMES for file in table(name)[:1]] if profile.pocket_world else []

# Two jobs are as long as all others together: with both begun early, no core waits for the other at the end.
FIRST = set(jobs.lab_sizes(profile)) | {profile.paper_b.size or SMALLEST}

PAPER_B_TABLES = expand("tables/paper_b_table{i}.csv", i=[1, 2, 3, 4]) if batch.PAPER_B in batch.jobs(profile) else []


rule all:
    input:
        expand("runs/jobs/{job}.done", job=batch.jobs(profile)),


rule data:
    input:
        FEEDBACK,
    output:
        "data/report.csv",
        "data/summary.csv",
        done("01_data_prep"),
    params:
        **batch.params("01_data_prep", profile),
    resources:
        **cluster.resources("light", profile),
    log:
        "notebooks/01_data_prep.ipynb",
    benchmark:
        "runs/jobs/01_data_prep.tsv"
    priority: 90  # something to look at in half a minute
    shell:
        RUN + SOURCE


for place, size in enumerate(SIZES):

    rule:
        name:
            f"train_{size}"
        input:
            FEEDBACK,
        output:
            kept(expand("generations/{preset}-{size}-seed{{seed}}.jsonl.gz", preset=PRESETS, size=size)),
            done(f"03_train-{size}-seed{{seed}}"),
        params:
            **batch.params("03_train", profile),
            size=size,
        resources:
            **cluster.resources("training", profile),
        log:
            f"notebooks/03_train-{size}-seed{{seed}}.ipynb",
        benchmark:
            f"runs/jobs/03_train-{size}-seed{{seed}}.tsv"
        # what the lab and paper B wait for; then what Table I does; then the largest
        priority: 80 if size in FIRST else 70 if size == SMALLEST else 40 + place
        shell:
            RUN + "-r sizes {params.size:q} -p seeds {wildcards.seed:q}" + SOURCE  # -r: a size may be called 1e3


rule derivation:
    input:
        generations([SMALLEST], SEEDS[:1]),
    output:
        table("table1"),
        table("table1_timings"),
        "tables/target_shares.csv",
        done("02_rpo_derivation"),
    params:
        **batch.params("02_rpo_derivation", profile),
    resources:
        **cluster.resources("judging", profile),
    log:
        "notebooks/02_rpo_derivation.ipynb",
    benchmark:
        "runs/jobs/02_rpo_derivation.tsv"
    priority: 60  # the first table
    shell:
        RUN + SOURCE


rule metrics:
    input:
        generations(),
    output:
        "tables/metrics.csv",
        table("table2"),
        done("04_table2_metrics"),
    params:
        **batch.params("04_table2_metrics", profile),
    resources:
        **cluster.resources("judging", profile),
    log:
        "notebooks/04_table2_metrics.ipynb",
    benchmark:
        "runs/jobs/04_table2_metrics.tsv"
    priority: 10
    shell:
        RUN + SOURCE


rule judges:
    input:
        generations(),
    output:
        table("judge_quality"),
        table("table3"),
        kept(verdicts("table3")),
        done("05_table3_judges"),
    params:
        **batch.params("05_table3_judges", profile),
    resources:
        **cluster.resources("judging", profile),
    log:
        "notebooks/05_table3_judges.ipynb",
    benchmark:
        "runs/jobs/05_table3_judges.tsv"
    priority: 30  # the table that most came for
    shell:
        RUN + SOURCE


rule temperature:  # after judges, which train the reward model
    input:
        generations(),
        table("table3"),
    output:
        table("table4"),
        "tables/temperature_differences.csv",
        kept(verdicts("table4")),
        done("06_table4_temperature"),
    params:
        **batch.params("06_table4_temperature", profile),
    resources:
        **cluster.resources("judging", profile),
    log:
        "notebooks/06_table4_temperature.ipynb",
    benchmark:
        "runs/jobs/06_table4_temperature.tsv"
    priority: 10
    shell:
        RUN + SOURCE


if profile.pocket_world:

    rule lab:  # the longest, so as soon as the policies are there that it shares with the grid
        input:
            generations(jobs.lab_sizes(profile)),
        output:
            LAB_TABLES,
            "seeds/regime_map.csv",
            kept(verdicts("partition_ablation")),
            done(batch.LAB),
        params:
            **batch.params(batch.LAB, profile),
        threads: min(profile.lab.workers, batch.parallel_jobs(profile))  # it trains in so many processes
        resources:
            **cluster.resources("training", profile) | {"cpus_per_task": profile.lab.workers},
        log:
            f"notebooks/{batch.LAB}.ipynb",
        benchmark:
            f"runs/jobs/{batch.LAB}.tsv"
        priority: 50
        shell:
            RUN + SOURCE


if PAPER_B_TABLES:

    rule paper_b:
        input:
            generations([profile.paper_b.size or SMALLEST], SEEDS[:1]),  # its reference is there then
        output:
            PAPER_B_TABLES,
            "seeds/paper_b.csv",
            done(batch.PAPER_B),
        params:
            **batch.params(batch.PAPER_B, profile),
        threads: min(profile.paper_b.processes, batch.parallel_jobs(profile))  # it trains in so many processes
        resources:
            **cluster.resources("training", profile) | {"cpus_per_task": profile.paper_b.processes},
        log:
            f"notebooks/{batch.PAPER_B}.ipynb",
        benchmark:
            f"runs/jobs/{batch.PAPER_B}.tsv"
        priority: 20
        shell:
            RUN + SOURCE


rule report:
    input:
        LAB_TABLES,
        PAPER_B_TABLES,
        "data/summary.csv",
        table("table1"),
        "tables/metrics.csv",
        table("table2"),
        table("table3"),
        table("table4"),
        "tables/temperature_differences.csv",
    output:
        table("presets"),
        table("claims"),
        "results.parquet",
        "report.html",
        done("09_report"),
    params:
        **batch.params("09_report", profile),
    resources:
        **cluster.resources("light", profile),
    log:
        "notebooks/09_report.ipynb",
    benchmark:
        "runs/jobs/09_report.tsv"
    shell:
        RUN + SOURCE
