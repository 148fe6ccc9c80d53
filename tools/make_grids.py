#!/usr/bin/env python3
"""Print the tables of src/quant/grids.rs: the grids of the IQ formats, from gguf-py.

Each grid is a list of points in ascending order, as numbers whose digits are the point's coordinates, the first one least.
A character stands for the distance of a point to the one before: '0' for 0, '1' for 1 and so on; '~' adds 64.

Needs numpy and gguf (PyPI).
"""
import numpy as np
from gguf import quants


def gaps(grid):
    grid.init_grid()
    points = grid.grid.reshape(grid.grid_shape).astype(int)
    digits = np.searchsorted(grid.grid_map, points)
    numbers = digits @ len(grid.grid_map) ** np.arange(digits.shape[1])
    distances = np.diff(numbers, prepend=0)
    assert (distances[1:] > 0).all()
    return "".join("~" * (int(d) // 64) + chr(ord("0") + int(d) % 64) for d in distances)


for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"):
    text = gaps(getattr(quants, name))
    print(f"const {'IQ1' if name == 'IQ1_S' else name}_POINTS: &[&str] = &[")
    for at in range(0, len(text), 110):
        print(f'    r"{text[at:at + 110]}",')
    print("];\n")
