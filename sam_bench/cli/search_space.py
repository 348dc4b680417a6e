"""The ranges in which a method's settings are tuned, from `conf/tune.yaml`."""

import math
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from sam_bench.cli.conf_folder import CONF
from sam_bench.cli.explain import composing
from sam_bench.errors import ConfigError

#: The least and the greatest value. Both are above 0, since the range is searched on a logarithmic scale.
Range = tuple[float, float]

#: The Sobol sequence. Every method uses the same points, and as many of their dimensions as it has settings. Settings
#: that all methods have come first, so all methods try the same learning rates and weight decays.
SOBOL = {"d": 8, "scramble": True, "rng": 0}


def search_space(method: str, config_dir: Path | None = None) -> dict[str, Range]:
    """Return a method's ranges, by setting.

    Args:
        config_dir: the user's folder of configuration files. The entries of its `tune.yaml` replace ours.

    Raises:
        ConfigError: the method has no ranges, or a range is not [least, greatest] with both above 0.
    """
    ranges = _read_ranges(CONF / "tune.yaml")
    if config_dir is not None and (own := config_dir / "tune.yaml").exists():
        ranges |= _read_ranges(own)
    if method not in ranges:
        raise ConfigError(
            f"{method} has no search ranges: write tune.yaml in a folder of your own, with a line such as "
            f'"{method}: {{optimizer.rho: [0.01, 1]}}", and give the folder with --config-dir'
        )

    # A method leaves out a common range by setting it to null.
    return {key: tuple(ends) for key, ends in (ranges["common"] | ranges[method]).items() if ends is not None}


def _read_ranges(path: Path) -> dict[str, dict[str, list[float] | None]]:
    with composing():
        ranges = OmegaConf.to_container(OmegaConf.load(path))
    if not (isinstance(ranges, dict) and all(isinstance(own, dict) for own in ranges.values())):
        raise ConfigError(f"{path} must have lines such as sam: {{optimizer.rho: [least, greatest]}}")

    for method, own in ranges.items():
        for key, ends in own.items():
            if ends is None:
                continue
            numbers = isinstance(ends, list) and all(isinstance(end, int | float) for end in ends)
            if not (numbers and len(ends) == 2 and 0 < ends[0] < ends[1]):
                raise ConfigError(
                    f"{key}: {ends} of {method} in {path} is not a range: it must be [least, greatest], both above 0"
                )
    return ranges


def points(space: Mapping[str, Range], count: int) -> list[dict[str, float]]:
    """Return points of a space, evenly spread on logarithmic scales, with three significant digits.

    The first points do not depend on `count`.
    """
    from scipy.stats import qmc  # takes seconds to import

    unit = qmc.Sobol(**SOBOL).random_base2(math.ceil(math.log2(max(count, 1))))[:count, : len(space)]
    return [
        {
            key: float(f"{least * (greatest / least) ** place:.3g}")
            for (key, (least, greatest)), place in zip(space.items(), point, strict=True)
        }
        for point in unit.tolist()
    ]
