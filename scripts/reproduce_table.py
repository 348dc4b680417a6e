"""Train the missing runs of METHODS × SEEDS under an experiment, then make its table, as `sam-bench reproduce` does."""

import sys

from sam_bench.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "reproduce")
    main()
