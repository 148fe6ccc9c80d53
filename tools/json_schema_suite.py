#!/usr/bin/env python3
"""Generates JSON by the schemas of JSON-Schema-Test-Suite, with random models, and validates it.

    json_schema_suite.py SUITE MODEL... [--drafts draft7,draft2020-12] [--every N] [--seeds N] [--max-tokens N]

SUITE is the folder `json` of the source distribution of jsonschema (PyPI). Each schema either is refused with a reason, or
each completed output validates. Needs ferrum_wgpu (see python/) and jsonschema.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import sys

import ferrum_wgpu
import jsonschema
import referencing.jsonschema


def cases(suite, drafts, every):
    """Yields the name, the draft and the schema of each group of tests."""
    number = 0
    for draft in drafts:
        folder = suite / "tests" / draft
        for path in sorted(folder.rglob("*.json")):
            # Python's regular expressions cannot judge them: its classes are Unicode's, and it has no \p.
            if path.name == "ecmascript-regex.json":
                continue
            for group in json.loads(path.read_text()):
                number += 1
                if number % every == 0:
                    yield f"{draft}/{path.relative_to(folder)}: {group['description']}", draft, group["schema"]


def registry(suite):
    """Returns the schemas that others refer to by their addresses."""
    found = referencing.Registry()
    for path in sorted((suite / "remotes").rglob("*.json")):
        contents = json.loads(path.read_text())
        dialect = contents.get("$schema") if isinstance(contents, dict) else None
        known = dialect in {None, *(validator.META_SCHEMA.get("$id") for validator in VALIDATORS.values())}
        if known:
            address = f"http://localhost:1234/{path.relative_to(suite / 'remotes').as_posix()}"
            resource = referencing.Resource.from_contents(contents, default_specification=referencing.jsonschema.DRAFT202012)
            found = found.with_resource(address, resource)
    return found


VALIDATORS = {
    "draft4": jsonschema.Draft4Validator,
    "draft6": jsonschema.Draft6Validator,
    "draft7": jsonschema.Draft7Validator,
    "draft2019-09": jsonschema.Draft201909Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}


def ends(engine):
    """Returns biases that let a random model end what it begins."""
    biases = {}
    for text, bias in (('"', 4.0), ("}", 4.0), ("]", 4.0)):
        tokens = engine.tokenize(text)
        if len(tokens) == 1:
            biases[tokens[0]] = bias
    return biases


def run(engine, schema, seed, max_tokens, biases):
    """Returns the reply to a schema, or None if it is not complete."""
    reply = engine.generate("{", json_schema=json.dumps(schema), temperature=1.0, top_k=0, top_p=1.0, seed=seed,
                            max_tokens=max_tokens, logit_bias=biases)
    text = reply.text()
    return text if reply.finish_reason == "stop" else None


def reason(error):
    """Returns the kind of a refusal: its message without what differs from schema to schema."""
    line = str(error).splitlines()[0]
    return line[:76] if line.startswith("Unimplemented keys") else re.sub(r"[\"'`\[{(].*", "…", line)[:60]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", type=pathlib.Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--drafts", default=",".join(VALIDATORS))
    parser.add_argument("--every", type=int, default=1, help="take every N-th schema")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=120)
    args = parser.parse_args()
    schemas = list(cases(args.suite, args.drafts.split(","), args.every))
    remotes = registry(args.suite)
    refused, accepted, failures = collections.Counter(), set(), []
    validated = incomplete = 0
    for number, path in enumerate(args.models):
        engine = ferrum_wgpu.Engine(path, context=256, sequences=8, kv_tokens=2048)
        biases = ends(engine)

        def one(case):
            name, draft, schema = case
            done = []
            for seed in range(args.seeds):
                try:
                    text = run(engine, schema, seed, args.max_tokens, biases)
                except ferrum_wgpu.GrammarError as error:
                    return name, str(error), done
                done.append((seed, text))
            return name, None, done

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for (name, draft, schema), (_, error, done) in zip(schemas, pool.map(one, schemas)):
                if error is not None:
                    if number == 0:
                        refused[reason(error)] += 1
                    continue
                accepted.add(name)
                dialect = jsonschema.validators.validator_for(schema, default=VALIDATORS[draft])
                validator = dialect(schema, registry=remotes)
                for seed, text in done:
                    if text is None:
                        incomplete += 1
                        continue
                    try:
                        problem = next(validator.iter_errors(json.loads(text)), None)
                    except Exception as error:  # Of the validator, or no JSON.
                        problem = f"{type(error).__name__}: {error}"
                    if problem is None:
                        validated += 1
                    else:
                        problem = getattr(problem, "message", problem)
                        failures.append(f"{name}\n  {json.dumps(schema)[:300]}\n  seed {seed}: {text[:200]!r}\n  {problem}")
        assert engine.kv_blocks[1] == engine.kv_blocks[0], "blocks were not freed"
    print("\n".join(failures))
    for text, count in refused.most_common(12):
        print(f"refused {count:5}  {text}")
    print(f"{len(schemas)} schemas, {len(accepted)} accepted, {sum(refused.values())} refused by name; "
          f"outputs of {len(args.models)} models: {validated} valid, {len(failures)} invalid, {incomplete} incomplete")
    sys.exit(bool(failures) or validated == 0)


main()
