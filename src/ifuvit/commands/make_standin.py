"""`ifuvit make-standin`: train one of the small networks that ship with the package, or an autoencoder for other images."""

from typing import Any

from ifuvit.standins.config import TrainAutoencoderConfig, TrainCounterConfig, TrainTwoTowerConfig
from ifuvit.utils.command_line import Actions, parse
from ifuvit.utils.files import read_json

CONFIG = Actions(
    word="name",
    about="Train one of the small networks that stand in for large ones offline.",
    configs={"autoencoder": TrainAutoencoderConfig, "two-tower": TrainTwoTowerConfig, "counter": TrainCounterConfig},
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the command with these arguments."""
    config = parse(CONFIG, arguments, prog="ifuvit make-standin")
    if isinstance(config, TrainAutoencoderConfig):
        from ifuvit.standins.autoencoder import run as make_autoencoder

        out = make_autoencoder(config)
        facts = read_json(out / "manifest.json")
        print(f"{out / 'autoencoder'}: {facts['held_out_psnr']:.2f} dB on held-out images after {facts['steps']} steps")
    elif isinstance(config, TrainTwoTowerConfig):
        from ifuvit.standins.caption_tests import table
        from ifuvit.standins.two_tower import run as make_two_tower

        out = make_two_tower(config)
        facts = read_json(out / "manifest.json")
        print(table(facts["right"]))
        print(f"{out}: {facts['parameters']:,} parameters, trained in {facts['seconds']:.0f} s")
    elif isinstance(config, TrainCounterConfig):
        from ifuvit.evaluation.networks import load_counter
        from ifuvit.metrics.counting.tables import errors_table
        from ifuvit.standins.counter import run as make_counter

        out = make_counter(config)
        facts = read_json(out / "manifest.json")
        print(errors_table(load_counter(out).errors))
        print(f"{out}: {facts['parameters']:,} parameters, trained in {facts['seconds']:.0f} s")
    return {"out": config.out, **facts}
