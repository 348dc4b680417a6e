"""The ranges in which a method's settings are tuned: those in `conf/tune/common.yaml`, and the method's own."""

from omegaconf import OmegaConf

from sam_bench.cli.compose import CONF, choices
from sam_bench.errors import ConfigError
from sam_bench.lookup import lookup

Range = tuple[float, float]
"""The least and the greatest value; both are above 0, since the range is searched on a logarithmic scale."""


def search_space(method: str) -> dict[str, Range]:
    """Return a method's ranges, by setting.

    Raises:
        ConfigError: the method has none, or they are no ranges.
    """
    files = choices("tune")
    lookup(files, method, "tune")
    space = {}
    for name in ("common", method):
        space |= OmegaConf.to_container(OmegaConf.load(files[name]))
    for key, ends in space.items():
        if ends is None:
            continue
        numbers = isinstance(ends, list) and all(isinstance(end, int | float) for end in ends)
        if not (numbers and len(ends) == 2 and 0 < ends[0] < ends[1]):
            path = CONF / "tune"
            raise ConfigError(f"{key}: {ends} in {path} is no range: it must be [least, greatest], both above 0")
    return {key: tuple(ends) for key, ends in space.items() if ends is not None}
