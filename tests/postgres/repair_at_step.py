"""A merge that kills itself at a step.

`python -m tests.postgres.repair_at_step STEP STATE RECOVERY LIVE BEFORE AFTER TABLE`, where the
three databases are URLs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pitr.operations.postgres.merge import Run, run_plan
from pitr.postgres.diff.states import States
from pitr.postgres.live.connection import connect
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import PlanRequest
from pitr.postgres.tables.name import TableName
from pitr.vocabulary.plan import MergeOptions, MergeStep


def main() -> None:
    """Run until the step."""
    step, state, recovery, live, before, after, table = sys.argv[1:]
    last = MergeStep(step)

    def on_step(step: MergeStep) -> None:
        if step is last:
            os.kill(os.getpid(), signal.SIGKILL)

    states = States(
        live=connect(live),
        before=connect(before),
        after=connect(after),
        tables=(TableName("public", table),),
    )
    options = MergeOptions(delete_extra=True)
    request = PlanRequest(recovery=recovery, source=live, target="then", options=options)
    classifier = Classifier(options)
    run = Run(
        state=Path(state),
        recovery=recovery,
        undoes=None,
        is_agreed=True,
        saved=None,
        lock_seconds=5.0,
        confirm=lambda _plan: None,
        on_step=on_step,
        reconnect=lambda: connect(live),
        classify=classifier.classify,
        again=classifier.again,
    )
    run_plan(states, request, run)


if __name__ == "__main__":
    main()
