#!/usr/bin/env python3
"""Writes a GGUF file again with all tensors as F32, so that engines can be compared on equal weights.

    python3 tools/to_f32.py MODEL.gguf MODEL-f32.gguf

With it, tools/peer_archs.py compares logits of real files: it takes any file with F32 weights. Needs numpy and gguf
(PyPI), and memory for the whole model.
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize


def main():
    source, target = sys.argv[1:]
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        # The header's fields, and what the writer adds.
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        is_array = field.types[0] == GGUFValueType.ARRAY
        writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if is_array else None)
    for tensor in reader.tensors:
        data = tensor.data if tensor.tensor_type == Type.F32 else dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(data, dtype=np.float32), raw_dtype=Type.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
