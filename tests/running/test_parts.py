"""A part: small files of finished folders in one file, damage and escapes refused."""

import gzip
import io
import json
import lzma
import tarfile

import pytest

from rpo_nb import store
from rpo_nb.running import parts
from rpo_nb.running.provenance import folder_key


@pytest.fixture
def made(tmp_path):
    """Roots with a finished run, something that it said, and a finished reference."""
    roots = {"out": tmp_path / "here" / "out", "cache": tmp_path / "here" / "cache"}
    run = roots["out"] / "runs" / "rpo-1"
    (run / "policy").mkdir(parents=True)
    (run / "policy" / "model.safetensors").write_bytes(b"weights" * 1000)
    (run / "policy" / "config.json").write_text("{}")
    (run / "history.csv").write_text("step,loss\n1,2\n")
    store.seal(run, {"seconds": 1.5})
    store.write_sealed(run / "completions-1.json", {"completions": ["τ"]})

    def make(folder):
        (folder / "model.safetensors").write_bytes(b"reference")
        (folder / "config.json").write_text('{"a": 1}')

    store.cached(roots["cache"] / "references" / "small", make, of={"model": "m"})
    return roots


def record(roots):
    with store.recorded() as found:
        store.sealed(roots["out"] / "runs" / "rpo-1")
        store.read_sealed(roots["out"] / "runs" / "rpo-1" / "completions-1.json")
        store.cached(roots["cache"] / "references" / "small", lambda folder: None)
    return found


def elsewhere(roots, tmp_path):
    return {name: tmp_path / "there" / name for name in roots}


def test_a_part_is_what_was_looked_up_without_weights(made, tmp_path):
    file = parts.pack(tmp_path / "a.tar.xz", {"key": "k"}, record(made), made)
    part = parts.read(file)
    assert part.header["key"] == "k"
    assert set(part.files) == {
        "out/runs/rpo-1/done.json",
        "out/runs/rpo-1/history.csv",
        "out/runs/rpo-1/completions-1.json",
        "cache/references/small/done.json",
        "cache/references/small/config.json",
    }
    again = parts.pack(tmp_path / "b.tar.xz", {"key": "k"}, record(made), made)
    assert again.read_bytes() == file.read_bytes()


def test_what_travelled_is_finished_has_its_key_and_knows_what_it_lacks(made, tmp_path):
    there = elsewhere(made, tmp_path)
    parts.install(
        parts.read(parts.pack(tmp_path / "a.tar.xz", {"key": ""}, record(made), made)), there
    )
    run, reference = there["out"] / "runs" / "rpo-1", there["cache"] / "references" / "small"
    assert store.sealed(run)["seconds"] == 1.5 and store.fault(reference) is None
    assert set(store.left_out(run)) == {"policy/model.safetensors", "policy/config.json"}
    assert not (run / "policy").exists()
    assert store.read_sealed(run / "completions-1.json") == {"completions": ["τ"]}
    whole = made["cache"] / "references" / "small"
    assert folder_key(reference) == folder_key(whole)
    assert folder_key(reference, endings=(".json",)) == folder_key(whole, endings=(".json",))
    # and from there on it travels as from here
    packed = [
        parts.pack(tmp_path / name, {"key": ""}, record(roots), roots).read_bytes()
        for name, roots in (("b", made), ("c", there))
    ]
    assert packed[0] == packed[1]


def test_a_packed_file_travels_unpacked_and_another_zlib_may_pack_it(made, tmp_path, monkeypatch):
    run = made["out"] / "runs" / "rpo-1"
    (run / "done.json").unlink()
    content = gzip.compress(b"one line\n" * 1000, mtime=0)
    (run / "completions.jsonl.gz").write_bytes(content)
    store.seal(run, {"seconds": 1.5})
    file = parts.pack(tmp_path / "a.tar.xz", {"key": ""}, record(made), made)
    with tarfile.open(file) as archive:
        member = archive.extractfile("out/runs/rpo-1/completions.jsonl.gz")
        assert member.read() == b"one line\n" * 1000
    part = parts.read(file)
    assert part.files["out/runs/rpo-1/completions.jsonl.gz"] == content
    other = gzip.compress
    monkeypatch.setattr(parts.gzip, "compress", lambda raw, mtime: other(raw, 1, mtime=mtime))
    parts.install(parts.read(file), there := elsewhere(made, tmp_path))
    run = there["out"] / "runs" / "rpo-1"
    assert (run / "completions.jsonl.gz").read_bytes() != content
    assert store.fault(run) is None


