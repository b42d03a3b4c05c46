"""A Temporal activity whose call of OpenAI survives a retry: the id of the workflow is the id of the job.

    BACKSTOP_URL=http://127.0.0.1:8080 BACKSTOP_API_KEY=KEY-OF-BACKSTOP python your_worker.py

Needs `pip install temporalio httpx`. Temporal runs an activity again after a crash or a timeout; each run submits the
same job, so OpenAI is paid once. Where a workflow calls more than once, add the name of the step to the id.
"""

import os

import httpx
from temporalio import activity


@activity.defn
async def ask_openai(text: str) -> str:
    job_id = activity.info().workflow_id
    headers = {"Authorization": f"Bearer {os.environ['BACKSTOP_API_KEY']}"}
    job = {"job_id": job_id, "request": {"model": "gpt-5.2", "input": text}}
    async with httpx.AsyncClient(base_url=os.environ["BACKSTOP_URL"], headers=headers, timeout=60) as client:
        (await client.post("/v1/jobs", json=job)).raise_for_status()  # a repeat is the same job
        while True:
            activity.heartbeat()
            seen = (await client.get(f"/v1/jobs/{job_id}", params={"wait": 30})).raise_for_status().json()
            if seen["terminal"]:
                break
    if seen["status"] != "completed":
        raise RuntimeError(f"{seen['status']}: {seen['result'].get('reason')}")
    return "".join(
        part["text"]
        for item in seen["result"]["response"]["output"]
        for part in item.get("content", ())
        if part["type"] == "output_text"
    )
