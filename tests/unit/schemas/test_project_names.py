"""References to objects of the project: each known form in each place is found, and text of users is not."""

from typing import Any

import pytest

from schemas.project_names import Named, first_foreign, named_in

ID = "abcdef0123456789abcdef"
NAMING: dict[str, tuple[Any, str]] = {
    "an earlier response": ({"previous_response_id": f"resp_{ID}"}, "#/previous_response_id"),
    "a conversation": ({"conversation": f"conv_{ID}"}, "#/conversation"),
    "a conversation of a strange form": ({"conversation": "x"}, "#/conversation"),
    "a conversation as an object": ({"conversation": {"id": f"conv_{ID}"}}, "#/conversation/id"),
    "a stored prompt": ({"prompt": {"id": f"pmpt_{ID}", "version": "2"}}, "#/prompt/id"),
    "a file for a prompt": (
        {"prompt": {"variables": {"cv": {"type": "input_file", "file_id": f"file-{ID}"}}}},
        "#/prompt/variables/value/file_id",
    ),
    "an item": ({"input": [{"type": "item_reference", "id": f"msg_{ID}"}]}, "#/input/0/id"),
    "an item without a type": ({"input": [{"id": f"msg_{ID}"}]}, "#/input/0/id"),
    "an item with an empty type": ({"input": [{"id": f"msg_{ID}", "type": None}]}, "#/input/0/id"),
    "reasoning that is stored": ({"input": [{"type": "reasoning", "id": f"rs_{ID}", "summary": []}]}, "#/input/0/id"),
    "an image that was made": ({"input": [{"type": "image_generation_call", "id": f"ig_{ID}"}]}, "#/input/0/id"),
    "a file": (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": f"file-{ID}"}]}]},
        "#/input/0/content/0/file_id",
    ),
    "a file in an output": (
        {
            "input": [
                {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "file_id": "f"}]}
            ]
        },
        "#/input/0/output/0/file_id",
    ),
    "a screenshot": (
        {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "f"}}]},
        "#/input/0/output/file_id",
    ),
    "an earlier container": (
        {"input": [{"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1", "code": ""}]},
        "#/input/0/container_id",
    ),
    "a container": ({"tools": [{"type": "code_interpreter", "container": f"cntr_{ID}"}]}, "#/tools/0/container"),
    "files for a container": (
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]},
        "#/tools/0/container/file_ids/0",
    ),
    "a container for a shell": (
        {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}]},
        "#/tools/0/environment/container_id",
    ),
    "a skill": (
        {"tools": [{"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "skill_1"}]}}]},
        "#/tools/0/environment/skills/0/skill_id",
    ),
    "a vector store": (
        {"tools": [{"type": "file_search", "vector_store_ids": [f"vs_{ID}"]}]},
        "#/tools/0/vector_store_ids/0",
    ),
    "a mask": (
        {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "f"}}]},
        "#/tools/0/input_image_mask/file_id",
    ),
    "a tool within a namespace": (
        {"tools": [{"type": "namespace", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}]},
        "#/tools/0/tools/0/vector_store_ids/0",
    ),
    "a fine-tuned model": ({"model": "ft:gpt-4o:acme::abc"}, "#/model"),
    "a field of tomorrow": ({"workspace_id": "w"}, "#/workspace_id"),
    "a list of tomorrow": ({"workspace_ids": ["w"]}, "#/workspace_ids/0"),
    "an id where tomorrow puts it": ({"sandbox": {"source": f"cntr_{ID}"}}, "#/sandbox/source"),
    "ids where tomorrow puts them": ({"attachments": [f"file-{ID}"]}, "#/attachments/0"),
    "an item with a field more": ({"input": [{"type": "item_reference", "id": "m", "content": "x"}]}, "#/input/0/id"),
    "a message without content": (
        {"input": [{"type": "message", "id": "m", "role": "assistant", "content": []}]},
        "#/input/0/id",
    ),
    "reasoning with blank content": (
        {"input": [{"type": "reasoning", "id": "r", "encrypted_content": " "}]},
        "#/input/0/id",
    ),
    "an image that is no text": (
        {"input": [{"type": "image_generation_call", "id": "i", "result": ["x"]}]},
        "#/input/0/id",
    ),
    "a file in the place of a URL": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": f"file-{ID}"}]}]},
        "#/input/0/content/0/image_url",
    ),
    "a pointer in the place of a URL": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": f"sediment://file_{ID}"}]}]},
        "#/input/0/content/0/image_url",
    ),
    "a file below what only looks like variables": (
        {"variables": {"a": {"variables": {"file_id": "f"}}}},
        "#/variables/a/variables/file_id",
    ),
    "a connector of the project": (
        {"tools": [{"type": "mcp", "connector_id": f"connector_{ID}"}]},
        "#/tools/0/connector_id",
    ),
    "a fine-tuned model of former times": ({"model": "davinci:ft-acme-2023-03-01"}, "#/model"),
    "a fine-tuned model in capitals": ({"model": "FT:gpt-4o:acme::abc"}, "#/model"),
    "a field of tomorrow in another spelling": ({"workspaceId": "w"}, "#/workspaceId"),
    "a number for an id": ({"previous_response_id": 7}, "#/previous_response_id"),
}


