"""Settings as people give them: a wrong one is refused before anything starts, with the nearest
name.

`rpo_nb.config.schema` says what settings there are; here is how a profile's file is read, how a
dotted key finds its place, and what a profile must hold beyond the types of its fields.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rpo_nb.config.names import check_address

if TYPE_CHECKING:
    from rpo_nb.config.schema import Profile

PROFILE_DIR = Path(__file__).parent / "profiles"
NO_PROFILES = ("models", "presets", "published")  # other files of PROFILE_DIR
BUILT_IN_JUDGES = ("checker", "reward_model")
MOST_BYTES = 1 << 20  # of a profile
BEGIN = "begin with a copy of rpo_nb/config/profiles/pocket.yaml"
SECTIONS = ("data", "sizes")  # of every profile, and looked into before it is validated


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or "" where nothing known is like `name`."""
    near = get_close_matches(str(name).lower(), {str(k).lower(): k for k in known}, n=1, cutoff=0.6)
    found = next((k for k in known if near and str(k).lower() == near[0]), None)
    return f"; did you mean {found!r}?" if found else ""


def refuse_unknown(field: str, names: Iterable[str], known: Collection[str]) -> None:
    """ValueError names the first of `names` that is not known, the nearest that is, and all of
    them."""
    for name in names:
        if name not in known:
            raise ValueError(
                f"{field}: {name!r} is unknown{suggestion(name, known)}; "
                f"known are {', '.join(map(str, known)) or 'none'}"
            )


