"""Fetches Mesa's Vulkan drivers without root, and compiles modules with them."""

import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import figures

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = "lib/x86_64-linux-gnu"
PACKAGES = "mesa-vulkan-drivers libvulkan1 libvulkan-dev libdrm-dev linux-libc-dev".split()
MIRROR = "http://deb.debian.org/debian"
# Modules of one process. Fewer make crashes cheap, more save its start.
BATCH = 64


def mirror():
    """Returns the Debian archive of this machine's apt."""
    files = ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*")]
    for path in files:
        if os.path.isfile(path):
            with open(path, errors="replace") as lines:
                for word in (word for line in lines if not line.startswith("#") for word in line.split()):
                    if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                        return word
    return MIRROR


def check(command, **options):
    """Runs a command, whose output is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:8])} ...: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def fetch(suite, root):
    """Unpacks the drivers of a suite, and all packages that they depend on, into the folder `root`."""
    print(f"fetching Mesa of {suite.name}", flush=True)
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.TemporaryDirectory() as apt:
        for folder in ("lists/partial", "cache/archives/partial"):
            os.makedirs(f"{apt}/{folder}")
        with open(f"{apt}/sources", "w") as sources:
            sources.writelines(f"deb {mirror()} {need} main\n" for need in suite.needs)
        open(f"{apt}/status", "w").close()
        # Debian 12 has the keys of Debian 13.
        options = {
            "Dir::State::lists": f"{apt}/lists",
            "Dir::State::status": f"{apt}/status",
            "Dir::Cache": f"{apt}/cache",
            "Dir::Etc::sourcelist": f"{apt}/sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Acquire::Check-Valid-Until": "false",
            "Acquire::Retries": "3",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "Debug::NoLocking": "true",
        }
        get = ["apt-get", "-qq", *(word for option in options.items() for word in ("-o", "=".join(option)))]
        check([*get, "update"])
        check([*get, "-y", "--download-only", "-t", suite.name, "install", *PACKAGES])
        for package in glob.glob(f"{apt}/cache/archives/*.deb"):
            check(["dpkg", "-x", package, root])
    # Kernel headers and libdrm's, without those of the C library.
    for name in ("drm", "libdrm", "vulkan", "vk_video", "xf86drm.h", "xf86drmMode.h"):
        os.makedirs(f"{root}/headers", exist_ok=True)
        shutil.move(f"{root}/usr/include/{name}", f"{root}/headers/{name}")
    open(f"{root}/complete", "w").close()


class Drivers:
    """The drivers of a suite, unpacked below `folder`, and the programs that use them."""

    def __init__(self, suite, folder):
        self.root = os.path.join(folder, suite.name)
        if not os.path.exists(f"{self.root}/complete"):
            fetch(suite, self.root)
        self.program = f"{self.root}/compile"
        vulkan = f"{self.root}/usr/{LIBRARIES}/libvulkan.so.1"
        gcc = ["gcc", "-O1", "-Wall", f"-I{self.root}/headers"]
        check([*gcc, "-o", self.program, f"{HERE}/compile.c", vulkan, "-Wl,--allow-shlib-undefined"])

    def build_stub(self):
        """Builds the library that answers for the kernel, with this suite's headers, and returns its path."""
        stub, headers = f"{self.root}/stub.so", f"{self.root}/headers"
        gcc = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", f"-I{headers}", f"-I{headers}/libdrm"]
        check([*gcc, "-o", stub, f"{HERE}/stub.c"])
        return stub

    def command(self, gpu, stub):
        """Returns the start of a command that runs `compile` on a GPU by the suite's own C library, and its environment."""
        root = self.root
        (manifest,) = glob.glob(f"{root}/usr/share/vulkan/icd.d/{gpu.driver}_icd*.json")
        with open(manifest) as text:
            described = json.load(text)
        library = os.path.basename(described["ICD"]["library_path"])
        described["ICD"]["library_path"] = f"{root}/usr/{LIBRARIES}/{library}"
        driver = f"{root}/{gpu.name}.json"
        with open(driver, "w") as text:
            json.dump(described, text)
        (loader,) = glob.glob(f"{root}/usr/lib64/ld-linux-x86-64.so.2")
        command = [loader, "--library-path", f"{root}/usr/{LIBRARIES}"]
        if "GPU_STUB" in gpu.environment:
            command += ["--preload", stub]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MESA_", "RADV_"))}
        environment |= gpu.environment
        environment |= {"VK_DRIVER_FILES": driver, "MESA_SHADER_CACHE_DISABLE": "1"}
        environment |= {"VK_LOADER_LAYERS_DISABLE": "~all~"}
        environment.setdefault("XDG_RUNTIME_DIR", "/tmp")
        return [*command, self.program], environment


