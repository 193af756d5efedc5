"""The command line: python -m rpo_nb reproduce | deep | verify | plan | train | report | judge |
ask | publish | data | advise | predict | lab | generations | trace | chat | clean | bench.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import os
import signal
import sys

STOPPED = "Stopped. The same command goes on from here."
HEARD = signal.getsignal(signal.SIGINT) != signal.SIG_IGN  # a shell's background job ignores Ctrl-C


def stop_at_once(*_) -> None:
    """Ctrl-C where nothing is under way: while the rest is imported, and while the interpreter
    ends."""
    os.write(2, f"\n{STOPPED}\n".encode())
    os._exit(130)


if __name__ == "__main__" and HEARD:
    signal.signal(signal.SIGINT, stop_at_once)

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rpo_nb.config.arguments import in_utf8, parser, settings
from rpo_nb.config.loading import default_profile, load_profile, repository_root, results_dir
from rpo_nb.config.names import readable
from rpo_nb.config.schema import Profile


def _profile(arguments: argparse.Namespace) -> Profile:
    chosen = settings(arguments.set)
    if getattr(arguments, "feedback", ""):
        chosen["feedback"] = arguments.feedback
    if chosen.get("feedback"):
        chosen["feedback"] = readable(str(chosen["feedback"]))
    return load_profile(arguments.profile or default_profile(), **chosen)


def _to_train(arguments: argparse.Namespace) -> Profile:
    """The profile, with a word where this machine, if it trains, is slow at what it asks for."""
    from rpo_nb.planning.opening import warned_where_slow

    here = getattr(arguments, "executor", "local") == "local"
    return warned_where_slow(_profile(arguments)) if here else _profile(arguments)


def reproduce(arguments: argparse.Namespace) -> int:
    """Every table, figure and the report."""
    from rpo_nb.running import batch, processes

    profile = _to_train(arguments)
    out = results_dir(profile, arguments.output_dir)
    print(
        f"{profile.name}: {profile.description} Expect {profile.expect}.\nResults go to "
        f"{processes.shown(out)}.",
        flush=True,
    )
    status = batch.run(
        profile,
        out,
        cores=arguments.cores,
        dry_run=arguments.dry_run,
        executor=arguments.executor,
        more=shlex.split(arguments.snakemake),
    )
    if not (status or arguments.dry_run):
        from rpo_nb.reporting import verify as reporting_verify

        reporting_verify.tell_at_the_end(profile, out)
    return status


def verify(arguments: argparse.Namespace) -> int:
    """A run's numbers beside a deep run's; 1 where they are further off than chance allows."""
    from rpo_nb.reporting import verify as reporting_verify

    root = repository_root() / "results"
    run = Path(arguments.results or root / "pocket").expanduser()
    deep = Path(arguments.against or root / reporting_verify.DEEP).expanduser()
    return 0 if reporting_verify.tell(run, deep) else 1


def deep(arguments: argparse.Namespace) -> int:
    """A run of many seeds, part by part; the tables and the report when all parts are there."""
    from rpo_nb.running import batch
    from rpo_nb.studies import deep as studies_deep

    arguments.profile = arguments.profile or "pocket-deep"
    profile = _to_train(arguments)
    out = results_dir(profile, arguments.output_dir)
    if not studies_deep.run(
        profile, out, minutes=arguments.minutes, most=arguments.parts, cores=arguments.cores
    ):
        print("The same command goes on from here; commit what is in parts/.")
        return 0
    return batch.run(profile, out, cores=arguments.cores, only=studies_deep.notebooks(profile, out))


def train(arguments: argparse.Namespace) -> int:
    """The policies only; alone it also lets them answer, under `accelerate launch` several
    processes share each training."""
    from rpo_nb.experiment import generations, inputs, runs

    profile = _to_train(arguments)
    out, group = results_dir(profile, arguments.output_dir), inputs.processes()
    if group.num_processes == 1:
        generations.ensure_runs(profile, out)
    else:
        made = runs.ensure_policies(profile, out)
        if group.is_main_process:
            print(
                f"{made} policies trained by {group.num_processes} processes; reproduce or train "
                "in one process goes on from here"
            )
    return 0


def _reproduced(arguments: argparse.Namespace) -> Path:
    """The output folder of an earlier `reproduce`."""
    from rpo_nb.running import processes, staging

    named = arguments.output_dir or f"results/{arguments.profile or default_profile()}"
    out = Path(named).expanduser().resolve()
    if not (out / "profile.yaml").is_file():
        raise ValueError(
            f"{processes.shown(out)} has no profile.yaml, so nothing was reproduced "
            "there; run reproduce first"
        )
    staging.made_in(out, arguments.profile)
    return out


def again(arguments: argparse.Namespace) -> int:
    """The tables (report) or the verdicts (judge) once more, from what is stored in the output
    folder; or a judge's audit, or its batch file."""
    from rpo_nb.running import batch, jobs, processes

    if arguments.command == "judge" and (arguments.audit is not None or arguments.batch):
        from rpo_nb.judging import commands

        for option, given in (
            ("executor", arguments.executor != "local"),
            ("snakemake", arguments.snakemake),
            ("cores", arguments.cores),
        ):
            if given:
                raise ValueError(f"--{option} is of asking again; leave it out")
        return commands.run(arguments)
    if arguments.command == "judge" and (arguments.judges or arguments.pairs or arguments.prices):
        raise ValueError(
            "--judges, --pairs and --prices are of --audit and --batch; to ask fewer judges again, "
            "reproduce with --set evaluation.judges=[NAME]"
        )
    out = _reproduced(arguments)
    profile, all_of_it = load_profile(str(out / "profile.yaml")), arguments.command == "report"
    if all_of_it and (missing := jobs.unmade(profile, out)):
        raise ValueError(
            f"{processes.shown(out)} has no {missing[0]}, which the report needs; let reproduce "
            "end first, with the same output folder"
        )
    only = tuple(jobs.TABLES)[slice(None) if all_of_it else slice(1, 3)]
    return batch.run(
        profile,
        out,
        cores=arguments.cores,
        only=only,
        executor=arguments.executor,
        more=shlex.split(arguments.snakemake),
    )


