"""What a user can put right: shown as one message, without a traceback."""


class UserError(Exception):
    """Something that the user can mend; the message says what and how."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range, or impossible beside another."""


class DataError(UserError):
    """The data are missing, incomplete, or not what they should be."""


class StateError(UserError):
    """A file that a run left cannot be used."""
