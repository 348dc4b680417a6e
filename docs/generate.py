"""Write the generated parts of the documentation. `make docs` runs this program, and a test compares."""

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from sphinx.pycode import ModuleAnalyzer

import sam_bench
from sam_bench.cli.compose import compose
from sam_bench.cli.conf_folder import choices, describe_preset
from sam_bench.config.fields import Settings
from sam_bench.config.schema import Config
from sam_bench.optim.options import Option
from sam_bench.optim.registry import METHODS, MethodEntry
from sam_bench.report.markup import replace_generated, table
from sam_bench.report.radii import DEFAULT, RADII
from sam_bench.report.record_table import COLUMNS

DOCS = Path(__file__).resolve().parent
#: The command in the comments around a generated part.
COMMAND = "make docs"


def write_all() -> None:
    """Write every generated part into its page."""
    for name, content in generated_parts().items():
        path = DOCS / name
        path.write_text(replace_generated(path.read_text(encoding="utf-8"), content, COMMAND), encoding="utf-8")


def generated_parts() -> dict[str, str]:
    """Return the content of each generated part, by the name of its page."""
    return {
        "methods.md": methods(),
        "settings.md": settings(),
        "protocols.md": presets(),
        "api.md": classes(),
        "files.md": columns(),
    }


# Methods.


def methods() -> str:
    """Return the overview of all methods, a section for each of them, and the table of published radii."""
    cells = [[f"[`{entry.name}`](#{slug(entry.title)})", entry.summary, entry.passes] for entry in METHODS.values()]
    overview = "\n".join(table(["`optimizer=`", "what it does", "passes a step"], cells))
    return "\n\n".join([overview, *(_method(entry) for entry in METHODS.values()), "## Published radii", radii()])


def _method(entry: MethodEntry) -> str:
    """Return the section of one method."""
    parts = [f"## {entry.title}"]
    facts = [f"`optimizer={entry.name}`", *([f"class `{entry.class_name}`"] if entry.perturbs else [])]
    facts += [f"{entry.passes} passes a step" if entry.passes != "1" else "one pass a step", _paper(entry.paper)]
    if entry.perturbs:
        docstring = inspect.getdoc(getattr(sam_bench, entry.class_name)) or ""
        parts.append(docstring.partition("\n\n")[0].replace("\n", " "))
    else:
        parts.append("The base optimizer alone: `v = g`.")
    parts.append("- " + "\n- ".join(facts))

    config = compose([f"optimizer={entry.name}"]).optimizer
    cells = [["`optimizer.rho`", _value(config.rho), "at least 0", "ρ, the radius"]] if entry.perturbs else []
    cells += [_option(option, config.options()[option.name]) for option in entry.options]
    if cells:
        parts.append("\n".join(table(["setting", "preset value", "valid range", "meaning"], cells)))
    return "\n\n".join(parts)


def _option(option: Option, value: object) -> list[str]:
    """Return the cells of one option of a method."""
    kind = {bool: "true or false", int: "a whole number", float: ""}[option.kind]
    rule = ", ".join(filter(None, [kind, option.bounds]))
    return [f"`optimizer.{option.name}`", _value(value), rule or "any number", option.meaning]


def _paper(paper: str) -> str:
    """Return a paper with its arXiv number as a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def classes() -> str:
    """Return the directives that describe the class of each method, from its docstrings."""
    names = [entry.class_name for entry in METHODS.values() if entry.perturbs]
    directives = [f".. autoclass:: {name}\n   :members:" for name in names]
    return "\n".join(["```{eval-rst}", ".. currentmodule:: sam_bench", "", *directives, "```"])


def radii() -> str:
    """Return the table of the radii that methods were published with."""
    cells = []
    for radius in RADII:
        used = ", ".join("the default" if name == DEFAULT else f"`experiment={name}`" for name in radius.used)
        cells.append([METHODS[radius.method].title, f"{radius.rho:g}", radius.setting, radius.source, used])
    return "\n".join(table(["method", "ρ", "network, data", "where it was read", "used here by"], cells))


# Presets.


def presets() -> str:
    """Return a list of all presets, with the description at the top of each one's file."""
    return "\n".join(f"- `{name}`: {describe_preset(name)}" for name in choices("experiment"))


# Records.


def columns() -> str:
    """Return the columns of the table of all records."""
    rows = [[f"`{name}`", meaning] for name, meaning in COLUMNS.items()]
    return "\n".join(
        table(["column", "what it holds"], [*rows, ["`config.…`", "each setting, such as `config.optimizer.rho`"]])
    )


# Settings.


def settings() -> str:
    """Return the reference of all settings, a section for each group."""
    return "\n\n".join(_sections(Config, "", compose([])))


def _sections(group: type[Settings], path: str, values: Any) -> Iterator[str]:
    """Yield the section of a group of settings, and then those of the groups inside it."""
    heading = f"## `{path}`" if path else "## The run itself"
    yield heading
    yield (inspect.getdoc(group) or "").partition("\n\n")[0].replace("\n", " ")
    chosen_by = path.replace(".", "/")
    if path and (options := choices(chosen_by)):
        yield f"Options of `{chosen_by}=`: {', '.join(f'`{option}`' for option in options)}."

    meanings = _meanings(group)
    cells = []
    inner = []
    for name, field in group.model_fields.items():
        value = getattr(values, name, None)
        key = f"{path}.{name}".lstrip(".")
        if member := group.group(name):
            inner.append((member, key, value))
        elif name != "name":  # chosen by its group, as in optimizer=gsam
            cells.append([f"`{key}`", _value(value), f"{meanings.get(name, '')} *{_rule(field)}*".lstrip()])

    if cells:
        yield "\n".join(table(["setting", "default", "meaning, and what is valid"], cells))
    for member, key, value in inner:
        yield from _sections(member, key, value)


def _meanings(group: type[Settings]) -> dict[str, str]:
    """Return the comments above the fields of a group, by the field's name."""
    meanings = {}
    for cls in reversed(group.__mro__):
        if issubclass(cls, Settings) and cls.__module__.startswith("sam_bench."):
            docs = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
            meanings |= {
                name: " ".join(lines).strip() for (owner, name), lines in docs.items() if owner == cls.__name__
            }
    return meanings


def _rule(field: FieldInfo) -> str:
    """Return what values of a field are valid, in words."""
    kind = _kind(field.annotation)
    rule = kind[0].upper() + kind[1:]
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{words} {_limit(getattr(limit, name))}"
        for limit in field.metadata
        for name, words in bounds.items()
        if getattr(limit, name, None) is not None
    ]
    return ", ".join([rule, " and ".join(limits)] if limits else [rule]) + "."


def _limit(value: float) -> str:
    """Return a bound; a power of two is shown as one."""
    exponent = int(value).bit_length() - 1
    return f"2^{exponent}" if value > 1e6 and value == 2**exponent else f"{value:g}"


def _kind(annotation: Any) -> str:
    """Return the type of a setting in words."""
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if annotation in simple:
        return simple[annotation]

    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is tuple:
        return f"a list of {_kind(arguments[0]).removeprefix('a ')}s".replace("texts", "names")
    return " or ".join(_kind(argument) for argument in arguments if argument is not types.NoneType)


def _value(value: object) -> str:
    """Return a value as the command line takes it; nothing for null."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"`[{','.join(_value(each).strip('`') for each in value)}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    write_all()