def ask(arguments: argparse.Namespace) -> int:
    """Finished policies asked other prompts than the validation rows."""
    from rpo_nb.evaluation import asking

    return asking.run(arguments, _reproduced(arguments))


def publish(arguments: argparse.Namespace) -> int:
    """A finished policy as a folder with a model card; to the hub only with --push."""
    from rpo_nb.reporting import publish as reporting_publish
    from rpo_nb.running.processes import shown

    reporting_publish.check_repo(arguments.repo)
    if arguments.private and not arguments.push:
        raise ValueError("--private is of --push; give both, or neither")
    out = _reproduced(arguments)
    cell = {key: getattr(arguments, key) for key in ("size", "method", "preset", "tau", "seed")}
    chosen = reporting_publish.choose(load_profile(str(out / "profile.yaml")), out, **cell)
    folder = reporting_publish.write(
        chosen, arguments.repo, base_model=arguments.base_model, licence=arguments.license
    )
    print(f"{chosen.folder.name} as {shown(folder)}:")
    for name, size in reporting_publish.listing(folder):
        print(f"  {name:32} {reporting_publish.megabytes(size):>12}")
    if not arguments.push:
        print(f"Nothing left this machine: --push makes it https://huggingface.co/{arguments.repo}")
        return 0
    print("pushed to", reporting_publish.push(folder, arguments.repo, private=arguments.private))
    return 0


def data(arguments: argparse.Namespace) -> int:
    """What reading a feedback source finds: a summary of what is wrong, and row by row with
    --output."""
    from rpo_nb.data import defects, kinds, raters, summary
    from rpo_nb.data import feedback as data_feedback
    from rpo_nb.reporting.rendering import readable as number

    for name in ("feedback", "data.source"):
        if name in settings(arguments.set):
            raise ValueError(f"data reads {arguments.source}; leave {name} out, or name that alone")
    config = _profile(arguments).data.model_copy(update={"strict": arguments.strict})
    feedback, report = data_feedback.load_feedback(
        readable(arguments.source), config=config, return_report=True
    )
    facts = summary.summarise(feedback).assign(value=lambda frame: frame["value"].map(number))
    print(facts.to_string(index=False, header=False))
    print(summary.histogram(feedback).round(3).to_string(index=False))
    for sentence in kinds.kind_notes(feedback, report):
        print(sentence)
    if "ratings" in feedback.column_names:
        print(raters.strictness(feedback).to_string(index=False))
    if kinds.aspects(feedback):
        print(summary.aspect_table(feedback).to_string(index=False))
    print(defects.summarise_report(report).to_string() if report else "nothing to report")
    if arguments.output:
        defects.write_report(report, arguments.output)
    source = shlex.quote(str(arguments.source))
    print(f"next, which method for it:  python -m rpo_nb advise --feedback {source}")
    print(f"or train and judge them all:  make reproduce FEEDBACK={source}")
    return 0


