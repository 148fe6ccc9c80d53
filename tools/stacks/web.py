"""Tests the browser package and its page with Chromium: web.py CHROMIUM WEB MODEL FOLDER [PATTERN]

WEB is the folder of the package, built; MODEL is the demo model. Screenshots are left in FOLDER. PATTERN selects tests.
WEB_REPLIES=N is the number of replies after which memory must not have grown. Needs playwright.
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

from playwright.sync_api import sync_playwright
from web_server import Server

QUESTION = "What is the capital of France?"
FLAGS = ["--no-sandbox", "--disable-gpu-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
         "--disable-dev-shm-usage"]
ASK = "{ messages: [{ role: 'user', content: 'What is the capital of France?' }], temperature: 0, max_tokens: 24 }"


class Browser:
    """A browser with a server; each test has a new profile, and so an empty store."""

    def __init__(self, playwright, chromium, server, web, folder):
        self.server, self.web, self.folder = server, os.path.abspath(web), os.path.abspath(folder)
        self.browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        self.context = None

    def fresh(self, **options):
        """Closes all tabs and forgets what was stored."""
        if self.context:
            self.context.close()
        self.context = self.browser.new_context(**options)
        self.context.set_default_timeout(150_000)

    def tab(self, path="/test/"):
        """Returns a new tab on an empty page."""
        tab = self.context.new_page()
        tab.problems = []
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.goto(self.server.address + path)
        return tab


def run(tab, body, argument=None):
    """Runs an async function's BODY with the package as `f` and returns its result. A `FerrumError` is returned as data."""
    return tab.evaluate(
        """async ([body, argument]) => {
            const f = await import('/dist/index.js');
            const caught = async (promise) => {
                try { await promise; return null; } catch (error) {
                    const { name, code, message, param, reason, status } = error;
                    return { name, code, message, param, reason, status };
                }
            };
            const work = new (async () => {}).constructor('f', 'caught', 'argument', body);
            return work(f, caught, argument);
        }""",
        [body, argument],
    )


