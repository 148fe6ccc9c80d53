#!/usr/bin/env python3
"""Write the float64 reference's results for small models, as goldens for tests without Python.

    cargo run --example write_tiny_models -- DIR
    make_goldens.py DIR tests/golden/tiny.json
    make_goldens.py models tests/golden/demo_logits.json --prompts tests/golden/demo.json
    make_goldens.py models tests/golden/demo_probabilities.json --teach tests/golden/demo.json
    make_goldens.py DIR tests/golden/embeddings.json --states tests/golden/tiny.json ...

Writes one JSON object for every *.gguf of DIR, sorted by name:

    model     name of the file, without .gguf
    fnv1a     64-bit FNV-1a hash of the file, in hex: the golden is for this file only
    tokens    the prompt
    f32, f16  the results with an exact KV cache and with one rounded to float16:
        greedy    the greedy continuation, 8 tokens
        top       a row for each token of the prompt and of `greedy`: the 8 largest [id, logit]
        max_abs   per row, the largest magnitude of a logit
        margin    per row, as in reference.py

The prompt is the first of a fixed sequence of random prompts that suits a comparison: rounding cannot change the
routing or the greedy tokens, and the logits hardly depend on the direction in which a key or value is rounded to
float16. With --prompts it is one of that file's `answers`. With --teach, the object has instead, for each of that
file's `answers`:

    tokens    prompt and answer
    top       a row for each token: the 16 most probable next tokens [id, ln p], with an exact KV cache

With --states, the object has, for the tokens that the model has in one of those files, and an exact KV cache:

    tokens      the prompt
    mean, last  the mean of the hidden states after the output norm, and the last of them
Needs numpy and gguf (PyPI).
"""
import argparse
import json
import random
import re
from pathlib import Path

import numpy as np

from reference import Model

GREEDY, TOP, TOP_NEXT = 8, 8, 16
# Prompt lengths, assigned to the models in turn.
LENGTHS = [16, 12, 20, 13, 17, 40, 18, 33, 70, 1, 15, 19, 12, 64]
# A prompt suits if its last margin is at least MARGIN, and the two largest logits before each greedy token differ by
# GAP relative to max(10, max |logit|): with an f16 cache this is twice the minimum margin and five times the tolerance
# of a comparison.
MARGIN, GAP = 2e-3, 5e-4
# With an f16 cache, an error of NOISE may round a key or value to another float16: with ROUNDINGS sets of such random
# errors, no listed logit may move by more than MOVED times TOLERANCE.
NOISE, ROUNDINGS, MOVED, TOLERANCE = 1e-6, 4, 0.3, 1e-4
TRIES = 1000


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def run(path, kv, tokens, greedy, top=TOP):
    """Return the reference's results for `tokens` and `greedy` more tokens, and the smallest gap of the top two logits."""
    model = Model(path, kv)
    rows, margins, found = [model.forward(tokens)], list(model.margins), []
    for _ in range(greedy):
        found.append(int(rows[-1][-1].argmax()))
        rows.append(model.forward([found[-1]]))
        margins += list(model.margins)
    logits = np.concatenate(rows)
    scale = np.maximum(10.0, np.abs(logits).max(-1))
    best = -np.sort(-logits[len(tokens) - 1 : len(logits) - 1], -1)[:, :2]
    gaps = (best[:, 0] - best[:, 1]) / scale[len(tokens) - 1 : len(logits) - 1]
    result = {
        "greedy": found,
        "top": [[[int(i), round(float(r[i]), 6)] for i in np.argsort(-r, kind="stable")[:top]] for r in logits],
        "max_abs": [round(float(m), 6) for m in np.abs(logits).max(-1)],
        "margin": [None if np.isinf(m) else float(f"{m:.3g}") for m in margins],
    }
    return result, float(gaps.min(initial=np.inf))


def moved(path, tokens, result):
    """Return how far small errors before the rounding of K and V move the logits, relative to the tolerance."""
    worst = 0.0
    for seed in range(ROUNDINGS):
        rng = np.random.default_rng(seed)
        model = Model(path, "f16")
        round_kv = model.round_kv
        model.round_kv = lambda a: round_kv(a + NOISE * rng.standard_normal(a.shape))
        logits = model.forward(tokens + result["greedy"])
        for row, top, max_abs in zip(logits, result["top"], result["max_abs"]):
            largest = max(abs(row[token] - logit) for token, logit in top)
            worst = max(worst, float(largest) / (TOLERANCE * max(10.0, max_abs)))
    return worst


