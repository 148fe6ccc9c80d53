"""The figures of a compiled kernel, from what its driver says."""

import collections
import os
import re

# Column: does a larger figure cost more (+1), less (-1)? Columns without a sign are shown and not judged.
COLUMNS = {
    "lanes": -1,
    "registers": +1,
    "waves": -1,
    "spills": +1,
    "scratch": +1,
    "vector": +1,
    "loop": +1,
    "fma": 0,
    "loads": +1,
    "lds": +1,
}

# Where each driver says it: RADV, ANV, NVK, Honeykrisp, Turnip.
STATISTICS = {
    "registers": ("VGPRs", "Max live registers", "Number of GPRs", "GPRs", "Registers used"),
    "waves": ("Subgroups per SIMD", "Max warps/SM", "Threads", "Max Waves Per Core"),
    "spills": ("Spilled VGPRs", "Spill Count", "Spill count", "Spills to memory", "Spills", "STP Count"),
    "scratch": ("Scratch size", "Scratch Memory Size", "SLM size", "SLM Size", "Scratch"),
    "vector": ("VALU", "ALU", "Instruction Count", "Instruction count"),
}


def of(driver, line, listing):
    """Returns the figures of a line of `compile`, by column, with those of the hot loop if its listing is a file."""
    statistics = line["statistics"]
    found = {"lanes": line["lanes"]}
    for column, names in STATISTICS.items():
        value = next((statistics[name] for name in names if name in statistics), None)
        if value is not None:
            found[column] = int(value)
    # RADV counts waves of 32.
    if driver == "radeon" and found["lanes"] == 64:
        found["waves"] //= 2
    if os.path.exists(listing):
        with open(listing, errors="replace") as text:
            found |= hot_loop(text)
    return found


def kind(op):
    """Returns the class of an AMD instruction."""
    if op.startswith(("v_wmma", "v_mfma")):
        return "matrix"
    if re.match(r"v_(dual_)?(fma|fmac|mad_f|mac_f|pk_fma|dot)", op):
        return "fma"
    if op.startswith("v_"):
        return "vector"
    if re.match(r"(buffer|global|flat)_load", op):
        return "load"
    return "lds" if op.startswith("ds_") else "other"


def innermost(text):
    """Yields the instructions of each innermost loop of an AMD listing."""
    blocks = []
    for line in text:
        block = re.match(r"BB(\d+):", line)
        code = line.split(";")[0].strip()
        if block:
            blocks.append((int(block[1]), []))
        elif blocks and code:
            blocks[-1][1].append(code)
    place = {number: at for at, (number, _) in enumerate(blocks)}
    loops = set()
    for at, (_, lines) in enumerate(blocks):
        for line in lines:
            jump = re.match(r"s_c?branch\w*\s+BB(\d+)", line)
            if jump and place.get(int(jump[1]), at + 1) <= at:
                loops.add((place[int(jump[1])], at))
    for first, last in sorted(loops):
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops):
            yield [line.split()[0] for _, lines in blocks[first : last + 1] for line in lines]


def widths(ops):
    """Returns how many instructions access memory by each width, as in 16*b128+2*u16. Stores have a `>`."""
    names = []
    for op in ops:
        access = re.match(r"(?:ds|buffer|global|flat)_(load|read|store|write)2?(?:_\w+?)??_(\w+?)(?:_e\d+)?$", op)
        names.append(op if not access else (">" if access[1] in ("store", "write") else "") + access[2])
    count = sorted(collections.Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return "+".join(f"{number}*{name}" for name, number in count)


def hot_loop(text):
    """Returns the figures of the innermost loop with the most vector instructions."""
    best = max(innermost(text), key=lambda ops: sum(op.startswith("v_") for op in ops), default=[])
    if not best:
        return {}
    vector = sum(op.startswith("v_") for op in best)
    by_kind = collections.defaultdict(list)
    for op in best:
        by_kind[kind(op)].append(op)
    found = {"loop": vector, "fma": len(by_kind["fma"]) + len(by_kind["matrix"])}
    for column, name in (("loads", "load"), ("lds", "lds")):
        found[column] = widths(by_kind[name]) or "0"
    return found
