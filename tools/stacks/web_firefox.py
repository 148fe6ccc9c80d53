"""Says how far the browser package comes in headless Firefox: web_firefox.py FIREFOX WEB MODEL [PREFERENCE=VALUE ...]

The page posts each step that worked. WebGPU of Firefox on Linux is behind preferences.
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading

from web_server import Server

PREFERENCES = {
    "dom.webgpu.enabled": "true",
    "dom.webgpu.workers.enabled": "true",
    "dom.webgpu.allow-software": "true",
    "gfx.webgpu.ignore-blocklist": "true",
    "gfx.webrender.software": "true",
    "browser.shell.checkDefaultBrowser": "false",
    "datareporting.policy.dataSubmissionEnabled": "false",
    "app.normandy.enabled": "false",
}
PAGE = """<!doctype html><title>test</title><script type="module">
const say = (step, value) => fetch('/say', { method: 'POST', body: `${step}: ${JSON.stringify(value)}` });
const step = async (name, work) => {
    try { const value = await work(); await say(name, value ?? 'ok'); return value; }
    catch (error) { await say(name, `${error.name}: ${error.message}`); throw error; }
};
try {
    await step('user agent', () => navigator.userAgent);
    const f = await step('package', () => import('/dist/index.js').then((f) => (window.f = f, Object.keys(f).length))).then(() => window.f);
    await step('storage in a worker', () => f.store.download('/blob/demo.gguf').then(([file]) => file.size));
    await step('stored files', () => f.store.list().then((files) => files.length));
    await step('fits', () => f.Model.fits('/blob/demo.gguf', { context: 512 }).then(({ fits, reasons, device }) => ({ fits, reasons, device })));
    await step('module and CPU kernels', async () => {
        const model = await f.Model.load('/blob/demo.gguf', { context: 512, device: 'cpu' });
        const reply = await model.chat.completions.create({ messages: [{ role: 'user', content: 'What is the capital of France?' }], temperature: 0, max_tokens: 12 });
        await model.unload();
        return reply.choices[0].message.content;
    });
    await step('navigator.gpu', () => 'gpu' in navigator);
    await step('adapter', async () => { const a = await navigator.gpu.requestAdapter(); return a && { ...a.info, features: [...a.features], vendor: a.info?.vendor }; });
    for (const worker of [true, false]) {
        await step(worker ? 'reply in a worker' : 'reply in the page', async () => {
            const model = await f.Model.load('/blob/demo.gguf', { context: 512, worker });
            const reply = await model.chat.completions.create({ messages: [{ role: 'user', content: 'What is the capital of France?' }], temperature: 0, max_tokens: 12 });
            await model.unload();
            return reply.choices[0].message.content;
        });
    }
} catch (error) { console.error(error); }
await say('end', 'ok');
</script>"""


def main():
    firefox, web, model, *more = sys.argv[1:]
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "index.html"), "w") as file:
        file.write(PAGE)
    with open(model, "rb") as file:
        server = Server({"/dist/": os.path.join(web, "dist"), "/test/": folder}, {"demo.gguf": file.read()})
    steps = queue.Queue()
    server.said = steps.put
    profile = tempfile.mkdtemp()
    with open(os.path.join(profile, "user.js"), "w") as file:
        for name, value in {**PREFERENCES, **dict(item.split("=", 1) for item in more)}.items():
            file.write(f'user_pref("{name}", {value});\n')
    arguments = [firefox, "--headless", "--no-remote", "--profile", profile, server.address + "/test/"]
    browser = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            said = steps.get(timeout=300)
            print(said, flush=True)
            if said.startswith("end:"):
                break
    except queue.Empty:
        print("no further step within 300 s")
    browser.terminate()
    browser.wait(30)
    shutil.rmtree(profile, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


main()
