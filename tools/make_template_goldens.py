#!/usr/bin/env python3
"""Writes what Jinja2 makes of chat templates with tools and documents, for tests that need no Python.

    python3 tools/make_template_goldens.py FOLDER tests/golden/templates.json

FOLDER is llama.cpp's folder `models/templates`. Jinja2 is set up as transformers does (tools/peer_text.py). Messages,
tools and documents are kept as JSON texts, so that the order of keys stays.
"""
import json
import sys
from pathlib import Path

import peer_text
from peer_text import CASES, NOW, SYSTEM, TOOLS, USER

DOCUMENTS = [
    {"title": "Sums \"& more\"", "text": "Two and two are four.\n", "doc_id": "1"},
    {"title": "Ünïcode", "text": "<b>Three</b>", "doc_id": "2"},
]
DOCUMENT_CASES = {
    "documents": ([USER], None, {"documents": DOCUMENTS}),
    "system, tools and documents": ([SYSTEM, USER], TOOLS, {"documents": DOCUMENTS}),
}
# What templates do with tools, calls and documents, in the expressions that differ between implementations of Jinja.
OWN = """\
{%- if tools is iterable and tools | length > 0 %}{{ tools | tojson }}
{% for tool in tools %}{% set f = tool.function if tool.function is defined else tool %}{{ f.name }}({% for name, p in \
f.parameters.properties.items() %}{{ name }}: {{ p.type }}{% if p.enum %} in {{ p.enum }}{% endif %}\
{% if 'default' in p %} = {{ p.default }}{% endif %}{{ ', ' if not loop.last }}{% endfor %}) {{ f.parameters | \
tojson(indent=2) }}
{% endfor %}{%- endif %}
{%- for d in documents or [] %}[{{ loop.index }}/{{ documents | length }}] {{ d['title'] | e }}: {{ d.text | trim }}
{% endfor %}
{%- for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content | trim }}{% elif m.content is none %}-\
{% else %}{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('|') }}{% endif %}
{% for c in m.tool_calls or [] %}{% set a = c.function.arguments %}{{ c.id }} {{ c.function.name }} \
{{ a if a is string else a | tojson(sort_keys=true, separators=(',', ':')) }} {{ a is mapping }} {{ a }}
{% endfor %}{% if m.role == 'tool' %}{{ m.tool_call_id | default('?', true) }} {{ m.name }}
{% endif %}{% endfor %}{{ strftime_now('%Y-%m-%d') }}{% if add_generation_prompt %} assistant:{% endif %}"""
# What becomes of text after `safe` and `escape`, where Jinja2's `+` escapes the other side.
MARKUP = """\
{% set s = '<b>' | safe %}{% set c %}<{% endset %}{% macro m(x) %}<{{ x }}>{% endmacro %}
{{ s + '<i>' + "\\"'&" }} {{ '<i>' + s }} {{ s + s + '<' }} {{ '<' + '&' }} {{ s + c + m('&') }}
{{ s ~ '<i>' }} {{ (s ~ s) + '<' }} {{ (s ~ 1) + '<' }} {{ ([s, '<'] | join(s)) + '<' }} {{ ('<' | e) + '<' }}
{{ ('<%s>' | safe | format('<')) + '<' }} {{ (s | upper | trim) + '<' }} {{ (s | replace('b', '<')) + '<' }}
{{ (s * 2) + '<' }} {{ (s | string) + '<' }} {{ (s | default('x')) + '<' }} {{ s == '<b>' }} {{ s in '<b>' }} {{ ([s] + ['<']) | length }}
{{ 1 + 2 }} {{ (1.5 + (messages | length)) is number }} {{ (messages + messages) | length }}
{%- for m in messages %}
{{ '[' | safe + m.role + ']: ' + (m.content if m.content is string else m.content | tojson) }}
{%- endfor %}"""
FILES = [
    "Qwen3-Coder",
    "ibm-granite-granite-3.3-2B-Instruct",
    "HuggingFaceTB-SmolLM3-3B",
    "meetkai-functionary-medium-v3.1",
]
# One of a kind: the whole list is for tools/peer_text.py.
KEPT = ["plain", "tools", "system and tools", "call", "result", "result and turn", "arguments as text", "content none",
        "two users"]


def rendered(source, case):
    messages, tools, options = case
    variables = {"messages": messages, "tools": tools, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    variables |= {"add_generation_prompt": True} | options
    try:
        return peer_text.environment().from_string(source).render(**variables)
    except Exception:  # noqa: BLE001
        return None


def main():
    folder, out = Path(sys.argv[1]), sys.argv[2]
    cases = {name: CASES[name] for name in KEPT} | DOCUMENT_CASES
    text = lambda value: None if value is None else json.dumps(value, ensure_ascii=False)
    sources = {"own": OWN, "markup": MARKUP} | {name: (folder / f"{name}.jinja").read_text() for name in FILES}
    templates = []
    for name, source in sources.items():
        kept = [
            {
                "name": case,
                "messages": text(messages),
                "tools": text(tools),
                "documents": text(options.get("documents")),
                "add_generation_prompt": options.get("add_generation_prompt", True),
                # None where Jinja2 raises.
                "expected": rendered(source, (messages, tools, options)),
            }
            for case, (messages, tools, options) in cases.items()
        ]
        templates.append({"name": name, "source": source, "cases": kept})
    with open(out, "w") as file:
        json.dump({"now": NOW, "templates": templates}, file, ensure_ascii=False, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
