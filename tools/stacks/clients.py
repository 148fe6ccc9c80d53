"""Tests `serve` with the official clients and its page with Chromium: clients.py PROGRAM MODEL CHROMIUM FOLDER

Screenshots of the page are left in FOLDER. Needs openai, anthropic and playwright.
"""

import json
import os
import subprocess
import sys

import anthropic
import openai
from playwright.sync_api import sync_playwright

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
KEY = "a-key"
NAME = "demo"


def start(program, model):
    arguments = [program, "serve", model, "--port", "0", "--ctx", "512", "--alias", NAME, "--api-key", KEY]
    server = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    address = None
    for line in server.stderr:
        if line.startswith("listening on "):
            address = line.removeprefix("listening on ").strip()
        if line == "ready\n":
            return server, address
    sys.exit("the server did not start")


def failure(kind, call):
    """Returns the error that a call must raise."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def openai_chat(client):
    create = client.chat.completions.create
    whole = create(model=NAME, messages=MESSAGES, temperature=0, max_tokens=20)
    assert "Paris" in whole.choices[0].message.content and whole.choices[0].finish_reason == "stop"
    text, usage = "", None
    options = {"include_usage": True}
    for chunk in create(model=NAME, messages=MESSAGES, temperature=0, max_tokens=20, stream=True, stream_options=options):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content and usage.completion_tokens == whole.usage.completion_tokens


def openai_logprobs(client):
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, temperature=0, max_tokens=4, logprobs=True, top_logprobs=2
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 4 and all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)


def openai_json_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    answer = client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=300, response_format=form)
    assert json.loads(answer.choices[0].message.content)["city"] in ("Paris", "Rome")


def openai_tools(client):
    function = {"name": "weather", "parameters": SCHEMA, "strict": True}
    tools = [{"type": "function", "function": function}]
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_tokens=300, tools=tools, tool_choice="required"
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    with client.chat.completions.stream(
        model=NAME, messages=MESSAGES, max_tokens=300, tools=tools, tool_choice="required"
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "weather"


def openai_completions(client):
    answer = client.completions.create(model=NAME, prompt=["The sea", "The sun"], max_tokens=3, temperature=0)
    assert len(answer.choices) == 2
    assert [model.id for model in client.models.list()] == [NAME]


def openai_embeddings(client):
    # The client asks for base64, unless told.
    packed = client.embeddings.create(model=NAME, input=["The sea", "The sea is deep"])
    plain = client.embeddings.create(model=NAME, input="The sea", encoding_format="float")
    vectors = [entry.embedding for entry in packed.data]
    assert len(vectors) == 2 and all(abs(sum(x * x for x in vector) - 1) < 1e-5 for vector in vectors)
    assert all(abs(a - b) < 1e-6 for a, b in zip(vectors[0], plain.data[0].embedding))
    assert packed.usage.prompt_tokens > plain.usage.prompt_tokens > 0
    error = failure(openai.BadRequestError, lambda: client.embeddings.create(model=NAME, input="x", dimensions=3))
    assert error.param == "dimensions"


def openai_errors(client):
    create = client.chat.completions.create
    error = failure(openai.BadRequestError, lambda: create(model=NAME, messages=MESSAGES, temperature=9000))
    assert error.param == "temperature"
    failure(openai.NotFoundError, lambda: create(model="other", messages=MESSAGES))
    other = openai.OpenAI(base_url=client.base_url, api_key="wrong", max_retries=0)
    failure(openai.AuthenticationError, other.models.list)


def anthropic_messages(client):
    more = {"extra_body": {"temperature": 0}}
    whole = client.messages.create(model=NAME, max_tokens=20, messages=MESSAGES, **more)
    assert "Paris" in whole.content[0].text and whole.stop_reason == "end_turn"
    stopped = client.messages.create(model=NAME, max_tokens=20, messages=MESSAGES, stop_sequences=["Par"], **more)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Par")
    with client.messages.stream(model=NAME, max_tokens=20, messages=MESSAGES, **more) as stream:
        text = "".join(stream.text_stream)
    assert text == whole.content[0].text
    count = client.messages.count_tokens(model=NAME, messages=MESSAGES).input_tokens
    assert count == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    failure(anthropic.BadRequestError, lambda: client.messages.create(model=NAME, max_tokens=2, messages=[]))


def anthropic_tools(client):
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    answer = client.messages.create(
        model=NAME, max_tokens=300, messages=MESSAGES, tools=tools, tool_choice={"type": "any"}
    )
    assert answer.stop_reason == "tool_use" and answer.content[0].input["city"] in ("Paris", "Rome")
    # Arguments come in parts.
    parts = []
    with client.messages.stream(
        model=NAME, max_tokens=300, messages=MESSAGES, tools=tools, tool_choice={"type": "any"}
    ) as stream:
        for event in stream:
            if event.type == "input_json":
                parts.append(event.partial_json)
        final = stream.get_final_message()
    assert len(parts) > 2 and final.content[0].input["city"] in ("Paris", "Rome")


PRESS_ESCAPE = """new MutationObserver((_, observer) => {
    if (!document.querySelectorAll("article.assistant")[1]?.querySelector("p")?.textContent) return;
    observer.disconnect();
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
}).observe(document.querySelector("main"), { childList: true, subtree: true, characterData: true })"""


def page(address, chromium, folder):
    """Uses the page by keyboard, in light and dark, on a screen and on a phone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        sizes = {"screen": ({"width": 1200, "height": 800}, "light"), "phone": ({"width": 390, "height": 800}, "dark")}
        for name, (size, scheme) in sizes.items():
            context = browser.new_context(viewport=size, color_scheme=scheme)
            tab = context.new_page()
            problems, foreign = [], []
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.on("request", lambda request: foreign.append(request.url))
            tab.on("dialog", lambda dialog: dialog.accept(KEY))
            tab.goto(address)
            # The text field has the focus, and the server asks for a key.
            tab.keyboard.type(QUESTION)
            tab.keyboard.press("Enter")
            tab.locator(".stats", has_text="cached").first.wait_for(timeout=120_000)
            assert "Paris" in tab.inner_text("article.assistant"), tab.inner_text("main")
            tab.screenshot(path=os.path.join(folder, f"{name}.png"))
            # A long reply is stopped by Escape, which the page itself presses at its first words: a short reply could end before
            # Playwright does.
            tab.evaluate(PRESS_ESCAPE)
            tab.keyboard.type("Tell me a long story about a mouse.")
            tab.keyboard.press("Enter")
            tab.locator(".stats", has_text="stopped").wait_for(timeout=120_000)
            tab.locator("#send").wait_for()
            assert "stopped" in tab.inner_text("main")
            # Conversations outlive the page.
            tab.reload()
            assert tab.locator("#list li").count() == 1
            if name == "phone":
                tab.click("#menu")
            tab.click("#list li button")
            assert "Paris" in tab.inner_text("main")
            overflow = tab.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not overflow and not problems, (overflow, problems)
            assert all(url.startswith((address, "data:")) for url in foreign), foreign
            tab.screenshot(path=os.path.join(folder, f"{name}-again.png"))
            context.close()
        version = browser.version
        browser.close()
    return version


def main():
    program, model, chromium, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    server, address = start(program, model)
    passed = 0
    try:
        of_openai = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        of_anthropic = anthropic.Anthropic(base_url=address, api_key=KEY, max_retries=0)
        tests = [
            (openai_chat, of_openai),
            (openai_logprobs, of_openai),
            (openai_json_schema, of_openai),
            (openai_tools, of_openai),
            (openai_completions, of_openai),
            (openai_embeddings, of_openai),
            (openai_errors, of_openai),
            (anthropic_messages, of_anthropic),
            (anthropic_tools, of_anthropic),
        ]
        for test, client in tests:
            test(client)
            passed += 1
            print(f"{test.__name__}: passed", flush=True)
        print(f"Chrome/{page(address, chromium, folder)}: the page: passed")
        passed += 1
    finally:
        server.terminate()
        code = server.wait(60)
    assert code == 143, code
    print(f"{passed} passed, 0 failed")


main()
