#!/usr/bin/env python3
"""Throughput of `ferrum-wgpu serve` and llama.cpp's llama-server on one file, with 1, 4 and 16 clients.

    peer_llama_server.py FERRUM LLAMA_SERVER MODEL [--backend vulkan|cpu] [--prompt 32] [--tokens 16] [--rounds 2]

Each client sends one request of /v1/completions: other random tokens, then so many sampled greedily, without an end. The servers
run one after the other in each round; `cpu` compares llama.cpp's CPU backend with ferrum-wgpu on its Vulkan device. Prints tokens
per second, prompts included, and the ratio. tools/peer_llama_bench.sh builds llama.cpp; its target llama-server needs
-DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_MTMD=ON.
"""
import argparse
import concurrent.futures
import json
import os
import random
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request

CLIENTS = [1, 4, 16]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=1800))


def wait(port):
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit("a server did not start")


def rates(command, env, port, a, seed):
    """Return tokens per second by number of clients."""
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(port)
        rng, found = random.Random(seed), {}

        def one(prompt):
            body = {"prompt": prompt, "max_tokens": a.tokens, "temperature": 0, "ignore_eos": True}
            return post(port, body)["usage"]["completion_tokens"]

        one([rng.randrange(300, 500) for _ in range(a.prompt)])
        for clients in CLIENTS:
            prompts = [[rng.randrange(300, 500) for _ in range(a.prompt)] for _ in range(clients)]
            begun = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                tokens = sum(pool.map(one, prompts))
            found[clients] = tokens / (time.monotonic() - begun)
        return found
    finally:
        server.terminate()
        server.wait()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("ferrum")
    ap.add_argument("llama")
    ap.add_argument("model")
    ap.add_argument("--backend", default="cpu", choices=["cpu", "vulkan"])
    ap.add_argument("--prompt", type=int, default=32)
    ap.add_argument("--tokens", type=int, default=16)
    ap.add_argument("--rounds", type=int, default=2)
    a = ap.parse_args()
    context = a.prompt + a.tokens + 8
    all_rates = []
    for round_ in range(a.rounds):
        port = free_port()
        most = str(CLIENTS[-1])
        ours = [a.ferrum, "serve", a.model, "--port", str(port), "--parallel", most, "--ctx", str(context), "--no-tune"]
        mine = rates(ours, os.environ, port, a, round_)
        port = free_port()
        theirs = [a.llama, "-m", a.model, "--port", str(port), "-np", most, "-c", str(context * CLIENTS[-1])]
        theirs += ["-ngl", "0", "-dev", "none", "-t", "2"] if a.backend == "cpu" else ["-ngl", "99"]
        env = dict(os.environ) if a.backend == "cpu" else dict(os.environ, GGML_VK_VISIBLE_DEVICES="0")
        its = rates(theirs, env, port, a, round_)
        all_rates.append((mine, its))
        for clients in CLIENTS:
            print(f"round {round_}, {clients} clients: {mine[clients]:.2f}, llama-server {its[clients]:.2f}, "
                  f"ratio {mine[clients] / its[clients]:.2f}", flush=True)
    for clients in CLIENTS:
        ratio = statistics.geometric_mean(mine[clients] / its[clients] for mine, its in all_rates)
        print(f"{clients} clients: ratio {ratio:.2f}")


main()