def random_prompts(name, length, vocab):
    for seed in range(TRIES):
        rng = random.Random(f"{name} {seed}")
        yield [rng.randrange(vocab) for _ in range(length)]


def golden(path, prompts):
    best = None
    for tokens in prompts:
        (exact, gap), (half, half_gap) = run(path, "f64", tokens, GREEDY), run(path, "f16", tokens, GREEDY)
        gap = min(gap, half_gap)
        margin = min((m for m in exact["margin"] + half["margin"] if m is not None), default=np.inf)
        quality = min(1.0, margin / MARGIN, gap / GAP)
        if quality < 1 and best is not None:
            continue
        sensitivity = moved(path, tokens, half)
        quality = min(quality, MOVED / sensitivity)
        if best is None or quality > best[0]:
            best = quality, margin, gap, sensitivity, tokens, exact, half
        if quality >= 1:
            break
    quality, margin, gap, sensitivity, tokens, exact, half = best
    print(f"{path.stem}: {len(tokens)} tokens, {len(exact['top'])} rows, margin {margin:.2g}, greedy gap {gap:.2g}, "
          f"moved {sensitivity:.2f}, largest logit {max(exact['max_abs']):.1f}")
    if quality < 1:
        raise SystemExit(f"{path}: no prompt suits; the line above describes the best one")
    return {"model": path.stem, "fnv1a": fnv1a(path.read_bytes()), "tokens": tokens, "f32": exact, "f16": half}


def probabilities(path, answers):
    """Return the reference's next-token probabilities in conversations."""
    found = []
    for answer in answers:
        tokens = answer["prompt_tokens"] + answer["answer_tokens"]
        logits = Model(path, "f64").forward(tokens)
        shifted = logits - logits.max(-1, keepdims=True)
        rows = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        top = [[[int(i), round(float(r[i]), 6)] for i in np.argsort(-r, kind="stable")[:TOP_NEXT]] for r in rows]
        found.append({"tokens": tokens, "top": top})
    return {"model": path.stem, "fnv1a": fnv1a(path.read_bytes()), "answers": found}


def states(path, files):
    """Return the reference's hidden states for the tokens that a golden of `files` has for the model."""
    known = [golden for file in files for golden in json.loads(file.read_text())]
    tokens = next(golden["tokens"] for golden in known if golden["model"] == path.stem)
    model = Model(path, "f64")
    model.forward(tokens)
    vector = lambda values: [float(f"{value:.8g}") for value in values]
    pooled = {"mean": vector(model.states.mean(0)), "last": vector(model.states[-1])}
    return {"model": path.stem, "fnv1a": fnv1a(path.read_bytes()), "tokens": tokens, **pooled}


def compact(text):
    """Put the innermost lists of indented JSON, and rows of them, on one line each."""
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    return re.sub(r"\[\s+(\[[^\[\]]*\](?:,\s+\[[^\[\]]*\])*)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dir", type=Path)
    ap.add_argument("out", type=Path)
    ap.add_argument("--prompts", type=Path, help="a JSON file whose `answers` have `prompt_tokens`")
    ap.add_argument("--teach", type=Path, help="a JSON file whose `answers` have `prompt_tokens` and `answer_tokens`")
    ap.add_argument("--states", type=Path, nargs="+", help="JSON files of goldens, whose tokens are embedded")
    a = ap.parse_args()
    goldens = []
    for i, path in enumerate(sorted(a.dir.glob("*.gguf"))):
        if a.states:
            goldens.append(states(path, a.states))
            continue
        if a.teach:
            goldens.append(probabilities(path, json.loads(a.teach.read_text())["answers"]))
            continue
        if a.prompts:
            prompts = [answer["prompt_tokens"] for answer in json.loads(a.prompts.read_text())["answers"]]
        else:
            vocab = len(Model(path).t["token_embd.weight"])
            prompts = random_prompts(path.stem, LENGTHS[i % len(LENGTHS)], vocab)
        goldens.append(golden(path, prompts))
    if not goldens:
        raise SystemExit(f"{a.dir} has no .gguf file")
    a.out.write_text(compact(json.dumps(goldens, indent=1)) + "\n")


if __name__ == "__main__":
    main()
