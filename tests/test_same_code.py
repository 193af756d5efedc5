"""Which code counts as earlier code, and parts compared but for their seconds."""

import json

import pandas as pd

from benchmarks import same_code
from rpo_nb.running import provenance
from rpo_nb.store import atomic_write


def part(seconds, weights="a"):
    done = {"seconds": seconds, "sha256": {"h.csv": str(seconds)}, "left_out": {"w": weights}}
    return {
        "out/done.json": json.dumps(done).encode(),
        "out/h.csv": f"step,loss,seconds\n1,2.5,{seconds}\n".encode(),
    }


def test_parts_are_compared_but_for_seconds():
    assert same_code.different(part(1), part(2)) == []
    assert same_code.different(part(1), part(1, "b")) == ["out/done.json"]
    other = part(2) | {"out/h.csv": b"step,loss,seconds\n1,2.6,2\n"}
    assert same_code.different(part(1), other) == ["out/h.csv"]
    assert same_code.different(part(1), part(1) | {"out/more.gz": b""}) == ["out/more.gz"]


def test_what_changed_counts_as_what_the_commit_counted_it(monkeypatch):
    """The commit's own map is followed: the same as the same is the same."""
    name = "partition"
    file = provenance.PACKAGE / f"{name}.py"
    edited = file.read_bytes() + b"\nEDITED = 1\n"
    then = provenance.code_of(file.read_bytes())
    monkeypatch.setattr(
        same_code,
        "file_at",
        lambda commit, path: (
            json.dumps({name: {provenance.code_of(edited): "first"}}).encode()
            if path == provenance.SAME
            else edited
            if path == file
            else path.read_bytes()
        ),
    )
    assert same_code.changed("HEAD") == {name: (then, "first")}


def test_a_module_that_the_commit_lacks_counts_as_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(same_code, "file_at", lambda commit, path: None)
    assert {then for _, then in same_code.changed("HEAD").values()} == {""}
    folder = tmp_path / "package"
    for name, code in (("a", "import package.b"), ("b", "x = 1")):
        atomic_write(folder / f"{name}.py", code)
    with_it = provenance.code_key("a", package=folder)
    shown = {"b": {provenance.code_of((folder / "b.py").read_bytes()): ""}}
    monkeypatch.setattr(provenance, "same_code", lambda: shown)
    assert provenance.code_key("a", package=folder) != with_it
    (folder / "b.py").unlink()
    absent = provenance.code_key("a", package=folder)
    atomic_write(folder / "b.py", "x = 1")
    assert provenance.code_key("a", package=folder) == absent
    atomic_write(folder / "b.py", "x = 2")  # its next edit was not shown
    assert provenance.code_key("a", package=folder) != absent


def test_what_is_kept_can_be_shown_again_without_its_commit():
    """Of each module of the kept map: its evidence can be made again where its commit is gone."""
    held = json.loads(provenance.SAME.read_text(encoding="utf-8"))
    found = same_code.kept()
    assert found.keys() == held.keys()
    assert all(held[name][now] == then != now for name, (now, then) in found.items())


def test_studies_of_which_nothing_was_compared_are_named():
    assert same_code.unseen(["partition"], ["stronger", "lab"]) == [
        "answers",
        "grid",
        "paper_b",
        "policies",
    ]
    assert same_code.unseen(["partition"], ["grid", "lab", "paper_b"]) == [
        "answers",
        "policies",
        "regime",
    ]
    assert same_code.unseen(["reporting.page"], []) == []  # it makes no number


def test_nothing_is_kept_before_it_is_shown(monkeypatch, tmp_path):
    kept = tmp_path / "same_code.json"
    kept.write_text("{}")
    monkeypatch.setattr(provenance, "SAME", kept)
    monkeypatch.setattr(same_code, "FILE", tmp_path / "same_code.csv")
    monkeypatch.setattr(same_code, "changed", lambda commit: {"partition": ("now", "then")})
    monkeypatch.setattr(same_code, "short", {"HEAD": "abc1234"}.get)
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path))
    found = {"part": "stronger-seed0", "files": 3}

    def run(different):
        def remade(seed, only, place):
            assert json.loads(provenance.SAME.read_text()) == {"partition": {"now": "then"}}
            assert kept.read_text() == before
            return pd.DataFrame([found | {"different": different}])

        before = kept.read_text()
        monkeypatch.setattr(same_code, "remade", remade)
        monkeypatch.setattr("sys.argv", ["same_code", "HEAD"])
        monkeypatch.setattr(provenance, "SAME", kept)
        return same_code.main()

    assert run(["out/h.csv"]) == 1 and kept.read_text() == "{}"
    assert run([]) == 0 and json.loads(kept.read_text()) == {"partition": {"now": "then"}}
    (row,) = pd.read_csv(tmp_path / "same_code.csv").to_dict("records")
    assert (row["parts"], row["commit"]) == ("stronger-seed0", "abc1234")
    assert row["unseen"] == "answers grid lab paper_b policies"
