"""Tests of the package on the demo model."""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ferrum_wgpu
from ferrum_wgpu import Engine

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def test_devices() -> None:
    devices = ferrum_wgpu.devices()
    assert [device.index for device in devices] == list(range(len(devices)))
    assert all(device.name and device.backend for device in devices)


def test_engine(engine: Engine) -> None:
    assert engine.context == 512 and engine.vocab_size > 0 and engine.device and engine.architecture
    assert repr(engine).startswith("Engine(")
    assert "message" in engine.chat_template
    total, free = engine.kv_blocks
    assert 0 < free <= total


def test_conversation(engine: Engine) -> None:
    chat = engine.chat(temperature=0, max_tokens=40)
    reply = chat.say("My name is Ada.")
    pieces = list(reply)
    assert len(pieces) > 1 and "".join(pieces) == reply.text() == reply.text_so_far
    assert reply.finish_reason == "stop" and reply.prompt_tokens > 0 and reply.completion_tokens >= len(pieces)
    second = chat.say(QUESTION)
    assert "Paris" in second.text()
    assert second.cached_tokens > 0
    roles = [message["role"] for message in chat.messages]
    assert roles == ["user", "assistant", "user", "assistant"]
    # A saved conversation goes on in another one.
    other = engine.chat(messages=chat.messages[:2], temperature=0, max_tokens=40)
    assert other.say(QUESTION).text() == second.text()
    other.messages = chat.messages
    assert other.messages == chat.messages
    other.clear()
    assert other.messages == []


def test_system_message_stays(engine: Engine) -> None:
    chat = engine.chat(system="Be brief.", temperature=0, max_tokens=4)
    chat.say("Hello!").text()
    assert len(chat.messages) == 3
    chat.clear()
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_generate(engine: Engine) -> None:
    prompt = engine.render(MESSAGES)
    reply = engine.generate(prompt, temperature=0, max_tokens=30)
    assert reply.text() == engine.chat(temperature=0, max_tokens=30).say(QUESTION).text()
    assert engine.generate(prompt, temperature=0, max_tokens=3).text() in reply.text()
    # Seeds decide.
    texts = {engine.generate(prompt, temperature=2.0, top_k=0, top_p=1, seed=seed, max_tokens=8).text() for seed in (1, 2, 1)}
    assert len(texts) == 2
    short = engine.generate(prompt, temperature=0, max_tokens=2)
    short.text()
    assert short.finish_reason == "length" and short.completion_tokens == 2
    stopped = engine.generate(prompt, temperature=0, stop="Paris")
    assert "Paris" not in stopped.text() and stopped.finish_reason == "stop"


def test_tokens(engine: Engine) -> None:
    tokens = engine.tokenize("The capital of France")
    assert engine.detokenize(tokens) == "The capital of France"
    begun = engine.tokenize("The capital of France", add_special=True)
    assert begun[-len(tokens) :] == tokens
    logits = engine.logits(engine.tokenize(engine.render(MESSAGES)))
    best = max(range(len(logits)), key=logits.__getitem__)
    first = next(engine.chat(temperature=0).say(QUESTION))
    assert len(logits) == engine.vocab_size and engine.detokenize([best]).startswith(first.strip()[:1])


