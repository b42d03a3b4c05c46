"""A webhook that Backstop signed, as its receivers check it: `standardwebhooks`, and `webhooks.unwrap` of the official SDK. Reads it on stdin."""

import json
import sys

from openai import OpenAI
from standardwebhooks import Webhook

given = json.load(sys.stdin)
secret, headers, body = given["secret"], given["headers"], given["body"]
client = OpenAI(api_key="none", webhook_secret=secret)


def refused(changed: str) -> bool:
    for check in (lambda: Webhook(secret).verify(changed, headers), lambda: client.webhooks.unwrap(changed, headers)):
        try:
            check()
        except Exception:
            continue
        return False
    return True


seen = [Webhook(secret).verify(body, headers)["type"], client.webhooks.unwrap(body, headers).type]
sys.stdout.write(json.dumps({"types": seen, "forged_refused": refused(body.replace("resp_", "resq_"))}))
