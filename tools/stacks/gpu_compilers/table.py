"""The table of figures: reading, writing, comparing, and its short form in docs/GPUS.md."""

import os
import re

from figures import COLUMNS
from gpus import GPUS

HEAD = """Figures of all kernels that plans of the documented models dispatch, by GPU. docs/GPUS.md explains the columns.
Renew: make gpu-figures.

"""


class Table:
    """Figures by kernel variant and GPU, and the compiler's version for each GPU."""

    def __init__(self):
        self.versions = {}
        self.rows = {}

    @classmethod
    def read(cls, path):
        """Reads a table. No file is an empty table."""
        table = cls()
        if not os.path.exists(path):
            return table
        with open(path) as lines:
            variant = None
            for line in lines:
                words = line.split()
                if line.startswith("compiler "):
                    table.versions[words[1]] = " ".join(words[2:])
                elif line.startswith("  "):
                    # Widths of loads are text.
                    row = {c: int(v) if v.isdecimal() else v for c, v in zip(COLUMNS, words[1:]) if v != "-"}
                    table.rows[variant, words[0]] = row
                elif "/" in line.split(" ")[0]:
                    variant = line.rstrip("\n")
        return table

    def write(self, path):
        """Writes the table: a heading for each variant, a line below for each GPU."""
        names = [gpu.name for gpu in GPUS]
        with open(path, "w") as out:
            out.write(HEAD)
            for gpu in names:
                out.write(f"compiler {gpu:9} {self.versions[gpu]}\n")
            out.write(line("\n# GPU", COLUMNS) + "\n")
            for variant in sorted({variant for variant, _ in self.rows}):
                out.write(f"{variant}\n")
                for gpu in names:
                    if (variant, gpu) in self.rows:
                        row = self.rows[variant, gpu]
                        out.write(line(f"  {gpu}", [str(row.get(column, "-")) for column in COLUMNS]) + "\n")


def line(first, values):
    """Returns a line of the table."""
    return (f"{first:11} " + " ".join(f"{value:>6}" for value in values)).rstrip()


def number(value):
    """Returns a figure as a number: of widths, that of their instructions."""
    if isinstance(value, int):
        return value
    return sum(int(part.split("*")[0]) for part in value.split("+") if "*" in part)


def grown(before, now, spills_only):
    """Returns the figures that are worse than in the table, as text."""
    worse = []
    for column, sign in COLUMNS.items():
        if not sign or column not in before or column not in now:
            continue
        if spills_only and column not in ("spills", "scratch"):
            continue
        if sign * number(now[column]) > sign * number(before[column]):
            worse.append(f"{column} {before[column]} -> {now[column]}")
    return worse


def difference(before, now):
    """Yields the lines of a difference between tables: new, changed and dropped rows."""
    for key in sorted(before.rows.keys() | now.rows.keys()):
        old, new = before.rows.get(key), now.rows.get(key)
        if old == new:
            continue
        if old is None or new is None:
            yield f"{'new' if old is None else 'dropped':8} {key[1]:9} {key[0]}"
            continue
        pairs = [(column, str(old.get(column, "-")), str(new.get(column, "-"))) for column in COLUMNS]
        changed = [f"{column} {was} -> {is_now}" for column, was, is_now in pairs if was != is_now]
        if changed:
            how = "worse" if grown(old, new, False) else "changed"
            yield f"{how:8} {key[1]:9} {key[0]}: {', '.join(changed)}"


def short(table):
    """Returns the worst figures of a kernel's variants by kernel and GPU: the lines of before.txt."""
    worst = {}
    for (variant, gpu), row in table.rows.items():
        kernel = variant.split(" ")[0]
        into = worst.setdefault((kernel, gpu), {"variants": 0, "spilling": 0})
        into["variants"] += 1
        into["spilling"] += row.get("spills", 0) > 0
        for column in ("registers", "spills", "vector"):
            into[column] = max(into.get(column, 0), row.get(column, 0))
        if "waves" in row:
            into["waves"] = min(into.get("waves", row["waves"]), row["waves"])
        into["lanes"] = min(into.get("lanes", row["lanes"]), row["lanes"])
    return worst


SHORT = ("variants", "spilling", "registers", "spills", "waves", "lanes", "vector")


def write_short(worst, path, title):
    """Writes the worst figures of each kernel."""
    with open(path, "w") as out:
        out.write(f"{title}\n\n# kernel GPU {' '.join(SHORT)}\n")
        for (kernel, gpu), row in sorted(worst.items()):
            out.write(f"{kernel} {gpu} " + " ".join(str(row.get(column, "-")) for column in SHORT) + "\n")


def read_short(path):
    """Reads what write_short wrote."""
    worst = {}
    with open(path) as lines:
        for text in lines:
            words = text.split()
            if len(words) == len(SHORT) + 2 and words[0] != "#":
                values = {c: int(v) for c, v in zip(SHORT, words[2:]) if v != "-"}
                worst[words[0], words[1]] = values
    return worst


def arrow(before, now):
    """Returns a cell of before and now."""
    return now if before in (None, now) else f"{before} → {now}"


def cell(row):
    """Returns the registers, waves or lanes, and spills of a kernel."""
    if row is None:
        return None
    of = f"{row['waves']}w" if "waves" in row else f"SIMD{row['lanes']}"
    return f"{row['registers']} {of}" + (f" **{row['spills']}s**" if row["spills"] else "")


def markdown(table, before):
    """Returns the tables of docs/GPUS.md."""
    now = short(table)
    out = ["| GPU | compiler | variants | that spill | spills of the worst |", "|---|---|---|---|---|"]
    for gpu in GPUS:
        sums = []
        for worst in (before, now):
            rows = [row for (_, name), row in worst.items() if name == gpu.name]
            sums.append(None if not rows else [str(f(row[column] for row in rows)) for f, column in
                                               ((sum, "variants"), (sum, "spilling"), (max, "spills"))])
        cells = [arrow(sums[0] and sums[0][i], sums[1][i]) for i in range(3)]
        out.append(f"| {gpu.title} (`{gpu.name}`) | {table.versions[gpu.name]} | {' | '.join(cells)} |")
    shown = [gpu for gpu in GPUS if gpu.name in ("navi31", "a770", "b580", "rtx3070", "m1", "adreno750")]
    out += ["", "| kernel | " + " | ".join(gpu.title for gpu in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for kernel in sorted({kernel for kernel, _ in now} | {kernel for kernel, _ in before}):
        cells = []
        for gpu in shown:
            old, new = cell(before.get((kernel, gpu.name))), cell(now.get((kernel, gpu.name)))
            cells.append("–" if not old and not new else f"{old} → –" if not new else arrow(old, new))
        out.append(f"| `{kernel}` | {' | '.join(cells)} |")
    return "\n".join(out)


def renew_docs(path, text):
    """Replaces the generated part of a document."""
    with open(path) as file:
        whole = file.read()
    begin, end = "<!-- figures: generated -->\n", "<!-- figures: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(whole), f"{path}: no markers"
    with open(path, "w") as file:
        file.write(pattern.sub(lambda _: begin + text + "\n" + end, whole))
