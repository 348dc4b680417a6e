"""The ranges in which a method's settings are tuned: those in `conf/tune/common.yaml`, and the method's own."""

from pathlib import Path

from omegaconf import OmegaConf

from sam_bench.cli.compose import choices, composing
from sam_bench.errors import ConfigError

Range = tuple[float, float]
"""The least and the greatest value; both are above 0, since the range is searched on a logarithmic scale."""


def search_space(method: str, config_dir: Path | None = None) -> dict[str, Range]:
    """Return a method's ranges, by setting.

    Args:
        config_dir: a folder of the user's own, whose `tune/` comes before that of `conf/`.

    Raises:
        ConfigError: the method has none, or they are no ranges.
    """
    files = choices("tune", config_dir)
    if method not in files:
        raise ConfigError(
            f"{method} has no ranges: write tune/{method}.yaml in a folder of your own, with lines such as "
            '"optimizer.rho: [0.01, 1]", and name the folder with --config-dir'
        )
    space = {}
    for name in ("common", method):
        space |= _ranges(files[name])
    return {key: tuple(ends) for key, ends in space.items() if ends is not None}


def _ranges(path: Path) -> dict[str, list[float] | None]:
    with composing():
        found = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must have lines such as optimizer.rho: [least, greatest]")
    for key, ends in found.items():
        if ends is None:
            continue
        numbers = isinstance(ends, list) and all(isinstance(end, int | float) for end in ends)
        if not (numbers and len(ends) == 2 and 0 < ends[0] < ends[1]):
            raise ConfigError(f"{key}: {ends} in {path} is no range: it must be [least, greatest], both above 0")
    return found
