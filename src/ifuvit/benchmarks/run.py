"""One benchmark, from its configuration to its result file."""

import torch

from ifuvit.benchmarks.config import (
    ACTIONS,
    BenchAgainstConfig,
    BenchConfig,
    BenchGenerateConfig,
    BenchOnnxConfig,
    BenchSampleConfig,
    BenchScalingConfig,
    BenchTrainConfig,
)
from ifuvit.benchmarks.generation import bench_generate
from ifuvit.benchmarks.machine import hardware
from ifuvit.benchmarks.onnx import bench_onnx
from ifuvit.benchmarks.reference import load_reference
from ifuvit.benchmarks.sampling import bench_sample
from ifuvit.benchmarks.scaling import bench_scaling
from ifuvit.benchmarks.training import bench_train
from ifuvit.results import Benchmark, Comparison, write
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, peak_memory, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import manifest, now


def run(config: BenchConfig) -> Benchmark:
    """Measure, and write the result to `config.out`.

    Raises:
        InputError: impossible settings, a checkout that cannot be used, or too little memory.
    """
    started = now()
    device = find_device(config.device)
    config = config.settled(bf16=use_bf16("auto", device))
    against = config.against if isinstance(config, BenchAgainstConfig) else None
    reference = None if against is None else load_reference(against)

    def comparisons() -> dict[str, Comparison]:
        match config:
            case BenchTrainConfig():
                return bench_train(config, reference, device)
            case BenchSampleConfig():
                return bench_sample(config, reference, device)
            case BenchGenerateConfig():
                return bench_generate(config, reference, device)
            case BenchOnnxConfig():
                return bench_onnx(config, device)
            case BenchScalingConfig():
                return bench_scaling(config, device)
        raise AssertionError(config)

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        measured, where = comparisons(), hardware(device)
    except torch.OutOfMemoryError as error:
        raise InputError(f"too little memory on {device} ({str(error).splitlines()[0]}); lower --batch-size") from None
    finally:
        torch.set_num_threads(threads)
    action = next(name for name, kind in ACTIONS.items() if isinstance(config, kind))
    result = Benchmark(
        **manifest(f"bench {action}", to_dict(config), started=started),
        action=action,  # type: ignore[arg-type]
        hardware=where,
        process_peak_memory=peak_memory(torch.device("cpu")),
        comparisons=measured,
        reference=None if reference is None else reference.facts(),
    )
    write(config.out, result)
    return result


def result_table(result: Benchmark) -> str:
    """The main numbers of a result as text."""
    from ifuvit.benchmarks.comparison import table

    one = result.hardware
    lines = [f"{one.name} ({one.device}), {one.threads} threads, torch {one.torch}"]
    for title, comparison in result.comparisons.items():
        if peak := comparison.peak:
            title += f"; peak {peak.flops_per_second / 1e9:,.4g} GFLOP/s ({peak.of})"
        lines += ["", title, *table(comparison.rows)]
        for name, setting in comparison.scaling.settings.items() if comparison.scaling else ():
            if exponent := setting.exponent:
                low, high = exponent.interval or exponent.quartiles
                lines.append(f"{name}: seconds ~ FLOPs ^ {exponent.value:.2f} [{low:.2f}, {high:.2f}]")
    return "\n".join(lines)
