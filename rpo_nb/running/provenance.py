"""What an artefact was made from, as keys: the code of a step, found from its imports, and the
content of files and folders.

A key changes when the artefact could; nothing here looks at names or dates of what it hashes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rpo_nb.config.keys import content_key
from rpo_nb.store import digest_of, file_digest, left_out

PACKAGE = Path(__file__).parent.parent
SAME = Path(__file__).with_name("same_code.json")  # written by benchmarks.same_code
# Step -> the modules it begins in, and those of their imports that are left out because what they
# give stands in the step's key itself: rows say more than the code that read them. Folders and
# modules below the package.
STEPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "training": (
        ("experiment.runs",),
        ("data", "pocket", "experiment.references", "partition", "policy.generation"),
    ),
    "completions": (
        ("experiment.generations", "policy.generation"),
        ("data", "pocket", "experiment.references", "partition", "training", "policy.vllm_engine"),
    ),
    "completions by vllm": (
        ("experiment.generations", "policy.generation"),
        ("data", "pocket", "experiment.references", "partition", "training"),
    ),
    "reference": (("experiment.references",), ("data",)),
    "log-probabilities": (("policy.logps", "policy.load", "policy.encoding"), ("data",)),
    "reference samples": (("policy.generation", "policy.load"), ("data", "policy.vllm_engine")),
    "truth pool": (("studies.truth",), ("data", "experiment", "partition", "pocket")),
    "gradient variance": (
        ("studies.table1",),
        ("data", "pocket", "experiment.references", "reporting"),
    ),
    "reward model": (("judging.reward_training",), ("data",)),
    "verdicts": (
        ("judging.verdicts",),
        ("data", "experiment", "judging.language_models", "judging.local", "judging.endpoint"),
    ),
    "local judge": (("judging.local",), ("experiment", "reporting")),
    "endpoint judge": (("judging.endpoint",), ("reporting", "judging.judges")),
    "paper B": (("studies.paper_b.runs",), ("judging.verdicts",)),
    "all of the grid": (("experiment.generations", "config.methods"), ()),
    "all of the lab": (
        ("experiment.generations", "studies.lab_runs", "config.methods"),
        (),
    ),
}
# Never part of a step: what they give is known by its content, a profile by its values and a model
# by its files, a method's row by what it puts into a recipe; a remedy's words, and what a job tells
# of itself, are in no artefact.
ALWAYS_GIVEN = (
    "config.settings",
    "config.names",
    "config.methods",
    "data.hub",
    "remedies",
    "running.progress",
)
# folders of the cache
CACHES = ("references", "reference_logps", "reference_samples", "pools", "gradients", "models")
# what a model folder is loaded from
MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf")


def cache_dir() -> Path:
    """RPO_NB_CACHE, else .cache/ of the clone, else the user's cache folder."""
    if os.environ.get("RPO_NB_CACHE"):
        return Path(os.environ["RPO_NB_CACHE"]).expanduser()
    if (PACKAGE.parent / "Snakefile").is_file():
        return PACKAGE.parent / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rpo_nb"


# ---- code ----------------------------------------------------------------------------------------


@cache  # a process has the code it started with, whatever is edited meanwhile
def step_code(step: str, package: Path = PACKAGE) -> str:
    """A hash of the code of a step, a key of STEPS: what makes an artefact stale when we change
    it."""
    modules, given = STEPS[step]
    return code_key(*modules, without=(*given, *ALWAYS_GIVEN), package=package)


def code_key(*modules: str, without: tuple[str, ...] = (), package: Path = PACKAGE) -> str:
    """A hash of the code of these modules of the package and of all that they import from it (see
    `closure`). Comments, docstrings and layout do not count, nor a change that was shown to change
    no number (`same_code`)."""
    found = sorted(closure(modules, without=without, package=package))
    codes = {name: module_code(name, package) for name in found}
    return content_key({name: code for name, code in codes.items() if code})


def module_code(name: str, package: Path = PACKAGE) -> str:
    """A hash of a module's code; of code that was shown to give the same numbers as earlier code,
    the hash of that; "" of a new module that was shown to change none."""
    code = code_of(_file(package, name).read_bytes())
    return same_code().get(name, {}).get(code, code)


@cache
def same_code() -> dict[str, dict[str, str]]:
    """Module -> hash of its code -> hash of the earlier code that gives the same numbers, "" where
    there was no such module: docs/provenance.md."""
    return json.loads(SAME.read_text(encoding="utf-8"))


def closure(
    modules: Iterable[str], *, without: Iterable[str] = (), package: Path = PACKAGE
) -> set[str]:
    """The names of these modules and of every module of the package that they import, at any depth,
    also inside functions.

    modules, without: names below the package ("training", "experiment.grid"). without: modules, and
    folders of them, where the search stops. A folder named by itself is all of its modules: its
    `__init__` only hands on their names. Raises ValueError for a name that is no module.
    """
    unknown = [name for name in (*modules, *without) if _file(package, name) is None]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no module of {package.name}")
    found, left, cut = set(), list(modules), set(without)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [other for other in _imports(package, name) if not _cut(other, cut)]
    return found


def _cut(name: str, cut: set[str]) -> bool:
    """Whether the search stops at this module, or at a folder that it is in."""
    parts = name.split(".")
    return any(".".join(parts[:i]) in cut for i in range(1, len(parts) + 1))