def answers(browser, worker):
    tab = browser.tab()
    before = browser.server.bytes_sent("demo.gguf")
    result = run(tab, """
        const stages = new Map();
        const begun = performance.now();
        const model = await f.Model.load('/blob/demo.gguf', {
            worker: argument, context: 512, onProgress: ({ stage, loaded, total }) => stages.set(stage, [loaded, total]),
        });
        const ready = performance.now() - begun;
        const ask = """ + ASK + """;
        let text = '', chunks = 0;
        for await (const chunk of await model.chat.completions.create({ ...ask, stream: true })) {
            text += chunk.choices[0]?.delta.content ?? '';
            chunks++;
        }
        const first = performance.now() - begun;
        const whole = await model.chat.completions.create(ask);
        const tokens = await model.tokenize('Hello, world');
        const again = await model.detokenize(tokens);
        const stats = await model.stats();
        const completion = await model.completions.create({ prompt: 'The sea', max_tokens: 3, temperature: 0 });
        const embedded = await model.embeddings.create({ input: ['The sea', 'The sea', 'Paris'] });
        const schema = {
            type: 'object', properties: { city: { enum: ['Paris', 'Rome'] } }, required: ['city'], additionalProperties: false,
        };
        const format = { type: 'json_schema', json_schema: { name: 'city', strict: true, schema } };
        const shaped = await model.chat.completions.create({ ...ask, response_format: format });
        const wrong = await caught(model.chat.completions.create({ ...ask, temperature: 9000 }));
        const other = await caught(model.chat.completions.create({ ...ask, stream: true, model: 'other' }));
        const second = await f.Model.load('/blob/demo.gguf', { worker: argument, context: 256, name: 'second' });
        await model.unload();
        const gone = await caught(model.stats());
        const names = [model.name, second.name, (await second.stats()).context];
        await second.tokenize('still here');
        await second.unload();
        return { embedded, names, text, chunks, ready, first, whole, shaped, again, stats, completion, wrong, other, gone, stages: [...stages] };
    """, worker)
    assert "Paris" in result["text"] and result["chunks"] > 3, result
    assert result["whole"]["choices"][0]["message"]["content"] == result["text"], result
    assert result["whole"]["choices"][0]["finish_reason"] == "stop" and result["whole"]["model"] == "demo", result
    assert result["again"] == "Hello, world" and result["stats"]["context"] == 512, result
    assert json.loads(result["shaped"]["choices"][0]["message"]["content"])["city"] in ("Paris", "Rome"), result["shaped"]
    vectors = [entry["embedding"] for entry in result["embedded"]["data"]]
    assert vectors[0] == vectors[1] != vectors[2], [vector[:4] for vector in vectors]
    assert all(abs(sum(value * value for value in vector) - 1) < 1e-4 for vector in vectors), result["embedded"]["usage"]
    assert result["completion"]["object"] == "text_completion", result
    assert (result["wrong"]["name"], result["wrong"]["param"]) == ("RequestError", "temperature"), result["wrong"]
    assert (result["other"]["name"], result["other"]["status"]) == ("RequestError", 404), result["other"]
    assert result["names"] == ["demo", "second", 256], result["names"]
    assert result["gone"]["name"] == "UnloadedError", result["gone"]
    stages = dict(map(tuple, ((name, tuple(counts)) for name, counts in result["stages"])))
    assert all(loaded == total > 0 for loaded, total in stages.values()), stages
    # The check has compiled all kernels.
    assert {"download", "upload", "check"} <= set(stages), stages
    # Each load asks for a byte or two; what was read of the header is not downloaded again.
    sent = browser.server.bytes_sent("demo.gguf") - before
    assert not worker or sent <= len(browser.server.blobs["demo.gguf"]) + 4, sent
    assert result["stats"]["check"]["passed"] and result["stats"]["check"]["cases"] > 0, result["stats"]
    assert not tab.problems, tab.problems
    print(f"  ready after {result['ready']:.0f} ms, first reply after {result['first']:.0f} ms")


def worker(browser):
    answers(browser, True)


def main_thread(browser):
    answers(browser, False)


def download(tab, url, options="{}"):
    """Downloads to the store. Returns the file's size and SHA-256, or the error."""
    return run(tab, """
        try {
            const [file] = await f.store.download(argument, """ + options + """);
            const hash = await crypto.subtle.digest('SHA-256', await file.arrayBuffer());
            return { size: file.size, sha256: [...new Uint8Array(hash)].map((b) => b.toString(16).padStart(2, '0')).join('') };
        } catch (error) {
            return { name: error.name, message: error.message, code: error.code, status: error.status };
        }
    """, url)


def listed(tab):
    return run(tab, "return await f.store.list();")


def sha256(browser, name):
    return hashlib.sha256(browser.server.blobs[name]).hexdigest()


def store_keeps(browser):
    """A second load uses what is stored, also without a server, unless the file has changed there."""
    tab, size = browser.tab(), len(browser.server.blobs["random.bin"])
    url = f"/blob/random.bin?linked={sha256(browser, 'random.bin')}"
    before = browser.server.bytes_sent("random.bin")
    assert download(tab, url) == {"size": size, "sha256": sha256(browser, "random.bin")}
    once = browser.server.bytes_sent("random.bin") - before
    assert size <= once <= size + 16, once
    assert download(tab, url)["size"] == size
    assert browser.server.bytes_sent("random.bin") - before <= size + 16
    (file,) = listed(tab)
    assert file["complete"] and file["bytes"] == file["size"] == size and file["sha256"] == sha256(browser, "random.bin"), file
    browser.server.down = True
    offline = download(tab, url)
    assert offline["size"] == size, offline
    browser.server.down = False
    run(tab, "await f.store.delete(new URL(argument, location.href).href)", url)
    assert listed(tab) == []
    # Without ranges, and then another file of the same address.
    assert download(tab, "/blob/random.bin?noranges=1")["sha256"] == sha256(browser, "random.bin")
    old, browser.server.blobs["changing.bin"] = browser.server.blobs["random.bin"][:5 << 20], b"1" * (3 << 20)
    browser.server.etags["changing.bin"] = "first"
    assert download(tab, "/blob/changing.bin")["size"] == 3 << 20
    browser.server.blobs["changing.bin"], browser.server.etags["changing.bin"] = old, "second"
    assert download(tab, "/blob/changing.bin")["sha256"] == hashlib.sha256(old).hexdigest()


