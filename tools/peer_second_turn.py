#!/usr/bin/env python3
"""Tokens that the second turn of a conversation computes: `ferrum-wgpu serve` and llama.cpp's llama-server on one file.

    peer_second_turn.py FERRUM LLAMA_SERVER MODEL [--prompt 2000] [--reply 16] [--more 49] [--device cpu]

The first turn is a prompt of random tokens and a greedy reply; the second is all of that and more random tokens, in /v1/completions
and /completion. In a second conversation the client sends back another reply than it got, as chat templates do which
leave out the reasoning. llama-server runs on its CPU backend, with its default context checkpoints and with none (`-ctxcp 0`). Prints
the tokens of the second prompt and how many of them each server computed. tools/peer_llama_server.py tells how to build it.
"""
import argparse
import json
import os
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(port, path, body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=1800))


def with_server(command, work):
    """Return `work(port)` while the server runs."""
    port = free_port()
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                return work(port)
            except (urllib.error.URLError, OSError):
                if server.poll() is not None:
                    break
                time.sleep(0.1)
        raise SystemExit(f"{command[0]} did not start")
    finally:
        server.terminate()
        server.wait()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("ferrum")
    ap.add_argument("llama")
    ap.add_argument("model")
    ap.add_argument("--prompt", type=int, default=2000)
    ap.add_argument("--reply", type=int, default=16)
    ap.add_argument("--more", type=int, default=49)
    ap.add_argument("--device", default="cpu")
    a = ap.parse_args()
    rng = random.Random(1)
    first = [rng.randrange(300, 500) for _ in range(a.prompt)]
    more = [rng.randrange(300, 500) for _ in range(a.more)]
    context = str(a.prompt + a.reply + a.more + 64)
    reply, other = [], [rng.randrange(300, 500) for _ in range(a.reply)]

    def theirs(port):
        def turn(prompt):
            return post(port, "/completion", {"prompt": prompt, "n_predict": a.reply, "temperature": 0, "ignore_eos": True,
                                              "return_tokens": True, "cache_prompt": True})

        reply[:] = turn(first)["tokens"]
        same = turn(first + reply + more)["timings"]["prompt_n"]
        turn(first[::-1])
        return same, turn(first[::-1] + other + more)["timings"]["prompt_n"]

    def ours(port):
        def turn(prompt):
            body = {"prompt": prompt, "max_tokens": a.reply, "temperature": 0, "ignore_eos": True}
            usage = post(port, "/v1/completions", body)["usage"]
            return usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]

        computed = turn(first)
        if computed != len(first):
            raise SystemExit(f"{computed} tokens of the first turn computed")
        same = turn(first + reply + more)
        turn(first[::-1])
        return same, turn(first[::-1] + other + more)

    llama = [a.llama, "-m", a.model, "-np", "1", "-c", context, "-ngl", "0", "-dev", "none", "-t", str(os.cpu_count())]
    default, without = with_server(llama, theirs), with_server([*llama, "-ctxcp", "0"], theirs)
    own = with_server([a.ferrum, "serve", a.model, "--ctx", context, "--device", a.device, "--no-tune"], ours)
    for what, i in [("the reply", 0), ("another reply", 1)]:
        print(f"second turn of {len(first + reply + more)} tokens with {what}: ferrum-wgpu computes {own[i]}, "
              f"llama-server {default[i]}, without checkpoints {without[i]}")


if __name__ == "__main__":
    main()
