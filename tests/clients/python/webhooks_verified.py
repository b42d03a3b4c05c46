"""Verifies a webhook that Backstop signed, read on stdin, with `standardwebhooks` and with `webhooks.unwrap` of the
official SDK.
"""

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
