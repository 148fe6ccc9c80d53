"""Runs a page in headless Chromium until it posts its result: browser.py CHROMIUM FOLDER ADAPTER

The page is FOLDER/index.html, served on localhost. It posts its result to /result: a line "passed" or "failed", then
text, which is printed. The text must contain ADAPTER: running on another adapter is a failure. The page gets the
environment's SUITE_SHARE as its parameter `share`.
"""

import http.server
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse

SECONDS = 900


def main():
    chromium, folder, adapter = sys.argv[1:]
    results = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def do_POST(self):
            results.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    share = os.environ.get("SUITE_SHARE")
    query = "?" + urllib.parse.urlencode({"share": share}) if share else ""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tempfile.mkdtemp()
    log = os.path.join(profile, "log")
    with open(log, "wb") as output:
        browser = subprocess.Popen(
            [
                chromium,
                "--headless",
                # The sandbox does not work as root and in containers. This page is the only code that runs.
                "--no-sandbox",
                "--disable-gpu-sandbox",
                "--enable-unsafe-webgpu",
                "--use-webgpu-adapter=swiftshader",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-dev-shm-usage",
                "--disable-sync",
                "--no-first-run",
                "--enable-logging=stderr",
                f"--user-data-dir={profile}",
                f"http://127.0.0.1:{server.server_address[1]}/index.html{query}",
            ],
            stdout=output,
            stderr=output,
        )
        try:
            verdict, _, text = results.get(timeout=SECONDS).partition("\n")
        except queue.Empty:
            verdict, text = "failed", f"no result after {SECONDS} s"
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
    print(text.rstrip("\n"))
    if verdict == "passed" and adapter.lower() not in text.lower():
        verdict = f"failed: not on {adapter}"
    if verdict != "passed":
        with open(log, errors="replace") as output:
            # Chromium logs many errors about missing desktop services.
            sys.stderr.writelines([line for line in output if "dbus/" not in line][-40:])
        sys.stderr.write(f"{verdict}\n")
    shutil.rmtree(profile, ignore_errors=True)
    sys.exit(verdict != "passed")


main()