@pytest.mark.parametrize("what", NAMING)
def test_a_reference_to_the_project_is_found(what: str) -> None:
    request, pointer = NAMING[what]
    assert [named.pointer for named in named_in({"model": "gpt-5", **request})] == [pointer]


@pytest.mark.parametrize(
    "request_",
    [
        {"input": f"resp_{ID}"},
        {"instructions": f"Ask file-{ID}."},
        {"metadata": {"previous_response_id": f"resp_{ID}", "order_id": "7"}},
        {"user": f"msg_{ID}", "safety_identifier": f"msg_{ID}", "prompt_cache_key": f"conv_{ID}"},
        {"previous_response_id": None, "conversation": None, "prompt": None},
        {"prompt": {"variables": {"file_id": f"file-{ID}"}}},
        {
            "input": [
                {"role": "user", "content": f"conv_{ID}"},
                {"role": "user", "content": [{"type": "input_text", "text": f"vs_{ID}"}]},
            ]
        },
        {
            "input": [
                {
                    "type": "message",
                    "id": f"msg_{ID}",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "Hi.", "annotations": [{"file_id": f"file-{ID}"}]}],
                }
            ]
        },
        {
            "input": [
                {
                    "type": "function_call",
                    "id": f"fc_{ID}",
                    "call_id": f"call_{ID}",
                    "name": "f",
                    "arguments": '{"file_id": "x"}',
                },
                {"type": "function_call_output", "call_id": f"call_{ID}", "output": f"file-{ID}"},
            ]
        },
        {"input": [{"type": "reasoning", "id": f"rs_{ID}", "summary": [], "encrypted_content": "x"}]},
        {"input": [{"type": "mcp_approval_response", "approval_request_id": f"mcpr_{ID}", "approve": True}]},
        {
            "tools": [
                {"type": "function", "name": "find", "parameters": {"properties": {"file_id": {"type": "string"}}}},
                {"type": "code_interpreter", "container": {"type": "auto"}},
                {"type": "mcp", "server_label": "x", "connector_id": "connector_gmail", "headers": {"tenant_id": "1"}},
            ]
        },
        {
            "text": {
                "format": {"type": "json_schema", "name": "n", "schema": {"properties": {"user_id": {"const": "u_1"}}}}
            }
        },
    ],
)
def test_text_of_users_and_items_sent_in_full_are_no_references(request_: dict[str, Any]) -> None:
    assert list(named_in({"model": "gpt-5", **request_})) == []


def test_shared_ids_are_everybodys() -> None:
    named = [Named("#/a", "vector_store_ids", "vs_docs"), Named("#/model", "model", "ft:gpt-4o:acme::1")]
    assert first_foreign(named, ["vs_docs", "ft:*"]) is None
    assert first_foreign(named, ["vs_doc", "ft:*"]) == named[0]
    assert first_foreign(named, ["vs_*"]) == named[1]
