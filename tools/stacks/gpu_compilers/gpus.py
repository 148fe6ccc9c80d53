"""The GPUs, and the Debian suites that have compilers for them."""

import typing


class Suite(typing.NamedTuple):
    """A Debian suite, which gives Mesa's Vulkan drivers, and the suites that its packages depend on."""

    name: str
    needs: tuple[str, ...]


class Gpu(typing.NamedTuple):
    """A GPU, and how its driver is made to see it."""

    name: str
    title: str
    suite: Suite
    driver: str
    environment: dict[str, str]


# Debian 13 is frozen. Its NVK has no cooperative matrices, and it packages neither Honeykrisp nor Turnip for x86-64:
# these come from its backports, which change a few times a year.
STABLE = Suite("trixie", ("trixie",))
BACKPORTS = Suite("trixie-backports", ("trixie", "trixie-backports"))


def _amd(name, title):
    # RADV's null winsys: a device without a kernel driver. Mesa 26 has none.
    return Gpu(name, title, STABLE, "radeon", {"RADV_FORCE_FAMILY": name})


def _stub(name, title, suite, driver, stub):
    return Gpu(name, title, suite, driver, {"GPU_STUB": stub})


GPUS = [
    _amd("navi21", "RX 6800 XT"),
    _amd("navi31", "RX 7900 XTX"),
    _amd("gfx1201", "RX 9070 XT"),
    _stub("a770", "Arc A770", STABLE, "intel", "i915:0x56a0"),
    _stub("b580", "Arc B580", STABLE, "intel", "xe:0xe20b"),
    _stub("tgl", "Tiger Lake", STABLE, "intel", "i915:0x9a49"),
    _stub("rtx3070", "RTX 3070", BACKPORTS, "nouveau", "nouveau:0x174:0x2484"),
    _stub("rtx4090", "RTX 4090", BACKPORTS, "nouveau", "nouveau:0x192:0x2684"),
    _stub("m1", "Apple M1", BACKPORTS, "asahi", "asahi:13:G"),
    _stub("m2", "Apple M2", BACKPORTS, "asahi", "asahi:14:G"),
    _stub("adreno750", "Adreno 750", BACKPORTS, "freedreno", "msm:0x43051401:750"),
]
