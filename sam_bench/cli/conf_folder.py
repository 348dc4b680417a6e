"""The folder of the configuration files, in a checkout or in an installed package."""

import itertools
from pathlib import Path

_IN_WHEEL = Path(__file__).resolve().parents[1] / "conf"
#: The folder of the checkout; None if the package was installed from a wheel.
CHECKOUT = None if _IN_WHEEL.is_dir() else _IN_WHEEL.parents[1]
#: The folder of the configuration files: inside the package in a wheel, at the top in a checkout.
CONF = CHECKOUT / "conf" if CHECKOUT else _IN_WHEEL


def choices(group: str, config_dir: Path | None = None) -> dict[str, Path]:
    """Return the files of a configuration group, by option name.

    Args:
        config_dir: the user's folder from `--config-dir`. Its files replace ours of the same name.
    """
    folders = [CONF, *([config_dir] if config_dir else [])]
    return {path.stem: path for folder in folders for path in sorted((folder / group).glob("*.yaml"))}


def describe_preset(experiment: str) -> str:
    """Return the comment at the top of a preset's file; an empty string if the preset is not in `conf/`."""
    path = choices("experiment").get(experiment)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    comment = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return " ".join(line.removeprefix("# ") for line in comment if not line.startswith("# @"))
