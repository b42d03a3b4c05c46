"""A DBOS step whose call of OpenAI survives a crash: the id of the workflow is the id of the job.

    BACKSTOP_URL=http://127.0.0.1:8080 BACKSTOP_API_KEY=KEY-OF-BACKSTOP python dbos_step.py document-1 "Say hello."

Needs `pip install dbos openai`. DBOS runs a step again where its process died within it; each run submits the same job,
so OpenAI is paid once. Where a workflow calls more than once, add the name of the step to the id.
"""

import os
import sys

from dbos import DBOS, SetWorkflowID
from openai import OpenAI

client = OpenAI(base_url=f"{os.environ['BACKSTOP_URL']}/v1", api_key=os.environ["BACKSTOP_API_KEY"])
DBOS(config={"name": "summaries", "system_database_url": os.environ.get("DBOS_URL", "sqlite:///summaries.sqlite")})


@DBOS.step()
def ask_openai(job_id: str, text: str) -> str:
    response = client.responses.create(model="gpt-5.2", input=text, extra_headers={"Idempotency-Key": job_id})
    return response.output_text


@DBOS.workflow()
def summarise(text: str) -> str:
    workflow_id = DBOS.workflow_id
    assert workflow_id is not None  # within a workflow there is one
    return ask_openai(workflow_id, text)


if __name__ == "__main__":
    DBOS.launch()  # goes on with what a crash has left
    with SetWorkflowID(sys.argv[1]):
        print(summarise(sys.argv[2]))
    DBOS.destroy()
