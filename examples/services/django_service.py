"""A Django service of one file: a view begins a summary, another one reads it. Imports nothing of Backstop.

    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=KEY-OF-BACKSTOP
    python examples/services/django_service.py 8000

Needs `pip install django openai`. In a project of yours the id of the response is a column of your model; the job that
makes it needs no Celery, and survives a restart of Django.
"""

import json
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from openai import OpenAI

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="example", DEBUG=False)
django.setup()
client = OpenAI()


def begin(request: HttpRequest, document: str) -> JsonResponse:
    text = json.loads(request.body)["text"]
    response = client.responses.create(
        model="gpt-5.2", input=text, background=True, extra_headers={"Idempotency-Key": document}
    )
    return JsonResponse({"document": document, "id": response.id}, status=202)


def read(_request: HttpRequest, response_id: str) -> JsonResponse:
    response = client.responses.retrieve(response_id)
    return JsonResponse({"status": response.status, "summary": response.output_text})


urlpatterns = [path("documents/<document>", begin), path("summaries/<response_id>", read)]

if __name__ == "__main__":
    execute_from_command_line([sys.argv[0], "runserver", "--noreload", f"127.0.0.1:{sys.argv[1]}"])
