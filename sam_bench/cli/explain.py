"""Plain messages for what Hydra and OmegaConf refuse."""

import contextlib
from collections.abc import Iterator

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from sam_bench.cli.conf_folder import choices
from sam_bench.config.fields import Settings
from sam_bench.config.schema import Config
from sam_bench.errors import ConfigError
from sam_bench.lookup import no_such, suggestion
from sam_bench.optim.registry import METHODS

NOT_INSTALLED = "hydra/{1}={0} needs a package that is not installed: pip install -e '.[{0}]'"


@contextlib.contextmanager
def composing() -> Iterator[None]:
    """Turn errors that Hydra and OmegaConf raise inside this context into a `ConfigError` with a plain message."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise ConfigError(explain(error)) from error
    except AttributeError as error:
        if "full_key: hydra.sweeper.params" not in str(error):
            raise
        # OmegaConf raises an AttributeError when it merges a dictionary into null.
        raise ConfigError(
            "+hydra.sweeper.params cannot be set as a whole: it is null here. Write each range as a setting of its "
            "own: -m 'optimizer.rho=interval(0.01,0.3)', or 'optimizer.rho=0.1,0.2' for the basic sweeper"
        ) from error


def explain(error: Exception) -> str:
    """Return a plain message for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).endswith("/submitit_slurm"):
        return NOT_INSTALLED.format("slurm", "launcher")
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).endswith("hydra/sweeper/optuna"):
        return NOT_INSTALLED.format("optuna", "sweeper")

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = list(METHODS) if group == "optimizer" else list(choices(group))
        if options := error.options or known:
            return no_such(group, option, options)

    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return f"{error.override} cannot be parsed (no spaces around = and commas; quote special characters): {reason}"
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {error}"

    # Hydra raises an error of its own from OmegaConf's, and only OmegaConf's has the key.
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    if key and key.startswith("hydra.") and " not in " in str(cause):
        return f"Unknown setting {key}: neither Hydra nor the chosen launcher (hydra/launcher=NAME) has it"
    if key and "is not in struct" in str(cause):
        return _explain_key(key)
    return str(error) if cause is error else f"{error}\n{cause}"


def _explain_key(key: str) -> str:
    """Return why a key that Hydra does not find cannot be set."""
    if key == "launcher":
        return "Unknown setting launcher — did you mean hydra/launcher?"

    *groups, name = key.split(".")
    settings: type[Settings] | None = Config
    for group in groups:
        settings = settings.group(group) if settings else None

    if settings is None:
        return f"Unknown setting {key}{suggestion(groups[0], Config.names())}"
    if name in settings.names():
        return f"{key} has no meaning for the chosen {'.'.join(groups)}: remove it, or choose another"
    return settings.unknown(name, ".".join(groups))
