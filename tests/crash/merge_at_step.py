"""A merge, or an undo, that kills itself at a step: `python -m tests.crash.merge_at_step STEP …`.

Run in a folder with a pitr.toml; what follows STEP is `merge` or `undo MERGE`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pitr.config import resolve_settings
from pitr.operations.merge import MergeWish, merge
from pitr.operations.undo import UndoWish, undo
from pitr.vocabulary.plan import MergeOptions, MergeStep


def main() -> None:
    """Run until the step."""
    last = MergeStep(sys.argv[1])

    def on_step(step: MergeStep) -> None:
        if step is last:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = resolve_settings(
        config_path=None, source_name=None, flags={}, environ=os.environ, cwd=Path.cwd()
    )
    if sys.argv[2] == "merge":
        wish = MergeWish(is_agreed=True, options=MergeOptions(delete_extra=True))
        merge(settings, wish, confirm=lambda _plan: None, on_step=on_step)
    else:
        undo(settings, UndoWish(merge_id=sys.argv[3], is_agreed=True), confirm=lambda _plan: None,
             on_step=on_step)  # fmt: skip


if __name__ == "__main__":
    main()
