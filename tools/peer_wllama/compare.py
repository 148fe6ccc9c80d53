"""Runs the package and wllama in headless Chromium and prints a table: compare.py WORK ADAPTERS NAME=MODEL.gguf ...

Each run is a browser: it loads the model over HTTP from localhost, then answers a short and a long prompt, twice each, greedily.
Nothing comes from a prompt cache. Rates are by the page's clock. The profile is empty, but on a second visit: that has the
profile, with what is stored in it, and the driver's shader cache of the first.
"""

import json
import mmap
import os
import re
import shutil
import sys
import threading
import time

from playwright.sync_api import sync_playwright

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../stacks"))
from web_server import Server  # noqa: E402

TOKENS = int(os.environ.get("TOKENS", "32"))
SHORT = "The capital of France is"
LONG = (
    "The history of the city begins when a small tribe of fishermen settled on an island in the river. The Romans took the "
    "place and built roads, baths, a theatre and a bridge of stone. In the Middle Ages it became the largest city of the "
    "continent, with a university, a great cathedral and many markets. Kings lived there, and later emperors and presidents. "
    "Today it is known for its museums, its food, its fashion and a tower of iron. The name of the city is"
)
SOFTWARE = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
FLAGS = ["--no-sandbox", "--disable-gpu-sandbox", "--disable-dev-shm-usage"]

# Each defines `load(url, threads, gpu)` and `complete(prompt, tokens, told)`, which calls `told` for each piece of text and
# returns the numbers of tokens.
ENGINES = {
    "ferrum-wgpu": """
        const { Model } = await import('/dist/index.js');
        let model;
        const load = async (url) => { model = await Model.load(url, { context: 1024 }); };
        const complete = async (prompt, max_tokens, told) => {
            const request = { prompt, max_tokens, temperature: 0, ignore_eos: true, stream: true, stream_options: { include_usage: true } };
            let usage;
            for await (const chunk of await model.completions.create(request)) {
                if (chunk.choices[0]?.text) told(chunk.choices[0].text);
                usage = chunk.usage ?? usage;
            }
            return [usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens, usage.completion_tokens];
        };
        const stats = async () => ({ wasm: (await model.stats()).wasmBytes });
    """,
    "wllama": """
        const { Wllama } = await import('/wllama/index.js');
        const lines = [];
        const note = (...words) => { lines.push(words.join(' ')); };
        const logger = { debug: note, log: note, warn: note, error: note };
        const wllama = new Wllama({ default: '/wllama/wasm/wllama.wasm' }, { logger, allowOffline: true });
        wllama.setCompat(null);
        const load = (url, n_threads, gpu) =>
            wllama.loadModelFromUrl(url, { n_ctx: 1024, n_threads, n_gpu_layers: gpu ? 99999 : 0, log_level: 2 });
        const complete = async (prompt, max_tokens, told) => {
            const request = { prompt, max_tokens, temperature: 0, ignore_eos: true, stream: true, cache_prompt: false, timings_per_token: true };
            let timings;
            for await (const chunk of await wllama.createCompletion(request)) {
                if (chunk.choices[0]?.text) told(chunk.choices[0].text);
                timings = chunk.timings ?? timings;
            }
            return [timings.prompt_n, timings.predicted_n];
        };
        const stats = async () => ({ gpu: lines.some((line) => /offloaded/.test(line)) });
    """,
}
RUN = """
    const begun = performance.timeOrigin;
    const now = () => performance.timeOrigin + performance.now() - begun;
    await load(argument.url, argument.threads, argument.gpu);
    const result = { ready: now(), runs: [] };
    // The second time they begin differently, so that no prefix is in a cache.
    for (const prompt of [...argument.prompts, ...argument.prompts.map((prompt) => `Again: ${prompt}`)]) {
        const start = now();
        let first = 0, last = 0, text = '';
        const [prompts, tokens] = await complete(prompt, argument.tokens, (piece) => { last = now(); first ||= last; text += piece; });
        result.runs.push({ prompts, tokens, first: first - start, rest: last - first, end: now(), text });
    }
    return { ...result, ...(await stats()) };
"""


def memory(root):
    """Returns proportional set sizes in MiB of the processes below `root`, by Chromium's kinds of process."""
    children, sums = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                children.setdefault(int(stat.read().rpartition(")")[2].split()[1]), []).append(int(name))
        except OSError:
            pass
    todo = [root]
    while todo:
        process = todo.pop()
        todo += children.get(process, [])
        try:
            with open(f"/proc/{process}/cmdline", "rb") as line:
                kind = re.search(rb"--type=([\w-]+)", line.read())
            with open(f"/proc/{process}/smaps_rollup") as rollup:
                size = int(re.search(r"^Pss:\s+(\d+)", rollup.read(), re.M)[1]) // 1024
        except (OSError, TypeError):
            continue
        kind = kind[1].decode() if kind else "browser"
        sums[kind] = sums.get(kind, 0) + size
        sums["all"] = sums.get("all", 0) + size
    return sums


