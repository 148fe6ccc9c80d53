"""Compiles the kernels with the compilers of GPUs that are not there, and judges what they say:

    main.py judge SHADERS FOLDER [--share TEXT/N]
    main.py renew SHADERS FOLDER [--before TITLE]

SHADERS is the folder of the example `gpu_shaders`, FOLDER keeps drivers and results. `judge` fails if a compiler
crashes, hangs for a minute or refuses a variant, or if a figure of table.txt has grown. `--share` compiles the planned
variants and an N-th of the others, which TEXT chooses. `renew` writes table.txt and the tables of docs/GPUS.md, and
prints the difference. `--before` writes the worst figures of each kernel to before.txt instead, with which docs/GPUS.md
compares. `main.py spilling-shader FILE` writes the WGSL of a shader that must spill.
"""

import argparse
import hashlib
import os
import sys
import time

import table as tables
from drivers import Compiler, Drivers
from gpus import BACKPORTS, GPUS, STABLE

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE, BEFORE, DOCS = f"{HERE}/table.txt", f"{HERE}/before.txt", f"{HERE}/../../../docs/GPUS.md"


class Variant:
    """A line of the index of shaders."""

    def __init__(self, folder, line):
        file, kernel, variant, needs, workgroup_bytes, default, planned = line.rstrip("\n").split("\t")
        self.file = os.path.join(folder, file)
        self.name = f"{kernel} {variant.removeprefix('Variant { ').removesuffix(' }')}"
        self.needs = [need for need in needs.split(",") if need]
        self.workgroup_bytes = int(workgroup_bytes)
        self.planned = planned.split(",")

    def suits(self, device):
        """Returns whether a device has what the variant needs."""
        has = {
            "subgroups": True,
            # These kernels are for software drivers, and valid on a GPU.
            "software subgroups ≥ 8": device["subgroups"][0] >= 8,
            "f16-kv": True,
            "f16": device["f16"],
            "8x8 f32 matrices": "8x8x8 f32" in device["matrices"],
            "8x8 f16 matrices": "8x8x8 f16" in device["matrices"],
            "16x16 f16 matrices": "16x16x16 f16" in device["matrices"],
        }
        return self.workgroup_bytes <= device["workgroup_bytes"] and all(has[need] for need in self.needs)


def spilling_shader():
    """Returns WGSL that holds 384 values in every round of a loop: more than any GPU has registers for."""
    count = 96
    lines = ["@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;",
             "@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {"]
    lines += [f"    var v{i} = x[id.x * {count}u + {i}u];" for i in range(count)]
    lines += ["    let rounds = arrayLength(&x);", "    for (var round = 0u; round < rounds; round++) {"]
    lines += [f"        v{i} = fma(v{i}, v{(i + 37) % count}, v{(i + 1) % count});" for i in range(count)]
    lines += ["    }"]
    lines += [f"    x[id.x * {count}u + {i}u] = v{i};" for i in range(count)]
    return "\n".join([*lines, "}", ""])


def judge_variant(result, expected, same_version):
    """Returns what is wrong with a variant, as text: `result` are its figures or a message."""
    if isinstance(result, str):
        return result
    if expected is None:
        return None
    return ", ".join(tables.grown(expected, result, not same_version)) or None


def judge_judge(compiler, folder, rows):
    """Fails unless the judge sees a spill, in place of the table's `rows` as well, a module that is not valid, and a hang."""
    spilling, broken = f"{folder}/spilling.spv", f"{folder}/broken.spv"
    with open(spilling, "rb") as whole, open(broken, "wb") as part:
        # Ends within a function.
        part.write(whole.read()[:-400])
    results = compiler.compile([broken, spilling], False)
    figures = results[spilling]
    if not isinstance(figures, dict) or figures["spills"] == 0:
        sys.exit(f"{compiler.gpu.name}: the judge does not see that a shader spills: {figures}")
    for row in [{"spills": 0}] + [row for row in rows if not row.get("spills")]:
        if judge_variant(figures, row, False) is None:
            sys.exit(f"{compiler.gpu.name}: the judge accepts a kernel that spills: {figures}, table {row}")
    if judge_variant(results[broken], None, True) is None:
        sys.exit(f"{compiler.gpu.name}: the judge accepts half a module: {results[broken]}")
    # A minute would be long for a check.
    hang = compiler.compile_briefly(spilling)
    if not (hang or "").startswith("hangs") or judge_variant(hang, None, True) is None:
        sys.exit(f"{compiler.gpu.name}: the judge does not see that a compiler takes too long: {hang}")


def compilers(folder):
    """Yields the compiler of each GPU."""
    drivers = {suite: Drivers(suite, folder) for suite in (STABLE, BACKPORTS)}
    # Debian 13's kernel headers know no Apple GPU.
    stub = drivers[BACKPORTS].build_stub()
    for gpu in GPUS:
        yield Compiler(gpu, drivers[gpu.suite], stub, folder)


