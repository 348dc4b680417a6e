"""The ranges in which a method's settings are tuned, from `conf/tune/common.yaml` and the method's own file."""

import math
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from sam_bench.cli.conf_folder import choices
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
        config_dir: the user's folder of configuration files. Files in its `tune/` replace those of `conf/tune/`.

    Raises:
        ConfigError: the method has no file of ranges, or a range is not [least, greatest] with both above 0.
    """
    files = choices("tune", config_dir)
    if method not in files:
        raise ConfigError(
            f"{method} has no search ranges: write tune/{method}.yaml in a folder of your own, with lines such as "
            '"optimizer.rho: [0.01, 1]", and give the folder with --config-dir'
        )

    space = {}
    for name in ("common", method):
        space |= _read_ranges(files[name])
    # A method's file leaves out a common range by setting it to null.
    return {key: tuple(ends) for key, ends in space.items() if ends is not None}


def _read_ranges(path: Path) -> dict[str, list[float] | None]:
    with composing():
        ranges = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(ranges, dict):
        raise ConfigError(f"{path} must have lines such as optimizer.rho: [least, greatest]")

    for key, ends in ranges.items():
        if ends is None:
            continue
        numbers = isinstance(ends, list) and all(isinstance(end, int | float) for end in ends)
        if not (numbers and len(ends) == 2 and 0 < ends[0] < ends[1]):
            raise ConfigError(f"{key}: {ends} in {path} is not a range: it must be [least, greatest], both above 0")
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