class Watch(threading.Thread):
    """Keeps the highest memory of the processes below this one."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.running = {}, True

    def run(self):
        while self.running:
            for kind, size in memory(os.getpid()).items():
                self.peak[kind] = max(self.peak.get(kind, 0), size)
            time.sleep(0.3)


def launch(playwright, work, adapter, engine, profile=None):
    """Starts Chromium with an adapter, and returns a context: of a folder `profile`, or of an empty profile. On lavapipe each
    engine has a cache of shaders of its own."""
    flags = FLAGS + ([] if adapter == "cpu" else SOFTWARE)
    chromium, environment = "/usr/bin/chromium", {}
    if adapter == "lavapipe":
        chromium = os.path.join(work, "chromium/chromium")
        environment = {"SHIM_ICD": os.path.join(work, "mesa/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so"),
                       "SHIM_SWIFTSHADER": "/usr/lib/chromium/libvk_swiftshader.so",
                       "MESA_SHADER_CACHE_DIR": os.path.join(work, "shaders", engine)}
    options = {"executable_path": chromium, "args": flags, "env": {**os.environ, **environment}}
    if profile:
        return playwright.chromium.launch_persistent_context(profile, **options)
    return playwright.chromium.launch(**options)


def serve(work, models):
    """Starts a server of the packages and of models, each NAME=PATH."""
    web = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../web")
    empty = os.path.join(work, "empty")
    os.makedirs(empty, exist_ok=True)
    with open(os.path.join(empty, "index.html"), "w") as file:
        file.write("<!doctype html><title>peers</title>")
    blobs = {}
    for model in models:
        name, path = model.split("=", 1)
        with open(path, "rb") as file:
            blobs[f"{name}.gguf"] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    folders = {"/dist/": os.path.join(web, "dist"), "/test/": empty,
               "/wllama/": os.path.join(work, "node_modules/@wllama/wllama/esm")}
    server = Server(folders, blobs)
    # wllama's threads need it.
    server.headers = [("Cross-Origin-Opener-Policy", "same-origin"), ("Cross-Origin-Embedder-Policy", "require-corp")]
    return server


def run(playwright, work, server, engine, adapter, name, threads, visit):
    before = sum(server.sent.values())
    profile = os.path.join(work, "profiles", engine)
    if visit == 1:
        shutil.rmtree(profile, ignore_errors=True)
        shutil.rmtree(os.path.join(work, "shaders", engine), ignore_errors=True)
    browser = launch(playwright, work, adapter, engine, profile)
    watch = Watch()
    watch.start()
    try:
        tab = browser.new_page()
        tab.set_default_timeout(0)
        tab.goto(server.address + "/test/")
        argument = {"url": f"{server.address}/blob/{name}.gguf", "threads": threads, "gpu": adapter != "cpu",
                    "tokens": TOKENS, "prompts": [SHORT, LONG]}
        body = ENGINES[engine] + RUN
        result = tab.evaluate("([body, argument]) => new (async () => {}).constructor('argument', body)(argument)", [body, argument])
    except Exception as error:  # noqa: BLE001
        result = {"error": str(error)[:200]}
    watch.running = False
    watch.join()
    browser.close()
    return {**result, "peak": watch.peak, "bytes": sum(server.sent.values()) - before}


def row(model, adapter, engine, result):
    if "error" in result:
        return f"| {model} | {adapter} | {engine} | {result['error']!r} |"
    first, last, short = result["runs"][0], result["runs"][3], result["runs"][2]

    def rate(run):
        return (run["tokens"] - 1) / run["rest"] * 1000 if run["rest"] > 0 else 0

    where = " (CPU)" if engine == "wllama" and not result["gpu"] else ""
    return (
        f"| {model} | {adapter}{where} | {engine} | {result['ready'] / 1000:.1f} | {(result['ready'] + first['first']) / 1000:.1f} "
        f"| {first['end'] / 1000:.1f} | {last['prompts']} | {last['prompts'] / last['first'] * 1000:.1f} | {rate(last):.1f} / {rate(short):.1f} "
        f"| {result['peak'].get('renderer', 0)} | {result['peak'].get('gpu-process', 0)} | {result['peak']['all']} | {result['bytes'] / 2**20:.1f} |"
    )


def main():
    work, adapters, *models = sys.argv[1:]
    server = serve(work, models)
    print("| model | adapter | engine | ready, s | first token, s | first reply ends, s | prompt | t/s | decode, t/s | page, MiB | GPU process, MiB | all, MiB | sent, MiB |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with sync_playwright() as playwright:
        for model in models:
            name = model.split("=", 1)[0]
            runs = []
            if "cpu" in adapters:
                runs += [("cpu", f"cpu, {threads} thread{'s' * (threads > 1)}", "wllama", threads, visit) for threads in (1, 2) for visit in (1, 2)]
            for adapter, title in (("swiftshader", "SwiftShader"), ("lavapipe", "lavapipe")):
                if adapter in adapters:
                    runs += [(adapter, title, engine, 1, visit) for engine in ENGINES for visit in (1, 2)]
            for adapter, title, engine, threads, visit in runs:
                title += ", first visit" if visit == 1 else ", second visit"
                result = run(playwright, work, server, engine, adapter, name, threads, visit)
                with open(os.path.join(work, f"{name}.{title}.{engine}.json".replace(", ", "-").replace(" ", "")), "w") as file:
                    json.dump(result, file, indent=1)
                print(row(name, title, engine, result), flush=True)


if __name__ == "__main__":
    main()
