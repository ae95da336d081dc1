"""The server that the official conformance suite demands: our own server object, with the suite's test tools, prompts and resources added.

`build_server` makes it and `http_app` serves it, so transport, middleware, sealing of states, errors and everything that is not called
`test` are those of the product. Run as a program it serves on a free port of this machine and prints its URL.
"""

import json
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequests,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListRootsRequest,
    ListRootsResult,
    ListToolsResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    PaginatedRequestParams,
    PromptArgument,
    ReadResourceRequestParams,
    ReadResourceResult,
    SamplingMessage,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    TextContent,
    Tool,
    UnsubscribeRequestParams,
)
from mcp.types import Prompt as ListedPrompt
from pydantic import TypeAdapter
from task_tools import Jobs, task_tools

from nexus_attest.server.app import build_server
from nexus_attest.server.http import http_app, listen, parse_address, serve_http
from nexus_attest.server.service import Service
from nexus_attest.server.tasks import offer_tasks
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

Context = ServerRequestContext[Any]
Result = CallToolResult | InputRequiredResult
Call = Callable[[Context, CallToolRequestParams], Awaitable[Result]]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0@\x1f\0\0\x01\0\x08\0data\0\0\0\0").decode()
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}

_content: TypeAdapter[Any] = TypeAdapter(CallToolResult)


def blocks(*content: Mapping[str, Any] | str) -> CallToolResult:
    """A result of these content blocks; a string is a text block."""
    return _content.validate_python({"content": [{"type": "text", "text": one} if isinstance(one, str) else one for one in content]})


def says(*content: Mapping[str, Any] | str) -> Call:
    """A tool that always answers the same."""

    async def call(_: Context, __: CallToolRequestParams) -> Result:
        return blocks(*content)

    return call


# -- questions to the client --------------------------------------------------------------------------------------------------------


def form(message: str, properties: dict[str, Any], required: list[str] | None = None) -> ElicitRequest:
    schema = {"type": "object", "properties": properties, **({} if required is None else {"required": required})}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(prompt: str, most: int) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=TextContent(type="text", text=prompt))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=most))


NAME = {"name": {"type": "string"}}
ASK_NAME = form("What is your name?", NAME, ["name"])
ASK_OK = form("Please confirm", {"ok": {"type": "boolean"}}, ["ok"])


def asks(requests: InputRequests, done: Callable[[Mapping[str, Any]], str], state: str | None = None) -> Call:
    """A tool that wants all of these answers, each of the right kind, and then says something about them."""

    async def call(_: Context, params: CallToolRequestParams) -> Result:
        given = params.input_responses or {}
        if state is None or params.request_state == state:
            kinds = {"elicitation/create": ElicitResult, "sampling/createMessage": CreateMessageResult, "roots/list": ListRootsResult}
            if all(isinstance(given.get(key), kinds[request.method]) for key, request in requests.items()):
                return blocks(done(given))
        return InputRequiredResult(input_requests=requests, request_state=state)

    return call


async def multi_round(_: Context, params: CallToolRequestParams) -> Result:
    given = params.input_responses or {}
    if params.request_state == "round-2" and "step2" in given:
        return blocks("Both steps are done")
    if params.request_state == "round-1" and "step1" in given:
        color = form("Step 2: What is your favorite color?", {"color": {"type": "string"}}, ["color"])
        return InputRequiredResult(input_requests={"step2": color}, request_state="round-2")
    return InputRequiredResult(input_requests={"step1": form("Step 1: What is your name?", NAME, ["name"])}, request_state="round-1")


async def by_capability(context: Context, _: CallToolRequestParams) -> Result:
    able = context.session.client_capabilities
    requests: InputRequests = {}
    if able is not None and able.sampling is not None:
        requests["capital_question"] = sampling("What is the capital of France?", 100)
    if able is not None and able.elicitation is not None:
        requests["user_name"] = ASK_NAME
    return InputRequiredResult(input_requests=requests)


async def sampled(context: Context, params: CallToolRequestParams) -> Result:
    asked = sampling((params.arguments or {})["prompt"], 100)
    found = await context.session.send_request(
        asked, CreateMessageResult, metadata=ServerMessageMetadata(related_request_id=context.request_id)
    )
    return blocks(f"LLM response: {found.content}")


def elicits(message: str | None, properties: dict[str, Any], required: list[str] | None = None) -> Call:
    """A tool of the handshake era that asks while the call waits."""

    async def call(context: Context, params: CallToolRequestParams) -> Result:
        schema = {"type": "object", "properties": properties, **({} if required is None else {"required": required})}
        answer = await context.session.elicit_form(message or (params.arguments or {})["message"], schema, context.request_id)
        return blocks(f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}")

    return call


ENUMS = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {"type": "string", "oneOf": [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate("ABC", 1)]},
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    "titledMulti": {"type": "array", "items": {"anyOf": [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]}},
}
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}


# -- notifications ------------------------------------------------------------------------------------------------------------------


