"""A full disk, and memory that ran out: one sentence that says what to do, no half file, what was
there before kept. Files of our own that are not as they were written: made again with one line."""

import errno
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from rpo_nb.config.loading import load_profile
from rpo_nb.remedies import DiskFull, OutOfMemory, memory_advice, room_for
from rpo_nb.running import batch
from rpo_nb.store import (
    STAMP,
    Damaged,
    atomic_write,
    cached,
    fault,
    finished,
    mark,
    packed,
    read_sealed,
    seal,
    sweep,
    unpacked,
    write_json,
    write_sealed,
)


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(
            f"a small disk cannot be mounted here ({mounted.stderr.strip().splitlines()[-1]})"
        )
    yield disk
    # lazy: torch leaves its file open when it fails
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert (
        "\n" not in text
        and "is full" in text
        and "free some space" in text
        and "what is done is kept" in text
    )
    assert isinstance(error, (ValueError, OSError)) and error.errno == errno.ENOSPC
    return text


def test_a_full_disk_leaves_no_half_file_and_keeps_what_was_there(small_disk):
    file = write_json(small_disk / "runs" / "done.json", {"steps": 3})
    with pytest.raises(DiskFull) as caught:
        atomic_write(file, b"x" * 2**21)
    assert one_sentence(caught.value).startswith(
        "the disk is full: runs/done.json could not be written; free some space ("
    )
    assert str(small_disk) not in str(caught.value)
    assert [path.name for path in file.parent.iterdir()] == ["done.json"]
    assert file.read_text() == '{\n "steps": 3\n}\n'
    atomic_write(file, "after space was freed")
    assert file.read_text() == "after space was freed"


WRITERS = {
    "safetensors": lambda folder: save_file(
        {"weight": torch.zeros(2**20)}, folder / "model.safetensors"
    ),
    "torch": lambda folder: torch.save({"state": torch.zeros(2**20)}, folder / "optimizer.pt"),
    "numpy": lambda folder: np.savez(folder / "logps.npz", sum=np.zeros(2**20)),
}


@pytest.mark.parametrize("library", WRITERS)
def test_whichever_library_fills_the_disk_the_folder_is_absent_and_the_sentence_is_ours(
    small_disk, library
):
    with pytest.raises(DiskFull) as caught, finished(small_disk / "run" / "policy") as folder:
        WRITERS[library](folder)
    one_sentence(caught.value)
    assert not list((small_disk / "run").iterdir())
    del caught
    gc.collect()  # torch holds its file, and so the space, until its writer is collected
    with finished(small_disk / "run" / "policy") as folder:
        (folder / "config.json").write_text("{}")
    assert [path.name for path in (small_disk / "run" / "policy").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "your quota on this disk is used up")],
)
def test_the_sentence_tells_a_full_disk_from_a_used_up_quota(tmp_path, monkeypatch, number, words):
    def full(path: Path, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[:1])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match=words) as caught:
        atomic_write(tmp_path / "tables" / "table2.csv", "a,b\n")
    assert caught.value.errno == number and not list((tmp_path / "tables").iterdir())


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match="denied"), room_for(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "denied")
    with pytest.raises(KeyError, match="lost"), finished(tmp_path / "folder"):
        raise KeyError("lost")
    with pytest.raises(RuntimeError, match="unexpected pos$"), room_for(tmp_path / "file"):
        # with room on the disk
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")
    assert not list(tmp_path.iterdir())


def test_the_command_line_tells_a_full_disk_in_its_one_sentence(small_disk):
    (small_disk / "filler").write_bytes(b"x" * (2**20 - 8192))
    feedback = small_disk.parent / "feedback.jsonl"
    feedback.write_text(
        '{"prompt": "p", "completion": "c", "reward": 5}\n' + '{"prompt": "p", '
        '"completion": "c"}\n' * 200
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "rpo_nb",
            "data",
            str(feedback),
            "--output",
            str(small_disk / "report.csv"),
            "--set",
            "data.max_dropped=1",
        ],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(
        "error: the disk is full: disk/report.csv could not be written; free some space"
    )
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_memory_that_ran_out_is_told_with_the_setting_to_change():
    remedy = (
        "lower sizes.xl.micro_batch_tokens (now 4000) or set training.gradient_checkpointing=true"
    )
    with pytest.raises(OutOfMemory) as caught, memory_advice("training rpo xl seed 0", remedy):
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a capacity of 79.10 GiB"
        )
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("training rpo xl seed 0: the GPU")
    assert str(caught.value).endswith(
        f"has no room for 2.50 GiB more; {remedy}, then start again: what is done is kept"
    )


def test_the_cpus_memory_is_told_too_and_only_once():
    inner, outer = (
        memory_advice("generating", "lower the batch"),
        memory_advice("outside", "do that"),
    )
    with pytest.raises(OutOfMemory) as caught, outer, inner:
        torch.empty(2**60, dtype=torch.uint8)  # for real: no machine has an exbibyte
    assert str(caught.value).startswith(
        "generating: the machine's memory has no room for 1152921504606846976 bytes more; lower "
        "the batch, then start again"
    )


def test_memory_advice_lets_other_errors_pass():
    with (
        pytest.raises(RuntimeError, match="^shapes$") as caught,
        memory_advice("training", "nothing"),
    ):
        raise RuntimeError("shapes")
    assert not isinstance(caught.value, OutOfMemory)


# ---- known by its hashes -------------------------------------------------------------------------