def store_resumes(browser):
    """A tab is killed in the midst of a download, which the next one continues."""
    name = "random.bin"
    size = len(browser.server.blobs[name])
    url = f"/blob/{name}?slow={size // 4}&linked={sha256(browser, name)}"
    before = browser.server.bytes_sent(name)
    tab = browser.tab()
    tab.evaluate("""(url) => {
        import('/dist/index.js').then((f) => f.store.download(url, { onProgress: ({ loaded }) => { window.loaded = loaded; } }));
    }""", url)
    tab.wait_for_function(f"window.loaded > {size // 2}")
    tab.close()
    sent = browser.server.bytes_sent(name) - before
    again = browser.tab()
    (file,) = listed(again)
    assert not file["complete"] and file["bytes"] > 0, file
    # A download that was aborted is kept too.
    aborted = download(again, url, "{ signal: AbortSignal.timeout(700) }")
    assert aborted["name"] in ("TimeoutError", "AbortError"), aborted
    (file,) = listed(again)
    before = browser.server.bytes_sent(name)
    assert download(again, url)["sha256"] == sha256(browser, name)
    # The server goes on sending to the aborted call for a moment.
    late = 1 << 20
    rest = browser.server.bytes_sent(name) - before
    assert rest <= size - file["bytes"] + late < size, (rest, sent, file)
    print(f"  {file['bytes'] >> 20} of {size >> 20} MiB were kept of a killed tab and an aborted call")


def store_broken(browser):
    """A download that breaks at random points fifty times ends with the right bytes."""
    tab, name = browser.tab(), "random.bin"
    url = f"/blob/{name}?breaks=50&linked={sha256(browser, name)}"
    assert download(tab, url)["sha256"] == sha256(browser, name)
    assert browser.server.broken[url] == 50, browser.server.broken
    # A server that does not go on is an error.
    gone = download(tab, "/blob/none.gguf")
    assert (gone["name"], gone["status"]) == ("DownloadError", 404), gone
    assert download(tab, f"/blob/{name}?status=403")["status"] == 403


def store_hash(browser):
    """A file with another hash is refused and deleted, from a header, an option, and the hub's list."""
    tab, name = browser.tab(), "random.bin"
    wrong = "0" * 64
    for url, options in ((f"/blob/{name}?linked={wrong}", "{}"), (f"/blob/{name}?a", f"{{ sha256: '{wrong}' }}")):
        refused = download(tab, url, options)
        assert refused["name"] == "HashError" and sha256(browser, name) in refused["message"], refused
        assert listed(tab) == []
    hub = f"{{ hub: '{browser.server.address}' }}"
    size = len(browser.server.blobs[name])
    entry = {"type": "file", "path": "m-Q4_K_M.gguf", "size": size, "lfs": {"oid": sha256(browser, name), "size": size}}
    other = {**entry, "path": "m-Q8_0.gguf", "lfs": {"oid": wrong, "size": size}}
    browser.server.hub["/api/models/org/repo/tree/main"] = [entry, other, {"type": "file", "path": "README.md", "size": 1}]
    browser.server.links["/org/repo/resolve/main/m-Q4_K_M.gguf"] = name
    browser.server.links["/org/repo/resolve/main/m-Q8_0.gguf"] = name
    assert download(tab, "org/repo", hub)["sha256"] == sha256(browser, name)
    assert download(tab, "org/repo/m-Q4_K_M.gguf", hub)["size"] == size
    assert download(tab, "org/repo:q8_0", hub)["name"] == "HashError"
    unknown = download(tab, "org/repo:Q2_K", hub)
    assert unknown["name"] == "OptionError" and "m-Q8_0.gguf" in unknown["message"], unknown