async def logs(context: Context, _: CallToolRequestParams) -> Result:
    """Log messages belong to the handshake era; the stateless one wants them only where a request asks for them."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        if context.protocol_version < "2026-07-28":
            note = LoggingMessageNotification(params=LoggingMessageNotificationParams(level="info", data=text))
            await context.session.send_notification(note, context.request_id)
        await anyio.sleep(0.05)
    return blocks("Logged three messages")


async def progresses(context: Context, _: CallToolRequestParams) -> Result:
    for progress in (0, 50, 100):
        await context.session.report_progress(progress, 100)
        await anyio.sleep(0.05)
    return blocks("Progressed")


async def fails(_: Context, __: CallToolRequestParams) -> Result:
    result = blocks("This tool intentionally returns an error for testing")
    return result.model_copy(update={"is_error": True})


async def needs_sampling(context: Context, _: CallToolRequestParams) -> Result:
    able = context.session.client_capabilities
    if able is None or able.sampling is None:
        data: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs sampling", data)
    return blocks("The client can sample")


# -- the registry -------------------------------------------------------------------------------------------------------------------

EMPTY: dict[str, Any] = {"type": "object", "additionalProperties": False}
DIALECT: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def texts(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}


def resource(uri: str, kind: str, text: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": text}}


ROOTS: InputRequests = {"client_roots": ListRootsRequest()}
ALL: InputRequests = {"user_name": ASK_NAME, "greeting": sampling("Generate a greeting", 50), **ROOTS}
IRR = "test_input_required_result_"

TOOLS: Mapping[str, tuple[Call, dict[str, Any]]] = {
    "test_simple_text": (says("This is a simple text response for testing."), EMPTY),
    "test_image_content": (says(IMAGE), EMPTY),
    "test_audio_content": (says({"type": "audio", "data": WAV, "mimeType": "audio/wav"}), EMPTY),
    "test_embedded_resource": (
        says(resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")),
        EMPTY,
    ),
    "test_multiple_content_types": (
        says("Multiple content types test:", IMAGE, resource("test://mixed", "application/json", '{"test":"data","value":123}')),
        EMPTY,
    ),
    "test_tool_with_logging": (logs, EMPTY),
    "test_logging_tool": (logs, EMPTY),
    "test_tool_with_progress": (progresses, EMPTY),
    "test_error_handling": (fails, EMPTY),
    "test_missing_capability": (needs_sampling, EMPTY),
    "test_sampling": (sampled, texts("prompt")),
    "test_elicitation": (
        elicits(None, {"username": {"type": "string"}, "email": {"type": "string"}}, ["username", "email"]),
        texts("message"),
    ),
    "test_elicitation_sep1034_defaults": (elicits("Defaults", DEFAULTS), EMPTY),
    "test_elicitation_sep1330_enums": (elicits("Enums", ENUMS), EMPTY),
    "json_schema_2020_12_tool": (says("understood"), DIALECT),
    "test_streaming_elicitation": (asks({"user_name": ASK_NAME}, lambda _: "Hello"), EMPTY),
    f"{IRR}elicitation": (asks({"user_name": ASK_NAME}, lambda given: f"Hello, {given['user_name'].content['name']}!"), EMPTY),
    f"{IRR}sampling": (
        asks({"capital_question": sampling("What is the capital of France?", 100)}, lambda given: str(given["capital_question"].content)),
        EMPTY,
    ),
    f"{IRR}list_roots": (asks(ROOTS, lambda given: str([str(root.uri) for root in given["client_roots"].roots])), EMPTY),
    f"{IRR}request_state": (asks({"confirm": ASK_OK}, lambda _: "state-ok", "confirming"), EMPTY),
    f"{IRR}tampered_state": (asks({"confirm": ASK_OK}, lambda _: "state-ok", "confirming"), EMPTY),
    f"{IRR}multiple_inputs": (asks(ALL, lambda given: f"{len(given)} answers", "all"), EMPTY),
    f"{IRR}multi_round": (multi_round, EMPTY),
    f"{IRR}capabilities": (by_capability, EMPTY),
}

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
    f"{IRR}prompt": (),
}

TEXTS: Mapping[str, dict[str, Any]] = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched"},
}


def prompt_messages(name: str, arguments: Mapping[str, str]) -> list[dict[str, Any]]:
    def text(said: str) -> dict[str, Any]:
        return {"type": "text", "text": said}

    content = {
        "test_simple_prompt": [text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": [text(f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'")],
        "test_prompt_with_embedded_resource": [
            resource(arguments.get("resourceUri", "test://none"), "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": [IMAGE, text("Please analyze the image above.")],
    }
    return [{"role": "user", "content": one} for one in content[name]]


# -- beside our own -----------------------------------------------------------------------------------------------------------------


def fixture_server(service: Service) -> Server[Any]:
    """The product's server, which answers the suite's names too."""
    server = build_server(service)
    jobs = Jobs()
    offer_tasks(server, jobs)
    tools = {**TOOLS, **task_tools(jobs)}
    bus = InMemorySubscriptionBus()
    listener = ListenHandler(bus)

    def ours(method: str) -> Callable[[Context, Any], Awaitable[Any]]:
        entry = server.get_request_handler(method)
        assert entry is not None, method
        return entry.handler

    own = {
        method: ours(method)
        for method in (
            *("tools/list", "tools/call", "prompts/list", "prompts/get", "completion/complete", "subscriptions/listen"),
            *("resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe"),
        )
    }

    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        listed: ListToolsResult = await own["tools/list"](context, params)
        more = [Tool(name=name, description=f"For the suite: {name}", input_schema=schema) for name, (_, schema) in tools.items()]
        return listed.model_copy(update={"tools": [*listed.tools, *more]})

    async def call_tool(context: Context, params: CallToolRequestParams) -> Any:
        if params.name in ("test_trigger_tool_change", "test_trigger_prompt_change"):
            await bus.publish(ToolsListChanged() if params.name == "test_trigger_tool_change" else PromptsListChanged())
            return blocks("Changed")
        if params.name in tools:
            return await tools[params.name][0](context, params)
        return await own["tools/call"](context, params)

    async def list_prompts(context: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
        listed: ListPromptsResult = await own["prompts/list"](context, params)
        more = [
            ListedPrompt(
                name=name, description=f"For the suite: {name}", arguments=[PromptArgument(name=one, required=True) for one in arguments]
            )
            for name, arguments in PROMPTS.items()
        ]
        return listed.model_copy(update={"prompts": [*listed.prompts, *more]})

    async def get_prompt(context: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        if params.name == f"{IRR}prompt":
            answer = (params.input_responses or {}).get("user_context")
            if not isinstance(answer, ElicitResult):
                asked = form("What context should the prompt use?", {"context": {"type": "string"}}, ["context"])
                return InputRequiredResult(input_requests={"user_context": asked})
            said = {"role": "user", "content": {"type": "text", "text": str((answer.content or {}).get("context"))}}
            return GetPromptResult.model_validate({"messages": [said]})
        if params.name in PROMPTS:
            return GetPromptResult.model_validate({"messages": prompt_messages(params.name, params.arguments or {})})
        return await own["prompts/get"](context, params)

    async def complete(context: Context, params: CompleteRequestParams) -> CompleteResult:
        if getattr(params.ref, "name", "") in PROMPTS:
            return CompleteResult(completion=Completion(values=["test"]))
        return await own["completion/complete"](context, params)

    async def list_resources(context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        listed: ListResourcesResult = await own["resources/list"](context, params)
        more = ListResourcesResult.model_validate({"resources": [{"uri": uri, "name": uri} for uri in TEXTS]})
        return listed.model_copy(update={"resources": [*listed.resources, *more.resources]})

    async def list_templates(context: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        listed: ListResourceTemplatesResult = await own["resources/templates/list"](context, params)
        template = {"uriTemplate": "test://template/{id}/data", "name": "test template"}
        more = ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})
        return listed.model_copy(update={"resource_templates": [*listed.resource_templates, *more.resource_templates]})

    async def read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        found = TEXTS.get(params.uri)
        if made := re.fullmatch(r"test://template/([^/]+)/data", params.uri):
            data = {"id": made[1], "templateTest": True, "data": f"Data for ID: {made[1]}"}
            found = {"mimeType": "application/json", "text": json.dumps(data)}
        if found is None:
            return await own["resources/read"](context, params)
        return ReadResourceResult.model_validate({"contents": [{"uri": params.uri, **found}]})

    async def subscribe(context: Context, params: SubscribeRequestParams) -> EmptyResult:
        return EmptyResult() if params.uri in TEXTS else await own["resources/subscribe"](context, params)

    async def unsubscribe(context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        return EmptyResult() if params.uri in TEXTS else await own["resources/unsubscribe"](context, params)

    async def listening(context: Context, params: SubscriptionsListenRequestParams) -> Any:
        wanted = params.notifications
        if wanted.tools_list_changed or wanted.prompts_list_changed:
            return await listener(context, params)
        return await own["subscriptions/listen"](context, params)

    server.add_request_handler("tools/list", PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)
    server.add_request_handler("prompts/list", PaginatedRequestParams, list_prompts)
    server.add_request_handler("prompts/get", GetPromptRequestParams, get_prompt)
    server.add_request_handler("completion/complete", CompleteRequestParams, complete)
    server.add_request_handler("resources/list", PaginatedRequestParams, list_resources)
    server.add_request_handler("resources/templates/list", PaginatedRequestParams, list_templates)
    server.add_request_handler("resources/read", ReadResourceRequestParams, read_resource)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
    server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, listening)
    return server


def main() -> None:
    """Serve until somebody ends the process."""
    address = parse_address("127.0.0.1:0")
    with DecisionStore() as store, listen(address) as listener:
        server = fixture_server(Service(tools=NexusControlTools(store)))
        print(address.url(listener.getsockname()[1]), flush=True)
        anyio.run(serve_http, http_app(server, address), listener, address)


if __name__ == "__main__":
    main()
