"""The private parts of Hydra that the command line needs, since nothing public does the same."""

# Composes several configurations from one reading of the files, and those of a sweep. The public `hydra.compose` makes
# one at a time, cannot put a user's folder before ours, and changes Hydra's global state.
from hydra._internal.config_loader_impl import ConfigLoaderImpl as ConfigLoaderImpl

# Lists the runs of a grid as Hydra itself will start them, so that all are checked before the first one begins.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper as BasicSweeper

# Finds configuration files in a folder, for the loader above.
from hydra._internal.utils import create_config_search_path as create_config_search_path

# Reads a command line as `hydra.main` will read it again, before Hydra begins anything.
from hydra._internal.utils import get_args_parser as get_args_parser