def imports_of(module: str, *, top_level: bool = False, package: Path = PACKAGE) -> tuple[str, ...]:
    """The modules of the package that a module imports itself, also inside functions unless only
    those of its top level are asked for. Raises ValueError for a name that is no module."""
    file = _file(package, module)
    if file is None:
        raise ValueError(f"{module!r} is no module of {package.name}")
    if not top_level:
        return _imports(package, module)
    tree = ast.parse(file.read_bytes())
    outside = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    source = "\n".join(map(ast.unparse, outside)).encode()
    folder = tuple(module.split(".")[:-1])
    return tuple(dict.fromkeys(_modules(_imported(source, folder, package.name), package)))


def notebook_modules(path: Path, *, package: Path = PACKAGE) -> set[str]:
    """The package's modules that the code cells of a notebook import."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    plain = "\n".join(
        "pass".rjust(len(line) - len(line.lstrip()) + 4)
        if line.lstrip().startswith(("%", "!"))
        else line
        for line in source.split("\n")
    )
    return source_modules(plain, package=package)


def source_modules(source: str, *, package: Path = PACKAGE) -> set[str]:
    """The package's modules that a Python text imports by their full names."""
    return set(_modules(_imported(source.encode(), (), package.name), package))


def _file(package: Path, name: str) -> Path | None:
    """The file of a module or of a folder's `__init__`; None where there is neither."""
    path = package.joinpath(*name.split("."))
    return next(
        (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None
    )


_tree = cache(ast.parse)  # of the same source, whatever its place


def _imports(package: Path, name: str) -> tuple[str, ...]:
    file, folder = _file(package, name), tuple(name.split("."))
    whole = file.name == "__init__.py"
    modules = [
        f"{name}.{other.stem}" for other in sorted(file.parent.glob("*.py")) if other != file
    ]
    imported = _imported(file.read_bytes(), folder if whole else folder[:-1], package.name)
    return tuple(dict.fromkeys([*(modules if whole else ()), *_modules(imported, package)]))


@cache
def _imported(source: bytes, folder: tuple[str, ...], package: str) -> list[list[str]]:
    """What a source imports from the package, as the parts of its name; the last may be a name in a
    module. folder: of the importing module, for relative imports."""
    found = []
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            names = [
                alias.name.split(".")[1:]
                for alias in node.names
                if alias.name.split(".")[0] == package
            ]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                base = [*folder[: len(folder) - node.level + 1], *base]
            elif base[0] == package:
                base = base[1:]
            else:
                continue
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found += names
    return found


def _modules(imported: list[list[str]], package: Path) -> Iterator[str]:
    """a.b.c: the module of that name, else a.b in which c is a name, else a; the folder a where a.b
    is no module of it."""
    for parts in imported:
        names = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
        yield from [name for name in names if _file(package, name)][:1]


@cache
def code_of(source: bytes) -> str:
    """A hash of a source but for comments, docstrings and layout."""
    tree = _tree(source)
    for node in ast.walk(tree):
        if isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        ) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(_dumped(tree).encode()).hexdigest()


def _dumped(value: Any) -> str:
    """`ast.dump` as Python 3.11 has it: from 3.12 on it tells of type parameters, some 3.12 end a
    format in an empty constant, from 3.13 on it leaves out what is empty, and every part of the
    deep run would be another's."""
    if isinstance(value, ast.JoinedStr):
        value.values = [part for part in value.values if getattr(part, "value", None) != ""]
    if isinstance(value, ast.AST):
        fields = [(name, getattr(value, name, None)) for name in value._fields]
        told = [
            f"{name}={_dumped(field)}"
            for name, field in fields
            if not (field is None and getattr(type(value), name, ...) is None)
            and (field or name != "type_params")
        ]
        return f"{type(value).__name__}({', '.join(told)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_dumped, value))}]"
    return repr(value)


# ---- files ---------------------------------------------------------------------------------------


def folder_key(folder: Path | str, *, endings: Sequence[str] = ()) -> str:
    """What names a folder whatever its path: the names and bytes of its files (of these endings),
    hidden ones left out. Files that it travelled without count as they were."""
    folder = Path(folder)
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and file.name not in ("done.json", "README.md")
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and (not endings or file.suffix in endings)
    ]
    found = {file.relative_to(folder).as_posix(): file_digest(file) for file in files}
    found |= {
        name: digest
        for name, digest in left_out(folder).items()
        if not endings or Path(name).suffix in endings
    }
    return content_key([[name, found[name]] for name in sorted(found, key=Path)])


def model_key(model: str | Path, revision: str = "main") -> str:
    """What names a model: of a folder its weights, tokenizer and settings; of a hub id that is not
    here its revision.

    A hub id in the local cache is named by its commit."""
    from rpo_nb.data import hub

    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder_key(folder, endings=MODEL_FILES)
    return content_key([str(model), hub.commit(str(model), revision) or revision])


def source_key(source: str, revision: str = "main") -> str:
    """What names a feedback source whatever its path: its bytes, or its hub id and the commit that
    is here."""
    if source == "pocket":
        return source
    path = Path(source).expanduser()
    if path.exists():
        return content_key(digest_of(path))
    from rpo_nb.data import hub

    return content_key([source, hub.commit(source, revision, kind="dataset") or revision])


def digest(value: Any) -> str:
    """A hash of nested lists, dicts, strings and numbers, NumPy's included; of large values piece
    by piece."""
    found = hashlib.sha256()
    for part in value if isinstance(value, (list, tuple)) else [value]:
        found.update(
            json.dumps(part, sort_keys=True, default=lambda other: other.tolist()).encode() + b"\n"
        )
    return found.hexdigest()[:16]
