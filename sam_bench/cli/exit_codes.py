"""The exit codes of the command line."""

#: A run failed.
EXIT_RUN = 1
#: An error was found before any run started.
EXIT_CONFIG = 2
#: Runs were asked to end; the same command continues them.
EXIT_RESUMABLE = 75
#: Ctrl-C came outside of a run.
EXIT_INTERRUPTED = 130