def store_full(browser):
    """Where there is no space, nothing is downloaded."""
    tab, name = browser.tab(), "random.bin"
    before = browser.server.bytes_sent(name)
    full = download(tab, f"/blob/{name}?claimed={1 << 44}")
    assert full["name"] == "StorageError" and "MiB free" in full["message"], full
    assert browser.server.bytes_sent(name) - before == 1
    assert listed(tab) == []


def store_quota(browser):
    """The browser's quota sinks in the midst of a download. Its space was reserved before: it ends, or fails and goes on later."""
    tab, name = browser.tab(), "random.bin"
    size = len(browser.server.blobs[name])
    url = f"/blob/{name}?slow={size // 2}&linked={sha256(browser, name)}"
    tab.evaluate("""(url) => {
        window.done = import('/dist/index.js')
            .then((f) => f.store.download(url, { onProgress: ({ loaded }) => { window.loaded = loaded; } }))
            .then(([file]) => file.size, ({ name, message }) => ({ name, message }));
    }""", url)
    tab.wait_for_function(f"window.loaded > {size // 8}")
    session = browser.context.new_cdp_session(tab)
    session.send("Storage.overrideQuotaForOrigin", {"origin": browser.server.address, "quotaSize": 1 << 20})
    ended = tab.evaluate("window.done")
    assert ended == size or ended["name"] == "StorageError", ended
    # Another file has no space, and nothing of it is downloaded.
    before = browser.server.bytes_sent("demo.gguf")
    full = download(tab, "/blob/demo.gguf")
    assert full["name"] == "StorageError" and browser.server.bytes_sent("demo.gguf") - before == 1, full
    session.send("Storage.overrideQuotaForOrigin", {"origin": browser.server.address})
    assert download(tab, url)["sha256"] == sha256(browser, name)
    print(f"  the download {'ended' if ended == size else 'failed: ' + ended['message']}")


def two_tabs(browser):
    """Two tabs that want a file download it once."""
    name = "random.bin"
    size = len(browser.server.blobs[name])
    before = browser.server.bytes_sent(name)
    tabs = [browser.tab(), browser.tab()]
    for tab in tabs:
        tab.evaluate(f"""() => {{
            window.done = import('/dist/index.js').then((f) => f.store.download('/blob/{name}?slow={size}')).then(([file]) => file.size);
        }}""")
    assert [tab.evaluate("window.done") for tab in tabs] == [size, size]
    assert browser.server.bytes_sent(name) - before <= size + 32


def fits(browser):
    """What a model needs is known from its header, and what does not fit has reasons."""
    tab, name = browser.tab(), "demo.gguf"
    before = browser.server.bytes_sent(name)
    result = run(tab, """
        return [
            await f.Model.fits('/blob/demo.gguf', { context: 512 }),
            await f.Model.fits('/blob/demo.gguf?claimed=17592186044416', { context: 512 }),
            await caught(f.Model.fits('/blob/random.bin')),
            await caught(f.Model.fits('/blob/demo.gguf', { context: 100000000 })),
            await caught(f.Model.fits('no name')),
        ];
    """)
    fit, large, other, context, name_error = result
    memory = fit["memory"]
    assert fit["fits"] and not fit["reasons"] and fit["model"]["architecture"] == "qwen3moe", fit
    assert memory["total"] == sum(memory[part] for part in ("weights", "kv", "states", "activations")), memory
    assert fit["downloadBytes"] == fit["fileBytes"] == len(browser.server.blobs[name]), fit
    assert not large["fits"] and "MiB free" in large["reasons"][0], large
    assert other["name"] == "ModelError", other
    assert name_error["name"] == "OptionError", name_error
    assert browser.server.bytes_sent(name) - before < 6 * (1 << 20), "more than headers were read"
    print(f"  {memory}\n  {context}")