@pytest.mark.parametrize(
    "options, check",
    [
        ({"json_schema": SCHEMA}, lambda text: json.loads(text)["city"] in ("Paris", "Rome")),
        ({"json_schema": json.dumps(SCHEMA)}, lambda text: json.loads(text)["city"] in ("Paris", "Rome")),
        ({"regex": "[0-9]{3}"}, lambda text: len(text) == 3 and text.isdigit()),
        ({"grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
    ],
)
def test_constraints(engine: Engine, options: dict[str, Any], check: Callable[[str], bool]) -> None:
    assert check(engine.chat(**options).say(QUESTION).text())


def test_chat_completion(engine: Engine) -> None:
    answer = engine.chat_completion(messages=MESSAGES, temperature=0, max_tokens=20, logprobs=True, top_logprobs=2)
    choice = answer["choices"][0]
    assert "Paris" in choice["message"]["content"] and len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
    stream = engine.chat_completion(messages=MESSAGES, temperature=0, max_tokens=20, stream=True)
    chunks = [chunk["choices"][0]["delta"].get("content") or "" for chunk in stream if chunk["choices"]]
    assert "".join(chunks) == choice["message"]["content"]
    answer = engine.chat_completion(messages=MESSAGES, tools=TOOLS, tool_choice="required", max_tokens=80)
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather" and json.loads(call["arguments"])["city"] in ("Paris", "Rome")
    with pytest.raises(ferrum_wgpu.RequestError) as raised:
        engine.chat_completion(messages=MESSAGES, temperature=9000)
    assert (raised.value.status, raised.value.param) == (400, "temperature")


def test_errors(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Engine(tmp_path / "none.gguf")
    (tmp_path / "wrong.gguf").write_bytes(b"no GGUF file" * 10)
    with pytest.raises(ferrum_wgpu.FileFormatError):
        Engine(tmp_path / "wrong.gguf")
    with pytest.raises(ferrum_wgpu.DeviceError):
        Engine(Path(__file__).parents[2] / "models/demo-q4_k_m.gguf", device="no such device")
    wrong_values: list[dict[str, Any]] = [{"temperature": -1}, {"top_p": 2}, {"seed": -1}, {"logit_bias": {1 << 31: 1.0}}]
    for wrong in wrong_values:
        with pytest.raises(ValueError):
            engine.chat(**wrong)
    wrong_types: list[dict[str, Any]] = [{"temperature": "hot"}, {"heat": 1}]
    for wrong in wrong_types:
        with pytest.raises(TypeError, match=next(iter(wrong))):
            engine.chat(**wrong)
    with pytest.raises(TypeError):
        engine.generate("x", thinking=True)  # type: ignore[call-arg]
    with pytest.raises(ferrum_wgpu.GrammarError):
        engine.chat(regex="(")
    with pytest.raises(ferrum_wgpu.ContextFullError):
        engine.generate("word " * 2000).text()
    with pytest.raises(ValueError):
        engine.logits([1 << 31])
    with pytest.raises(ValueError):
        engine.chat(messages=[{"role": "nobody", "content": ""}])
    chat = engine.chat(temperature=0)
    first = chat.say(QUESTION)
    with pytest.raises(ferrum_wgpu.BusyError):
        chat.say(QUESTION).text()
    assert "Paris" in first.text()
    assert issubclass(ferrum_wgpu.BusyError, ferrum_wgpu.EngineError)


def test_threads_share_batches(engine: Engine) -> None:
    """Eight threads get what each gets alone, and others run while they compute."""
    questions = [f"What is {n} + 5?" for n in range(8)]
    alone = [engine.chat(temperature=0, max_tokens=24).say(question).text() for question in questions]
    together: dict[str, str] = {}

    def ask(question: str) -> None:
        together[question] = engine.chat(temperature=0, max_tokens=24).say(question).text()

    threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    ticks, pause = 0, 0.0
    while any(thread.is_alive() for thread in threads):
        before = time.monotonic()
        time.sleep(0.001)
        pause = max(pause, time.monotonic() - before)
        ticks += 1
    assert [together[question] for question in questions] == alone
    # The global lock is not held for a step.
    assert ticks > 10 and pause < 1, (ticks, pause)


def test_async(engine: Engine) -> None:
    async def ask(question: str) -> str:
        return "".join([piece async for piece in engine.chat(temperature=0, max_tokens=24).say(question)])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(ask(QUESTION) for _ in range(3)))

    answers = asyncio.run(all_of_them())
    assert "Paris" in answers[0] and answers == answers[:1] * 3

    async def leave() -> ferrum_wgpu.Reply:
        reply = engine.chat(temperature=0).say("Tell me a story about a fox.")
        pieces = aiter(reply)
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        return reply

    left = asyncio.run(leave())
    assert left.finish_reason is None and left.completion_tokens < 20 and list(left) == []


def test_cancelled_replies_free_their_blocks(engine: Engine) -> None:
    gc.collect()
    free = engine.kv_blocks[1]
    chat = engine.chat(temperature=0)
    reply = chat.say("Tell me a story about a fox.")
    next(reply)
    assert engine.kv_blocks[1] < free
    reply.cancel()
    assert reply.finish_reason is None and len(chat.messages) == 2
    stream = engine.chat_completion(messages=MESSAGES, stream=True)
    next(stream)
    stream.cancel()
    assert list(stream) == []
    del chat, reply, stream
    gc.collect()
    assert engine.kv_blocks[1] == free
