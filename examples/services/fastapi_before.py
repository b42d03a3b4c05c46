"""A FastAPI service before Backstop: its caller waits while OpenAI works, and a drop loses what was paid.

    uvicorn --app-dir examples/services fastapi_before:app

Needs `pip install fastapi uvicorn openai`, and OPENAI_API_KEY. `diff` shows what changes with fastapi_after.py.
"""

from typing import Annotated

from fastapi import Body, FastAPI
from openai import AsyncOpenAI

app = FastAPI()
client = AsyncOpenAI()


@app.post("/summaries/{document}")
async def summarise(document: str, text: Annotated[str, Body(embed=True)]) -> dict[str, str]:
    response = await client.responses.create(model="gpt-5.2", input=text)
    return {"document": document, "summary": response.output_text}
