"""Measures what each kernel costs a cold start in Chromium: kernels.py WORK swiftshader|lavapipe NAME=MODEL.gguf

WORK is the folder of tools/peer_wllama.sh. Prints, for each pipeline of a first load and reply in the page's own thread, the
seconds until the browser has made it, and those of the first submission with it, in which some drivers compile. CHECK=0 leaves
out the check of the device, which runs each kernel by itself.
"""

import os
import shutil
import sys

from compare import SHORT, launch, serve
from playwright.sync_api import sync_playwright

MEASURE = """async ([url, prompt, check, tokens]) => {
    const now = () => performance.now() / 1000;
    const made = [], ran = [], seen = new Set(), names = new Map();
    let used = [], last;
    const wrap = (type, method, make) => { type.prototype[method] = make(type.prototype[method]); };
    wrap(GPUDevice, 'createComputePipeline', (original) => function (descriptor) {
        const pipeline = original.call(this, descriptor);
        last = [descriptor.label, now()];
        names.set(pipeline, `${descriptor.label} ${names.size}`);
        return pipeline;
    });
    wrap(GPUDevice, 'popErrorScope', (original) => function () {
        const of = last;
        last = undefined;
        const popped = original.call(this);
        if (of) popped.then(() => made.push([of[0], now() - of[1], now()]));
        return popped;
    });
    wrap(GPUComputePassEncoder, 'setPipeline', (original) => function (pipeline) {
        if (!seen.has(pipeline)) used.push(names.get(pipeline));
        seen.add(pipeline);
        return original.call(this, pipeline);
    });
    wrap(GPUQueue, 'submit', (original) => function (buffers) {
        const [first, begun] = [used, now()];
        used = [];
        original.call(this, buffers);
        if (first.length) this.onSubmittedWorkDone().then(() => ran.push([first, now() - begun, now()]));
    });
    const { Model } = await import('/dist/index.js');
    const stages = [];
    const onProgress = ({ stage, loaded, total }) => { if (loaded === total) stages.push([stage, now(), total]); };
    const begun = now();
    const model = await Model.load(url, { context: 1024, worker: false, check, onProgress });
    const ready = now();
    let first = 0;
    const request = { prompt, max_tokens: tokens, temperature: 0, ignore_eos: true, stream: true };
    for await (const _ of await model.completions.create(request)) first ||= now();
    return { begun, ready, first, end: now(), made, ran, stages };
}"""


def main():
    work, adapter, model = sys.argv[1:]
    server, name = serve(work, [model]), model.split("=", 1)[0]
    shutil.rmtree(os.path.join(work, "shaders", "kernels"), ignore_errors=True)
    with sync_playwright() as playwright:
        browser = launch(playwright, work, adapter, "kernels")
        tab = browser.new_page()
        tab.set_default_timeout(0)
        tab.goto(server.address + "/test/")
        check = os.environ.get("CHECK") != "0"
        result = tab.evaluate(MEASURE, [f"{server.address}/blob/{name}.gguf", SHORT, check, 32])
        browser.close()
    begun = result["begun"]
    print(f"ready {result['ready'] - begun:.1f} s, first token {result['first'] - begun:.1f} s, end {result['end'] - begun:.1f} s")
    print([(stage, round(at - begun, 1), total) for stage, at, total in result["stages"]])
    print(f"{len(result['made'])} pipelines made in {sum(time for _, time, _ in result['made']):.1f} s:")
    for label, time, _ in sorted(result["made"], key=lambda row: -row[1]):
        print(f"  {time:6.2f} s  {label}")
    print(f"{sum(len(labels) for labels, *_ in result['ran'])} first submissions in {sum(time for _, time, _ in result['ran']):.1f} s:")
    for labels, time, at in sorted(result["ran"], key=lambda row: -row[1]):
        print(f"  {time:6.2f} s  at {at - begun:6.1f} s  {', '.join(map(str, labels))}")


main()
