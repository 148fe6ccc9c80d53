"""Lets DXC, the compiler of Direct3D 12, judge every .hlsl file of the folders given, each as a shader model.

    dxc.py LIBDXCOMPILER MODEL=FOLDER...

MODEL is 6_0, or 6_2, which has 16-bit types. Optimising would take four fifths of the time, and what is refused is so
before: every eighth shader is optimised, as wgpu has it done.

DXC is a library with COM interfaces; the few methods needed are called through their tables.
"""

import ctypes
import os
import sys
import uuid

CLSID_COMPILER = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0"
IID_COMPILER3 = "228b4687-5a6a-4730-900c-9702b2203f54"
IID_RESULT = "58346cda-dde7-4497-9461-6f87af5e0659"
# Places in the tables: every interface begins with QueryInterface, AddRef, Release and, in this library's version of
# IUnknown for systems other than Windows, two destructors.
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
    """Calls the method at a place in the table of the interface `this`; arguments are (type, value)."""
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

    def refusal(self, source, model="6_0", optimised=True):
        """What DXC has against a shader, or an empty string."""
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
        refused = ""
        if verdict.value < 0:
            blob = ctypes.c_void_p()
            check(call(result, RESULT_ERRORS, ctypes.c_int32, (ctypes.c_void_p, ctypes.addressof(blob))), "asking")
            text = ctypes.string_at(
                call(blob, BLOB_POINTER, ctypes.c_void_p), call(blob, BLOB_SIZE, ctypes.c_size_t)
            )
            refused = text.decode(errors="replace").strip("\0\n") or f"error {verdict.value & 0xFFFFFFFF:#x}"
            call(blob, RELEASE, ctypes.c_uint32)
        call(result, RELEASE, ctypes.c_uint32)
        return refused


def main():
    library, *folders = sys.argv[1:]
    dxc = Dxc(library)
    # The judge is judged first.
    good = b"RWByteAddressBuffer a; [numthreads(64, 1, 1)] void main(uint i : SV_GroupIndex) { a.Store(i * 4, i); }"
    if refused := dxc.refusal(good):
        sys.exit(f"DXC refuses a trivial shader: {refused}")
    for bad in (good.replace(b"i);", b"j);"), good.replace(b"a.Store(i * 4, i)", b"a.Store(i * 4, WaveMatch(i).x)")):
        if not dxc.refusal(bad):
            sys.exit(f"DXC accepts {bad.decode()}")
    halves = good.replace(b"i * 4, i)", b"i * 4, uint(float16_t(i)))")
    if (refused := dxc.refusal(halves, "6_2")) or not dxc.refusal(halves):
        sys.exit(f"DXC takes 16-bit types where there are none, or refuses them: {refused}")
    print(f"DXC: {os.path.basename(library)}")
    passed = failed = 0
    for model, folder in (argument.split("=", 1) for argument in folders):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".hlsl"):
                with open(os.path.join(folder, name), "rb") as file:
                    refused = dxc.refusal(file.read(), model, (passed + failed) % 8 == 0)
                if refused:
                    failed += 1
                    print(f"FAILED {name}: {refused}", file=sys.stderr)
                else:
                    passed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


main()
