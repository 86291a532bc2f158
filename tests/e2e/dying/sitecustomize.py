"""Python imports this at its start when the folder is on PYTHONPATH: it lets the process die.

DIE_AT="deletion N" kills it in place of its Nth deletion of a file or folder, DIE_AT="done N" just
after it has put its Nth done.json in place. SIGKILL: nothing is cleaned up.
"""

import os
import signal
from typing import Any

ACT, _, COUNT = os.environ.get("DIE_AT", "").partition(" ")
left = int(COUNT or 0)


def _count() -> None:
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _arm() -> None:
    unlink, rmdir, replace = os.unlink, os.rmdir, os.replace

    def deletion(real: Any) -> Any:
        def deadly(*args: Any, **kwargs: Any) -> Any:
            _count()
            return real(*args, **kwargs)

        return deadly

    def deadly_replace(source: Any, target: Any, **kwargs: Any) -> None:
        replace(source, target, **kwargs)
        if os.path.basename(target) == "done.json":
            _count()

    if ACT == "deletion":
        os.unlink, os.rmdir = deletion(unlink), deletion(rmdir)
    elif ACT == "done":
        os.replace = deadly_replace  # type: ignore[assignment]


_arm()