def clean(arguments: argparse.Namespace) -> int:
    """List what no profile's results need, with sizes; remove it with --yes or when the question is
    answered with yes."""
    from rpo_nb.planning import stale

    return stale.clean(arguments.output_dir, yes=arguments.yes)


def plan(arguments: argparse.Namespace) -> int:
    """What a run would cost and what it lacks; 1 when something is missing."""
    import json

    from rpo_nb.planning import costs, plan_text
    from rpo_nb.planning import plan as planning_plan

    profile = _profile(arguments)
    made = planning_plan.make_plan(
        profile, results_dir(profile, arguments.output_dir), device=costs.device(arguments.gpu)
    )
    print(
        json.dumps(made, indent=1, ensure_ascii=False) if arguments.json else plan_text.render(made)
    )
    return 1 if made["problems"] else 0


def bench(arguments: argparse.Namespace) -> int:
    """The clone's benchmarks: what a step, a run and their memory cost beside what a user would
    pick instead."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / "benchmarks" / "suite.py").is_file():
        raise ValueError(
            "the benchmarks are in the clone, not in the installed package; run this command there"
        )
    sys.path.insert(0, str(clone))
    from benchmarks.suite import bench as run

    options = ("repetitions", "quick", "output")
    run(arguments.only, **{name: getattr(arguments, name) for name in options})
    return 0


def advise(arguments: argparse.Namespace) -> int:
    """What to train on this feedback with this reference, and the measured evidence."""
    from rpo_nb.studies import advise as adviser

    profile = _to_train(arguments)
    size, seed = next(iter(profile.sizes)), profile.seeds[0]
    name = Path(profile.data.source).name
    print(f"{name}, reference {size} of profile {profile.name}, seed {seed}", flush=True)
    print(adviser.advise(profile, size, seed, results_dir(profile)))
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """What the lab says of a study before it begins; with --score, how that came true."""
    from rpo_nb.studies import prediction, prediction_scores

    if arguments.score:
        for option in ("set", "feedback"):
            if getattr(arguments, option):
                raise ValueError(f"--score reads what was predicted; leave --{option} out")
        return prediction_scores.run(_reproduced(arguments))
    return prediction.run(_to_train(arguments), arguments.output_dir)


def lab(arguments: argparse.Namespace) -> int:
    """The user's own loss in every regime of the lab, as a page and tables; on a user's feedback
    beside the study's policies. The only command that runs code of the user's, which it is named
    for."""
    from rpo_nb.studies import own_feedback, own_page
    from rpo_nb.training import own as training_own

    profile = _to_train(arguments)
    out = results_dir(profile, arguments.output_dir)
    workers, names = arguments.cores or profile.lab.workers, dict.fromkeys(arguments.method)
    if profile.pocket_world:
        own_page.check_settings(settings(arguments.set), profile)
        losses = [training_own.read(one) for one in names]
        options = (arguments.temperatures, arguments.learning_rates)
        lines = own_page.make(losses, profile, out, *options, workers=workers)
    else:
        own_feedback.check_settings(settings(arguments.set), arguments.learning_rates)
        wanted = [one if one in own_feedback.ASKING else training_own.read(one) for one in names]
        lines = own_feedback.make(wanted, profile, out, arguments.temperatures, workers=workers)
    for line in lines:
        print(line, flush=True)
    return 0


def look(arguments: argparse.Namespace) -> int:
    """generations, trace, chat: at what a reproduction left."""
    from rpo_nb.studies.browse import commands

    return commands.COMMANDS[arguments.command](arguments)


COMMANDS = {
    "reproduce": reproduce,
    "deep": deep,
    "verify": verify,
    "plan": plan,
    "train": train,
    "report": again,
    "judge": again,
    "ask": ask,
    "publish": publish,
    "data": data,
    "advise": advise,
    "predict": predict,
    "lab": lab,
    **dict.fromkeys(("generations", "trace", "chat"), look),
    "clean": clean,
    "bench": bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a ValueError is the user's to mend, so it is told in its one sentence, as is
    what the machine refuses."""
    try:
        arguments = parser().parse_args(argv)
        return COMMANDS[arguments.command](arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        print(
            f"error: {error.filename}: {error.strerror}; make that possible, or give another "
            "--output-dir",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"\n{STOPPED}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    in_utf8()
    if HEARD:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = main()
    sys.stdout.flush()
    if HEARD:
        signal.signal(signal.SIGINT, stop_at_once)
    sys.exit(status)
