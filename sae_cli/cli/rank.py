"""A process of the torchrun that saectl itself starts (`run.torchrun`).

torchrun answers every exit code but 0 with a traceback of its own, also where a stop was asked for
or an SAE met numbers that are not finite. Whoever started it looks on the disk for what became of
the stages, so this ends with 0 once it has said what there is to say.
"""

from __future__ import annotations

import sys

from sae_cli.cli.app import _run
from sae_cli.errors import OK
from sae_cli.run.world import leave, together


def main() -> None:
    """Run the command line as one of several processes."""
    together(lambda: _run(sys.argv[1:]))
    leave(OK)


if __name__ == "__main__":
    main()