def make(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "weights.bin").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("file", ["sub/weights.bin", "config.json", STAMP])
@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "flipped"])
def test_a_cached_folder_that_is_not_as_it_was_written_is_made_again_with_one_line(
    tmp_path, capsys, file, kind
):
    folder = cached(tmp_path / "kind" / "key", make, of={"model": "m"})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert json.loads(before[folder / STAMP])["model"] == "m" and not capsys.readouterr().out
    content = (folder / file).read_bytes()
    damaged = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "flipped": content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
    }
    (folder / file).unlink() if kind == "missing" else (folder / file).write_bytes(damaged[kind])
    (folder.parent / ".key.abcd1234").mkdir()  # what a kill left
    assert cached(folder, make, of={"model": "m"}) == folder
    printed = capsys.readouterr().out
    assert (
        printed.startswith("kind/key ")
        and printed.endswith(": made again\n")
        and printed.count("\n") == 1
    )
    assert (Path(file).name in printed) or kind == "missing" and file == STAMP
    assert {
        path: path.read_bytes()
        for path in folder.parent.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    } == before
    cached(folder, make)
    assert not capsys.readouterr().out


def test_a_quick_look_reads_what_was_written_after_the_stamp(tmp_path):
    make(tmp_path)
    seal(tmp_path)
    file = tmp_path / "config.json"
    os.utime(file, ns=(0, 0))
    assert fault(tmp_path, quick=True) is None
    file.write_text("[]")
    assert "config.json is not as it was written" in fault(tmp_path, quick=True) == fault(tmp_path)
    file.unlink()
    assert "config.json is missing" in fault(tmp_path, quick=True)


def test_a_sealed_file_knows_when_a_number_of_it_is_another(tmp_path, capsys):
    file = write_sealed(tmp_path / "a.json", {"texts": ["é"], "logps": [0.1, -1e300]})
    assert (
        read_sealed(file) == {"texts": ["é"], "logps": [0.1, -1e300]}
        and read_sealed(tmp_path / "none.json") is None
    )
    for content in (file.read_text().replace("0.1", "0.2"), "", "[]", "{}", "\xff"):
        file.write_text(content, encoding="latin-1")
        assert read_sealed(file) is None and read_sealed(file) is None
        assert capsys.readouterr().out.count(": made again\n") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-9],
        lambda b: b[:20] + bytes([b[20] ^ 255]) + b[21:],
        lambda b: b"no gzip",
        lambda b: b[:5],
    ],
)
def test_rows_that_cannot_be_unpacked_are_told_in_one_sentence(tmp_path, damage):
    file = atomic_write(tmp_path / "rows.jsonl.gz", packed(pd.DataFrame({"text": ["a", "b"] * 50})))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        Damaged, match=f"{tmp_path.name}/rows.jsonl.gz is damaged .*: it is made again"
    ) as caught:
        unpacked(file)
    assert "\n" not in str(caught.value)


def test_what_a_kill_leaves_is_swept_but_not_what_another_process_is_making(tmp_path):
    left = [
        "runs/x/.policy.abcd1234",
        "runs/x/.policy.ab_d1234.tmp",
        "cache/.key.abcd1234.tmp",
        "cache/..key.abcd1234.tmp.efgh5678.tmp",
    ]
    kept = [
        "runs/x/policy",
        ".snakemake/.x.abcd1234",
        "inputs/.x.abcd1234",
        "cache/key",
        "cache/.hidden",
        "cache/.busy.abcd1234.tmp",
    ]
    for name in (*left, *kept):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "weights").write_text("w")
    (tmp_path / "runs" / ".done.json.123.tmp").write_text("{")
    (tmp_path / ".report.html.123.tmp").write_text("<")
    (tmp_path / "cache" / "key.lock").touch()
    with FileLock(tmp_path / "cache" / "busy.lock"):
        assert sweep(tmp_path, ("runs", "cache", "none")) == len(left) + 2
    assert all((tmp_path / name).is_dir() for name in kept) and not any(
        (tmp_path / name).exists() for name in left
    )
    assert (
        not (tmp_path / "runs" / ".done.json.123.tmp").exists()
        and not (tmp_path / ".report.html.123.tmp").exists()
    )


def test_a_jobs_marker_has_the_hashes_of_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    profile, job = load_profile("smoke"), "04_table2_metrics"
    Path("tables").mkdir()
    Path("tables/table2.csv").write_text("a,b\n")
    marker = mark(["tables/table2.csv", f"runs/jobs/{job}.done"])
    assert batch.distrust(profile, tmp_path) == [] and marker.exists()
    Path("tables/table2.csv").write_text("a,c\n")
    assert batch.distrust(profile, tmp_path) == [job] and not marker.exists()
    assert capsys.readouterr().out == f"tables/table2.csv is not as {job} wrote it: made again\n"
    write_sealed(
        answers := Path("runs/reference-small-seed0-1/completions-1.json"), {"completions": ["a"]}
    )
    trained = write_sealed(Path("runs/jobs/03_train-small-seed0.done"), {})
    assert batch.distrust(profile, tmp_path) == [] and trained.exists()
    # beside no policy, so under no stamp
    answers.write_text(answers.read_text().replace('"a"', '"b"'))
    assert "03_train-small-seed0" in batch.distrust(profile, tmp_path) and not trained.exists()
    capsys.readouterr()
    marker.write_text("")  # torn
    assert batch.distrust(profile, tmp_path) == [job] and not marker.exists()