def test_weights_are_made_again_when_they_are_needed(made, tmp_path, capsys):
    there = elsewhere(made, tmp_path)
    part = parts.read(parts.pack(tmp_path / "a.tar.xz", {"key": ""}, record(made), made))
    parts.install(part, there)
    folder = there["cache"] / "references" / "small"
    with pytest.raises(ValueError, match="came without its weights and nothing here can make them"):
        store.whole(folder)

    def make(content):
        def maker(temporary):
            (temporary / "model.safetensors").write_bytes(content)
            (temporary / "config.json").write_text('{"a": 1}')

        return maker

    store.cached(folder, make(b"reference"))
    assert store.left_out(folder)  # nothing is made before it is needed
    store.whole(folder)
    assert not store.left_out(folder) and store.fault(folder) is None
    said = capsys.readouterr().out
    assert "came without its weights, which are needed: made again" in said
    assert "otherwise" not in said
    for name in ("model.safetensors", "done.json"):
        (folder / name).unlink()
    parts.install(part, there)
    store.cached(folder, make(b"another machine's"))
    store.whole(folder)
    assert "its weights come out otherwise on this machine" in capsys.readouterr().out


def test_what_is_here_whole_stays_and_what_lacks_weights_gives_way(made, tmp_path):
    light = parts.read(parts.pack(tmp_path / "a.tar.xz", {"key": ""}, record(made), made))
    heavy = parts.read(
        parts.pack(tmp_path / "b.tar.xz", {"key": ""}, record(made), made, keep=lambda name: True)
    )
    there = elsewhere(made, tmp_path)
    weights = there["out"] / "runs" / "rpo-1" / "policy" / "model.safetensors"
    parts.install(light, there)
    assert not weights.exists()
    parts.install(heavy, there)
    assert weights.read_bytes() == b"weights" * 1000
    parts.install(light, there)
    assert weights.exists() and not store.left_out(there["out"] / "runs" / "rpo-1")


def test_parts_made_from_two_references_do_not_mix(made, tmp_path):
    """Two kinds of machine trained it to other bytes: the second part would not find its own."""
    there, files = elsewhere(made, tmp_path), []
    for name, content in (("a", b"one machine's"), ("b", b"another's")):
        folder = made["cache"] / "references" / "small"
        (folder / "done.json").unlink()

        def make(temporary, content=content):
            (temporary / "model.safetensors").write_bytes(content)

        store.cached(folder, make)
        files.append(parts.pack(tmp_path / name, {"key": ""}, record(made), made))
    parts.install(parts.read(files[0]), there)
    parts.install(parts.read(files[0]), there)
    with pytest.raises(store.Damaged, match="is not the small that is here"):
        parts.install(parts.read(files[1]), there)


def _changed(file, change):
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(file.read_bytes()))) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive}
    change(files)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    file.write_bytes(lzma.compress(tar.getvalue()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-20]),
        lambda file: file.write_bytes(b"nothing of the kind"),
        lambda file: _changed(file, lambda f: f.update({"out/runs/rpo-1/history.csv": b"1"})),
        lambda file: _changed(file, lambda f: f.pop("out/runs/rpo-1/history.csv")),
        lambda file: _changed(file, lambda f: f.update({"out/new": b"1"})),
        lambda file: _changed(file, lambda f: f.pop("part.json")),
        lambda file: _changed(file, lambda f: f.update({"part.json": b"[]"})),
    ],
)
def test_a_damaged_part_is_refused(made, tmp_path, damage):
    file = parts.pack(tmp_path / "a.tar.xz", {"key": ""}, record(made), made)
    damage(file)
    with pytest.raises(store.Damaged, match=r"a\.tar\.xz is damaged"):
        parts.read(file)


@pytest.mark.parametrize("name", ["out/../../up", "elsewhere/x", "/etc/x", "out", "out/a/../../b"])
def test_no_file_of_a_part_leaves_its_roots(tmp_path, name):
    part = parts.Part({"key": ""}, {name: b"x", "out/good": b"y"})
    with pytest.raises(store.Damaged, match="no place for a file of a part"):
        parts.install(part, {"out": tmp_path / "out"})
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_no_part(made, tmp_path):
    (made["out"] / "runs" / "rpo-1" / "history.csv").write_text("other")
    part = parts.read(parts.pack(tmp_path / "a.tar.xz", {"key": ""}, record(made), made))
    assert not [name for name in part.files if "history" in name or "rpo-1/done" in name]
    assert json.loads(part.files["cache/references/small/done.json"])["model"] == "m"