def page(browser):
    """The page by keyboard, on a screen and on a phone, and without a network."""
    sizes = {"screen": ({"width": 1200, "height": 800}, "light"), "phone": ({"width": 390, "height": 800}, "dark")}
    for name, (size, scheme) in sizes.items():
        browser.fresh(viewport=size, color_scheme=scheme)
        tab, foreign = browser.tab("/page/"), []
        tab.on("request", lambda request: foreign.append(request.url))
        tab.get_by_role("button", name="Demo").click()
        # The button to load has the focus once the header is read.
        tab.locator("#load").wait_for()
        tab.screenshot(path=os.path.join(browser.folder, f"{name}-fits.png"))
        tab.keyboard.press("Enter")
        tab.locator("#text:enabled").wait_for()
        if name == "phone":
            # The page and the model are there without a network.
            tab.wait_for_function("navigator.serviceWorker.controller || navigator.serviceWorker.ready")
            tab.wait_for_function("caches.keys().then((names) => names.length > 0)")
            browser.context.set_offline(True)
            tab.reload()
            tab.get_by_role("button", name="Demo").click()
            browser.server.down = True
            tab.locator("#load").click()
            tab.locator("#text:enabled").wait_for()
        tab.keyboard.type(QUESTION)
        tab.keyboard.press("Enter")
        tab.locator(".usage", has_text="cached").wait_for()
        assert "Paris" in tab.inner_text("article.assistant"), tab.inner_text("main")
        tab.screenshot(path=os.path.join(browser.folder, f"{name}.png"))
        verdict = tab.locator("#verdict").text_content()
        assert verdict.startswith("Right: ") and "kernels of demo" in verdict, verdict
        if name == "screen":
            tab.keyboard.type("Count to one hundred.")
            tab.keyboard.press("Enter")
            tab.locator("#stop").wait_for()
            tab.keyboard.press("Escape")
            tab.locator("#send").wait_for()
        overflow = tab.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not overflow and not tab.problems, (overflow, tab.problems)
        assert all(url.startswith((browser.server.address, "data:", "blob:")) for url in foreign), foreign
        browser.context.set_offline(False)
        browser.server.down = False


def run_table(browser):
    """The page's button "Run" judges one variant of each kernel and shows a row for each."""
    tab = browser.tab("/page/")
    tab.locator("#conformance summary").click()
    tab.locator("#judge").click()
    tab.locator("#judge:disabled").wait_for()
    tab.locator("#judge:enabled").wait_for()
    verdict, rows = tab.locator("#verdict").text_content(), tab.locator("#kernels tbody tr")
    count = rows.count()
    assert verdict == f"Right: {count} of {count}" and count > 20, (verdict, count)
    cells = [row.split("\t") for row in rows.all_inner_texts()]
    assert len({kernel for kernel, *_ in cells}) == count and all(int(cases) > 0 for _, _, cases, _ in cells), cells
    assert all(float(worst) <= 1 for *_, worst in cells), cells
    assert not tab.problems, tab.problems
    tab.screenshot(path=os.path.join(browser.folder, "run.png"))
    print(f"  {count} kernels, {sum(int(cases) for _, _, cases, _ in cells)} cases")


