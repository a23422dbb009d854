"""`make bench`: all benchmarks of a few minutes, on an embedded stack of their own."""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks import catch_up
from devstack.stack import Stack


def main() -> None:
    """Starts a stack, runs the benchmarks, ends the stack; options are those of `benchmarks.catch_up`."""
    with tempfile.TemporaryDirectory(prefix="trs-bench-stack-") as folder:
        stack = Stack(Path(folder))
        try:
            os.environ.update(stack.up(report=lambda part, message: print(part, message, file=sys.stderr)))
            os.environ["TRS_HOME"] = folder
            # The catch-up is measured with production's interval, not with the demo's.
            os.environ["TRS_EPOCH_INTERVAL_S"] = "10"
            catch_up.main()
        finally:
            stack.down(wipe=True)


if __name__ == "__main__":
    main()
