#!/usr/bin/env python3
"""Compare the engine with the float64 reference on many random models. For developers; the tests need no Python.

    cargo build --release
    tools/check_against_reference.py [--binary target/release/ferrum-wgpu] [--device D] [--seeds 0,1] [--quick] [--only qwen35]
    tools/check_against_reference.py --model FILE [--tokens 12]

For each model of a matrix of shapes, types and architectures, and for both KV types, `ferrum-wgpu logits` and
reference.py continue the same prompt by 8 tokens. The tokens must be equal. Every listed logit must be within
2e-5 (KV type f32) or 1e-4 (f16) times max(10, max |logit| of the row). Rows are not compared from the first one
where the routing margin is below 1e-4 (f32) or 1e-3 (f16) in router logits.

Prints one line per model: the largest difference relative to the bound, and the number of rows compared.
Exits with status 1 if a model failed. Needs numpy and gguf (PyPI).
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from reference import Model

TOOLS = Path(__file__).resolve().parent
GREEDY, TOP = 8, 8
# For each KV type: the reference's name, the tolerance and the minimum margin.
KV = {"f32": ("f64", 2e-5, 1e-4), "f16": ("f16", 1e-4, 1e-3)}
# The number of prompts to try until at least half of the rows can be compared.
TRIES = 10
# Default prompt lengths, assigned to the models in turn.
LENGTHS = [14, 1, 33, 17, 70, 5]

TYPES = ["q4_k,q6_k", "q5_k,q8_0", "q6_k,q4_k", "q8_0,q5_k", "q4_0,q4_1", "q4_1,q5_0", "q5_0,q5_1", "q5_1,q4_0",
         "f16,bf16", "bf16,f32", "f32,f16"]
MOE, DENSE = ["--preset", "test"], ["--preset", "dense-test"]
LLAMA = [*DENSE, "--arch", "llama"]
HYBRIDS = [["--preset", f"{name}-test"] for name in ("qwen35moe", "qwen35", "qwen3next")]


def matrix(quick):
    """Yield make_model.py's arguments and a prompt length (None: the default)."""
    for types in TYPES[::3] if quick else TYPES:
        for shape in (MOE, DENSE):
            yield [*shape, "--types", types], None
    yield [*LLAMA], None
    yield [*LLAMA, "--rope-freqs", "--types", "q8_0,q5_1"], None
    yield [*MOE, "--tied"], None
    yield [*MOE, *"--experts 128 --top-k 8 --inter 256 --layers 1".split()], None
    yield [*MOE, *"--hidden 96 --types q8_0,q8_0 --vocab 517".split()], None
    yield [*MOE], 300
    for shape in HYBRIDS:
        yield [*shape], 150
    if quick:
        return
    yield [*LLAMA, "--rope-freqs", "--tied"], None
    yield [*DENSE, "--tied", "--types", "q8_0,q8_0"], None
    for hidden in (96, 160, 288, 352):
        for shape in (MOE, DENSE, LLAMA):
            yield [*shape, *f"--hidden {hidden} --types q8_0,q8_0".split()], None
    for shape in (MOE, DENSE, LLAMA):
        yield [*shape, *"--heads 8 --kv 1 --hd 32".split()], None
        yield [*shape, *"--heads 4 --kv 4 --hd 128 --vocab 1003".split()], None
        yield [*shape, *"--heads 2 --kv 1 --hd 80 --types q5_0,q8_0".split()], None
        yield [*shape, *"--heads 16 --kv 2 --hd 16 --vocab 301".split()], None
    yield [*MOE, *"--top-k 1".split()], None
    yield [*MOE, *"--top-k 8".split()], None
    yield [*MOE, *"--experts 60 --top-k 6 --inter 96 --types q4_0,q5_1".split()], None
    yield [*MOE, *"--hidden 100 --inter 52 --hd 16 --types f32,f16 --vocab 277".split()], None
    yield [*MOE, *"--layers 1".split()], None
    yield [*MOE, *"--layers 9 --hidden 96 --inter 64 --types q8_0,q4_0".split()], None
    for shape in (MOE, DENSE, LLAMA):
        yield [*shape], 390
    yield [*DENSE, *"--heads 8 --kv 1 --hd 128".split()], 700
    for shape in HYBRIDS:
        yield [*shape, "--types", "q8_0,q5_1"], None
        yield [*shape, *"--heads 2 --kv 1 --hd 256 --layers 8".split()], None


def reference(path, kv, tokens):
    """Return logits, margins and the greedy continuation."""
    model = Model(path, kv)
    rows, margins, greedy = [model.forward(tokens)], list(model.margins), []
    for _ in range(GREEDY):
        greedy.append(int(rows[-1][-1].argmax()))
        rows.append(model.forward([greedy[-1]]))
        margins += list(model.margins)
    return np.concatenate(rows), margins, greedy