def package(browser):
    """The packed package in an empty project: types by `tsc --strict`, and its README's example in a browser."""
    folder = os.path.join(browser.folder, "project")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    npm = ["npm", "--silent", "--no-audit", "--no-fund"]
    packed = subprocess.check_output([*npm, "pack", "--pack-destination", folder], cwd=browser.web, text=True)
    with open(os.path.join(folder, "package.json"), "w") as file:
        json.dump({"private": True, "type": "module"}, file)
    subprocess.check_call([*npm, "install", "--ignore-scripts", os.path.join(folder, packed.split()[-1])], cwd=folder)
    with open(os.path.join(browser.web, "README.md")) as file:
        example = re.search(r"```ts\n(.*?)```", file.read(), re.S)[1]
    with open(os.path.join(folder, "example.ts"), "w") as file:
        file.write(example)
    tsc = [os.path.join(browser.web, "node_modules/.bin/tsc")]
    target = ["--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    types = ["--types", "", "--lib", "es2022,dom,dom.iterable,dom.asynciterable"]
    subprocess.check_call([*tsc, *target, *types, "example.ts"], cwd=folder)
    subprocess.check_call([*tsc, "-p", "examples"], cwd=browser.web)
    # The example's names are those of Hugging Face, which this server stands for.
    browser.server.folders["/project/"] = folder
    hub, demo = "https://huggingface.co", browser.server.blobs["demo.gguf"]
    entry = {"type": "file", "path": "SmolLM2-135M-Instruct-Q4_K_M.gguf", "size": len(demo)}
    entry["lfs"] = {"oid": hashlib.sha256(demo).hexdigest(), "size": len(demo)}
    cors = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}

    def answer(route):
        span = route.request.headers.get("range", "bytes=0-")
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", span).groups()
        begin, end = int(first), int(last) + 1 if last else len(demo)
        headers = {**cors, "ETag": '"x"', "Content-Range": f"bytes {begin}-{min(end, len(demo)) - 1}/{len(demo)}"}
        route.fulfill(status=206, headers=headers, body=demo[begin:end])

    browser.context.route(f"{hub}/api/models/*/*/tree/main?recursive=true", lambda route: route.fulfill(json=[entry], headers=cors))
    browser.context.route(f"{hub}/*/*/resolve/main/*.gguf", answer)
    with open(os.path.join(folder, "index.html"), "w") as file:
        names = {"imports": {"ferrum-wgpu": "./node_modules/ferrum-wgpu/dist/index.js"}}
        file.write(f"<!doctype html><script type=importmap>{json.dumps(names)}</script><script type=module src=example.js></script>")
    tab = browser.tab("/project/")
    tab.wait_for_function("document.body.innerText.includes('Paris.')")
    assert not tab.problems, tab.problems


def lifecycle(browser):
    """Aborted and left replies, flat memory, a lost device, and an aborted load, with one model in the page's thread."""
    tab = browser.tab()
    replies = int(os.environ.get("WEB_REPLIES", "8"))
    result = run(tab, """
        const devices = [];
        const request = GPUAdapter.prototype.requestDevice;
        GPUAdapter.prototype.requestDevice = async function (...args) {
            devices.push(await request.apply(this, args));
            return devices.at(-1);
        };
        const early = new AbortController();
        const aborted = await caught(f.Model.load('/blob/demo.gguf', {
            worker: false, signal: early.signal, onProgress: ({ stage }) => { if (stage === 'upload') early.abort(); },
        }));
        const model = await f.Model.load('/blob/demo.gguf', { worker: false, context: 512 });
        const ask = """ + ASK + """;
        const create = (more, options) => model.chat.completions.create({ ...ask, ...more }, options);
        const content = async () => (await create({})).choices[0].message.content;
        const texts = [await content()];
        // Aborted by a signal: whole, streamed, and before it begins.
        const long = { messages: [{ role: 'user', content: 'Count.' }], max_tokens: 400, ignore_eos: true };
        const timed = async (promise) => { const t = performance.now(); return [await caught(promise), performance.now() - t]; };
        const stop = new AbortController();
        setTimeout(() => stop.abort(), 300);
        const whole = await timed(create(long, { signal: stop.signal }));
        const before = await caught(create(long, { signal: AbortSignal.abort() }));
        const streaming = new AbortController();
        const streamed = await caught((async () => {
            for await (const _ of await create({ ...long, stream: true }, { signal: streaming.signal })) streaming.abort();
        })());
        // Left in the midst.
        for await (const _ of await create({ ...long, stream: true })) break;
        const left = (await model.stats()).requests;
        const sizes = [];
        for (let i = 0; i < argument; i++) {
            texts.push(await content());
            sizes.push((await model.stats()).wasmBytes);
        }
        devices.at(-1).destroy();
        const lost = await caught(content());
        texts.push(await content());
        const blocks = (await model.stats()).kvBlocks;
        await model.unload();
        return { aborted, whole, before, streamed, left, sizes, lost, texts, blocks, devices: devices.length };
    """, replies)
    assert result["aborted"]["name"] == "AbortError", result["aborted"]
    assert result["whole"][0]["name"] == "AbortError" and result["before"]["name"] == "AbortError", result
    assert result["streamed"]["name"] == "AbortError" and result["left"] == 0, result
    assert set(result["texts"]) == {"The capital of France is Paris."}, result["texts"]
    assert len(set(result["sizes"][1:])) == 1, result["sizes"]
    assert result["lost"]["name"] == "DeviceLostError" and result["devices"] == 3, result
    assert result["blocks"]["free"] == result["blocks"]["total"], result["blocks"]
    print(f"  {replies} replies: {result['sizes'][-1] >> 20} MiB of wasm memory; a reply was aborted in {result['whole'][1]:.0f} ms")


