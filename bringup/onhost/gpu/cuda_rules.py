"""Whether the service's user reaches the cards, and whether they compute."""

from collections.abc import Iterator

from bringup.onhost.gpu.judgement import Check, Level
from bringup.onhost.gpu.model import Readings

_CUDA_ERRORS = (
    ("driver version is insufficient", "the driver is older than this CUDA needs (setting nvidia_driver)"),
    ("forward compatibility was attempted", "a CUDA compatibility library lies in the way (cuda-compat): remove it"),
    ("system not yet initialized", "a machine with NVSwitch needs nvidia-fabricmanager of the driver's very version, running"),
    ("no cuda-capable device", "no card is given to this process: look at CUDA_VISIBLE_DEVICES and /dev/nvidia*"),
    ("no cuda gpus are available", "no card is given to this process: look at CUDA_VISIBLE_DEVICES and /dev/nvidia*"),
    ("out of memory", "other programs have the card's memory: nvidia-smi lists them"),
    ("busy or unavailable", "another program has the card for itself: nvidia-smi -c 0 shares it, nvidia-smi lists who uses it"),
    ("no kernel image", "this build of PyTorch has no code for the card: take an engine that was built for it"),
    ("unknown error", "mostly /dev/nvidia-uvm is missing or closed: nvidia-modprobe -u -c 0; after a suspend, reboot"),
    ("not compiled with cuda", "this build of PyTorch is for processors alone: take an engine for CUDA"),
    ("no module named", "the engine's environment is not whole: build it again"),
)


def check_nodes(readings: Readings) -> Iterator[Check]:
    """Judge the device nodes that CUDA opens."""
    if readings.smi_error is not None:
        return
    who = readings.user or "this user"
    if readings.missing_nodes:
        fix = "nvidia-modprobe -u -c 0 makes them; bringup-nvidia.service does at each boot"
        computed = readings.exercise is not None and readings.exercise.stage == "done"
        level: Level = "note" if computed else "problem"
        yield Check(level, "device-nodes", f"{', '.join(readings.missing_nodes)} missing: {fix}")
    closed = [f"{node.path} ({node.mode})" for node in readings.nodes if not node.usable]
    if closed:
        fix = (
            "the module's options decide that (NVreg_DeviceFileMode, NVreg_DeviceFileGID in /etc/modprobe.d): take them out, or "
            "add the user to that group, and reboot"
        )
        yield Check("problem", "device-access", f"{who} may not use {', '.join(closed)}: {fix}")
    elif readings.nodes and not readings.missing_nodes:
        yield Check("ok", "device-nodes", f"{who} may use {', '.join(node.path for node in readings.nodes)}")


def check_cuda(readings: Readings) -> Iterator[Check]:
    """Judge how far the engine's own PyTorch got."""
    exercise = readings.exercise
    if exercise is None:
        if readings.smi_error is None:
            yield Check("note", "cuda-not-tried", f"no CUDA kernel was run: {readings.exercise_skipped}")
        return
    name = f"PyTorch {exercise.torch or ''} (CUDA {exercise.cuda or 'none'})" if exercise.torch else "PyTorch"
    if exercise.timed_out:
        fix = "the card or the driver hangs: look into the kernel log (journalctl -k | grep NVRM), then reboot"
        yield Check("problem", "cuda-hangs", f"{name} hung after stage '{exercise.stage}': {fix}")
    elif exercise.error is not None:
        said = exercise.error.lower()
        fix = next((fix for words, fix in _CUDA_ERRORS if words in said), "look into the kernel log (journalctl -k | grep NVRM)")
        yield Check("problem", "cuda-fails", f"{name} failed after stage '{exercise.stage}': {exercise.error}: {fix}")
    elif exercise.cuda is None or not exercise.computed:
        yield Check("problem", "cuda-fails", f"{name} sees no card: it is a build without CUDA, or no card is given to it")
    else:
        who = f" as {readings.user}" if readings.user else ""
        cards = ", ".join(str(exercise.addresses.get(index) or index) for index in exercise.computed)
        yield Check("ok", "cuda", f"{name} allocated and computed{who} on {cards}")
