"""The FastAPI service with Backstop: it answers at once, and the summary is read whenever it is there.

    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=KEY-OF-BACKSTOP
    uvicorn --app-dir examples/services fastapi_after:app

Needs `pip install fastapi uvicorn openai`. A repeat for the same document joins its job and is not paid again.
"""

from typing import Annotated

from fastapi import Body, FastAPI
from openai import AsyncOpenAI

app = FastAPI()
client = AsyncOpenAI()


@app.post("/summaries/{document}")
async def summarise(document: str, text: Annotated[str, Body(embed=True)]) -> dict[str, str]:
    once = {"Idempotency-Key": document}
    response = await client.responses.create(model="gpt-5.2", input=text, background=True, extra_headers=once)
    return {"document": document, "id": response.id}


@app.get("/summaries/{response_id}")
async def read(response_id: str) -> dict[str, str | None]:
    response = await client.responses.retrieve(response_id)
    return {"status": response.status, "summary": response.output_text}