def wrong_device(browser):
    """A device that computes wrongly: without subgroups if only kernels with them are wrong, else refused before the download.
    The shaders of a device are edited as the browser gets them."""
    tab, name = browser.tab(), "demo.gguf"
    before = browser.server.bytes_sent(name)
    result = run(tab, """
        const [has, create] = [new Set(), GPUDevice.prototype.createShaderModule];
        const edit = (wanted) => {
            GPUDevice.prototype.createShaderModule = function (descriptor) {
                const { code } = descriptor;
                has.add(code.includes('enable subgroups;'));
                const wrong = wanted(code) ? code.replaceAll('1.0 / sqrt(', '1.01 / sqrt(').replaceAll('subgroupShuffle(', '1.01 * subgroupShuffle(') : code;
                return create.call(this, { ...descriptor, code: wrong });
            };
        };
        const options = { worker: false, context: 256 };
        edit(() => true);
        const refused = await caught(f.Model.load('/blob/demo.gguf', options));
        const stored = await f.store.list();
        // The result is kept: no shader is compiled.
        has.clear();
        const begun = performance.now();
        const again = await caught(f.Model.load('/blob/demo.gguf', options));
        const [kept, compiled] = [performance.now() - begun, has.size];
        await f.Model.forgetChecks();
        edit((code) => code.includes('enable subgroups;'));
        const model = await f.Model.load('/blob/demo.gguf', options);
        const { device } = await model.stats();
        const subgroups = has.has(true);
        await model.unload();
        has.clear();
        const without = await f.Model.load('/blob/demo.gguf', { ...options, subgroups: false });
        const reply = await without.chat.completions.create(""" + ASK + """);
        const none = (await without.stats()).device.subgroups;
        return { refused, stored, again, kept, compiled, device, subgroups, none, used: has.has(true), reply };
    """)
    headers = browser.server.bytes_sent(name) - before
    refused = result["refused"]
    assert refused["name"] == "DeviceCheckError" and "kernel " in refused["message"], refused
    assert result["stored"] == [], result["stored"]
    assert result["again"] == refused and result["compiled"] == 0, result
    # Kernels with subgroup operations are wrong now, where the planned ones have any.
    assert result["device"]["subgroups"] != result["subgroups"], result
    assert not result["none"] and not result["used"], result
    assert "Paris" in result["reply"]["choices"][0]["message"]["content"], result["reply"]
    print(f"  {refused['message']}\n  subgroups in kernels: {result['subgroups']}; refused again after {result['kept']:.0f} ms; {headers} bytes")


