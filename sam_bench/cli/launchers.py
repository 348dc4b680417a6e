"""Facts about Hydra's launchers, which start the runs of a sweep."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """The place where a launcher runs its jobs, and how they are stopped."""

    #: The runs are on this machine, so their data and device are checked here.
    local: bool = False
    #: The runs watch the sweep's folder for a request to end; runs of other launchers get a signal.
    stopped_by_file: bool = False
    #: The launcher may start a job again if its process ends without a result, as after a signal.
    requeues: bool = False


LAUNCHERS = {
    "basic": Launcher(local=True),
    "joblib": Launcher(local=True, stopped_by_file=True),
    "ray": Launcher(stopped_by_file=True, requeues=True),
    "slurm": Launcher(requeues=True),
    "submitit_slurm": Launcher(requeues=True),
    "submitit_local": Launcher(local=True, requeues=True),
}


def launcher(name: str) -> Launcher:
    """Return the launcher of this name; an unknown one has none of the properties above."""
    return LAUNCHERS.get(name, Launcher())
