"""The official OpenAI SDK against the simulator: only `base_url` and the key differ. Imports nothing of Backstop.

    backstop simulator --port 8089 --api-key sk-simulator --time-scale 10 &
    python examples/openai_sdk_simulator.py --base-url http://127.0.0.1:8089/v1

Needs `pip install openai`. The same lines run against OpenAI, with its key and without --base-url.
"""

import argparse
import os
import sys
import time

from openai import OpenAI

OPEN = ("queued", "in_progress")


def main(base_url: str | None, api_key: str, within_s: float) -> int:
    client = OpenAI(base_url=base_url, api_key=api_key)
    response = client.responses.create(
        model="gpt-5.2", input="Say hello.", background=True, store=True, metadata={"job": "example", "attempt": "1"}
    )
    print(f"created {response.id}: {response.status}", file=sys.stderr)

    deadline_s = time.monotonic() + within_s
    while response.status in OPEN:
        if time.monotonic() > deadline_s:
            client.responses.cancel(response.id)
            print(f"{response.id} is still {response.status} after {within_s:g} s; cancelled", file=sys.stderr)
            return 1
        time.sleep(0.5)
        response = client.responses.retrieve(response.id)

    print(f"{response.id} {response.status}: {response.output_text}")
    return 0 if response.status == "completed" else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL"))
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "sk-simulator"))
    parser.add_argument("--within-s", type=float, default=300.0)
    given = parser.parse_args()
    sys.exit(main(given.base_url, given.api_key, given.within_s))
