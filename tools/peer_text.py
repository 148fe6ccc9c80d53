#!/usr/bin/env python3
"""Compares tokenizers and chat templates with llama.cpp's vocabularies and with Jinja2.

    python3 tools/peer_text.py FOLDER [PROGRAM]

FOLDER is llama.cpp's folder `models`, with `ggml-vocab-*.gguf`, their `.inp` and `.out`, and `templates/*.jinja`. PROGRAM
is the command line (default: target/debug/ferrum-wgpu). Needs the Python package jinja2, set up here as transformers
does. Exits with 1 if a vocabulary that the program opens, or a template, differs.
"""

import concurrent.futures
import datetime
import glob
import json
import os
import subprocess
import sys
import tempfile

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = "2026-03-04T05:06:07+00:00"


class Generation(jinja2.ext.Extension):
    """The block `generation`, without effect on the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromisoformat(NOW).replace(tzinfo=None).strftime(form)
    return env


SYSTEM = {"role": "system", "content": "You are brief. <b>ünï</b>"}
USER = {"role": "user", "content": "  What is 2 + 2?\n"}
CALL = {"type": "function", "id": "call00001", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "exact": True}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.\nWith days.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name, e.g. \"Rome\""},
                    "days": {"type": "integer", "minimum": 1, "default": 1.5},
                    "exact": {"type": "boolean"},
                    "kind": {"type": "string", "enum": ["rain", "sun"]},
                },
                "required": ["city"],
            },
        },
    }
]
ASKED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"rain\": 0.5}"}


def as_text(call):
    return {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}


CASES = {
    "plain": ([USER], None, {}),
    "no prompt": ([USER, {"role": "assistant", "content": "4"}], None, {"add_generation_prompt": False}),
    "system": ([SYSTEM, USER], None, {}),
    "turns": ([SYSTEM, USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "And 3?"}], None, {}),
    "thought": (
        [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}, {"role": "user", "content": "And 3?"}],
        None, {},
    ),
    "reasoning": (
        [USER, {"role": "assistant", "content": "4", "reasoning_content": "hm"}, {"role": "user", "content": "And 3?"}],
        None, {},
    ),
    "think": ([USER], None, {"enable_thinking": True}),
    "no think": ([SYSTEM, USER], None, {"enable_thinking": False}),
    "tools": ([USER], TOOLS, {}),
    "system and tools": ([SYSTEM, USER], TOOLS, {}),
    "call": ([USER, ASKED], TOOLS, {"add_generation_prompt": False}),
    "result": ([SYSTEM, USER, ASKED, RESULT], TOOLS, {}),
    "result and turn": (
        [USER, ASKED, RESULT, {"role": "assistant", "content": "Dry."}, {"role": "user", "content": "Thanks"}], TOOLS, {},
    ),
    "arguments as text": ([USER, {**ASKED, "tool_calls": [as_text(CALL)]}, RESULT], TOOLS, {}),
    "content none": ([USER, {**ASKED, "content": None}, RESULT], TOOLS, {}),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}], None, {}),
    "two users": ([USER, USER], None, {}),
}


def template_case(program, path, source, name):
    messages, tools, options = CASES[name]
    variables = {"messages": messages, "tools": tools, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    variables |= {"add_generation_prompt": True} | options
    try:
        expected = environment().from_string(source).render(**variables)
    except Exception as error:  # noqa: BLE001
        expected = error
    with tempfile.TemporaryDirectory() as folder:
        def file(name, value):
            path = os.path.join(folder, name)
            with open(path, "w") as out:
                json.dump(value, out)
            return path

        args = [program, "template", path, "--messages", file("messages.json", messages)]
        args += ["--bos", "<s>", "--eos", "</s>", "--now", NOW]
        args += ["--tools", file("tools.json", tools)] if tools else []
        args += ["--no-generation-prompt"] if not variables["add_generation_prompt"] else []
        args += [] if "enable_thinking" not in options else ["--think" if options["enable_thinking"] else "--no-think"]
        run = subprocess.run(args, capture_output=True)
    if isinstance(expected, Exception):
        return (run.returncode == 3, f"Jinja2 raises {expected!r}; printed {run.stdout.decode()[-200:]!r}", "raised")
    if run.returncode != 0:
        return (False, run.stderr.decode().strip(), "")
    got = run.stdout.decode()
    if got == expected:
        return (True, "", "")
    at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    return (False, f"at {at}: {got[max(0, at - 40):at + 60]!r} instead of {expected[max(0, at - 40):at + 60]!r}", "")


def templates(folder, program):
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for path in sorted(glob.glob(f"{folder}/templates/*.jinja")):
            source = open(path, newline="").read()
            results = list(pool.map(lambda name: template_case(program, path, source, name), CASES))
            bad = [(name, text) for name, (same, text, _) in zip(CASES, results) if not same]
            raised = sum(kind == "raised" for _, _, kind in results)
            failed += len(bad) > 0
            print(f"{os.path.basename(path)}: {len(CASES) - len(bad)} of {len(CASES)} ({raised} refused)")
            for name, text in bad:
                print(f"    {name}: {text[:300]}")
    return failed


def vocabularies(folder, program):
    failed = 0
    for path in sorted(glob.glob(f"{folder}/ggml-vocab-*.gguf")):
        name = os.path.basename(path)
        opened = subprocess.run([program, "tokenize", path, "-p", "a"], capture_output=True)
        if opened.returncode != 0:
            print(f"{name}: not claimed: {opened.stderr.decode().strip()}")
            continue
        if not os.path.exists(path + ".inp"):
            print(f"{name}: opens; no cases")
            continue
        cases = open(path + ".inp", newline="").read().split("\n__ggml_vocab_test__\n")
        answers = [list(map(int, line.split())) for line in open(path + ".out").read().splitlines()]
        bad = []
        for text, expected in zip(cases, answers):
            run = subprocess.run([program, "tokenize", path], input=text.encode(), capture_output=True)
            got = json.loads(run.stdout)["ids"] if run.returncode == 0 else run.stderr.decode()
            if got != expected:
                bad.append((text, got, expected))
        failed += len(bad) > 0
        print(f"{name}: {len(answers) - len(bad)} of {len(answers)}")
        for text, got, expected in bad[:4]:
            print(f"    {text[:60]!r}: {str(got)[:200]} instead of {str(expected)[:200]}")
    return failed


def main():
    folder = sys.argv[1]
    program = sys.argv[2] if len(sys.argv) > 2 else "target/debug/ferrum-wgpu"
    bad = (vocabularies(folder, program), templates(folder, program))
    print(f"differ: {bad[0]} vocabularies, {bad[1]} templates")
    sys.exit(any(bad))


if __name__ == "__main__":
    main()