def late_check(browser):
    """Kernels that a first reply does not need are checked while nothing is computed. A wrong one ends the model."""
    tab = browser.tab()
    result = run(tab, """
        const create = GPUDevice.prototype.createShaderModule;
        let wrong = true, modules = 0;
        GPUDevice.prototype.createShaderModule = function (descriptor) {
            modules++;
            const { label, code } = descriptor;
            const edited = wrong && label === 'attn/copy_blocks' ? code.replaceAll('kv[blocks.x * p.words + i]', 'kv[blocks.x * p.words]') : code;
            return create.call(this, { ...descriptor, code: edited });
        };
        // A wrong device with subgroups would be tried without them.
        const options = { worker: false, context: 256, subgroups: false };
        const load = () => f.Model.load('/blob/demo.gguf', options);
        const checked = async (model) => {
            for (;;) {
                const { check } = await model.stats();
                if (!check.passed || check.kernels === check.planned) return check;
                await new Promise((resolve) => setTimeout(resolve, 200));
            }
        };
        const ask = """ + ASK + """;
        let model = await load();
        const begun = (await model.stats()).check;
        const ended = await checked(model);
        const refused = await caught(model.chat.completions.create(ask));
        await model.unload();
        const again = await caught(load());
        await f.Model.forgetChecks();
        wrong = false;
        model = await load();
        const right = await checked(model);
        const reply = (await model.chat.completions.create(ask)).choices[0].message.content;
        await model.unload();
        // The whole result is kept: nothing is checked again.
        modules = 0;
        model = await load();
        const kept = (await model.stats()).check;
        await model.unload();
        return { begun, ended, refused, again, right, reply, kept, modules };
    """)
    begun, ended, right = result["begun"], result["ended"], result["right"]
    assert begun["passed"] and 0 < begun["kernels"] < begun["planned"], begun
    assert not ended["passed"] and {wrong["kernel"] for wrong in ended["wrong"]} == {"attn/copy_blocks"}, ended
    assert result["refused"]["name"] == "DeviceCheckError" and "attn/copy_blocks" in result["refused"]["message"], result["refused"]
    assert result["again"]["name"] == "DeviceCheckError", result["again"]
    assert right["passed"] and right["kernels"] == right["planned"] == result["kept"]["kernels"], result
    assert "Paris" in result["reply"] and result["modules"] < right["planned"], result
    print(f"  {begun['kernels']} of {begun['planned']} kernels before the download; {right['cases']} cases in all")


TESTS = [fits, wrong_device, late_check, page, run_table, store_keeps, store_resumes, store_broken, store_hash, store_full, store_quota, two_tabs, package, worker, main_thread, lifecycle]


def main():
    chromium, web, model, folder, *pattern = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    with open(model, "rb") as file:
        demo = file.read()
    random.seed(1)
    blobs = {"demo.gguf": demo, "random.bin": random.randbytes(24 << 20)}
    empty = os.path.join(folder, "empty")
    os.makedirs(empty, exist_ok=True)
    with open(os.path.join(empty, "index.html"), "w") as file:
        file.write("<!doctype html><title>test</title>")
    server = Server({"/dist/": os.path.join(web, "dist"), "/page/": os.path.join(web, "site"), "/test/": empty}, blobs)
    passed = 0
    with sync_playwright() as playwright:
        browser = Browser(playwright, chromium, server, web, folder)
        print(f"Chrome/{browser.browser.version}", flush=True)
        for test in TESTS:
            if pattern and pattern[0] not in test.__name__:
                continue
            begun = time.monotonic()
            browser.fresh()
            test(browser)
            passed += 1
            print(f"{test.__name__}: passed in {time.monotonic() - begun:.1f} s", flush=True)
        browser.browser.close()
    assert passed, "no test has this name"
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
