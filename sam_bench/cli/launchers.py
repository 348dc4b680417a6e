"""What has to be known of Hydra's launchers, which begin the runs of a sweep."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """How a launcher's runs are reached, and what becomes of them."""

    local: bool = False
    """Its runs are done on this machine: what they need is looked for here."""
    stopped_by_file: bool = False
    """When its sweep is asked to end, the sweep's folder tells the runs; others are sent a signal."""
    requeues: bool = False
    """It may begin a job again whose process ends without a result, which is what a signal makes of it."""


LAUNCHERS = {
    "basic": Launcher(local=True),
    "joblib": Launcher(local=True, stopped_by_file=True),
    "ray": Launcher(stopped_by_file=True, requeues=True),
    "slurm": Launcher(requeues=True),
    "submitit_slurm": Launcher(requeues=True),
    "submitit_local": Launcher(local=True, requeues=True),
}


def launcher(name: str) -> Launcher:
    """The launcher of this name; of one that is not known, nothing is taken for granted."""
    return LAUNCHERS.get(name, Launcher())
