"""Tests `serve` against its OpenAPI document with schemathesis: openapi.py PROGRAM MODEL [EXAMPLES]"""

import os
import pathlib
import subprocess
import sys
import tempfile


def main():
    program, model = sys.argv[1:3]
    examples = sys.argv[3] if len(sys.argv) > 3 else "20"
    arguments = [program, "serve", model, "--port", "0", "--ctx", "256", "--parallel", "8"]
    server = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        address = None
        for line in server.stderr:
            if line.startswith("listening on "):
                address = line.removeprefix("listening on ").strip()
            if line == "ready\n":
                break
        else:
            sys.exit("the server did not start")
        folder = pathlib.Path(__file__).parent.resolve()
        environment = {**os.environ, "PYTHONPATH": str(folder), "SCHEMATHESIS_HOOKS": "schemathesis_checks"}
        command = [
            str(pathlib.Path(sys.executable).parent / "st"), "run", f"{address}/openapi.json", "--no-color",
            "--max-examples", examples, "--continue-on-failure", "--request-timeout", "60", "--generation-deterministic",
            # schemathesis_checks knows what the document cannot say.
            "--exclude-checks", "positive_data_acceptance",
        ]
        with tempfile.TemporaryDirectory() as scratch:
            found = subprocess.run(command, env=environment, cwd=scratch, check=False).returncode
        assert server.poll() is None, "the server ended"
    finally:
        server.terminate()
        code = server.wait(60)
    assert code == 143, code
    print(f"openapi: {int(not found)} passed, {int(bool(found))} failed")
    sys.exit(bool(found))


main()