def is_chosen(share, variant, gpu):
    """Returns whether a variant outside of the table is compiled in this share."""
    if share is None:
        return True
    text, parts = share.rsplit("/", 1)
    number = lambda of: int(hashlib.sha256(of.encode()).hexdigest(), 16)
    return (number(text) + number(f"{gpu.name} {variant.name}")) % int(parts) == 0


def judge(variants, options):
    """Compiles and judges. Returns whether all is well."""
    expected = tables.Table.read(TABLE)
    if options.share:
        print(f"share {options.share}: all planned variants, and a part of the others")
    failures, passed, versions = [], 0, set()
    for compiler in compilers(options.folder):
        gpu, begun = compiler.gpu, time.monotonic()
        judge_judge(compiler, options.shaders, [row for (_, on), row in expected.rows.items() if on == gpu.name])
        versions.add(compiler.version)
        same_version = expected.versions.get(gpu.name) == compiler.version
        suited = [variant for variant in variants if variant.suits(compiler.device)]
        planned = [variant for variant in suited if gpu.name in variant.planned]
        others = [v for v in suited if gpu.name not in v.planned and is_chosen(options.share, v, gpu)]
        results = {}
        for of, loops in ((planned, True), (others, False)):
            compiled = compiler.compile([variant.file for variant in of], loops)
            results |= {variant.name: compiled[variant.file] for variant in of}
        wrong = []
        for variant in planned + others:
            row = expected.rows.get((variant.name, gpu.name)) if variant in planned else None
            message = judge_variant(results[variant.name], row, same_version)
            if message is None and variant in planned and row is None:
                message = "is not in the table"
            if message:
                wrong.append(f"FAILED {gpu.name}: {variant.name}: {message}")
        names = {variant.name for variant in planned}
        wrong += [f"FAILED {gpu.name}: {name}: is in the table, and no plan dispatches it"
                  for name, on in expected.rows if on == gpu.name and name not in names]
        note = "" if same_version else f", the table's is {expected.versions.get(gpu.name)}: spills alone are compared"
        print(f"{gpu.title} ({gpu.name}), {compiler.version}{note}: {len(planned)} planned, {len(others)} of "
              f"{len(suited) - len(planned)} others, {len(wrong)} failed, {time.monotonic() - begun:.0f} s", flush=True)
        print("".join(f"  {text}\n" for text in wrong), end="", flush=True)
        if not same_version:
            for variant in planned:
                row, now = expected.rows.get((variant.name, gpu.name)), results[variant.name]
                if row and isinstance(now, dict) and tables.grown(row, now, False):
                    print(f"  shown {variant.name}: {', '.join(tables.grown(row, now, False))}")
        failures += wrong
        passed += len(planned) + len(others) - len(wrong)
    print(", ".join(sorted(versions)))
    if failures:
        print("To accept the figures: make gpu-figures")
    print(f"{passed} passed, {len(failures)} failed")
    return not failures and passed > 0


def renew(variants, options):
    """Writes the table and the document. Returns whether every planned variant compiles."""
    before, now, failed = tables.Table.read(TABLE), tables.Table(), False
    for compiler in compilers(options.folder):
        gpu, begun = compiler.gpu, time.monotonic()
        judge_judge(compiler, options.shaders, [])
        now.versions[gpu.name] = compiler.version
        planned = [v for v in variants if gpu.name in v.planned and v.suits(compiler.device)]
        results = compiler.compile([variant.file for variant in planned], True)
        for variant in planned:
            result = results[variant.file]
            if isinstance(result, str):
                failed = True
                print(f"FAILED {gpu.name}: {variant.name}: {result}")
            else:
                now.rows[variant.name, gpu.name] = result
        print(f"{gpu.name}: {len(planned)} variants, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if options.before:
        tables.write_short(tables.short(now), BEFORE, options.before)
        return not failed
    changes = list(tables.difference(before, now))
    print("\n".join(changes) or "no change")
    now.write(TABLE)
    tables.renew_docs(DOCS, tables.markdown(now, tables.read_short(BEFORE)))
    return not failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["judge", "renew", "spilling-shader"])
    parser.add_argument("shaders")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--share")
    parser.add_argument("--before")
    options = parser.parse_args()
    if options.what == "spilling-shader":
        with open(options.shaders, "w") as file:
            file.write(spilling_shader())
        return
    # A driver's path is relative to its manifest.
    options.folder = os.path.abspath(options.folder)
    os.makedirs(options.folder, exist_ok=True)
    with open(f"{options.shaders}/index.tsv") as lines:
        variants = [Variant(options.shaders, line) for line in lines]
    sys.exit(0 if {"judge": judge, "renew": renew}[options.what](variants, options) else 1)


main()
