"""LangChain over Backstop: only the address changes, and a header makes a repeat the same call.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=KEY-OF-BACKSTOP python langchain_summary.py 17 "Say hello."

Needs `pip install langchain-openai`. The first argument names the document: a second run for it is not paid again.
"""

import sys

from langchain_openai import ChatOpenAI

document, text = sys.argv[1:]
chat = ChatOpenAI(model="gpt-5.2", use_responses_api=True)
print(chat.invoke(text, extra_headers={"Idempotency-Key": document}).text)