def read_profile(name: str) -> dict[str, Any]:
    """A profile's file as it stands: a file of rpo_nb/config/profiles, or a path to a YAML file.

    Raises ValueError: no such profile, a file that cannot be read, or is no profile.
    """
    is_path = str(name).endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if is_path else PROFILE_DIR / f"{name}.yaml"
    if not path.is_file() or (not is_path and name in NO_PROFILES):
        names = sorted(p.stem for p in PROFILE_DIR.glob("*.yaml") if p.stem not in NO_PROFILES)
        raise ValueError(
            f"there is no profile {name!r}{suggestion(name, names)}; "
            f"the profiles are: {', '.join(names)}"
        )
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"profile {name!r} has more than {MOST_BYTES >> 20} MiB; {BEGIN}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"profile {name!r} is nested too deep; {BEGIN}") from None
    except OSError as error:
        raise ValueError(
            f"profile {name!r} cannot be read ({error.strerror}); "
            "check the file and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"profile {name!r} is not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"profile {name!r} is not YAML{where}; mend it there") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise ValueError(f"profile {name!r} cannot be read ({error}); mend it there") from None
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"holds a {type(raw).__name__}, not keys and values"
        raise ValueError(f"profile {name!r} {what}; {BEGIN}")
    wrong = next((key for key in raw if not isinstance(key, str)), None)
    if wrong is not None:
        raise ValueError(f"profile {name!r}: the key {wrong!r:.60} is no text; {BEGIN}")
    if "extends" in raw:
        raw = _extended(name, raw)
    for section in SECTIONS:
        if not isinstance(raw.get(section), dict) or (section == "sizes" and not raw[section]):
            what = "is empty or has no names" if section in raw else "is missing"
            raise ValueError(
                f"profile {name!r}: {section} {what}; see rpo_nb/config/profiles/pocket.yaml"
            )
    for section in ("evaluation", "lab", "paper_b", "training", "feedback_overrides"):
        if not isinstance(raw.get(section, {}), dict):
            raise ValueError(
                f"profile {name!r}: {section} holds no keys and values; see "
                "rpo_nb/config/profiles/pocket.yaml"
            )
    for listed in (
        "table4_presets",
        *(["presets"] if isinstance(raw.get("presets"), list) else []),
    ):
        value = raw.get(listed, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(
                f"profile {name!r}: {listed} is no list of names; "
                "see rpo_nb/config/profiles/pocket.yaml"
            )
    return raw


def _extended(name: str, raw: dict[str, Any]) -> dict[str, Any]:
    """What a profile says on top of the one that it extends: sections key by key, the rest whole.
    Raises ValueError where it extends no profile of the package, or one that extends another."""
    base = raw.pop("extends")
    path = PROFILE_DIR / f"{base}.yaml"
    known = [p.stem for p in sorted(PROFILE_DIR.glob("*.yaml")) if p.stem not in NO_PROFILES]
    refuse_unknown("extends", [base], known)
    if "extends" in yaml.safe_load(path.read_text(encoding="utf-8")):
        raise ValueError(f"profile {name!r} extends {base!r}, which extends another: name that one")
    under = read_profile(base)
    return under | {
        key: under[key] | value
        if isinstance(value, dict) and isinstance(under.get(key), dict)
        else value
        for key, value in raw.items()
    }


def with_presets(raw: dict[str, Any]) -> dict[str, Any]:
    """A profile with the presets of presets.yaml: all and its own, or those that it lists."""
    if raw.pop("resolved", False):
        evaluation = raw.get("evaluation") or {}
        if evaluation.get("judge_size") not in raw["sizes"]:  # as earlier versions wrote it
            evaluation = evaluation | {"judge_size": ""}
        return raw | {"evaluation": evaluation}
    known = yaml.safe_load((PROFILE_DIR / "presets.yaml").read_text(encoding="utf-8"))
    own = raw.get("presets") or {}
    if isinstance(own, list):
        refuse_unknown("presets", own, known)
        return raw | {"presets": {name: known[name] for name in own}}
    if not isinstance(own, dict):
        raise ValueError(
            f"presets: {own!r} is no list of presets and no preset by name; known are "
            f"{', '.join(known)}"
        )
    return raw | {"presets": known | own}


def set_dotted(raw: dict, dotted: str, value: Any) -> None:
    """Set raw["a"]["b"] for "a.b"; ``sizes.*.x`` sets it for every size. A size or a preset that is
    not there is no place for a setting."""
    *parents, last = dotted.split(".")
    if parents[:1] in (["sizes"], ["presets"]) and parents[1:2] != ["*"]:
        refuse_unknown(dotted, [(parents[1:] or [last])[0]], list(raw[parents[0]]))
    nodes = [raw]
    for part in parents:
        nodes = [
            child
            for node in nodes
            if isinstance(node, dict)
            for child in (node.values() if part == "*" else [node.setdefault(part, {})])
        ]
    if not nodes or not all(isinstance(node, dict) for node in nodes):
        raise ValueError(
            f"{dotted}: the profile has no such key; the keys are those of rpo_nb/config/schema.py"
        )
    for node in nodes:
        node[last] = value


def narrow(raw: dict[str, Any], key: str, wanted: list[str]) -> None:
    """Keep the wanted sizes or presets of a profile."""
    if not wanted:
        return
    refuse_unknown(key, wanted, list(raw[key]))
    dropped = set(raw[key]) - set(wanted)
    raw[key] = {name: raw[key][name] for name in dict.fromkeys(wanted)}
    if key != "sizes":
        return
    evaluation, lab = raw.get("evaluation") or {}, raw.get("lab") or {}
    if evaluation.get("judge_size") in dropped:
        raw["evaluation"] = evaluation | {"judge_size": ""}
    if "ablation_sizes" in lab:
        raw["lab"] = lab | {
            "ablation_sizes": [s for s in lab["ablation_sizes"] if s not in dropped]
        }
    for section in ("lab", "paper_b"):  # "": the first that is left
        part = raw.get(section) or {}
        if part.get("size") in dropped:
            raw[section] = part | {"size": ""}


# What pydantic found ------------------------------------------------------------------------------


NO_KEY = ("extra_forbidden", "unexpected_keyword_argument")


def refusal(error: ValidationError, model: type[BaseModel]) -> str:
    """The first error as one sentence: the dotted key, what is wrong with it, and the nearest
    name. A key that is none goes first: of what it should have been nothing is given then."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] in NO_KEY), errors[0])
    loc, message, given = first["loc"], first["msg"], first["input"]
    key = ".".join(repr(str(part))[1:-1] for part in loc if part != "[key]")
    message = message.removeprefix("Value error, ")
    if first["type"] in NO_KEY:
        known = _fields(model, loc[:-1])
        return (
            f"{key}: there is no such key{suggestion(loc[-1], known)}; known are {', '.join(known)}"
        )
    if first["type"] == "literal_error":
        message += suggestion(given, re.findall(r"'([^']+)'", first["ctx"]["expected"]))
    shown = f" (it is {given!r:.60})" if isinstance(given, (str, int, float)) else ""
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}"


def _fields(model: Any, loc: tuple) -> list[str]:
    """Names of the fields of what lies at `loc` of a model."""
    for part in loc:
        if part in _annotations(model):
            model = _annotations(model)[part]
        elif get_args(model):  # a mapping's key: what lies there is of the type of its values
            model = get_args(model)[-1]
    return list(_annotations(model))


def meant(key: str) -> str:
    """ "; did you mean 'training.epochs'?" for a key without its section; "" where no section has
    one like it."""
    from rpo_nb.config.schema import Profile

    known: dict[str, str] = {}
    for section, kind in _annotations(Profile).items():
        for field in _annotations(kind):
            known.setdefault(field, f"{section}.{field}")
    near = get_close_matches(key.lower(), [*_annotations(Profile), *known], n=1, cutoff=0.7)
    return f"; did you mean {known.get(near[0], near[0])!r}?" if near else ""


def _annotations(model: Any) -> dict[str, Any]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    return {field.name: field.type for field in fields(model)} if is_dataclass(model) else {}


# What types do not say ----------------------------------------------------------------------------


def check(profile: Profile) -> None:
    """ValueError names what cannot work although every field has its type: names that nothing has,
    values given twice, what asks for the pocket world elsewhere."""
    from rpo_nb.config import methods, objective, studies

    lab, paper_b, evaluation = profile.lab, profile.paper_b, profile.evaluation
    refuse_unknown("methods", profile.methods, methods.METHODS[:-1])
    for field, name in (
        ("paper_b.size", paper_b.size),
        ("lab.size", lab.size),
        ("evaluation.judge_size", evaluation.judge_size),
    ):
        refuse_unknown(field, [name] if name else [], list(profile.sizes))
    refuse_unknown("lab.ablation_sizes", lab.ablation_sizes, list(profile.sizes))
    refuse_unknown("lab.regimes", lab.regimes, studies.REGIMES)
    refuse_unknown("lab.disturbances", lab.disturbances, studies.DISTURBANCES)
    refuse_unknown("lab.estimators", lab.estimators, objective.ESTIMATORS)
    for name, preset in profile.presets.items():
        refuse_unknown(f"presets.{name}.partition", [preset.partition], objective.ESTIMATORS)
    refuse_unknown("paper_b.settings", paper_b.settings, list(studies.PaperB().settings))
    check_judges(profile)
    _check_repeats(profile)
    made = [size for size, model in profile.sizes.items() if model.id == "pocket"]
    if made and not (profile.pocket_world or profile.data.held_out):
        raise ValueError(
            f"sizes.{made[0]}: a reference from nothing learns to write from held-out "
            "feedback; set data.held_out above 0, or sizes.*.id to a model"
        )
    if "qrpo" in profile.methods and not profile.pocket_world:
        raise ValueError(
            "methods: qrpo compares a reward with those of the reference's own "
            "completions, which only the pocket world's checker can score; leave it "
            "out, and compare it by a judge's scores with lab --method qrpo"
        )
    blocking = {
        f"presets.{name}.decoding": "choose presets without it (preset=paper,fixed)"
        for name, preset in profile.presets.items()
        if preset.decoding == "released"
    }
    if profile.decoding.no_repeat_ngram_size:
        blocking["decoding.no_repeat_ngram_size"] = "set it to 0"
    if profile.generation == "vllm" and blocking:
        name, remedy = blocking.popitem()
        raise ValueError(
            f"generation is 'vllm', which has no no_repeat_ngram_size, but {name} sets it; "
            f"{remedy} or set generation to transformers"
        )


def check_judges(profile: Profile) -> None:
    """ValueError: an unknown judge, the checker outside the pocket world, a name that cannot be
    one."""
    evaluation = profile.evaluation
    described: Mapping[str, Any] = evaluation.llm_judges
    for name in described:
        if name in BUILT_IN_JUDGES or not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"evaluation.llm_judges: {name!r} cannot be a name; take letters, "
                "digits, "
                f"_ . and -, and not {' or '.join(BUILT_IN_JUDGES)}"
            )
        if name in evaluation.judges and described[name].kind == "endpoint":
            check_address(f"evaluation.llm_judges.{name}.url", described[name].url)
    known = [*BUILT_IN_JUDGES, *described]
    for name in evaluation.judges:
        if name not in known:
            raise ValueError(
                f"evaluation.judges: {name!r} is unknown{suggestion(name, known)}; "
                "the "
                f"judges are {', '.join(known)}, and a language model must be "
                "described "
                "under evaluation.llm_judges"
            )
    refuse_unknown("evaluation.published_judges", evaluation.published_judges, known)
    if "checker" in evaluation.judges and not profile.pocket_world:
        source = Path(profile.data.source).name
        raise ValueError(
            "evaluation.judges has 'checker', which knows only the pocket world, but "
            f"data.source is {source!r}; set evaluation.judges to [reward_model]"
        )
    if "reward_model" in evaluation.judges and not profile.data.held_out:
        raise ValueError(
            "evaluation.judges has 'reward_model', which learns from held-out "
            "feedback; "
            "set data.held_out above 0"
        )


def _check_repeats(profile: Profile) -> None:
    """Values given twice would be trained, asked and counted twice."""
    given = {
        "seeds": profile.seeds,
        "taus": profile.taus,
        "methods": profile.methods,
        "evaluation.judges": profile.evaluation.judges,
        "paper_b.seeds": profile.paper_b.seeds,
    }
    given |= {f"lab.{name}": value for name, value in profile.lab if isinstance(value, tuple)}
    for field, values in given.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{field}: {twice[0]!r} is given twice; give each once")
