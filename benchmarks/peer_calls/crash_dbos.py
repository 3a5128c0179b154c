"""A DBOS workflow of one step with retries; begun again, DBOS recovers it. Its system database is an SQLite file."""

from __future__ import annotations

import sys
from importlib.metadata import version

from anthropic import Anthropic, APIError
from dbos import DBOS, SetWorkflowID, error
from turns import KEY, MODEL, PROMPT

URL, FOLDER, TRIES, PAUSE_S = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
TASK = "the-task"
DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{FOLDER}/kept.db", "log_level": "CRITICAL"})
SDK = Anthropic(api_key=KEY, base_url=URL, max_retries=0)


@DBOS.step(retries_allowed=True, max_attempts=TRIES, interval_seconds=PAUSE_S, backoff_rate=1.0)
def ask(prompt: str) -> str:
    """Make the call."""
    message = SDK.messages.create(model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": prompt}])
    return message.content[0].text


@DBOS.workflow()
def dispatch(prompt: str) -> str:
    """Make one durable step."""
    return ask(prompt)


DBOS.launch()
sys.stdout.write(f"{version('dbos')}\n")
if DBOS.get_workflow_status(TASK) is None:
    with SetWorkflowID(TASK):
        DBOS.start_workflow(dispatch, PROMPT)
try:
    DBOS.retrieve_workflow(TASK).get_result()
except (error.DBOSMaxStepRetriesExceeded, APIError) as failed:
    sys.stdout.write(f"{type(failed).__name__}\n")
DBOS.destroy()
