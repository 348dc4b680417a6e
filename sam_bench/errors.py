"""Errors that a user can fix. Each is shown as one message, without a traceback."""


class UserError(Exception):
    """An error that the user can fix; its message says what is wrong and how to fix it."""


class ConfigError(UserError):
    """A setting that is unknown, has the wrong type, is out of range, or conflicts with another setting."""


class DataError(UserError):
    """Data that are missing, incomplete, or not what they should be."""


class StateError(UserError):
    """A file of a run that cannot be read, written or used."""


class ResourceError(UserError):
    """A shortage of something on this machine, such as memory."""


class Busy(StateError):
    """A run that another process is working on."""


class MainProcessFailed(UserError):
    """A failure of a run's main process, raised in its other processes; the message is the main process's error."""


class Interrupted(Exception):
    """An end of a run on request, after it has saved what it needs to resume.

    Args:
        by_signal: True if a signal to this process asked for it; False if its time limit or another process did.
        finished: True if nothing of the run was left to do.
    """

    def __init__(self, message: str, by_signal: bool = True, finished: bool = False):
        super().__init__(message)
        self.by_signal = by_signal
        self.finished = finished
        self.title = ""


def first_line(error: BaseException) -> str:
    """Return an error in one line: its type, and the first line of its message if it has one."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