def prompt(path, name, length, vocab):
    """Return a random prompt with many comparable rows, and the exact reference's results for it."""
    best = None
    for attempt in range(TRIES):
        rng = random.Random(f"{name} {attempt}")
        tokens = [rng.randrange(vocab) for _ in range(length)]
        result = reference(path, "f64", tokens)
        rows = sum(margin >= KV["f16"][2] for margin in result[1])
        if best is None or rows > best[0]:
            best = rows, tokens, result
        if 2 * rows >= len(result[1]):
            break
    return best[1:]


def engine(a, path, kv, tokens):
    command = [a.binary, "logits", str(path), "--tokens", ",".join(map(str, tokens)), "--greedy", str(GREEDY),
               "--top", str(TOP), "--kv-type", kv]
    if a.device is not None:
        command += ["--device", a.device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def compare(found, tokens, logits, margins, greedy, factor, margin_min):
    """Return the largest difference relative to the bound and the number of rows compared. Raise ValueError if it exceeds 1."""
    if found["tokens"] != tokens or len(found["greedy"]) != GREEDY or len(found["top"]) != len(logits):
        raise ValueError(f"unexpected rows: {str(found)[:200]}")
    worst, rows = 0.0, 0
    for i, (listed, row) in enumerate(zip(found["top"], logits)):
        if margins[i] < margin_min:
            break
        allowed = factor * max(10.0, float(np.abs(row).max()))
        if len({token for token, _ in listed}) != min(TOP, len(row)):
            raise ValueError(f"row {i}: {listed} is not the top {TOP}")
        for token, logit in listed:
            share = abs(logit - row[token]) / allowed
            if not share <= 1:
                raise ValueError(f"row {i}, token {token}: {logit}, expected {row[token]:.6f}: {share:.1f} of the bound")
            worst = max(worst, share)
        # The listed logits must be the largest ones.
        if min(row[token] for token, _ in listed) < -np.sort(-row)[len(listed) - 1] - 2 * allowed:
            raise ValueError(f"row {i}: a larger logit than those of {listed} is missing")
        rows += 1
        step = i - len(tokens) + 1
        if 0 <= step < GREEDY and found["greedy"][step] != greedy[step]:
            if row[greedy[step]] - row[found["greedy"][step]] > 2 * allowed:
                raise ValueError(f"row {i}: the argmax is token {found['greedy'][step]}, expected {greedy[step]}")
            break  # A near tie: from here on the tokens differ.
    if not rows:
        raise ValueError("no row could be compared")
    return worst, rows


def models(a, path):
    """Write each model of the matrix to `path`, or take --model. Yield file, description, name of the prompt, its length and the vocabulary."""
    if a.model:
        yield a.model, a.model.name, a.model.stem, a.tokens, 512
        return
    for seed in a.seeds.split(","):
        for i, (options, length) in enumerate(matrix(a.quick)):
            options = [*options, "--seed", seed]
            if a.only not in " ".join(options):
                continue
            subprocess.run([sys.executable, TOOLS / "make_model.py", path, *options], check=True, stdout=subprocess.DEVNULL)
            vocab = int(dict(zip(options, options[1:])).get("--vocab", 512))
            yield path, " ".join(options), f"{i} {seed}", length or LENGTHS[i % len(LENGTHS)], vocab


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", default="target/release/ferrum-wgpu")
    ap.add_argument("--device", help="passed to the engine")
    ap.add_argument("--seeds", default="0", help="comma-separated; every model is tested with each seed")
    ap.add_argument("--quick", action="store_true", help="a third of the models")
    ap.add_argument("--only", default="", help="only models with this in their options")
    ap.add_argument("--model", type=Path, help="only this file, with a prompt of --tokens of its first 512 tokens")
    ap.add_argument("--tokens", type=int, default=12)
    a = ap.parse_args()
    failed, checked, worst_of_all = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as dir:
        for path, what, name, length, vocab in models(a, Path(dir) / "model.gguf"):
            tokens, exact = prompt(path, name, length, vocab)
            results = []
            for kv, (reference_kv, factor, margin_min) in KV.items():
                try:
                    found = engine(a, path, kv, tokens)
                    expected = exact if reference_kv == "f64" else reference(path, reference_kv, tokens)
                    worst, rows = compare(found, tokens, *expected, factor, margin_min)
                    results.append(f"{kv} {worst:.3f} of {rows}/{len(tokens) + GREEDY} rows")
                    worst_of_all = max(worst_of_all, worst)
                except (ValueError, KeyError) as error:
                    results.append(f"{kv} FAILED {error}")
                    failed += 1
                checked += 1
            print(f"{what}: {'; '.join(results)}", flush=True)
    print(f"{checked - failed} passed, {failed} failed; the largest difference is {worst_of_all:.3f} of the bound")
    sys.exit(1 if failed or not checked else 0)


if __name__ == "__main__":
    main()
