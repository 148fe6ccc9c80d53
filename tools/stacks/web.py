"""Tests the browser package and its page with Chromium: web.py CHROMIUM WEB MODEL FOLDER [PATTERN]

WEB is the folder of the package, built; MODEL is the demo model. Screenshots are left in FOLDER. PATTERN selects tests.
WEB_REPLIES=N is the number of replies after which memory must not have grown. Needs playwright.
"""

import hashlib
import os
import random
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

    def __init__(self, playwright, chromium, server, folder):
        self.server, self.folder = server, folder
        self.browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        self.context = None

    def fresh(self):
        """Closes all tabs and forgets what was stored."""
        if self.context:
            self.context.close()
        self.context = self.browser.new_context()
        self.context.set_default_timeout(240_000)

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
        const wrong = await caught(model.chat.completions.create({ ...ask, temperature: 9000 }));
        const other = await caught(model.chat.completions.create({ ...ask, stream: true, model: 'other' }));
        await model.unload();
        const gone = await caught(model.stats());
        return { text, chunks, ready, first, whole, again, stats, completion, wrong, other, gone, stages: [...stages] };
    """, worker)
    assert "Paris" in result["text"] and result["chunks"] > 3, result
    assert result["whole"]["choices"][0]["message"]["content"] == result["text"], result
    assert result["whole"]["choices"][0]["finish_reason"] == "stop" and result["whole"]["model"] == "demo", result
    assert result["again"] == "Hello, world" and result["stats"]["context"] == 512, result
    assert result["completion"]["object"] == "text_completion", result
    assert (result["wrong"]["name"], result["wrong"]["param"]) == ("RequestError", "temperature"), result["wrong"]
    assert (result["other"]["name"], result["other"]["status"]) == ("RequestError", 404), result["other"]
    assert result["gone"]["name"] == "UnloadedError", result["gone"]
    stages = dict(map(tuple, ((name, tuple(counts)) for name, counts in result["stages"])))
    assert all(loaded == total > 0 for loaded, total in stages.values()), stages
    assert {"download", "upload"} <= set(stages), stages
    assert not tab.problems, tab.problems
    print(f"  ready after {result['ready']:.0f} ms, first reply after {result['first']:.0f} ms")


def worker(browser):
    answers(browser, True)


def main_thread(browser):
    answers(browser, False)


TESTS = [worker, main_thread]


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
        browser = Browser(playwright, chromium, server, folder)
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
