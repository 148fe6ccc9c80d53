"""Compiles the .hlsl files of folders with DXC, the compiler of Direct3D 12.

    dxc.py LIBDXCOMPILER MODEL=FOLDER...

MODEL is a shader model: 6_0, or 6_2 for 16-bit types. Optimisation takes four fifths of the time, and errors are
found before it. So only every eighth shader is optimised, as wgpu does.

DXC is a library with COM interfaces. The few methods needed are called through their vtables.
"""

import ctypes
import os
import sys
import uuid

CLSID_COMPILER = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0"
IID_COMPILER3 = "228b4687-5a6a-4730-900c-9702b2203f54"
IID_RESULT = "58346cda-dde7-4497-9461-6f87af5e0659"
# Indices in the vtables. Every interface begins with QueryInterface, AddRef and Release. In this library's IUnknown for
# systems other than Windows, two destructors follow.
RELEASE = 2
COMPILER_COMPILE = 5
RESULT_STATUS, RESULT_ERRORS = 5, 7
BLOB_POINTER, BLOB_SIZE = 5, 6


class Buffer(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_char_p), ("size", ctypes.c_size_t), ("encoding", ctypes.c_uint32)]


UTF8 = 65001


def guid(text):
    return uuid.UUID(text).bytes_le


def call(this, place, result, *arguments):
    """Calls the method at index `place` of the vtable of `this`. Arguments are pairs (type, value)."""
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
    kinds = [kind for kind, _ in arguments]
    method = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *kinds)(table[place])
    return method(this, *(value for _, value in arguments))


def check(status, what):
    if status & 0xFFFFFFFF >= 0x80000000:
        sys.exit(f"DXC: {what} failed with {status & 0xFFFFFFFF:#x}")


class Dxc:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.compiler = ctypes.c_void_p()
        status = self.library.DxcCreateInstance(
            guid(CLSID_COMPILER), guid(IID_COMPILER3), ctypes.byref(self.compiler)
        )
        check(status, "making a compiler")

    def compile_errors(self, source, model="6_0", optimised=True):
        """Returns DXC's errors for a shader, or an empty string."""
        words = ["-E", "main", "-T", f"cs_{model}", "-HV", "2018", "-no-warnings", "-O3" if optimised else "-Od"]
        if model == "6_2":
            words.append("-enable-16bit-types")
        arguments = (ctypes.c_wchar_p * len(words))(*words)
        buffer = Buffer(source, len(source), UTF8)
        result = ctypes.c_void_p()
        status = call(
            self.compiler, COMPILER_COMPILE, ctypes.c_int32,
            (ctypes.c_void_p, ctypes.addressof(buffer)),
            (ctypes.c_void_p, ctypes.addressof(arguments)),
            (ctypes.c_uint32, len(words)),
            (ctypes.c_void_p, None),
            (ctypes.c_char_p, guid(IID_RESULT)),
            (ctypes.c_void_p, ctypes.addressof(result)),
        )  # fmt: skip
        check(status, "compiling")
        verdict = ctypes.c_int32()
        check(call(result, RESULT_STATUS, ctypes.c_int32, (ctypes.c_void_p, ctypes.addressof(verdict))), "asking")
        errors = ""
        if verdict.value < 0:
            blob = ctypes.c_void_p()
            check(call(result, RESULT_ERRORS, ctypes.c_int32, (ctypes.c_void_p, ctypes.addressof(blob))), "asking")
            text = ctypes.string_at(
                call(blob, BLOB_POINTER, ctypes.c_void_p), call(blob, BLOB_SIZE, ctypes.c_size_t)
            )
            errors = text.decode(errors="replace").strip("\0\n") or f"error {verdict.value & 0xFFFFFFFF:#x}"
            call(blob, RELEASE, ctypes.c_uint32)
        call(result, RELEASE, ctypes.c_uint32)
        return errors


def main():
    library, *folders = sys.argv[1:]
    dxc = Dxc(library)
    # Check that the compiler accepts a valid shader and rejects invalid ones.
    good = b"RWByteAddressBuffer a; [numthreads(64, 1, 1)] void main(uint i : SV_GroupIndex) { a.Store(i * 4, i); }"
    if errors := dxc.compile_errors(good):
        sys.exit(f"DXC rejects a trivial shader: {errors}")
    for bad in (good.replace(b"i);", b"j);"), good.replace(b"a.Store(i * 4, i)", b"a.Store(i * 4, WaveMatch(i).x)")):
        if not dxc.compile_errors(bad):
            sys.exit(f"DXC accepts {bad.decode()}")
    halves = good.replace(b"i * 4, i)", b"i * 4, uint(float16_t(i)))")
    if (errors := dxc.compile_errors(halves, "6_2")) or not dxc.compile_errors(halves):
        sys.exit(f"DXC accepts 16-bit types in model 6_0 or rejects them in 6_2: {errors}")
    print(f"DXC: {os.path.basename(library)}")
    passed = failed = 0
    for model, folder in (argument.split("=", 1) for argument in folders):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".hlsl"):
                with open(os.path.join(folder, name), "rb") as file:
                    errors = dxc.compile_errors(file.read(), model, (passed + failed) % 8 == 0)
                if errors:
                    failed += 1
                    print(f"FAILED {name}: {errors}", file=sys.stderr)
                else:
                    passed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


main()