class Compiler:
    """A GPU's compiler. Results are kept in a file, by the module's text."""

    def __init__(self, gpu, drivers, stub, folder):
        self.gpu = gpu
        self.command, self.environment = drivers.command(gpu, stub)
        self.device = json.loads(check([*self.command, "--device"], env=self.environment))
        # Mesa 25.0.7-2+deb13u1: without Debian's part, which changes no compiler.
        self.version = self.device["driver"].split("-")[0]
        source = hashlib.sha256(self.device["driver"].encode())
        for name in ("compile.c", "stub.c", "figures.py"):
            with open(f"{HERE}/{name}", "rb") as file:
                source.update(file.read())
        self.source = source.hexdigest()
        self.results = f"{folder}/{gpu.name}.results"
        self.known = {}
        if os.path.exists(self.results):
            with open(self.results) as lines:
                self.known = dict(json.loads(line) for line in lines)

    def compile(self, files, loops):
        """Returns the figures of each file, or a message in their place. `loops` asks for those of the hot loop."""
        keys, results = {}, {}
        for file in files:
            with open(file, "rb") as module:
                keys[file] = hashlib.sha256(f"{self.source} {loops} ".encode() + module.read()).hexdigest()
            if keys[file] in self.known:
                results[file] = self.known[keys[file]]
        left = [file for file in files if file not in results]
        while left:
            batch, left = left[:BATCH], left[BATCH:]
            with tempfile.TemporaryDirectory() as folder:
                assembly = ["--assembly", folder] if loops and self.gpu.driver == "radeon" else []
                command = [*self.command, *assembly, *batch]
                options = {"capture_output": True, "text": True, "errors": "replace"}
                done = subprocess.run(command, env=self.environment, **options)
                # A process that dies may leave a part of a line.
                lines = [line for line in done.stdout.splitlines() if line.startswith("{") and line.endswith("}")]
                lines = [json.loads(line) for line in lines]
                for file, line in zip(batch, lines):
                    if "refused" in line:
                        results[file] = f"refused with VkResult {line['refused']}"
                    else:
                        listing = f"{folder}/{os.path.basename(file)}.s"
                        results[file] = figures.of(self.gpu.driver, line, listing)
                        with open(self.results, "a") as known:
                            known.write(json.dumps([keys[file], results[file]]) + "\n")
            if len(lines) < len(batch):
                # The process ended within this module. The others go on without it.
                results[batch[len(lines)]] = death(done)
                left = batch[len(lines) + 1:] + left
        return results

    def compile_briefly(self, file):
        """Compiles a file in at most a millisecond of processor time. Returns a message, or None if that is enough."""
        options = {"capture_output": True, "text": True, "errors": "replace"}
        done = subprocess.run([*self.command, "--limit", "1", file], env=self.environment, **options)
        return death(done) if done.returncode != 0 else None


def death(done):
    """Returns what is wrong with a module in which the process of a compiler ended."""
    hangs = done.returncode in (-signal.SIGALRM, -signal.SIGPROF)
    how = "hangs" if hangs else f"ends the compiler with status {done.returncode}"
    return f"{how}: {done.stderr.strip()[-400:]}"
