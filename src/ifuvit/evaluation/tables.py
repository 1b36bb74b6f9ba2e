"""The result of an evaluation as text."""

from ifuvit.metrics.counting.skills import skill_metrics
from ifuvit.metrics.counting.tables import counts_table
from ifuvit.results import Costs, Evaluation, Metric, SecondCount

_COSTS = {
    "parameters": "parameters",
    "images_per_second": "images a second",
    "peak_memory_gib": "peak memory, GiB",
}


def evaluation_table(result: Evaluation) -> str:
    """The main numbers of a result."""
    protocol = result.protocol
    lines = [f"{result.target.name} under protocol {protocol['name']}:"]
    lines += [_line(metric) for metric in (*result.metrics, *skill_metrics(result.objects))]
    for name, objects in result.objects.items():
        lines += [f"  {line}" for line in f"{name}: {counts_table(objects)}".split("\n")]
    lines += [line for second in result.second_counts for line in _agreement(second)]
    if result.costs is not None:
        lines += _cost_lines(result.costs)
    return "\n".join(lines)


def _line(metric: Metric) -> str:
    line = f"  {metric.name:<36} {metric.value:>8.4g}"
    if metric.interval is not None:
        line += " [{:.4g}, {:.4g}]".format(*metric.interval)
    floors = {"real images": metric.reference, "decoded by its autoencoder": metric.decoded_reference}
    told = ", ".join(f"{name} {one.value:.4g}" for name, one in floors.items() if one is not None)
    return f"{line:<64} {told}".rstrip()


def _agreement(second: SecondCount) -> list[str]:
    return [
        f"counted again by {second.counter.name}; images right to both or to neither, and the first less the second:"
    ] + [
        f"  {name:<24} {100 * same.value:5.1f} %   {100 * second.difference[name].value:+.1f} points"
        for name, same in second.same_verdict.items()
    ]


def _cost_lines(costs: Costs) -> list[str]:
    found = {title: getattr(costs, name) for name, title in _COSTS.items()}
    return [f"  {title:<36} {value:>8,}" for title, value in found.items() if value is not None]
