#!/usr/bin/env python3
"""Compare logits with llama.cpp's, on the tiny random models that llama.cpp's own test program writes.

    peer_archs.py PEER FILES.. [--binary target/debug/ferrum-wgpu] [--device cpu] [--tokens 90] [--greedy 8]

PEER is a folder with `peer_logits`, a program that prints llama.cpp's logits on its CPU backend with an f32 KV cache:

    peer_logits MODEL.gguf 1,2,3 GREEDY TOP

as one line of JSON {"top": [[[id, logit], ..] per position], "greedy": [ids]}. FILES are models with f32 weights. Prints
for each file the worst difference of a logit, relative to max(10, max |logit|) of its row, and fails if one is above 1e-4
or the greedy tokens differ where the two largest logits differ by more than that. Hybrids are compared in batches, chunks and with
snapshots by a test, on the CPU and a GPU:

    PEER_LOGITS=PEER/peer_logits PEER_MODELS="A.gguf B.gguf" cargo test --test it -- --ignored --nocapture peers::
"""
import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

BOUND = 1e-4


def rows(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError((result.stderr or result.stdout).strip().splitlines()[-1][:300])
    return json.loads(result.stdout)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("peer", type=Path)
    ap.add_argument("files", nargs="+", type=Path)
    ap.add_argument("--binary", default="target/debug/ferrum-wgpu")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--tokens", type=int, default=90)
    ap.add_argument("--greedy", type=int, default=8)
    ap.add_argument("--vocab", type=int, default=128, help="tokens of the prompt are below it; logits compared in each row")
    a = ap.parse_args()
    failed = 0
    for path in a.files:
        rng = random.Random(str(path.stem))
        ids = ",".join(str(rng.randrange(a.vocab)) for _ in range(a.tokens))
        try:
            peer = rows([str(a.peer / "peer_logits"), str(path), ids, str(a.greedy), str(a.vocab)])
            own = rows([a.binary, "logits", str(path), "--tokens", ids, "--greedy", str(a.greedy),
                        "--top", str(2 * a.vocab), "--kv-type", "f32", "--device", a.device])
        except RuntimeError as error:
            print(f"{path}: {error}")
            failed += 1
            continue
        worst, greedy = 0.0, "greedy equal"
        for i, (theirs, ours) in enumerate(zip(peer["top"], own["top"])):
            # Of a larger vocabulary llama.cpp's largest logits are compared. One that is missing is below the last of ours.
            lowest, ours = ours[-1][1], dict(map(tuple, ours))
            scale = max(10.0, max(abs(logit) for _, logit in theirs))
            worst = max(worst, max(abs(logit - ours.get(token, lowest)) for token, logit in theirs) / scale)
            chosen = i - a.tokens + 1
            if 0 <= chosen < a.greedy and peer["greedy"][chosen] != own["greedy"][chosen]:
                gap = (theirs[0][1] - theirs[1][1]) / scale
                greedy = f"greedy differs at {chosen} (gap {gap:.1e})"
                worst = max(worst, gap)
                break
        bad = not worst <= BOUND
        failed += bad
        print(f"{path}: {worst:.1e}, {greedy}{' FAILED' if bad else ''}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
