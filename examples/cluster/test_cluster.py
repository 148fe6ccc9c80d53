"""Kills one of two replicas under load: test_cluster.py PROGRAM MODEL [ray] [nginx] [litellm]

Nothing may be lost but the streams of the killed replica: requests without a stream are answered by the other one.
"""

import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import httpx

HERE = pathlib.Path(__file__).parent.resolve()
ROOT = HERE.parents[1]
CLIENTS = int(os.environ.get("CLIENTS", "6"))
KEY = "sk-of-the-test"
REQUESTS = int(os.environ.get("REQUESTS", "6"))


def start(program, model, port):
    command = [program, "serve", model, "--port", str(port), "--parallel", "4", "--ctx", "512", "--queue", "256"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if line == "ready\n":
            return server
    sys.exit("a replica did not start")


async def ready(url):
    async with httpx.AsyncClient() as client:
        for _ in range(450):
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.2)
    sys.exit(f"{url} is not there")


async def load(address, model, kill):
    """Sends requests of several clients, half of them streams, and kills a replica in the middle. Returns what became of
    them."""
    counts = {"whole": 0, "whole lost": 0, "streams": 0, "streams lost": 0, "cached tokens": 0}
    expected = {}
    done = 0
    total = CLIENTS * REQUESTS

    async def client(number):
        nonlocal done
        async with httpx.AsyncClient(base_url=address, timeout=120) as http:
            for turn in range(REQUESTS):
                question = f"What is {number} + {turn}?"
                # All turns of a conversation begin alike.
                messages = [
                    {"role": "user", "content": f"Client {number}. " + "Tell me a story about a mouse. " * 8},
                    {"role": "assistant", "content": "Once there was a mouse."},
                    {"role": "user", "content": question},
                ]
                body = {"model": model, "temperature": 0, "max_tokens": 24, "messages": messages}
                headers = {"x-session": str(number), "authorization": f"Bearer {KEY}"}
                stream = (number + turn) % 2 == 0
                try:
                    if stream:
                        text, ended = "", False
                        async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}, headers=headers) as response:
                            assert response.status_code == 200, await response.aread()
                            async for line in response.aiter_lines():
                                data = line.removeprefix("data: ")
                                if data == "[DONE]":
                                    ended = True
                                elif line.startswith("data: "):
                                    event = json.loads(data)
                                    assert "error" not in event, event
                                    text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                        assert ended, "the stream broke off"
                    else:
                        response = await http.post("/v1/chat/completions", json=body, headers=headers)
                        assert response.status_code == 200, response.text
                        answer = response.json()
                        text = answer["choices"][0]["message"]["content"]
                        counts["cached tokens"] += (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                    expected.setdefault(question, text)
                    assert expected[question] == text
                    counts["streams" if stream else "whole"] += 1
                except (AssertionError, httpx.HTTPError) as error:
                    counts["streams lost" if stream else "whole lost"] += 1
                    print(f"  {'stream' if stream else 'whole'} lost: {type(error).__name__} {str(error)[:160]}")
                done += 1

    async def killer():
        while done < total // 3:
            await asyncio.sleep(0.05)
        await kill()

    begun = time.monotonic()
    await asyncio.gather(killer(), *(client(number) for number in range(CLIENTS)))
    return counts, time.monotonic() - begun


def judge(name, counts, seconds):
    figures = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"{name}: {figures}; {seconds:.1f} s", flush=True)
    assert counts["whole lost"] == 0, "requests without a stream must be answered by the other replica"
    # So many does a replica compute at once.
    assert counts["streams lost"] <= 4, "only streams of the killed replica may be lost"


async def behind_proxy(name, program, model, proxy, address, served):
    replicas = [start(program, model, port) for port in (8081, 8082)]
    try:
        await ready(f"{address}/health" if name == "nginx" else f"{address}/health/liveliness")

        async def kill():
            replicas[0].kill()
            print(f"{name}: one of two replicas was killed")

        judge(name, *await load(address, served, kill))
    finally:
        proxy.terminate()
        proxy.wait(30)
        for replica in replicas:
            replica.kill()
            replica.wait()


async def of_nginx(program, model):
    with tempfile.TemporaryDirectory() as folder:
        proxy = subprocess.Popen(["nginx", "-p", folder, "-e", "stderr", "-c", str(HERE / "nginx.conf")])
        await behind_proxy("nginx", program, model, proxy, "http://127.0.0.1:8080", "default")


async def of_litellm(program, model):
    program_of_proxy = pathlib.Path(sys.executable).parent / "litellm"
    command = [program_of_proxy, "--config", HERE / "litellm.yaml", "--host", "127.0.0.1", "--port", "8080"]
    environment = {**os.environ, "LITELLM_MASTER_KEY": KEY}
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    await behind_proxy("litellm", program, model, proxy, "http://127.0.0.1:8080", "ferrum")


async def of_ray(program, model):
    os.environ.update(FERRUM=program, MODEL=model, OPTIONS="--parallel 4 --ctx 512 --queue 256", REPLICAS="2", RAY_USAGE_STATS_ENABLED="0")
    import ray
    from ray import serve

    ray.init(num_cpus=4, object_store_memory=100 << 20, include_dashboard=False, logging_level="error",
             runtime_env={"working_dir": str(HERE)})
    sys.path.insert(0, str(HERE))
    import app

    serve.start(http_options={"host": "127.0.0.1", "port": 8080})
    await asyncio.to_thread(serve.run, app.app)
    address = "http://127.0.0.1:8080"
    await ready(f"{address}/health")

    def servers():
        listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        return [int(pid) for pid in re.findall(rf"^\s*(\d+) {re.escape(program)} serve", listed, re.MULTILINE)]

    before = servers()
    assert len(before) == 2, before

    async def kill():
        os.kill(before[0], signal.SIGKILL)
        print("ray: one of two replicas was killed")

    try:
        counts, seconds = await load(address, "default", kill)
        judge("ray", counts, seconds)
        assert counts["cached tokens"] > 0, "conversations must find their KV cache"
        # The health check finds it, and Ray starts another one.
        begun = time.monotonic()
        while len(servers()) < 2 or before[0] in servers():
            assert time.monotonic() - begun < 120, "no replica was started anew"
            await asyncio.sleep(0.5)
        print(f"ray: two replicas again after {time.monotonic() - begun:.0f} s")
    finally:
        serve.shutdown()
        ray.shutdown()


def main():
    program, model, *names = sys.argv[1:]
    program, model = str(pathlib.Path(program).resolve()), str(pathlib.Path(model).resolve())
    names = names or ["nginx", "litellm", "ray"]
    tests = {"nginx": of_nginx, "litellm": of_litellm, "ray": of_ray}
    for name in names:
        asyncio.run(tests[name](program, model))
    print(f"{len(names)} passed, 0 failed")


main()
